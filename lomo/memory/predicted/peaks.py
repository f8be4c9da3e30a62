"""The predicted peak of a run as a function of its depth and batch, from few simulations.

Every change of memory in a few small steps tells those of larger ones. Why this is exact, and where
it is not used, stands in docs/prediction.md ("What fits").
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from lomo.memory.measured.counters import GRANULE_BYTES
from lomo.memory.predicted.predict import Prediction, predict
from lomo.model.architecture import Architecture
from lomo.specs import MeasureSpec

# How many changes that take memory a tail may hold: FSDP2 sums up the loss when all is freed.
NUM_TAIL_GROWTHS = (0, 1, 2)

# For each phase of a step, in order: the bytes of a storage before and after each change [C, 2].
Changes = Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True)
class Insertion:
    """What one layer more adds to a phase: `length` changes from the `at`-th on.

    end: how many changes the phase has, without one layer more and without its tail.
    """

    at: int
    length: int
    end: int


def changes_by_phase(recorded: Iterable[tuple[str, int, int]]) -> Changes:
    """What a meter has recorded, by phase. Raises ValueError where a phase came back."""
    found: dict[str, list[tuple[int, int]]] = {}
    last = None
    for phase, before, after in recorded:
        if phase != last and phase in found:
            raise ValueError(f"phase {phase} came back")
        found.setdefault(phase, []).append((before, after))
        last = phase
    return {phase: np.array(changes, dtype=np.int64) for phase, changes in found.items()}


def at_batch(two: Changes, three: Changes, batch_size: int) -> Changes | None:
    """The changes at a batch, each on the line through its sizes at batches of 2 and of 3.

    None where these two are not the same changes in number and direction.
    """
    if list(two) != list(three):
        return None
    found = {}
    for phase, changes in two.items():
        others = three[phase]
        if changes.shape != others.shape or ((changes == 0) != (others == 0)).any():
            return None
        found[phase] = changes + (batch_size - 2) * (others - changes)
    return found


def insertions(few: Changes, more: Changes, granule_bytes: int) -> dict[str, Insertion] | None:
    """Where and how much one layer more adds to each phase but the start.

    None where a phase of `more` isn't that of `few` with one run of changes inserted, tails aside.
    """
    if list(few) != list(more):
        return None
    found = {}
    for phase in list(few)[1:]:
        both = few[phase], more[phase]
        tails = (_insertion(*both, num, granule_bytes) for num in NUM_TAIL_GROWTHS)
        place = next((place for place in tails if place is not None), None)
        if place is None:
            return None
        found[phase] = place
    return found


def _insertion(
    few: NDArray[np.int64], more: NDArray[np.int64], num_growths: int, granule_bytes: int
) -> Insertion | None:
    """The same for one phase whose tail holds so many changes that take memory.

    A tail frees what the phase has made, in an order of its own (a layer's part is then no single
    run), and never rises above where it begins. Since both have as many growths, a layer more
    only frees more there: the tail holds no peak at any depth.
    """
    ends = [_end_of_body(changes, num_growths) for changes in (few, more)]
    for changes, end in zip((few, more), ends, strict=True):
        if _steps(changes[end:], granule_bytes).cumsum().max(initial=0) > 0:
            return None
    short, long = few[: ends[0]], more[: ends[1]]
    length, at = len(long) - len(short), _num_alike(short, long)
    if length < 0 or at + _num_alike(short[::-1], long[::-1]) < len(short):
        return None
    return Insertion(at, length, len(short))


def peak_of(changes: Changes, granule_bytes: int) -> int:
    """The peak of a step, in bytes, each size rounded up to the granule."""
    return unrolled_peak(changes, changes, {}, 0, granule_bytes)


def unrolled_peak(
    few: Changes,
    more: Changes,
    places: Mapping[str, Insertion],
    num_layers: int,
    granule_bytes: int,
) -> int:
    """The peak of `few` with `num_layers` layers more, in bytes, where `more` has one more.

    places: from `insertions`. Each size is rounded up to the granule.
    """
    total = peak = 0
    for number, phase in enumerate(few):
        short, long = _steps(few[phase], granule_bytes), _steps(more[phase], granule_bytes)
        if number:  # of the start, only where it ends is part of the step
            peak = max(peak, total + _highest(short, long, places.get(phase), num_layers))
        total += int(short.sum()) + num_layers * int(long.sum() - short.sum())
        peak = max(peak, total)
    return peak


def _highest(
    short: NDArray[np.int64], long: NDArray[np.int64], place: Insertion | None, num_layers: int
) -> int:
    """The highest point of a phase above its start, with a layer's changes put in so often."""
    if place is not None:
        layer = long[place.at : place.at + place.length]
        parts = (short[: place.at], np.tile(layer, num_layers), short[place.at : place.end])
        short = np.concatenate(parts)
    return int(short.cumsum().max(initial=0))


