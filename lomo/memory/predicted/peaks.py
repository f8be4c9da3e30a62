"""The predicted peak of a run as a function of its batch, from few simulations."""

from __future__ import annotations

import copy
from functools import cache

from lomo.memory.measured.cuda import GRANULE_BYTES
from lomo.memory.predicted.predict import Prediction, predict
from lomo.memory.predicted.unroll import (
    Changes,
    at_batch,
    changes_by_phase,
    insertions,
    peak_of,
    unrolled_peak,
)
from lomo.model.architecture import Architecture
from lomo.specs import MeasureSpec

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
