"""The share of an intended step that 16-bit weights take, against closed forms and fp32 copies."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lomo.optim import AdaLomo, Lomo, MasterCopy
from lomo.optim.applied import MOST_ELEMENTS, MOST_TENSORS, Sums

BF16 = torch.bfloat16
# The next bfloat16 below 1; a step of less than half of it is rounded away.
BELOW_ONE = 2.0**-8


def weight(values: list[float], dtype: torch.dtype = BF16) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=dtype))


def take_step(optimizer: Any, loss: Tensor) -> None:
    optimizer.backward(loss) if hasattr(optimizer, "backward") else loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def watched_step(optimizer: Any, loss: Tensor, parameters: list[Tensor]) -> Sums:
    applied = optimizer.applied_steps(dict.fromkeys(parameters, "all"))
    with applied.watching():
        take_step(optimizer, loss)
    return applied.read()["all"]


def test_a_step_below_half_an_ulp_is_lost_and_a_longer_one_is_a_whole_ulp() -> None:
    parameter = weight([1.0, 1.0, 1.0])
    gradient = torch.tensor([0.001, 0.003, 0.0])
    lr = 1.0
    found = watched_step(Lomo([parameter], lr=lr), (parameter * gradient).sum(), [parameter])
    steps = gradient.to(BF16).double()  # the gradient of a bfloat16 weight is one, too
    assert parameter.tolist() == [1.0, 1.0 - BELOW_ONE, 1.0]
    assert found.applied_intended == pytest.approx(steps[1].item() * BELOW_ONE)
    assert found.intended_squares == pytest.approx(steps.square().sum().item())
    assert (found.num_asked, found.num_moved) == (2, 1)


def test_steps_that_the_weights_can_hold_are_applied_whole() -> None:
    parameter = weight([1.0, 0.5, -2.0])
    gradient = torch.tensor([1.0, 0.25, -2.0])
    found = watched_step(Lomo([parameter], lr=2.0**-6), (parameter * gradient).sum(), [parameter])
    assert found.applied_intended == found.intended_squares > 0
    assert found.num_moved == found.num_asked == 3


def test_stochastic_rounding_applies_a_step_on_average_that_nearest_loses() -> None:
    """Of a step of 1/16 ulp: 1 within 5 standard errors; of an element's share it is 15."""
    shares = {}
    for rounding in ("nearest", "stochastic"):
        parameter = nn.Parameter(torch.full((4096,), 1.5, dtype=BF16))
        optimizer = Lomo([parameter], lr=2.0**-11, rounding=rounding)
        applied = optimizer.applied_steps({parameter: "all"})
        with applied.watching():
            for _ in range(4):
                take_step(optimizer, parameter.sum())
        found = applied.read()["all"]
        assert found.num_asked == 4 * 4096
        shares[rounding] = found.applied_intended / found.intended_squares
    assert shares["nearest"] == 0
    assert shares["stochastic"] == pytest.approx(1, abs=5 * (15 / (4 * 4096)) ** 0.5)


