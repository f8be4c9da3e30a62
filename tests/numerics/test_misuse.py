"""Loops that a fused update can't serve as torch's optimizers do: told, and told truly."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lomo.optim import AdaLomo, Lomo

from .models import assert_bit_equal, llama, loss_of, weights

both = pytest.mark.parametrize("make", [Lomo, AdaLomo])
fused = pytest.mark.parametrize("fused", [False, True], ids=["loss.backward", "backward(loss)"])


@both
@fused
def test_zero_grad_can_not_take_an_update_back(make: Any, fused: bool) -> None:
    model = llama()
    optimizer = make(model.parameters(), lr=0.01)
    optimizer.zero_grad()
    loss = loss_of(model, 0)
    optimizer.backward(loss) if fused else loss.backward()
    with pytest.raises(RuntimeError, match="can't be taken back"):
        optimizer.zero_grad()
    optimizer.step()
    optimizer.zero_grad()
    optimizer.zero_grad(set_to_none=False)
    optimizer.backward(loss_of(model, 1))
    optimizer.step()


@both
def test_zero_grad_closes_a_step_that_was_skipped(make: Any) -> None:
    model = llama()
    optimizer = make(model.parameters(), lr=0.01, max_grad_norm=1.0)
    before = weights(model)
    optimizer.backward(loss_of(model, 0) * float("nan"))
    assert optimizer.skipped
    optimizer.zero_grad()
    assert_bit_equal(weights(model), before)
    optimizer.backward(loss_of(model, 1))
    with pytest.raises(RuntimeError, match="can't be taken back"):
        optimizer.zero_grad()


@both
def test_a_gan_that_trains_its_critic_on_the_generators_loss(make: Any) -> None:
    generator, critic = nn.Linear(2, 2), nn.Linear(2, 1)
    of_generator = make(generator.parameters(), lr=0.1)
    of_critic = make(critic.parameters(), lr=0.1)
    critic(generator(torch.ones(3, 2))).sum().backward()
    of_generator.step()
    with pytest.raises(RuntimeError, match="GAN's other half"):
        of_critic.zero_grad()


def moved_away(model: nn.Module) -> nn.Module:
    model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)
    return model


UNMOVED: dict[str, Callable[[nn.Module], Any]] = {
    "no backward": lambda model: None,
    "load_state_dict(assign=True)": lambda model: loss_of(moved_away(model), 0).backward(),
    "another model": lambda model: loss_of(llama(), 0).backward(),
    "all frozen": lambda model: loss_of(model.requires_grad_(False), 0),
}


@both
@pytest.mark.parametrize("case", UNMOVED)
def test_a_step_of_nothing_is_told_once(make: Any, case: str) -> None:
    model = llama()
    optimizer = make(model.parameters(), lr=0.1)
    UNMOVED[case](model)
    with pytest.warns(UserWarning, match=r"no weight moved.*assign=True"):
        optimizer.step()
    UNMOVED[case](model)
    optimizer.step()  # once: a warning is an error here


def test_the_loss_of_another_model_in_backward_of_the_optimizer() -> None:
    optimizer = Lomo(llama().parameters(), lr=0.1, max_grad_norm=1.0)
    optimizer.backward(loss_of(llama(), 0))
    with pytest.warns(UserWarning, match="another model's"):
        optimizer.step()


def test_a_device_that_was_changed_by_to_empty() -> None:
    with torch.device("meta"):
        model = nn.Linear(2, 2)
    optimizer = Lomo(model.parameters(), lr=0.1)
    model.to_empty(device="cpu")
    nn.init.ones_(model.weight)
    nn.init.zeros_(model.bias)
    model(torch.ones(1, 2)).sum().backward()
    with pytest.warns(UserWarning, match="to_empty"):
        optimizer.step()


@both
def test_a_skipped_step_and_a_part_without_gradients_are_no_such(make: Any) -> None:
    model = llama()
    optimizer = make(model.parameters(), lr=0.1, max_grad_norm=1.0)
    optimizer.backward(loss_of(model, 0) * float("inf"))
    optimizer.step()
    two = nn.ParameterList([torch.ones(2), torch.ones(2)])
    optimizer = make(two, lr=0.1)
    two[0].sum().backward()
    optimizer.step()


@both
@fused
@pytest.mark.parametrize("limit", [None, 1.0])
def test_a_gradient_scaler_is_refused_before_a_weight_moves(
    make: Any, fused: bool, limit: float | None
) -> None:
    model = llama()
    before = weights(model)
    optimizer = make(model.parameters(), lr=0.1, max_grad_norm=limit)
    scaler = torch.amp.GradScaler("cpu")
    loss = scaler.scale(loss_of(model, 0))
    message = "GradScaler has scaled the loss" if fused or limit is None else "backward"
    with pytest.raises(RuntimeError, match=message):
        optimizer.backward(loss) if fused else loss.backward()
    assert_bit_equal(weights(model), before)
    with pytest.raises(RuntimeError, match="GradScaler has scaled the loss"):
        scaler.step(optimizer)


def test_a_scaler_that_scaled_nothing_here_is_let_be() -> None:
    """Switched off, unused, or another optimizer's."""
    for enabled, used in ((False, True), (True, False)):
        model = llama()
        scaler = torch.amp.GradScaler("cpu", enabled=enabled)
        loss = loss_of(model, 0)
        loss = scaler.scale(loss) if used else loss * torch.tensor(2.0)
        optimizer = Lomo(model.parameters(), lr=0.1)
        loss.backward()
        optimizer.step()
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(torch.ones(()))
    model = llama()
    optimizer = Lomo(model.parameters(), lr=0.1)
    optimizer.backward(loss_of(model, 0) * torch.tensor(2.0))
    optimizer.step()


