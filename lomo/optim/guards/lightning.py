"""What Lightning may ask for and no update inside backward can do; Lightning is not imported."""

from collections.abc import Iterator
from typing import Any


def refuse_what_lightning_asks(optimizer: Any, strategy: Any) -> None:
    """Raise ValueError, before training begins, for what would be dropped in silence or go wrong.

    `strategy` is Lightning's; anything else is left alone.
    """
    trainer = getattr(getattr(strategy, "lightning_module", None), "_trainer", None)
    problems = [] if trainer is None else list(_unsupported(optimizer, strategy, trainer))
    if problems:
        raise ValueError(
            "an update inside backward can't do all that this Trainer asks for:\n- "
            + "\n- ".join(problems)
        )


def refuse_late_clipping(optimizer: Any) -> None:
    """Raise RuntimeError where gradients of an open step are to be clipped, and none are left."""
    clips_itself = optimizer.max_grad_norm is not None or getattr(optimizer, "clip_value", None)
    if optimizer._step_is_open and not clips_itself:
        raise RuntimeError(
            "clip_gradients found no gradients: each was used and dropped inside backward, and the "
            "weights have moved by it unclipped. Leave it out, give the optimizer max_grad_norm, "
            "and call optimizer.backward(loss)"
        )


def _unsupported(optimizer: Any, strategy: Any, trainer: Any) -> Iterator[str]:
    batches = getattr(trainer, "accumulate_grad_batches", 1)
    if batches != 1:
        yield (
            f"accumulate_grad_batches={batches}: the first gradient is used and dropped before the "
            "second comes; set it to 1 and use a larger batch"
        )
    limit = getattr(trainer, "gradient_clip_val", None)
    if limit and trainer.gradient_clip_algorithm == "value":
        yield (
            f"gradient_clip_val={limit}: gradients are gone when Lightning clips; leave it out and "
            f"give the optimizer clip_value={limit}, which clips each value (Lomo alone has it)"
        )
    elif limit and (optimizer.max_grad_norm, optimizer.norm_scope) != (limit, "global"):
        yield (
            f"gradient_clip_val={limit}: gradients are gone when Lightning clips; leave it out, "
            f"give the optimizer max_grad_norm={limit}, and let the module's backward(self, loss) "
            "call self.optimizers().backward(loss)"
        )
    if getattr(getattr(strategy, "precision_plugin", None), "scaler", None) is not None:
        yield (
            'precision="16-mixed": its GradScaler would unscale gradients that have been used '
            'already; use "bf16-mixed", or float16 weights and the optimizer\'s '
            'loss_scale="dynamic"'
        )
