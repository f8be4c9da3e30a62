"""The meter on steps small enough to count by hand."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.two_tensor import TwoTensor

from lomo.memory.measured.ledger import Ledger, StepMeter
from lomo.memory.measured.tensors import tensors_in

KIB = 1024


def kib_tensor(num_kib: int) -> torch.Tensor:
    return torch.empty(num_kib * KIB, dtype=torch.uint8)


@pytest.fixture
def model() -> nn.Module:
    """One weight of 4 KiB, no bias."""
    return nn.Linear(32, 32, bias=False)


def total(parts: dict[str, int]) -> int:
    return sum(parts.values())


def test_an_empty_step_adds_nothing(model: nn.Module) -> None:
    with StepMeter(model) as meter:
        for phase in ("forward", "backward", "step"):
            meter.phase(phase)
    ledger = meter.ledger()
    assert ledger.peak_bytes == total(ledger.at_start) == 4 * KIB
    assert ledger.sum_of_terms["total_bytes"] == 4 * KIB
    assert ledger.gradients_peak_bytes == 0
    assert set(ledger.phase_peak_bytes.values()) == {4 * KIB}


@pytest.mark.parametrize(
    ("phase", "category"),
    [("forward", "activations"), ("backward", "activations"), ("step", "other")],
)
def test_an_injected_transient_is_in_the_peak(model: nn.Module, phase: str, category: str) -> None:
    with StepMeter(model) as meter:
        for name in ("forward", "backward", "step"):
            meter.phase(name)
            if name == phase:
                kib_tensor(1000)
    ledger = meter.ledger()
    assert ledger.peak_bytes == 1004 * KIB
    assert ledger.peak_phase == phase
    assert ledger.at_peak[f"{category}_bytes"] == 1000 * KIB
    assert {name for name, peak in ledger.phase_peak_bytes.items() if peak > 4 * KIB} == {phase}


def test_freed_storages_are_taken_off(model: nn.Module) -> None:
    with StepMeter(model) as meter:
        meter.phase("forward")
        for _ in range(5):
            held = kib_tensor(10)
            del held
        meter.phase("step")
    ledger = meter.ledger()
    assert ledger.peak_bytes == 14 * KIB
    assert ledger.timeline[-1].total_bytes == 4 * KIB
    assert ledger.sum_of_terms["activations_bytes"] == 0


def test_views_and_in_place_operators_count_once(model: nn.Module) -> None:
    with StepMeter(model) as meter:
        meter.phase("forward")
        base = kib_tensor(10)
        part = base[: 2 * KIB].view(2, -1)
        part.add_(1)
        del base  # the view keeps all of it
        meter.phase("step")
        assert part.untyped_storage().nbytes() == 10 * KIB
    ledger = meter.ledger()
    assert ledger.peak_bytes == 14 * KIB
    assert ledger.sum_of_terms["activations_bytes"] == 10 * KIB


def test_resizing_a_storage_is_seen(model: nn.Module) -> None:
    with StepMeter(model) as meter:
        meter.phase("forward")
        tensor = kib_tensor(10)
        tensor.untyped_storage().resize_(0)
        meter.phase("backward")
        tensor.untyped_storage().resize_(30 * KIB)
        tensor.resize_(40 * KIB)
        meter.phase("step")
    ledger = meter.ledger()
    at_phase = [event.total_bytes for event in ledger.timeline if event.event == "phase"]
    assert at_phase == [size * KIB for size in (4, 4, 4, 44)]
    assert ledger.phase_peak_bytes["forward"] == 14 * KIB
    assert ledger.peak_bytes == 44 * KIB


def test_inputs_and_buffers_are_other() -> None:
    model = nn.BatchNorm1d(256)  # two weights and two buffers of 1 KiB, a count of 8 bytes
    given, found = torch.ones(2, 256), torch.ones(1, 256)
    with StepMeter(model, inputs={"batch": [given]}) as meter:
        meter.phase("forward")
        found.add_(1)
    ledger = meter.ledger()
    assert ledger.at_start["parameters_bytes"] == 2 * KIB
    assert ledger.at_start["other_bytes"] == 4 * KIB + 8
    assert ledger.at_peak["other_bytes"] == 5 * KIB + 8


def test_the_sum_of_terms_takes_activations_after_the_forward(model: nn.Module) -> None:
    with StepMeter(model) as meter:
        meter.phase("forward")
        kib_tensor(100)
        kept = [kib_tensor(3)]
        meter.phase("backward")
        kib_tensor(200)
        kept.clear()
    terms = meter.ledger().sum_of_terms
    assert terms["activations_bytes"] == 3 * KIB
    assert meter.ledger().at_peak["activations_bytes"] == 203 * KIB


def backward(model: nn.Module, meter: StepMeter) -> None:
    meter.phase("forward")
    loss = model(torch.ones(2, 32)).sum()
    meter.phase("backward")
    loss.backward()
    meter.phase("step")


def test_what_a_hook_allocates_is_other(model: nn.Module) -> None:
    def update(weight: torch.Tensor) -> None:
        kib_tensor(50)
        weight.grad = None

    weight = next(model.parameters())
    handle = weight.register_post_accumulate_grad_hook(update)
    with StepMeter(model) as meter:
        backward(model, meter)
    handle.remove()
    ledger = meter.ledger()
    assert ledger.peak_phase == "backward"
    assert ledger.at_peak["other_bytes"] == 50 * KIB
    assert ledger.at_peak["gradients_bytes"] == ledger.gradients_peak_bytes == 4 * KIB


def test_a_gradient_that_is_kept_elsewhere_stays_a_gradient(model: nn.Module) -> None:
    kept: list[torch.Tensor] = []

    def hook(weight: torch.Tensor) -> None:
        assert weight.grad is not None
        kept.append(weight.grad)
        weight.grad = None

    next(model.parameters()).register_post_accumulate_grad_hook(hook)
    with StepMeter(model) as meter:
        backward(model, meter)
        backward(model, meter)
    assert meter.ledger().gradients_peak_bytes == 8 * KIB


def test_a_cloned_gradient_counts_once() -> None:
    # Both weights get the very same tensor: torch can't hand it to either, and copies it.
    one, other = (nn.Parameter(torch.ones(1024)) for _ in range(2))
    model = nn.ParameterList([one, other])
    with StepMeter(model) as meter:
        meter.phase("forward")
        loss = ((one + other) * 2).sum()
        meter.phase("backward")
        loss.backward()
        meter.phase("step")
    ledger = meter.ledger()
    assert ledger.gradients_peak_bytes == 8 * KIB
    assert ledger.timeline[-1].gradients_bytes == 8 * KIB


def test_a_second_backward_adds_into_the_gradient(model: nn.Module) -> None:
    with StepMeter(model) as meter:
        backward(model, meter)
        backward(model, meter)
    ledger = meter.ledger()
    assert ledger.gradients_peak_bytes == 8 * KIB  # the one held, and the one that comes in
    assert ledger.timeline[-1].gradients_bytes == 4 * KIB


def test_gradients_of_an_earlier_step_are_there_from_the_start() -> None:
    model = nn.Sequential(nn.Linear(32, 32, bias=False), nn.Linear(32, 64, bias=False))
    model(torch.ones(2, 32)).sum().backward()
    with StepMeter(model, inputs=[torch.ones(256)]) as meter:
        meter.phase("step")
        model.zero_grad()
    ledger = meter.ledger()
    assert ledger.timeline[0].event == "phase"
    assert ledger.at_start["gradients_bytes"] == ledger.at_start["parameters_bytes"] == 12 * KIB
    assert total(ledger.at_start) == ledger.peak_bytes == 25 * KIB
    created = [event for event in ledger.timeline if event.event == "gradient_created"]
    assert [event.total_bytes for event in created] == [25 * KIB, 25 * KIB]
    assert ledger.timeline[-1].gradients_bytes == 0


def test_gradients_kept_by_an_engine_can_be_marked(model: nn.Module) -> None:
    with StepMeter(model) as meter:
        meter.phase("backward")
        shard = kib_tensor(7)
        meter.mark_gradient(shard, "weight")
        del shard
    ledger = meter.ledger()
    assert ledger.gradients_peak_bytes == 7 * KIB
    assert ledger.at_peak["activations_bytes"] == 0


class MasterCopySgd(torch.optim.Optimizer):
    """Holds state where wrappers hold it: an inner optimizer, copies, a nested dictionary."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.parameters(), {"lr": 0.1})
        self.masters = [weight.detach().double() for weight in model.parameters()]
        self.inner = torch.optim.AdamW(self.masters, lr=0.1)
        for master in self.masters:
            self.inner.state[master]["exp_avg"] = torch.zeros_like(master)
        self.state["quantised"] = {"blocks": ({"scale": torch.ones(8)},)}