OPTIONS = {
    "plain": (Lomo, {}),
    "decay": (Lomo, {"weight_decay": 0.3}),
    "clipped": (Lomo, {"max_grad_norm": 0.5, "weight_decay": 0.1}),
    "own norms": (Lomo, {"max_grad_norm": 0.2, "norm_scope": "parameter"}),
    "by value": (Lomo, {"clip_value": 0.01}),
    "scaled": (Lomo, {"loss_scale": 64.0, "max_grad_norm": 0.5}),
    "stochastic": (Lomo, {"rounding": "stochastic", "weight_decay": 0.1}),
    "adalomo": (AdaLomo, {}),
    "adalomo, decay": (AdaLomo, {"weight_decay": 0.5, "max_grad_norm": 1.0}),
    "adalomo, stochastic": (AdaLomo, {"rounding": "stochastic"}),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_the_intended_step_is_that_of_fp32_copies(name: str) -> None:
    """Two steps: a matrix, a batch of matrices and a vector, which AdaLomo treats apart."""
    kind, options = OPTIONS[name]
    torch.manual_seed(3)
    shapes = [(24, 16), (2, 5, 7), (11,)]
    own = [nn.Parameter(torch.randn(shape).to(BF16)) for shape in shapes]
    wide = [nn.Parameter(parameter.detach().float()) for parameter in own]
    wide_options = {key: value for key, value in options.items() if key != "rounding"}
    optimizers = [kind(own, lr=0.05, **options), kind(wide, lr=0.05, **wide_options)]
    applied = optimizers[0].applied_steps(dict.fromkeys(own, "all"))
    for _ in range(2):
        directions = [torch.randn(shape).to(BF16) for shape in shapes]
        before = [parameter.detach().clone() for parameter in own]
        for parameter, copied in zip(wide, before, strict=True):
            parameter.data.copy_(copied)
        with applied.watching():
            take_step(optimizers[0], _loss(own, directions))
        take_step(optimizers[1], _loss(wide, directions))
        intended = torch.cat([(w.detach() - b.float()).flatten() for w, b in _pairs(wide, before)])
        moved = torch.cat([(o.detach() - b).float().flatten() for o, b in _pairs(own, before)])
        found = applied.read()["all"]
        assert found.intended_squares == pytest.approx(intended.square().sum().item(), rel=2e-3)
        assert found.applied_intended == pytest.approx(intended.dot(moved).item(), rel=2e-3)
        assert found.num_asked == intended.numel()


def _loss(parameters: list[Any], directions: list[Tensor]) -> Tensor:
    terms = [(p.float() * d.float()).sum() for p, d in zip(parameters, directions, strict=True)]
    return torch.stack(terms).sum()


def _pairs(parameters: list[Any], before: list[Tensor]) -> Any:
    return zip(parameters, before, strict=True)


def test_of_a_master_copy_the_intended_step_is_its_own() -> None:
    """What the 16-bit weight does not follow at once, the copy keeps: over many steps all comes."""
    parameter = nn.Parameter(torch.full((64,), 1.0, dtype=BF16))
    optimizer = MasterCopy([parameter], torch.optim.SGD, lr=0.001)
    applied = optimizer.applied_steps({parameter: "all"})
    with applied.watching():
        take_step(optimizer, parameter.sum())
        first = applied.read()["all"]
        for _ in range(63):
            take_step(optimizer, parameter.sum())
        rest = applied.read()["all"]
    assert (first.applied_intended, first.num_moved) == (0, 0)
    assert first.intended_squares == pytest.approx(64 * 1e-6, rel=1e-3)
    share = rest.applied_intended / (63 * 64 * 1e-6)
    assert share == pytest.approx(1, abs=BELOW_ONE / 0.063)


@pytest.mark.parametrize("kind", [Lomo, AdaLomo])
def test_watching_changes_no_bit_of_weights_state_or_generators(kind: Any) -> None:
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4)).to(BF16)]
    models.append(copy.deepcopy(models[0]))
    optimizers = [kind(model.parameters(), lr=0.1, rounding="stochastic") for model in models]
    state = torch.get_rng_state()
    applied = optimizers[0].applied_steps(dict.fromkeys(models[0].parameters(), "all"))
    for step in range(3):
        x = torch.full((2, 8), 0.5 + step, dtype=BF16)
        with applied.watching():
            take_step(optimizers[0], models[0](x).float().square().mean())
        take_step(optimizers[1], models[1](x).float().square().mean())
    assert torch.equal(state, torch.get_rng_state())
    assert applied.read()["all"].num_asked > 0 and applied.read() == {}
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other)
        for name, value in optimizers[0].state[one].items():
            assert torch.equal(
                torch.as_tensor(value), torch.as_tensor(optimizers[1].state[other][name])
            )
    # Not watched, an update is the optimizer's own, without a word of this in between.
    assert not {"_update", "_write"} & vars(optimizers[0]).keys()


def test_of_a_deep_group_few_tensors_are_watched_and_of_a_large_one_few_elements() -> None:
    deep = [weight([1.0] * 8) for _ in range(16)]
    large = nn.Parameter(torch.ones(512, 64, dtype=BF16))
    fp32 = nn.Parameter(torch.ones(8))
    optimizer = Lomo([*deep, large, fp32], lr=1.0)
    groups = {**dict.fromkeys(deep, "deep"), large: "large", fp32: "fp32"}
    applied = optimizer.applied_steps(groups)
    with applied.watching():
        take_step(optimizer, sum(parameter.sum() for parameter in groups))
    found = applied.read()
    assert found.keys() == {"deep", "large"}
    assert found["deep"].num_asked == 8 * MOST_TENSORS
    assert 0.9 * MOST_ELEMENTS < found["large"].num_asked <= MOST_ELEMENTS


def test_a_step_that_is_skipped_or_not_watched_adds_nothing() -> None:
    parameter = weight([1.0])
    optimizer = Lomo([parameter], lr=1.0, max_grad_norm=1.0)
    applied = optimizer.applied_steps({parameter: "all"})
    with applied.watching():
        take_step(optimizer, parameter.sum() * torch.inf)
    take_step(optimizer, parameter.sum())
    assert applied.read() == {} and parameter.item() != 1.0