def test_a_factor_that_trains_is_no_scale() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(torch.ones(()))
    one, factor = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(4.0))
    optimizer = Lomo([one, factor], lr=0.5)
    optimizer.backward(one * factor)
    optimizer.step()
    assert [one.item(), factor.item()] == [-1.0, 3.5]


def test_a_scaler_is_found_among_others() -> None:
    idle, used = (torch.amp.GradScaler("cpu", init_scale=scale) for scale in (4.0, 1024.0))
    idle.scale(torch.ones(()))
    model = llama()
    with pytest.raises(RuntimeError, match="GradScaler has scaled the loss"):
        Lomo(model.parameters(), lr=0.1).backward(used.scale(loss_of(model, 0)))


@both
@pytest.mark.parametrize("limit", [None, 0.5])
def test_a_loss_without_a_graph_is_torchs_matter(make: Any, limit: float | None) -> None:
    """A parameter that is the loss trains; a number is torch's error."""
    parameter = nn.Parameter(torch.tensor(2.0))
    optimizer = make([parameter], lr=0.25, max_grad_norm=limit)
    optimizer.backward(parameter)
    optimizer.step()
    moved = 0.25 * (limit or 1.0) if make is Lomo else 0.25 * 2.0  # AdaLomo: relative to theta
    assert float(parameter.detach()) == pytest.approx(2.0 - moved, rel=1e-5)
    with pytest.raises(RuntimeError, match="does not require grad"):
        optimizer.backward(torch.tensor(1.0))


def test_an_ordinary_loop_warns_of_nothing() -> None:
    model = llama()
    optimizer = Lomo(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(3):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            optimizer.step()
            scheduler.step()


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("edit", ["filtered", "popped", "reordered", "swapped"])
def test_groups_that_were_edited_by_hand_are_told_before_a_weight_moves(
    edit: str, clipped: bool
) -> None:
    """torch's SGD no longer trains what was taken out; a hook would go on."""
    layers = [nn.Linear(3, 3), nn.Linear(3, 3)]
    groups: list[Any] = [
        {"params": list(layer.parameters()), "lr": lr}
        for layer, lr in zip(layers, (0.1, 0.2), strict=True)
    ]
    optimizer = Lomo(groups, lr=0.1, max_grad_norm=1.0 if clipped else None)
    own = optimizer.param_groups
    if edit == "filtered":
        own[0]["params"] = own[0]["params"][:1]
    elif edit == "popped":
        own.pop(0)
    elif edit == "reordered":
        own.reverse()
    else:
        own[0]["params"], own[1]["params"] = own[1]["params"], own[0]["params"]
    before = [parameter.clone() for layer in layers for parameter in layer.parameters()]
    loss = layers[1](layers[0](torch.ones(2, 3))).sum()
    with pytest.raises(RuntimeError, match="param_groups was edited"):
        optimizer.backward(loss) if clipped else loss.backward()
    after = [parameter for layer in layers for parameter in layer.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