def test_nested_state_is_found(model: nn.Module) -> None:
    optimizer = MasterCopySgd(model)
    with StepMeter(model, lambda: optimizer) as meter:
        meter.phase("forward")
    ledger = meter.ledger()
    assert ledger.at_start["parameters_bytes"] == 4 * KIB
    assert ledger.at_start["optimizer_state_bytes"] == 8 * KIB + 8 * KIB + 32
    assert ledger.sum_of_terms["optimizer_state_bytes"] == 16 * KIB + 32


def test_tensors_are_found_in_loops_and_generators() -> None:
    loop: list[Any] = [torch.ones(1)]
    loop.append(loop)
    assert len(list(tensors_in(loop))) == 1
    assert len(list(tensors_in(torch.ones(1) for _ in range(3)))) == 3
    assert list(tensors_in("text")) == []


def test_granules_round_up(model: nn.Module) -> None:
    with StepMeter(model, granule_bytes=512) as meter:
        meter.phase("forward")
        held = torch.ones(1)
        meter.phase("step")
    del held
    assert meter.ledger().peak_bytes == 4 * KIB + 512


def meter_training_step(model: nn.Module, batch: torch.Tensor) -> Ledger:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, foreach=False)
    with StepMeter(model, lambda: optimizer, inputs=batch) as meter:
        meter.phase("forward")
        loss = model(batch).square().mean()
        meter.phase("backward")
        loss.backward()
        meter.phase("step")
        optimizer.step()
        optimizer.zero_grad()
    return meter.ledger()


