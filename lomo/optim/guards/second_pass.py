"""Whether the second backward pass makes the gradients that the first one measured.

A kernel that writes over its saved tensors, a mask that is drawn anew or a hook that keeps count
gives the second pass other gradients, and nothing else would tell. Of each gradient a sample is
taken in both passes, and of the sample its norm and its sum: a norm tells a change of size, and
two sums of samples that have nothing in common but their size differ by about their norm. A second
sum is of a part alone: that of all is 0 by nature behind a softmax or a norm layer, whatever the
signs are, and does not tell what changes places.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed import ProcessGroup

from ..hooks import NOT_REPRODUCED, Slot

# Elements in a sample. The two numbers tell a difference as well from few elements as from many;
# what lies beside a sample is met in later steps, whose samples start elsewhere.
_SAMPLE = 1 << 12

# Largest difference over the sample's norm. On a CPU only the order of some fp32 sums is left to
# chance (1e-6); 16 bits or a GPU's atomic additions leave more (some 1e-3 each).
_TOLERANCE, _TOLERANCE_ROUGH = 1e-3, 5e-2
# Over the global norm: gradients far below it may be nothing but noise (a key's bias in attention).
_FLOOR, _FLOOR_ROUGH = 1e-6, 1e-3

Number = float | Tensor  # a tensor on its way from a device


class Statistic(NamedTuple):
    """Norm and sums of a sample, and by what factor the whole is larger, taken as a norm."""

    norm: Number
    sum: Number
    sum_of_part: Number
    factor: float
    rough: bool


class SecondPass:
    """What the two passes of one step have seen, by a parameter's position; kept on the host.

    turn: the number of the step, which says where samples start.
    """

    def __init__(self, turn: int) -> None:
        self._turn = turn
        self._seen: tuple[dict[int, list[Statistic]], ...] = ({}, {})
        self._devices: set[torch.device] = set()
        self._groups: dict[ProcessGroup, torch.device] = {}

    def note(self, which: int, position: int, tensors: Iterable[Tensor]) -> None:
        """Note what the pass `which` (0, 1) makes of a gradient: itself, or its factors."""
        tensors = [_values(tensor) for tensor in tensors]
        self._devices.update(t.device for t in tensors if t.device.type != "cpu")
        self._seen[which][position] = [_statistic(t, self._turn) for t in tensors]

    def spread_over(self, group: ProcessGroup, device: torch.device) -> None:
        """Other ranks hold parts of a gradient: all have to come to one decision."""
        self._groups[group] = device

    def require_reproduced(self, norm: float, slots: Iterable[Slot]) -> None:
        """Raise RuntimeError, with names from `slots`, unless both passes made the same. Waits."""
        found = self.differing(norm)
        if found:
            names = [str(slot) for slot in slots if slot.position in found]
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            where = f"of {', '.join(names[:3])}{more}" if names else "on another rank"
            raise RuntimeError(NOT_REPRODUCED.format(where=where))

    def differing(self, norm: float) -> list[int]:
        """Positions whose gradients differ; [-1] where another rank has found one. Waits.

        norm: of all gradients together, as they came in the first pass.
        """
        for device in self._devices:
            torch.accelerator.synchronize(device)
        first, second = self._seen
        found = [
            position
            for position in sorted(first.keys() | second.keys())
            if not _agree(first.get(position, []), second.get(position, []), norm)
        ]
        for group, device in self._groups.items():
            num_ranks = torch.tensor(float(bool(found)), device=device)
            dist.all_reduce(num_ranks, group=group)
            if not isinstance(num_ranks, FakeTensor) and num_ranks > 0:
                found = found or [-1]
        return found


def _agree(first: Sequence[Statistic], second: Sequence[Statistic], norm: float) -> bool:
    if len(first) != len(second):  # a gradient in one pass only
        return all(float(statistic.norm) == 0.0 for statistic in (*first, *second))
    # Factors of a gradient have no norm to be compared with.
    floor = norm if len(first) == 1 else 0.0
    return all(_close(a, b, floor) for a, b in zip(first, second, strict=True))


def _close(first: Statistic, second: Statistic, norm: float) -> bool:
    tolerance = _TOLERANCE_ROUGH if first.rough else _TOLERANCE
    floor = (_FLOOR_ROUGH if first.rough else _FLOOR) * norm / max(1.0, first.factor)
    size, total = float(first.norm), float(first.sum)
    of_norm = abs(float(second.norm) - size)
    of_sum = abs(float(second.sum) - total)
    part = float(first.sum_of_part)
    of_part = abs(float(second.sum_of_part) - part)
    # Where all elements have one sign, a common factor's rounding moves the sums by more.
    limit = max(floor, tolerance * size)
    limit_of_sum = max(limit, tolerance * max(abs(total), abs(part)))
    # false for nan
    return of_norm <= limit and of_sum <= limit_of_sum and of_part <= limit_of_sum


def _statistic(tensor: Tensor, turn: int) -> Statistic:
    sample = _sample(tensor.detach(), turn)
    rough = tensor.device.type != "cpu" or tensor.element_size() < 4
    dtype = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    factor = math.sqrt(tensor.numel() / max(1, sample.numel()))
    norm: Callable[..., Tensor] = torch.linalg.vector_norm
    part = sample[: -(-5 * sample.numel() // 13)]  # ends within a row, as a rule
    return Statistic(
        _on_host(norm(sample, dtype=dtype)),
        _on_host(sample.sum(dtype=dtype)),
        _on_host(part.sum(dtype=dtype)),
        factor,
        rough,
    )


def _sample(tensor: Tensor, turn: int) -> Tensor:
    """A view of some thousand elements that are spread over `tensor`, others in each turn."""
    flat = _flat(tensor)
    stride = max(1, flat.numel() // _SAMPLE)
    while math.gcd(stride, flat.numel()) > 1:  # else it might stay in some columns
        stride += 1
    return flat[turn % stride :: stride]


def _flat(tensor: Tensor) -> Tensor:
    """The elements in the order of their memory, without a copy where they lie close together."""
    if tensor.is_sparse:
        tensor = tensor._values()
    if tensor.is_contiguous():
        return tensor.view(-1)
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    return tensor.permute(order).reshape(-1)


def _on_host(number: Tensor) -> Number:
    if number.device.type == "cpu":
        return float(number)
    if number.device.type != "cuda":
        return number
    # No wait, and no byte on the device beyond this moment.
    host: Any = torch.empty((), dtype=number.dtype, pin_memory=True)
    host.copy_(number, non_blocking=True)
    return host


def _values(tensor: Tensor) -> Tensor:
    """The numbers that this rank holds, as a plain tensor."""
    if tensor.is_sparse:
        return tensor.coalesce().values()
    local: Tensor = getattr(tensor, "_local_tensor", tensor)
    return local