def _steps(changes: NDArray[np.int64], granule_bytes: int) -> NDArray[np.int64]:
    """By how many bytes each change moves the total."""
    rounded = -(-changes // granule_bytes) * granule_bytes
    moved: NDArray[np.int64] = rounded[:, 1] - rounded[:, 0]
    return moved


def _end_of_body(changes: NDArray[np.int64], num_growths: int) -> int:
    """Where the tail begins that has so many growths: behind the one before them."""
    growing = np.flatnonzero(changes[:, 1] > changes[:, 0])
    return int(growing[-1 - num_growths]) + 1 if len(growing) > num_growths else 0


def _num_alike(one: NDArray[np.int64], other: NDArray[np.int64]) -> int:
    """How many changes are the same from the beginning on."""
    num = min(len(one), len(other))
    differing = np.flatnonzero((one[:num] != other[:num]).any(axis=1))
    return int(differing[0]) if len(differing) else num


# From four layers on, a layer more does what the one before did, also where FSDP2 gathers ahead.
NUM_LAYERS = 4
# Model types whose layers are alike, if their config does not tell them apart.
ALIKE = frozenset({"llama", "mistral", "qwen2", "qwen3"})


class PeakByBatch:
    """Gives the peak in bytes of `spec` with a batch of so many sequences a device.

    account: how the peaks are made, known after the first one: "simulated", or "closed_form" for
    what cannot be simulated. unrolls: whether few layers tell of all. Peaks are a GPU's (sizes
    rounded up to 512 bytes). Raises UserError for what model, method or engine cannot do.
    """

    def __init__(self, architecture: Architecture, spec: MeasureSpec) -> None:
        self.architecture, self.spec = architecture, spec
        self.account = "simulated"
        self.unrolls = can_unroll(architecture)
        self._whole = cache(self._whole_peak)
        self._steps = cache(self._simulated_steps)

    def __call__(self, batch_size: int) -> int:
        if self.account == "simulated":
            steps = self._at(batch_size)
            peak = None if steps is None else self._peak(*steps)
            if peak is not None:
                return peak
        return self._whole(batch_size)

    def once(self, batch_size: int) -> int:
        """The same by simulating that batch itself: cheaper where no other batch is asked for."""
        steps = self._steps(batch_size)
        peak = None if steps is None else self._peak(*steps)
        return self._whole(batch_size) if peak is None else peak

    def _at(self, batch_size: int) -> tuple[Changes, ...] | None:
        """The changes of the steps at a batch: of one, and where layers are alike of two depths.

        A batch of 1 is simulated as it is (views that are contiguous only there save copies), all
        others follow from 2 and 3.
        """
        if batch_size < 4:
            return self._steps(batch_size)
        two, three = self._steps(2), self._steps(3)
        if two is None or three is None or len(two) != len(three):
            return None
        found = [at_batch(*pair, batch_size) for pair in zip(two, three, strict=True)]
        steps = tuple(changes for changes in found if changes is not None)
        return steps if len(steps) == len(found) else None

    def _peak(self, few: Changes, more: Changes | None = None) -> int | None:
        if more is None:
            return peak_of(few, GRANULE_BYTES)
        places = insertions(few, more, GRANULE_BYTES)
        if places is None:  # rounded up at this batch, what frees at the end rises above its start
            return None
        beyond = self.architecture.config.num_hidden_layers - NUM_LAYERS
        return unrolled_peak(few, more, places, beyond, GRANULE_BYTES)

    def _simulated_steps(self, batch_size: int) -> tuple[Changes, ...] | None:
        if self.unrolls:
            few, more = (
                self._simulated(batch_size, depth) for depth in (NUM_LAYERS, NUM_LAYERS + 1)
            )
            if few is None or more is None:
                return None
            if insertions(few, more, GRANULE_BYTES) is not None:
                return few, more
            self.unrolls = False
        whole = self._simulated(batch_size, None)
        return None if whole is None else (whole,)

    def _simulated(self, batch_size: int, num_layers: int | None) -> Changes | None:
        prediction = self._predict(batch_size, num_layers)
        if prediction.account != "simulated":
            self.account = prediction.account
            return None
        try:
            return changes_by_phase(prediction.changes)
        except ValueError:  # a phase came back: this step is not known to unroll
            return None

    def _whole_peak(self, batch_size: int) -> int:
        return self._predict(batch_size, None).ledger.peak_bytes

    def _predict(self, batch_size: int, num_layers: int | None) -> Prediction:
        architecture = self.architecture
        if num_layers is not None:
            architecture = Architecture(architecture.name, _cut(architecture.config, num_layers))
        return predict(architecture, self.spec.model_copy(update={"batch_size": batch_size}))


def can_unroll(architecture: Architecture) -> bool:
    """Whether a few layers of the model tell of all."""
    config = architecture.config
    kinds = set(getattr(config, "layer_types", None) or ())
    deep = config.num_hidden_layers > NUM_LAYERS + 1
    return config.model_type in ALIKE and len(kinds) < 2 and deep


def _cut(config: object, num_layers: int) -> object:
    """The same model with its first layers alone."""
    cut = copy.deepcopy(config)
    cut.num_hidden_layers = num_layers  # type: ignore[attr-defined]
    if getattr(cut, "layer_types", None):
        cut.layer_types = cut.layer_types[:num_layers]  # type: ignore[attr-defined]
    return cut