def test_nothing_is_allocated_under_a_fake_mode_and_the_ledger_is_the_same() -> None:
    def make() -> tuple[nn.Module, torch.Tensor]:
        layers = nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 8, bias=False))
        return layers, torch.ones(16, 64)

    real = meter_training_step(*make())
    with FakeTensorMode():
        fake = meter_training_step(*make())
    assert asdict(fake) == asdict(real)
    assert real.peak_bytes > 0


def test_a_wrapper_counts_as_the_tensors_inside() -> None:
    pair = TwoTensor(torch.ones(1024), torch.ones(1024))  # as a DTensor is: 4 KiB twice
    model = nn.ParameterList([nn.Parameter(pair)])
    with StepMeter(model) as meter:
        meter.phase("forward")
        loss = (model[0] * 2).sum()
        meter.phase("backward")
        loss.backward()
        meter.phase("step")
    ledger = meter.ledger()
    assert ledger.at_start["parameters_bytes"] == 8 * KIB
    assert ledger.phase_peak_bytes["forward"] == 16 * KIB + 8
    assert ledger.gradients_peak_bytes == 8 * KIB


def test_misuse_is_refused(model: nn.Module) -> None:
    with StepMeter(model) as meter:
        with pytest.raises(ValueError, match="'warm-up' is none of forward, backward, step"):
            meter.phase("warm-up")
        with pytest.raises(RuntimeError, match="after the `with` block"):
            meter.ledger()
    with pytest.raises(RuntimeError, match="one step"), meter:
        pass
    with pytest.raises(ValueError, match="one device, the model is on none"):
        StepMeter(nn.ReLU())
    with pytest.raises(ValueError, match="granule_bytes"):
        StepMeter(model, granule_bytes=0)


def test_a_step_that_fails_leaves_a_ledger_and_no_trace(model: nn.Module) -> None:
    meter = StepMeter(model)

    def fail() -> None:
        with meter:
            meter.phase("forward")
            held = kib_tensor(10)
            raise MemoryError(held.shape)

    with pytest.raises(MemoryError):
        fail()
    assert meter.ledger().peak_bytes == 14 * KIB
    assert not next(model.parameters())._post_accumulate_grad_hooks
    assert "resize_" not in torch.UntypedStorage.__dict__
