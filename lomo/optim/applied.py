"""How much of an intended step reaches 16-bit weights: some elements, watched while they move."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .adalomo import AdaLomo
from .arithmetic.tensors import SIXTEEN_BIT
from .hooks import Slot
from .lomo import Lomo
from .master import MasterCopy

# Of a group at most so many elements, of so many tensors, spread over its depth.
MOST_ELEMENTS = 4096
MOST_TENSORS = 4


class Sums(NamedTuple):
    """Over the watched elements of a group: what shares are made of.

    applied_intended: sum of applied x intended. intended_squares: sum of intended^2. num_asked:
    elements with an intended step that is not 0. num_moved: those of them that moved.
    """

    applied_intended: float
    intended_squares: float
    num_asked: int
    num_moved: int


class AppliedSteps:
    """Watches the same elements of an optimizer's 16-bit weights in the steps that it is told to.

    Intended is the step that the rule asks for, in fp32: of Lomo -lr (clip(scale g) + weight_decay
    theta), of AdaLomo its normalised step, of a MasterCopy the change of the fp32 copy. Applied is
    by how much the 16-bit weight differs afterwards. What is not watched runs as it always does:
    no code of the optimizer asks.

    Args:
        optimizer: a Lomo, an AdaLomo or a MasterCopy, none of whose updates is made in a product.
        groups: parameter -> name of its group; those that are not 16-bit are passed over.
        seed: of the draw of elements, by a generator of its own.

    Attributes:
        num_watched: group -> how many of its elements are watched.

    Raises TypeError for another optimizer.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, groups: Mapping[Tensor, str], *, seed: int = 0
    ) -> None:
        self._optimizer: Any = optimizer
        self._method, self._watched = self._wrapper_of(optimizer)
        generator = torch.Generator().manual_seed(seed)
        members: dict[str, list[Tensor]] = {}
        for parameter, group in groups.items():
            if parameter.dtype in SIXTEEN_BIT and parameter.numel():
                members.setdefault(group, []).append(parameter)
        self._group_of: dict[Tensor, str] = {}
        self._places: dict[Tensor, Tensor] = {}
        for group, parameters in members.items():
            for parameter, places in _drawn(parameters, generator):
                self._group_of[parameter], self._places[parameter] = group, places
        self.num_watched: dict[str, int] = {}
        for parameter, group in self._group_of.items():
            number = self.num_watched.get(group, 0) + self._places[parameter].numel()
            self.num_watched[group] = number
        self._sums: dict[str, Tensor] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within: each update is watched."""
        setattr(self._optimizer, self._method, self._watched)
        try:
            yield
        finally:
            delattr(self._optimizer, self._method)

    def read(self) -> dict[str, Sums]:
        """The sums of each group since they were last read. Waits for the device once."""
        if not self._sums:
            return {}
        table = torch.stack(list(self._sums.values())).tolist()
        found = {
            group: Sums(dot, squares, int(asked), int(moved))
            for group, (dot, squares, asked, moved) in zip(self._sums, table, strict=True)
        }
        self._sums = {}
        return found

    def _wrapper_of(self, optimizer: Any) -> tuple[str, Callable[..., None]]:
        """The one method through which all of its updates go, and the same, watched."""
        if isinstance(optimizer, AdaLomo):
            return "_write", self._watch_adalomo(optimizer._write)
        if isinstance(optimizer, Lomo):
            return "_update", self._watch_lomo(optimizer, optimizer._update)
        if isinstance(optimizer, MasterCopy):
            return "_step_one", self._watch_master(optimizer, optimizer._step_one)
        raise TypeError(f"the steps of a {type(optimizer).__name__} can't be watched")

    def _watch_lomo(self, optimizer: Lomo, update: Callable[..., None]) -> Callable[..., None]:
        def watched(parameter: Tensor, gradient: Tensor, slot: Slot, scale: float | Tensor) -> None:
            places = self._places.get(parameter)
            if places is None or gradient.is_sparse:
                update(parameter, gradient, slot, scale)
                return
            group = optimizer.param_groups[slot.group_index]
            before = parameter.take(places).float()
            step = gradient.take(places).float().mul_(scale)
            if optimizer.clip_value is not None:
                step.clamp_(-optimizer.clip_value, optimizer.clip_value)
            step.add_(before, alpha=float(group["weight_decay"])).mul_(-float(group["lr"]))
            if isinstance(scale, Tensor):  # 0: the gradient was not finite
                step = torch.where(scale > 0, step, 0.0)
            update(parameter, gradient, slot, scale)
            self._add(parameter, step, parameter.take(places).float() - before)

        return watched

    def _watch_adalomo(self, write: Callable[..., None]) -> Callable[..., None]:
        def watched(
            parameter: Tensor,
            gradient: Tensor,
            factors: list[Tensor],
            keep: Tensor | None,
            *rest: Any,
        ) -> None:
            places = self._places.get(parameter)
            if places is None:
                write(parameter, gradient, factors, keep, *rest)
                return
            before = parameter.take(places).float()
            step = gradient.take(places).float().neg_()
            index = torch.unravel_index(places, parameter.shape)
            for factor in factors:
                step.mul_(factor.expand(parameter.shape)[index])
            if keep is not None:
                step.add_(before * (keep - 1.0))
            write(parameter, gradient, factors, keep, *rest)
            self._add(parameter, step, parameter.take(places).float() - before)

        return watched

    def _watch_master(
        self, optimizer: MasterCopy, step_one: Callable[..., None]
    ) -> Callable[..., None]:
        def watched(parameter: Tensor, options: dict[str, Any]) -> None:
            places = self._places.get(parameter)
            if places is None:
                step_one(parameter, options)
                return
            before = parameter.take(places).float()
            master = optimizer.state[parameter]["master"].take(places)
            step_one(parameter, options)
            step = optimizer.state[parameter]["master"].take(places) - master
            self._add(parameter, step, parameter.take(places).float() - before)

        return watched

    def _add(self, parameter: Tensor, intended: Tensor, applied: Tensor) -> None:
        asked = intended != 0
        wide = intended.double()
        sums = torch.stack(
            [
                wide.dot(applied.double()),
                wide.dot(wide),
                asked.sum(),
                (asked & (applied != 0)).sum(),
            ]
        )
        group = self._group_of[parameter]
        before = self._sums.get(group)
        self._sums[group] = sums if before is None else before.add_(sums)


def _drawn(parameters: list[Tensor], generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Some tensors of a group, evenly over its depth, and places in each by its share of them."""
    number = min(MOST_TENSORS, len(parameters))
    chosen = [parameters[(2 * i + 1) * len(parameters) // (2 * number)] for i in range(number)]
    total = sum(parameter.numel() for parameter in chosen)
    for parameter in chosen:
        size = parameter.numel()
        wanted = max(1, min(size, round(MOST_ELEMENTS * size / total)))
        if 2 * wanted >= size:
            places = torch.randperm(size, generator=generator)[:wanted].sort().values
        else:  # of a large tensor; the few that come twice are one
            places = torch.randint(size, (wanted,), generator=generator).unique()
        yield parameter, places.to(parameter.device)
