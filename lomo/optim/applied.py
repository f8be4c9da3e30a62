"""How much of an intended step reaches 16-bit weights: some elements, watched while they move."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

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

    Made by the optimizer's `applied_steps`. Intended is the step that the rule asks for, in fp32;
    applied is by how much the 16-bit weight differs afterwards. A step that is not watched runs as
    it always does: no code of the optimizer asks.

    Args:
        optimizer: whose steps.
        method: the name of the method through which each of its updates goes.
        watched: that method with one more argument, this: it also calls `note`.
        groups: parameter -> name of its group; those that are not 16-bit are passed over.
        intended: what an intended step is: by the "rule", or the change of the "master_copy".
        seed: of the draw of elements, by a generator of its own.

    Attributes:
        num_watched: group -> how many of its elements are watched.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        method: str,
        watched: Callable[..., None],
        groups: Mapping[Tensor, str],
        *,
        intended: Literal["rule", "master_copy"] = "rule",
        seed: int = 0,
    ) -> None:
        self._optimizer, self._method, self.intended = optimizer, method, intended
        self._watched = partial(watched, self)
        generator = torch.Generator().manual_seed(seed)
        members: dict[str, list[Tensor]] = {}
        for parameter, group in groups.items():
            if parameter.element_size() == 2 and parameter.numel():
                members.setdefault(group, []).append(parameter)
        self._group_of: dict[Tensor, str] = {}
        self._places: dict[Tensor, Tensor] = {}
        self.num_watched: dict[str, int] = {}
        for group, parameters in members.items():
            for parameter, places in _drawn(parameters, generator):
                self._group_of[parameter], self._places[parameter] = group, places
                number = self.num_watched.get(group, 0) + places.numel()
                self.num_watched[group] = number
        # Group -> its number, on the device of its parameters.
        self._numbers = {
            group: torch.tensor([number], device=members[group][0].device)
            for number, group in enumerate(members)
        }
        self._noted: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within: each update is watched."""
        setattr(self._optimizer, self._method, self._watched)
        try:
            yield
        finally:
            delattr(self._optimizer, self._method)

    def places(self, parameter: Tensor) -> Tensor | None:
        """The watched elements of a parameter, counted as in one row; None if none are."""
        return self._places.get(parameter)

    def note(self, parameter: Tensor, intended: Tensor, before: Tensor) -> None:
        """Takes note of a watched parameter whose update was just made.

        Args:
            intended: steps of its watched elements, fp32.
            before: what these were, in the parameter's dtype.
        """
        places = self._places[parameter]
        number = self._numbers[self._group_of[parameter]].expand(places.shape)
        self._noted.append((number, intended, before, parameter.take(places)))

    def read(self) -> dict[str, Sums]:
        """The sums of each group since they were last read. Waits for the device once."""
        if not self._noted:
            return {}
        # All at once: beside a step's large kernels many small ones are what costs.
        numbers, intended, before, after = (
            torch.cat(parts) for parts in zip(*self._noted, strict=True)
        )
        self._noted.clear()
        applied, wide = (after.float() - before.float()).double(), intended.double()
        asked = intended != 0
        moved = asked & (applied != 0)
        columns = torch.stack([wide * applied, wide * wide, asked.double(), moved.double()], dim=1)
        groups = torch.arange(len(self._numbers), device=numbers.device)
        # A product, and no scatter: the same bits each time on a GPU as well.
        table: Any = ((numbers == groups.unsqueeze(1)).double() @ columns).tolist()
        there = set(numbers.tolist())
        return {
            group: Sums(dot, squares, int(num_asked), int(num_moved))
            for number, (group, (dot, squares, num_asked, num_moved)) in enumerate(
                zip(self._numbers, table, strict=True)
            )
            if number in there
        }


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
