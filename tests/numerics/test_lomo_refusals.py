"""Whatever Lomo and AdaLomo can't honour is refused, in words, with the weights as they were."""

import copy
import gc
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import lomo.optim
from lomo.optim import AdaLomo, Lomo

from .models import assert_bit_equal, llama, loss_of, max_difference, weights

both = pytest.mark.parametrize("make", [Lomo, AdaLomo])


@both
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": float("inf")}, "lr must be a finite number, 0 or above, got inf"),
        ({"lr": -1.0}, "lr must be"),
        ({"lr": float("nan")}, "lr must be"),
        ({"lr": "1e-3"}, "lr must be a finite number, 0 or above, got '1e-3'"),
        ({"lr": 0.1, "weight_decay": -0.1}, "weight_decay must be a finite number, 0 or above"),
        ({"lr": 0.1, "max_grad_norm": 0.0}, "max_grad_norm must be a number above 0"),
        ({"lr": 0.1, "max_grad_norm": -1.0}, "max_grad_norm must be"),
    ],
)
def test_bad_options(make: Callable[..., Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make([nn.Parameter(torch.ones(2))], **options)


@pytest.mark.parametrize("name", ["eps", "clip_threshold", "decay_rate"])
def test_bad_options_of_adalomo(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        AdaLomo([nn.Parameter(torch.ones(2))], lr=0.1, **{name: (1.0, 0.0) if name == "eps" else 0})


@both
@pytest.mark.parametrize("fused", [False, True], ids=["loss.backward", "optimizer.backward"])
@pytest.mark.parametrize("max_grad_norm", [None, 1.0], ids=["no_clip", "clip"])
def test_accumulation(make: Callable[..., Any], fused: bool, max_grad_norm: float | None) -> None:
    model = llama()
    optimizer = make(model.parameters(), lr=0.1, max_grad_norm=max_grad_norm)
    optimizer.backward(loss_of(model, 0))
    after_first = weights(model)
    second = loss_of(model, 1)
    backward_again = (lambda: optimizer.backward(second)) if fused else second.backward
    with pytest.raises(RuntimeError, match=r"step\(\)|backward\(loss\)"):
        backward_again()
    assert_bit_equal(weights(model), after_first)
    assert all(p.grad is None for p in model.parameters())
    optimizer.step()
    optimizer.backward(loss_of(model, 1))  # the step is closed, so training goes on
    optimizer.step()


@both
def test_accumulation_in_the_ordinary_loop(make: Callable[..., Any]) -> None:
    model = llama()
    optimizer = make(model.parameters(), lr=0.1)
    loss_of(model, 0).backward()
    after_first = weights(model)
    with pytest.raises(RuntimeError, match="can't be accumulated"):
        loss_of(model, 1).backward()
    with pytest.raises(RuntimeError, match="can't be accumulated"):
        optimizer.backward(loss_of(model, 1))
    assert_bit_equal(weights(model), after_first)


@both
def test_clipping_with_a_plain_backward(make: Callable[..., Any]) -> None:
    model = llama()
    optimizer = make(model.parameters(), lr=0.1, max_grad_norm=1.0)
    before = weights(model)
    with pytest.raises(RuntimeError, match=r"needs optimizer\.backward\(loss\)"):
        loss_of(model, 0).backward()
    assert_bit_equal(weights(model), before)
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(RuntimeError, match=r"needs optimizer\.backward\(loss\)"):
        optimizer.step()
    optimizer.backward(loss_of(model, 0))
    optimizer.step()


@both
def test_parameter_given_twice(make: Callable[..., Any]) -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = make([parameter], lr=0.1)
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": [parameter]})
    with (
        pytest.warns(UserWarning, match="duplicate"),
        pytest.raises(ValueError, match="occurs twice"),
    ):
        make([parameter, parameter], lr=0.1)


@both
def test_parameter_of_another_optimizer(make: Callable[..., Any]) -> None:
    parameter = nn.Parameter(torch.ones(2))
    first = Lomo([parameter], lr=0.1)
    with pytest.raises(ValueError, match="updated by another optimizer already"):
        make([parameter], lr=0.1)
    first.close()
    second = make([parameter], lr=0.1)
    del second
    gc.collect()
    make([parameter], lr=0.1)


@both
def test_a_model_compiled_as_a_whole(make: Callable[..., Any]) -> None:
    model = llama()
    compiled = torch.compile(model, backend="aot_eager")
    with pytest.warns(UserWarning, match="compile each layer instead"):
        make(compiled.named_parameters(), lr=0.1)
    optimizer = make(model.parameters(), lr=0.1)
    with pytest.warns(UserWarning, match="compile each layer instead"):
        optimizer.backward(loss_of(compiled, 0))
    optimizer.step()


# torch's own, when it traces a layer whose input is not a leaf.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_model_compiled_layer_by_layer() -> None:
    results = []
    for compiled in (False, True):
        model = llama()
        if compiled:
            for layer in model.model.layers:
                layer.compile(backend="aot_eager")
        optimizer = Lomo(model.named_parameters(), lr=0.1)
        optimizer.backward(loss_of(model, 0))  # no warning: it would be an error
        optimizer.step()
        results.append(weights(model))
    assert max_difference(*results) <= 1e-6


@pytest.mark.filterwarnings("ignore:the model is compiled as a whole")
@pytest.mark.parametrize("make", [Lomo, pytest.param(AdaLomo, marks=pytest.mark.slow)])
def test_clipping_in_a_model_compiled_as_a_whole(make: Callable[..., Any]) -> None:
    torch._dynamo.reset()  # another test may have compiled the same code for one pass
    results = []
    for compiled in (False, True):
        model = llama()
        wrapped = torch.compile(model, backend="aot_eager") if compiled else model
        optimizer = make(model.parameters(), lr=0.01, max_grad_norm=0.1)
        for step in range(3):
            optimizer.backward(loss_of(wrapped, step))
            optimizer.step()
        results.append(weights(model))
    assert max_difference(*results) <= 1e-6


@pytest.mark.filterwarnings("ignore:the model is compiled as a whole")
def test_clipping_in_what_was_compiled_without_it() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 1))
    compiled = torch.compile(lambda x: model(x).square().mean(), backend="aot_eager")
    optimizer = Lomo(model.parameters(), lr=0.1)
    compiled(torch.ones(3, 4)).backward()
    optimizer.step()
    before = weights(model)
    optimizer.max_grad_norm = 1.0
    with pytest.raises(RuntimeError, match="made this backward for one pass"):
        optimizer.backward(compiled(torch.ones(3, 4)))
    assert_bit_equal(weights(model), before)


@both
def test_gradients_that_no_hook_takes(make: Callable[..., Any]) -> None:
    frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    optimizer = make([frozen, nn.Parameter(torch.ones(2))], lr=0.1)
    frozen.requires_grad_(True)
    frozen.sum().backward()
    with pytest.raises(RuntimeError, match="frozen when the optimizer was made"):
        optimizer.step()
    with pytest.raises(ValueError, match="already holds a gradient"):
        make([frozen], lr=0.1)


def test_parameter_shared_between_reentrant_checkpoints() -> None:
    # The second segment would be recomputed with weights that the first has updated.
    layer = nn.Linear(4, 4)
    optimizer = Lomo(layer.parameters(), lr=0.1, max_grad_norm=1.0)
    before = weights(layer)

    def loss(use_reentrant: bool) -> torch.Tensor:
        hidden = torch.ones(2, 4, requires_grad=True)
        for _ in range(2):
            hidden = checkpoint(layer, hidden, use_reentrant=use_reentrant)
        return hidden.square().sum()

    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        optimizer.backward(loss(use_reentrant=True))
    assert_bit_equal(weights(layer), before)
    optimizer.backward(loss(use_reentrant=False))
    optimizer.step()


@both
@pytest.mark.parametrize("dropped", [False, True], ids=["closed", "dropped"])
def test_closed_or_dropped_optimizer_leaves_the_model_alone(
    make: Callable[..., Any], dropped: bool
) -> None:
    model = llama()
    before = weights(model)
    optimizer = make(model.parameters(), lr=0.1)
    if dropped:
        del optimizer
        gc.collect()
    else:
        optimizer.close()
        optimizer.close()
        for call in (optimizer.step, lambda: optimizer.backward(loss_of(model, 0))):
            with pytest.raises(RuntimeError, match="was closed"):
                call()
    loss_of(model, 0).backward()
    assert_bit_equal(weights(model), before)
    assert all(p.grad is not None for p in model.parameters())


def test_failed_measurement_leaves_the_step_open_for_another_try() -> None:
    model = llama()
    optimizer = Lomo(model.parameters(), lr=0.1, max_grad_norm=1.0)
    before = weights(model)

    def fail(_: torch.Tensor) -> None:
        raise MemoryError("injected")

    handle = model.model.embed_tokens.weight.register_hook(fail)
    with pytest.raises(MemoryError):
        optimizer.backward(loss_of(model, 0))
    assert_bit_equal(weights(model), before)
    handle.remove()
    optimizer.backward(loss_of(model, 0))
    optimizer.step()


def test_failed_measurement_leaves_the_gradients_of_others() -> None:
    own, other = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = Lomo([own], lr=0.1, max_grad_norm=1.0)

    def fail(_: torch.Tensor) -> None:
        raise MemoryError("injected")

    handle = own.register_hook(fail)
    with pytest.raises(MemoryError):
        optimizer.backward((own * 1.0).sum() + other.sum(), others=[other])
    handle.remove()
    assert other.grad is None
    optimizer.backward(own.sum() + other.sum(), others=[other])
    assert other.grad is not None and other.grad.tolist() == [1.0, 1.0]


@both
def test_a_backward_that_fails_half_way_needs_a_checkpoint(make: Callable[..., Any]) -> None:
    model = llama()
    optimizer = make(model.parameters(), lr=0.1, max_grad_norm=1.0)
    saved, state = weights(model), optimizer.state_dict()
    calls = []

    def fail(_: torch.Tensor) -> None:
        calls.append(1)
        if len(calls) == 2:  # of the two passes, the one that updates
            raise MemoryError("injected")

    handle = model.model.embed_tokens.weight.register_hook(fail)
    with pytest.raises(MemoryError):
        optimizer.backward(loss_of(model, 0))
    handle.remove()
    with pytest.raises(RuntimeError, match="load the weights"):
        optimizer.backward(loss_of(model, 0))
    with pytest.raises(RuntimeError, match="load the weights"):
        optimizer.step()
    model.load_state_dict(saved)
    optimizer.load_state_dict(state)
    optimizer.backward(loss_of(model, 0))
    optimizer.step()

    other = llama()
    optimizer = make(other.parameters(), lr=0.1, max_grad_norm=1.0)
    optimizer.backward(loss_of(other, 0))
    assert_bit_equal(weights(model), weights(other))


@both
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_copies_and_pickles_are_refused(make: Callable[..., Any], copied: Any) -> None:
    optimizer = make([nn.Parameter(torch.ones(2))], lr=0.1)
    with pytest.raises(TypeError, match="can't be copied or pickled"):
        copied(optimizer)


@both
@pytest.mark.parametrize("name", ["max_grad_norm", "loss_scale", "momentum"])
def test_options_that_a_group_can_not_have(make: Callable[..., Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} can't be set for a group"):
        make([{"params": [nn.Parameter(torch.ones(2))], name: 1.0}], lr=0.1)


@pytest.mark.parametrize(
    ("name", "value"),
    [("eps", (0.0, 1.0)), ("eps", 1e-8), ("clip_threshold", -1.0), ("decay_rate", 0), ("beta", 2.0)]
    + [("beta", "0.9"), ("beta", 0.0)],
)
def test_bad_options_of_a_group_of_adalomo(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        AdaLomo([{"params": [nn.Parameter(torch.ones(2))], name: value}], lr=0.1)


@both
def test_complex_parameters(make: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="floating-point"):
        make([nn.Parameter(torch.ones(2, dtype=torch.complex64))], lr=0.1)


def test_state_of_another_kind_of_optimizer() -> None:
    weight = nn.Parameter(torch.ones(2))
    lomo = Lomo([weight], lr=0.1)
    lomo.load_state_dict(lomo.state_dict())
    lomo.load_state_dict(lomo.state_dict())  # its own, and torch has added to the defaults by now
    with pytest.raises(ValueError, match="momentum"):
        lomo.load_state_dict(torch.optim.SGD([weight], lr=0.1, momentum=0.9).state_dict())
    lomo.close()
    adalomo = AdaLomo([weight], lr=0.1)
    with pytest.raises(ValueError, match=r"no clip_threshold, decay_rate, eps.*by AdaLomo"):
        adalomo.load_state_dict(lomo.state_dict())


def run_beside_a_copy(code: str, folder: Path) -> None:
    """Runs `code` where `alone` is a copy of lomo/optim by itself."""
    source = Path(lomo.optim.__file__).parent
    shutil.copytree(source, folder / "alone", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)


@pytest.mark.slow
def test_package_stands_alone(tmp_path: Path) -> None:
    """A copy of lomo/optim by itself trains, and loads nothing of this project or its friends."""
    code = (
        "import sys, torch, alone\n"
        "p = torch.nn.Parameter(torch.ones(2))\n"
        "o = alone.Lomo([p], lr=0.5)\n"
        "p.sum().backward(); o.step()\n"
        "assert p.tolist() == [0.5, 0.5]\n"
        "assert not {'lomo', 'transformers', 'pydantic', 'peft'} & set(sys.modules)\n"
    )
    run_beside_a_copy(code, tmp_path)


@pytest.mark.slow
def test_package_needs_no_torch_distributed(tmp_path: Path) -> None:
    """As in a torch that was built without it, whose torch.distributed has few names."""
    code = (
        "import torch, torch.distributed as dist\n"
        "for name in ('reduce_scatter_single', 'reduce_scatter_tensor', 'all_reduce', 'get_rank',\n"
        "             'is_initialized', 'get_world_size'):\n"
        "    vars(dist).pop(name, None)\n"
        "dist.is_available = lambda: False\n"
        "import alone\n"
        "p = torch.nn.Parameter(torch.ones(2))\n"
        "o = alone.Lomo([p], lr=0.5, max_grad_norm=9.0)\n"
        "o.backward(p.sum()); o.step()\n"
        "assert p.tolist() == [0.5, 0.5]\n"
    )
    run_beside_a_copy(code, tmp_path)
