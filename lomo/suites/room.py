"""Whether an answer leaves room for its question in a model: asked in the plan, and in a run."""

from __future__ import annotations

from lomo.errors import UserError


def check_room(tokens: int | None, positions: int | None, model: str, where: str) -> None:
    """Raises UserError where an answer of `tokens` may take all positions of the model.

    A None is not known, or nothing is generated: neither is refused.
    """
    if tokens is None or positions is None or tokens < positions:
        return
    raise UserError(
        f"an answer of {tokens} tokens leaves no room for a question: {model} has {positions} "
        "positions",
        where=where,
        allowed=f"less than {positions}",
        fix=f"write max_gen_toks: {max(1, positions // 4)}, or so",
    )
