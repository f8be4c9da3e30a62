"""What is loaded into an optimizer: what the user's hooks make of a state, and no other kind's."""

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lomo.optim import AdaLomo, Lomo
from lomo.optim.master import MasterCopy
from lomo.optim.state import ExactStateOptimizer

Make = Callable[[Any], Optimizer]

ADALOMO: Make = lambda named: AdaLomo(named, lr=0.1)  # noqa: E731
LOMO: Make = lambda named: Lomo(  # noqa: E731
    named, lr=0.1, loss_scale="dynamic", rounding="stochastic", max_grad_norm=0.5
)
MASTER: Make = lambda named: MasterCopy(named, torch.optim.AdamW, lr=0.1)  # noqa: E731
each = pytest.mark.parametrize("make", [ADALOMO, LOMO, MASTER], ids=["adalomo", "lomo", "master"])


class Two(nn.Module):
    """Two layers of one shape, in this order or in the other."""

    def __init__(self, names: tuple[str, str]) -> None:
        super().__init__()
        self.first_name, self.second_name = names
        for name in sorted(names):
            self.add_module(name, nn.Linear(4, 4, dtype=torch.bfloat16))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.get_submodule(self.first_name)(x)
        return self.get_submodule(self.second_name)(hidden.tanh())


def train(model: nn.Module, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        torch.manual_seed(step)
        loss = model(torch.randn(8, 4, dtype=torch.bfloat16)).float().square().sum()
        backward = getattr(optimizer, "backward", Tensor.backward)
        backward(loss)
        optimizer.step()
        optimizer.zero_grad()


NEW_NAMES = {"a": "d", "b": "c"}  # the first layer becomes the last of its model


def renamed(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """torch's documented hook: state by the name that a parameter had when it was saved."""
    adapted = copy.deepcopy(optimizer.state_dict())
    (saved,) = state_dict["param_groups"]
    (own,) = adapted["param_groups"]
    for key, value in saved.items():
        if key not in ("params", "param_names"):
            own[key] = value
    old_names = {new: old for old, new in NEW_NAMES.items()}
    for key, name in zip(own["params"], own["param_names"], strict=True):
        layer, kind = name.split(".")
        position = saved["param_names"].index(f"{old_names[layer]}.{kind}")
        if saved["params"][position] in state_dict["state"]:
            adapted["state"][key] = state_dict["state"][saved["params"][position]]
    return adapted


def tensors(optimizer: Optimizer) -> dict[str, dict[str, Any]]:
    (group,) = optimizer.param_groups
    named = zip(group["param_names"], group["params"], strict=True)
    return {name: dict(optimizer.state.get(p, {})) for name, p in named}


@pytest.mark.parametrize("make", [ADALOMO, MASTER], ids=["adalomo", "master"])
@pytest.mark.parametrize("through_file", [False, True])
def test_a_hook_that_maps_names(make: Make, through_file: bool) -> None:
    torch.manual_seed(0)
    old = Two(("a", "b"))
    optimizer = make(old.named_parameters())
    train(old, optimizer, range(3))
    saved: Any = optimizer.state_dict()
    if through_file:
        file = io.BytesIO()
        torch.save(saved, file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
    else:
        saved = copy.deepcopy(saved)

    new = Two(("d", "c"))
    for layer, name in NEW_NAMES.items():
        new.get_submodule(name).load_state_dict(old.get_submodule(layer).state_dict())
    resumed = make(new.named_parameters())
    resumed.register_load_state_dict_pre_hook(renamed)
    resumed.load_state_dict(saved)
    expected = tensors(optimizer)
    for name, state in tensors(resumed).items():
        old_name = name.replace("d.", "a.").replace("c.", "b.")
        assert state.keys() == expected[old_name].keys()
        assert all(_equal(value, expected[old_name][key]) for key, value in state.items())
    train(old, optimizer, range(3, 5))
    train(new, resumed, range(3, 5))
    for layer, name in NEW_NAMES.items():
        assert torch.equal(old.get_submodule(layer).weight, new.get_submodule(name).weight)


def _equal(one: Any, other: Any) -> bool:
    return bool(torch.equal(one, other)) if isinstance(one, Tensor) else bool(one == other)


@pytest.mark.parametrize("returned", ["copy", "bare"])
def test_a_hook_that_knows_nothing_of_a_step_keeps_what_was_saved(returned: str) -> None:
    model = Two(("a", "b"))
    optimizer: Any = LOMO(model.named_parameters())
    train(model, optimizer, range(3))
    optimizer.loss_scale.value = 256.0
    saved = optimizer.state_dict()
    optimizer.close()
    other: Any = LOMO(model.named_parameters())

    def hook(own: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        if returned == "copy":
            return {**copy.deepcopy(own.state_dict()), "param_groups": state_dict["param_groups"]}
        return {key: state_dict[key] for key in ("state", "param_groups")}

    other.register_load_state_dict_pre_hook(hook)
    other.load_state_dict(saved)
    assert other.state_dict()["fused_backward"] == saved["fused_backward"]
    assert other.loss_scale.value == 256.0


def test_what_a_hook_says_of_a_step_counts() -> None:
    model = Two(("a", "b"))
    optimizer: Any = LOMO(model.named_parameters())
    train(model, optimizer, range(2))
    saved = optimizer.state_dict()

    def hook(_: Optimizer, state_dict: dict[str, Any]) -> None:
        state_dict["fused_backward"] = {**state_dict["fused_backward"], "num_steps": 7}

    optimizer.register_load_state_dict_pre_hook(hook)
    optimizer.load_state_dict(saved)
    assert optimizer.state_dict()["fused_backward"]["num_steps"] == 7


@each
def test_hooks_around_saving_and_after_loading(make: Make) -> None:
    model = Two(("a", "b"))
    optimizer = make(model.named_parameters())
    assert isinstance(optimizer, ExactStateOptimizer)
    train(model, optimizer, range(2))
    calls: list[str] = []
    optimizer.register_state_dict_pre_hook(lambda _: calls.append("before"))
    optimizer.register_state_dict_post_hook(lambda _, made: {"all": made})
    saved = optimizer.state_dict()
    assert calls == ["before"] and saved.keys() == {"all"}
    assert {"kind", "state", "param_groups"} <= saved["all"].keys()

    def zeroed(loaded: Optimizer) -> None:
        for state in loaded.state.values():
            for key in state.keys() - {"step"}:
                state[key] = torch.zeros_like(state[key])

    optimizer.register_load_state_dict_pre_hook(lambda _, given: given["all"])
    optimizer.register_load_state_dict_post_hook(zeroed)
    optimizer.load_state_dict(saved)
    for state in optimizer.state.values():
        assert all(not value.any() for key, value in state.items() if key != "step")
    if make is MASTER:  # and the step takes them: the weights are no longer those of the masters
        with pytest.raises(RuntimeError, match="differs from its master copy"):
            train(model, optimizer, range(1))


KINDS: dict[str, Make] = {
    "Lomo": lambda p: Lomo(p, lr=0.1),
    "AdaLomo": lambda p: AdaLomo(p, lr=0.1),
    "MasterCopy(SGD)": lambda p: MasterCopy(p, torch.optim.SGD, lr=0.1),
    "MasterCopy(Adam)": lambda p: MasterCopy(p, torch.optim.Adam, lr=0.1),
    "MasterCopy(AdamW)": lambda p: MasterCopy(p, torch.optim.AdamW, lr=0.1),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "SGD momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.1),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=0.1),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.1),
}


@pytest.mark.parametrize("loading", [name for name in KINDS if "omo" in name or "Master" in name])
@pytest.mark.parametrize("stepped", [False, True])
@pytest.mark.parametrize("bare", [False, True], ids=["whole", "bare"])
def test_the_state_of_another_kind(loading: str, stepped: bool, bare: bool) -> None:
    for name, make in KINDS.items():
        if name == loading or (bare and "Master" in name and "Master" in loading):
            continue
        model = Two(("a", "b"))
        saved = _state_of(make, model, stepped and name != "LBFGS", bare)
        optimizer = KINDS[loading](model.parameters())
        train(model, optimizer, range(1))
        before = copy.deepcopy(optimizer.state_dict())
        with pytest.raises(ValueError):
            optimizer.load_state_dict(saved)
        assert str(optimizer.state_dict()) == str(before), name
        train(model, optimizer, range(1))
        if hasattr(optimizer, "close"):
            optimizer.close()


def _state_of(make: Make, model: nn.Module, stepped: bool, bare: bool) -> dict[str, Any]:
    optimizer = make(model.parameters())
    if stepped:
        train(model, optimizer, range(2))
    saved = optimizer.state_dict()
    if hasattr(optimizer, "close"):
        optimizer.close()
    return {key: saved[key] for key in ("state", "param_groups")} if bare else saved


@pytest.mark.parametrize("make", [ADALOMO, MASTER], ids=["adalomo", "master"])
def test_state_of_other_shapes(make: Make) -> None:
    wide, tall = (nn.Linear(a, b, bias=False, dtype=torch.bfloat16) for a, b in ((4, 8), (8, 4)))
    saved = _state_of(make, wide, stepped=False, bare=False) if make is MASTER else None
    if saved is None:
        optimizer = make(wide.parameters())
        optimizer.backward(wide(torch.ones(2, 4, dtype=torch.bfloat16)).sum())  # type: ignore[attr-defined]
        saved = optimizer.state_dict()
    with pytest.raises(ValueError, match="of other parameters|for other parameters"):
        make(tall.parameters()).load_state_dict(saved)


@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (2, 3, 4)], ids=str)
def test_what_was_loaded_from_is_not_written_to(shape: tuple[int, ...]) -> None:
    parameter = nn.Parameter(torch.ones(shape))
    first = AdaLomo([parameter], lr=0.1)
    first.backward(parameter.sum())
    first.step()
    saved = first.state_dict()
    before = copy.deepcopy(saved["state"])
    first.close()
    second = AdaLomo([parameter], lr=0.1)
    second.load_state_dict(saved)
    second.backward(parameter.square().sum())
    assert second.state[parameter]["step"] == 2
    assert all(_equal(value, before[0][key]) for key, value in saved["state"][0].items())


def test_a_step_that_was_open_is_forgotten() -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = Lomo([parameter], lr=0.5)
    saved = optimizer.state_dict()
    parameter.sum().backward()
    optimizer.load_state_dict(saved)
    parameter.sum().backward()
    optimizer.step()
    assert parameter.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("lacking", ["num_steps", "grad_norm", "loss_scale", "all of it"])
def test_a_state_that_lacks_a_part_is_refused_and_changes_nothing(lacking: str) -> None:
    optimizer = Lomo([nn.Parameter(torch.ones(2))], lr=0.5)
    before = optimizer.state_dict()
    own = {key: value for key, value in before["fused_backward"].items() if key != lacking}
    cut = {**before, "fused_backward": None if lacking == "all of it" else own}
    cut["param_groups"] = [{**group, "lr": 0.25} for group in before["param_groups"]]
    with pytest.raises(ValueError, match="no whole fused_backward"):
        optimizer.load_state_dict(cut)
    assert optimizer.state_dict() == before


def test_state_goes_to_the_device_of_its_parameter_and_a_step_stays() -> None:
    """As torch has it: a count of steps is read on the host."""
    saved_of, optimizer = (
        AdaLomo(nn.Linear(3, 2, bias=False, device=device).parameters(), lr=0.1)
        for device in ("cpu", "meta")
    )
    (parameter,) = saved_of.param_groups[0]["params"]
    parameter.square().sum().backward()
    saved_of.step()
    saved = saved_of.state_dict()
    saved["state"][0]["step"] = torch.tensor(1.0)
    optimizer.load_state_dict(saved)
    (found,) = optimizer.state.values()
    devices = {name: value.device.type for name, value in found.items() if torch.is_tensor(value)}
    assert devices.pop("step") == "cpu" and set(devices.values()) == {"meta"}
