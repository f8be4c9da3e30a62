"""Arithmetic on one tensor that needs fp32 but must not pay for a full fp32 copy."""

from collections.abc import Iterable

import torch
from torch import Tensor

SIXTEEN_BIT = (torch.float16, torch.bfloat16)

# Elements that are worked on in fp32 at a time. A CPU gains from pieces that stay in its cache;
# a GPU pays for each launch, and 64 MiB of scratch are small beside what it holds.
_CHUNK_ELEMENTS_CPU = 1 << 16
_CHUNK_ELEMENTS_DEVICE = 1 << 24


def on_cpu(tensor: Tensor) -> bool:
    """Whether the scratch of a CPU is right for it; a prediction for a GPU replaces this."""
    return tensor.device.type == "cpu"


def chunks(tensor: Tensor) -> tuple[Tensor, ...]:
    """Views that cover `tensor` in order, split along its first dimension.

    Tensors of one shape and device are cut at the same places, whatever their strides are.
    """
    if tensor.dim() == 0:
        return (tensor,)
    limit = _CHUNK_ELEMENTS_CPU if on_cpu(tensor) else _CHUNK_ELEMENTS_DEVICE
    num_rows = max(1, limit * tensor.shape[0] // max(1, tensor.numel()))
    return torch.split(tensor, num_rows)


def norm_of(parts: Iterable[Tensor]) -> Tensor:
    """Euclidean norm of several tensors taken together, at least fp32: a scalar on their device.

    sum() adds in pairs, right to 1e-7; the CPU's vector_norm adds one after another.
    """
    squares = [at_least_fp32(part).square().sum() for part in parts]
    total = squares[0] if len(squares) == 1 else torch.stack(squares).sum()
    return total.sqrt_()


def at_least_fp32(tensor: Tensor) -> Tensor:
    """In fp32 if it is of a 16-bit dtype; wider ones as they are."""
    return tensor.float() if tensor.dtype in SIXTEEN_BIT else tensor


def gradient_norm(tensor: Tensor) -> Tensor:
    """Euclidean norm of a gradient, as a scalar on its device: fp64 of fp64, else fp32.

    fp32 and fp64 take the kernel that clip_grad_norm_ takes, so that the two agree. (On a CPU it
    is off by 1e-5 at a million elements and by 7e-4 at 17 million.) 16-bit tensors are summed in
    fp32: on a CPU in chunks, since the kernel upcasts by a full copy; CUDA fuses the cast. Of a
    sparse tensor it is that of its values, once those of an index that recurs are added up.
    """
    if tensor.is_sparse:
        tensor = tensor.coalesce().values()
    if tensor.dtype in SIXTEEN_BIT and on_cpu(tensor):
        return norm_of(chunks(tensor))
    dtype = torch.float32 if tensor.dtype in SIXTEEN_BIT else None
    norm: Tensor = torch.linalg.vector_norm(tensor, dtype=dtype)
    return norm
