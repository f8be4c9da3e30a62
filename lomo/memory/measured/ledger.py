"""The ledger of one training step: where the bytes of its peak are, exactly, on any device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch

from lomo.memory.measured.meter import Category, Moment, StorageMeter, corrected
from lomo.memory.measured.tensors import plain_tensors, tensors_in
from lomo.optim.hooks import observing

# What a storage made in each phase is taken for, until it shows what it is.
NEW_CATEGORY = {
    "forward": Category.ACTIVATIONS,
    "backward": Category.ACTIVATIONS,
    "step": Category.OTHER,
}
PHASES = tuple(NEW_CATEGORY)


class _RemovableHook(Protocol):
    def remove(self) -> None: ...


@dataclass(frozen=True)
class TimelineEvent:
    """The bytes at one event: phase, gradient_created, gradient_released, peak or end.

    `order` counts changes of any counter since the meter started; `parameter` names whose
    gradient it is, None for the other events.
    """

    event: str
    phase: str
    order: int
    total_bytes: int
    gradients_bytes: int
    activations_bytes: int
    parameter: str | None = None


@dataclass(frozen=True)
class Ledger:
    """Bytes of one step. `at_start`, `at_peak` hold the five parts; they sum to the total there.

    `sum_of_terms` is the paper's own account (Table 1), whose terms need not be alive at one time.
    """

    peak_bytes: int
    peak_phase: str
    at_peak: dict[str, int]
    at_start: dict[str, int]
    phase_peak_bytes: dict[str, int]
    sum_of_terms: dict[str, int]
    gradients_peak_bytes: int
    timeline: list[TimelineEvent]


class StepMeter:
    """Meters the training step that runs inside the `with` block.

    model: its parameters give the names, and the device: all are on one, or `device` picks it.
    state_tensors: gives the optimizer's state when called: tensors, containers, or optimizers.
    inputs: what lives before the step and is neither (the batch), in any nesting; counted as other.
    granule_bytes: sizes are rounded up to it (512 for CUDA's allocator); 1 is exact.
    Raises ValueError where the device is not one, RuntimeError where a ledger is asked for too
    early or a second step is metered.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        state_tensors: Callable[[], object] | None = None,
        *,
        inputs: object = (),
        device: torch.device | None = None,
        granule_bytes: int = 1,
    ) -> None:
        self._model = model
        self._state_tensors = state_tensors or (lambda: ())
        self._inputs = inputs
        parts = [part for tensor in model.parameters() for part in plain_tensors(tensor)]
        devices = {part.device for part in parts} if device is None else {device}
        if len(devices) != 1:
            names = sorted(map(str, devices)) or "none"
            raise ValueError(f"a meter sees one device, the model is on {names}")
        fake_mode = getattr(parts[0], "fake_mode", None) if parts else None
        self._meter = StorageMeter(devices.pop(), fake_mode=fake_mode, granule_bytes=granule_bytes)
        self._hooks: list[_RemovableHook] = []
        self._phases: list[tuple[str, Moment]] = []
        self._ended = False

    def __enter__(self) -> Self:
        if self._phases:
            raise RuntimeError("a meter measures one step: make a new one for the next")
        self._mark_known()
        for tensor in tensors_in([list(self._model.buffers()), self._inputs]):
            self._meter.mark(tensor, Category.OTHER)
        self._add_hooks()
        self._meter.__enter__()
        self._meter.peak = start = self._meter.moment()
        self._phases.append(("start", start))
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self._mark_known()
            self._phases.append(("end", self._meter.moment()))
            self._ended = True
        finally:
            self._meter.__exit__(*exc)
            for hook in self._hooks:
                hook.remove()
            self._hooks.clear()

    def phase(self, name: str) -> None:
        """Ends the current phase and starts `name`: forward, backward or step; each may return."""
        if name not in NEW_CATEGORY:
            raise ValueError(f"phase {name!r} is none of {', '.join(PHASES)}")
        self._mark_known()
        self._meter.start_phase(name, NEW_CATEGORY[name])
        self._phases.append((name, self._meter.moment()))

    def mark_gradient(self, tensor: torch.Tensor, parameter: str) -> None:
        """Counts `tensor` as a gradient of `parameter` from its birth on.

        For engines that keep gradients elsewhere than in `.grad`.
        """
        self._meter.mark(tensor, Category.GRADIENTS, parameter)

    @property
    def counters(self) -> StorageMeter:
        """The counters beneath, of single storages."""
        return self._meter

    @property
    def changes(self) -> list[tuple[str, int, int]]:
        """Every change of a storage, in order: phase, its bytes before and after, not rounded."""
        return self._meter.changes

    def ledger(self) -> Ledger:
        """The bytes of the step, after the `with` block."""
        if not self._ended:
            raise RuntimeError("the ledger is complete after the `with` block, not inside it")
        timeline, moments = self._timeline()
        at_peak = next(m for m, e in zip(moments, timeline, strict=True) if e.event == "peak")
        gradients_peak_bytes = max(event.gradients_bytes for event in timeline)
        return Ledger(
            peak_bytes=at_peak.total_bytes,
            peak_phase=at_peak.phase,
            at_peak=_parts(at_peak),
            at_start=_parts(moments[0]),  # of the timeline, the start comes first
            phase_peak_bytes=dict(self._meter.phase_peak_bytes),
            sum_of_terms=self._sum_of_terms(gradients_peak_bytes),
            gradients_peak_bytes=gradients_peak_bytes,
            timeline=timeline,
        )

    def _timeline(self) -> tuple[list[TimelineEvent], list[Moment]]:
        gradient_events = self._meter.gradient_events
        raw: list[tuple[str, str | None, Moment]] = [
            ("end" if name == "end" else "phase", None, moment) for name, moment in self._phases
        ]
        # A gradient older than the step has its birth while the meter looks around: at the start.
        start = self._phases[0][1]
        raw += [(kind, name, max(start, moment)) for kind, moment, name in gradient_events]
        raw.append(("peak", None, self._meter.peak))
        raw.sort(key=lambda item: item[2].order)
        moments = corrected([moment for _, _, moment in raw], self._meter.relabels)
        events = [
            TimelineEvent(
                event=kind,
                phase=moment.phase,
                order=moment.order,
                total_bytes=moment.total_bytes,
                gradients_bytes=moment.by_category_bytes[Category.GRADIENTS],
                activations_bytes=moment.by_category_bytes[Category.ACTIVATIONS],
                parameter=parameter,
            )
            for (kind, parameter, _), moment in zip(raw, moments, strict=True)
        ]
        return events, moments

    def _sum_of_terms(self, gradients_peak_bytes: int) -> dict[str, int]:
        moments = corrected([moment for _, moment in self._phases], self._meter.relabels)
        held = [moment.by_category_bytes for moment in moments]
        activations = [
            after[Category.ACTIVATIONS] - before[Category.ACTIVATIONS]
            for (name, _), before, after in zip(self._phases, held, held[1:], strict=False)
            if name == "forward"
        ]
        terms = {
            "parameters_bytes": held[-1][Category.PARAMETERS],
            "gradients_bytes": gradients_peak_bytes,
            "optimizer_state_bytes": held[-1][Category.OPTIMIZER_STATE],
            "activations_bytes": max(activations, default=0),
        }
        return {**terms, "total_bytes": sum(terms.values())}

    def _mark_known(self) -> None:
        """Parameters, gradients and state as they are now; new ones count from their birth on."""
        for name, parameter in self._model.named_parameters():
            self._meter.mark(parameter, Category.PARAMETERS)
            if parameter.grad is not None:
                self._meter.mark(parameter.grad, Category.GRADIENTS, name)
        for tensor in tensors_in(self._state_tensors()):
            self._meter.mark(tensor, Category.OPTIMIZER_STATE)

    def _add_hooks(self) -> None:
        for name, parameter in self._model.named_parameters():
            if not (parameter.requires_grad and parameter.is_leaf):
                continue

            # A weight updated in its own hook has lost its gradient when the later hooks run,
            # and what that update allocates is no activation: one hook of ours before all
            # others, one after them.
            def first(parameter: torch.Tensor, name: str = name) -> None:
                if parameter.grad is not None:
                    self._meter.mark(parameter.grad, Category.GRADIENTS, name)
                self._meter.new_category = Category.OTHER

            def last(_parameter: torch.Tensor) -> None:
                self._meter.new_category = NEW_CATEGORY.get(self._meter.phase, Category.OTHER)

            self._hooks += [_add_hook(parameter, first), _add_hook(parameter, last)]
            _move_to_front(parameter, position=-2)


def _add_hook(parameter: torch.Tensor, hook: Callable[[torch.Tensor], None]) -> _RemovableHook:
    handle: _RemovableHook
    handle = parameter.register_post_accumulate_grad_hook(observing(hook))
    return handle


def _move_to_front(parameter: torch.Tensor, *, position: int) -> None:
    """Lets the post-accumulate hook at `position` run before all the others."""
    # torch has no public way to order them; the dictionary is what it calls them from.
    hooks: dict[int, Any] = getattr(parameter, "_post_accumulate_grad_hooks")  # noqa: B009
    front = list(hooks)[position]
    for key in [key for key in hooks if key != front]:
        hooks[key] = hooks.pop(key)


def _parts(moment: Moment) -> dict[str, int]:
    return {
        f"{category.name.lower()}_bytes": moment.by_category_bytes[category]
        for category in Category
    }
