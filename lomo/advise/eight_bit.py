"""Bytes of AdamW's 8-bit state: the installed bitsandbytes is asked, else its documents are taken."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

# Two moments of a byte each, in blocks of 256 with a scale in fp32.
DOCUMENTED = 2 * (1 + 4 / 256)
_SIDE = 1024  # of a weight large enough to get 8-bit state


@cache
def state_bytes() -> tuple[float, str]:
    """Bytes a parameter of a large weight, and whose number that is."""
    try:
        found = version("bitsandbytes")
    except PackageNotFoundError:
        return DOCUMENTED, "bitsandbytes' documented bytes of state (it is not installed)"
    try:
        return _asked(), f"the bytes of state that bitsandbytes {found} makes"
    except (ImportError, AttributeError, TypeError, RuntimeError, NotImplementedError):
        return DOCUMENTED, f"bitsandbytes' documented bytes of state ({found} can't be asked here)"


def _asked() -> float:
    """The state that the library makes of one weight; the tables of 256 values are all weights'."""
    import torch
    from bitsandbytes.optim import AdamW8bit

    weight = torch.nn.Parameter(torch.zeros(_SIDE, _SIDE, dtype=torch.bfloat16))
    weight.grad = torch.zeros_like(weight)
    optimizer: Any = AdamW8bit([weight])
    optimizer.init_state(optimizer.param_groups[0], weight, 0, 0)
    tensors = [v for v in optimizer.state[weight].values() if isinstance(v, torch.Tensor)]
    num_bytes = sum(
        tensor.numel() * tensor.element_size() for tensor in tensors if tensor.dim() > 1
    )
    scales = [tensor for tensor in tensors if tensor.dim() == 1 and tensor.numel() != 256]
    num_bytes += sum(tensor.numel() * tensor.element_size() for tensor in scales)
    return num_bytes / weight.numel()
