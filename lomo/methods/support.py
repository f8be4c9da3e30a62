"""What becomes of each option of each method on each engine: the one table of refusals.

A plan refuses from it before any weight is loaded, the tests run it cell by cell, and
docs/footguns.md prints it. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from lomo import engines, methods
from lomo.engines import Cell
from lomo.errors import UserError

# Option -> its words. The last three are hyper-parameters of the methods that have them.
OPTIONS = {
    "max_grad_norm": "clipping by the global norm",
    "weight_decay": "weight decay",
    "gradient_accumulation": "several micro-batches a step",
    "float16": "float16 weights",
    "norm_scope": "clipping by another norm (`norm_scope`)",
    "rounding": "stochastic rounding (`rounding`)",
    "update": "update inside the weight-gradient product (`update: gemm`)",
}
NEUTRAL = {"norm_scope": "global", "rounding": "nearest", "update": "hook"}


def cell(method: str, option: str, engine: str) -> Cell:
    """What `engine` makes of `option` of `method`, beside its reference in one process."""
    described = methods.describe(method)
    note = described.notes.get(option, "")
    spread = engines.cell(engine, method, option)
    if spread.verdict == "refused":
        return spread
    if option not in described.honours:
        return Cell("refused", note or "no such setting")
    if spread.verdict == "equal" and note:
        return Cell("differs", note)
    return spread


def check(method: str, asked: Mapping[str, str], engine: str, *, where: str) -> None:
    """Raises UserError for an option that would be dropped.

    `asked` holds the options and the key that asks for each; `where` is its place up to that key.
    """
    for option, key in asked.items():
        found = cell(method, option, engine)
        if found.verdict != "refused":
            continue
        if cell(method, option, "single").verdict != "refused":
            raise UserError(
                f"{method} on {engine} can't honour {option}: {found.note}",
                where=where + key,
                fix=f"leave {key} at its neutral value, or use another engine",
            )
        honours = sorted(methods.describe(method).honours & methods.OPTIONS)
        raise UserError(
            f"{method} cannot honour {option}: {found.note}",
            where=where + key,
            allowed=f"{method} honours {', '.join(honours) or 'none'}",
            fix=f"leave {key} at its neutral value, or take {method} out of this section",
        )


def cells(names: Iterable[str] | None = None) -> Iterator[tuple[str, str, dict[str, Cell]]]:
    """(method, option, engine -> cell) for every method that trains and every option it may see.

    names: of all methods, also those of other packages, unless given.
    """
    for method in methods.modules() if names is None else names:
        described = methods.describe(method)
        if not described.trains:
            continue
        for option in OPTIONS:
            if option not in NEUTRAL or option in described.honours:
                by_engine = {engine: cell(method, option, engine) for engine in engines.MODULES}
                yield method, option, by_engine


def markdown() -> str:
    """The table of this repository's methods, in words."""
    head = ["method", "option", *engines.MODULES]
    rows = [head, ["---"] * len(head)]
    for method, option, by_engine in cells(methods.MODULES):
        words = [_words(found, by_engine["single"]) for found in by_engine.values()]
        rows.append([f"`{method}`", OPTIONS[option], *words])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _words(found: Cell, alone: Cell) -> str:
    if found.verdict == "equal" or (found is not alone and found == alone):
        return found.verdict
    return f"{found.verdict}: {found.note}"
