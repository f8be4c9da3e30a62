"""What GradScaler and Lightning ask for, and no update inside backward can do.

torch's GradScaler scales the loss, and unscales gradients that a fused update has used up. Whether
a loss was scaled is to be known before a weight moves, by 65536 times its step. A loss that was
multiplied last of all, while a scaler is alive that has scaled something, was. Lightning is asked
before training begins; it is not imported.
"""

import gc
import sys
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.amp import GradScaler

from ..hooks import SCALED_BY_OTHERS


def require_unscaled(roots: Sequence[Tensor]) -> bool:
    """Raise RuntimeError if a GradScaler has scaled one of `roots`; True if the scalers were seen.

    Before their backward the factor itself is compared. In it, it is gone.
    """
    multiplied = [root for root in roots if _was_multiplied(root)]
    if not multiplied:
        return False  # and it takes no time
    scales = [scaler._scale for scaler in _scalers() if scaler._scale is not None]
    for root in multiplied:
        factor = _factor(root)
        if any(factor is None or bool((factor.cpu() == scale.cpu()).all()) for scale in scales):
            raise RuntimeError(SCALED_BY_OTHERS)
    return True


def roots_of_running_backward() -> Sequence[Tensor]:
    """What `backward` was called on; nothing where no frame of Python knows."""
    frames = [sys._getframe(), *sys._current_frames().values()]  # a GPU's hooks have own threads
    for frame in frames:
        for caller in _callers(frame):
            if caller.f_code.co_name == "_engine_run_backward":
                roots = caller.f_locals.get("t_outputs", ())
                return [root for root in roots if isinstance(root, Tensor)]
    return []


def asked_by_scaler() -> bool:
    """Whether GradScaler.step asks the function that calls this."""
    asking = sys._getframe(2)
    return isinstance(asking.f_locals.get("self"), GradScaler)


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _was_multiplied(root: Tensor) -> bool:
    node = root.grad_fn
    if node is None or node.name() != "MulBackward0":
        return False
    if node.next_functions[-1][0] is not None:
        return False  # the factor has a gradient
    factor = _factor(root)
    return factor is None or (factor.dtype == torch.float32 and factor.numel() == 1)


def _factor(root: Tensor) -> Tensor | None:
    try:
        factor: Tensor | None = getattr(root.grad_fn, "_saved_other", None)
    except RuntimeError:  # the node has run
        return None
    return factor


def _scalers() -> list[GradScaler]:
    kinds = {GradScaler, *_subclasses(GradScaler)}
    found = [thing for thing in gc.get_objects() if type(thing) in kinds]
    return [scaler for scaler in found if scaler.is_enabled()]


def _subclasses(kind: type) -> Iterator[type]:
    subclasses: list[type] = kind.__subclasses__()
    for subclass in subclasses:
        yield subclass
        yield from _subclasses(subclass)


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
