"""What every optimizer of ours has to pass, one by one; two ranks: tests/distributed."""

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lomo.optim import AdaLomo, Lomo, update_in_gemm

from .models import CHECKPOINTING, assert_bit_equal, llama, loss_of, max_difference, weights
from .reference import AdaLomoReference

LIMIT = 0.5
Update = Callable[[nn.Parameter], None]


@dataclass(frozen=True)
class Entry:
    """An optimizer with its options, and the same update written without it."""

    make: Callable[..., Any]
    lr: float
    options: dict[str, Any] = field(default_factory=dict)
    in_gemm: bool = False

    def on(self, model: nn.Module, **others: Any) -> Any:
        """The optimizer of a model."""
        optimizer = self.make(model.parameters(), **{"lr": self.lr, **self.options, **others})
        if self.in_gemm:
            update_in_gemm(optimizer, model)
        return optimizer

    def clip(self, gradients: list[Tensor]) -> None:
        """In place, what the options say of norms and values."""
        limit, value = self.options.get("max_grad_norm"), self.options.get("clip_value")
        if value is not None:
            for gradient in gradients:
                gradient.clamp_(-value, value)
        if limit is not None:
            alone = self.options.get("norm_scope") == "parameter"
            for group in [[g] for g in gradients] if alone else [gradients]:
                norm = torch.stack([gradient.norm() for gradient in group]).norm()
                for gradient in group:
                    gradient.mul_(min(1.0, limit / (float(norm) + 1e-6)))

    def reference(self, parameter: nn.Parameter) -> Update:
        """One float64 step of a parameter from its .grad."""
        decay = self.options.get("weight_decay", 0.0)
        if self.make is AdaLomo:
            slow = AdaLomoReference(
                parameter, self.lr, weight_decay=decay, beta=self.options.get("beta")
            )

            def step(parameter: nn.Parameter) -> None:
                assert parameter.grad is not None
                slow.step(parameter.grad)
                parameter.data.copy_(slow.weight())

            return step

        def sgd(parameter: nn.Parameter) -> None:
            assert parameter.grad is not None
            parameter.data -= self.lr * (parameter.grad + decay * parameter.data)

        return sgd


ENTRIES = {
    "lomo": Entry(Lomo, 0.1),
    "lomo-decay": Entry(Lomo, 0.1, {"weight_decay": 0.1}),
    "lomo-clipped": Entry(Lomo, 0.1, {"max_grad_norm": LIMIT}),
    "lomo-parameter_norm": Entry(Lomo, 0.1, {"max_grad_norm": 0.1, "norm_scope": "parameter"}),
    "lomo-clip_value": Entry(Lomo, 0.1, {"clip_value": 0.01}),
    "lomo-loss_scale": Entry(Lomo, 0.1, {"loss_scale": "dynamic"}),
    "lomo-in_gemm": Entry(Lomo, 0.1, in_gemm=True),
    "lomo-in_gemm-clipped": Entry(
        Lomo, 0.1, {"max_grad_norm": LIMIT, "weight_decay": 0.1}, in_gemm=True
    ),
    "adalomo": Entry(AdaLomo, 1e-2),
    "adalomo-paper": Entry(AdaLomo, 1e-2, {"beta": 0.9}),
    "adalomo-decay": Entry(AdaLomo, 1e-2, {"weight_decay": 0.1}),
    "adalomo-clipped": Entry(AdaLomo, 1e-2, {"max_grad_norm": LIMIT}),
}
every = pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)


def train(model: nn.Module, optimizer: Any, steps: range) -> None:
    for step in steps:
        optimizer.backward(loss_of(model, step))
        optimizer.step()
        optimizer.zero_grad()


@every
def test_closed_form(entry: Entry) -> None:
    # One weight w with gradient g = 2: SGD moves it by lr g; AdaLomo by lr |w| sign(g).
    weight, gradient = 0.5, 2.0
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, weight)
    optimizer = entry.on(model)
    optimizer.backward(model(torch.full((1, 1), gradient)).sum())
    optimizer.step()
    decay = entry.options.get("weight_decay", 0.0)
    if entry.make is AdaLomo:
        rate = entry.lr * abs(weight)
        expected = weight * (1.0 - rate * decay) - rate
    else:
        limit = entry.options.get("max_grad_norm") or entry.options.get("clip_value") or gradient
        expected = weight - entry.lr * (min(gradient, limit) + decay * weight)
    assert float(model.weight.detach()) == pytest.approx(expected, rel=1e-5)


@every
@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_fused_equals_unfused(entry: Entry, tied: bool, checkpointing: str) -> None:
    ours, theirs = llama(tied=tied, checkpointing=checkpointing), llama(tied=tied).double()
    if entry.in_gemm and tied:
        with pytest.raises(ValueError, match="one parameter"):
            entry.on(ours)
        return
    start = weights(ours)
    train(ours, entry.on(ours), range(3))
    updates = {parameter: entry.reference(parameter) for parameter in theirs.parameters()}
    for step in range(3):
        loss_of(theirs, step).backward()
        entry.clip([p.grad for p in updates if p.grad is not None])
        for parameter, update in updates.items():
            update(parameter)
            parameter.grad = None
    after = weights(ours)
    expected = {name: weight.float() for name, weight in weights(theirs).items()}
    assert max_difference(after, expected) <= 2e-6
    # Every parameter moved, the first and the last of the graph with the rest.
    assert all(not torch.equal(start[name], weight) for name, weight in after.items())
    assert all(parameter.grad is None for parameter in ours.parameters())


@every
def test_frozen_parameters_stay(entry: Entry) -> None:
    model = llama()
    frozen = model.model.layers[0].mlp.up_proj.weight.requires_grad_(False)
    before, start = frozen.detach().clone(), weights(model)
    train(model, entry.on(model), range(2))
    assert torch.equal(frozen, before)
    moved = [
        name for name, weight in weights(model).items() if not torch.equal(weight, start[name])
    ]
    assert len(moved) == len(start) - 1


@every
def test_scheduler_sets_the_learning_rate(entry: Entry) -> None:
    ours, theirs = llama(), llama()
    factors = [0.0, 0.5, 1.0, 0.3]
    optimizer, plain = entry.on(ours), entry.on(theirs)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factors[step % 4])
    for step in range(4):
        plain.param_groups[0]["lr"] = entry.lr * factors[step]
        train(ours, optimizer, range(step, step + 1))
        train(theirs, plain, range(step, step + 1))
        schedule.step()
    assert_bit_equal(weights(ours), weights(theirs))


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_resume_is_bitwise(entry: Entry, dtype: torch.dtype) -> None:
    straight, resumed = llama(dtype=dtype), llama(seed=1, dtype=dtype)
    first = entry.on(straight)
    train(straight, first, range(3))
    file = io.BytesIO()
    torch.save({"model": straight.state_dict(), "optimizer": first.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed.load_state_dict(saved["model"])
    second = entry.on(resumed, lr=1.0)  # the loaded state knows the rate
    second.load_state_dict(saved["optimizer"])
    train(straight, first, range(3, 6))
    train(resumed, second, range(3, 6))
    assert_bit_equal(weights(resumed), weights(straight))


GUARDED = {
    name: entry
    for name, entry in ENTRIES.items()
    if {"max_grad_norm", "loss_scale"} & set(entry.options)
}


@pytest.mark.parametrize("entry", GUARDED.values(), ids=GUARDED)
def test_a_loss_that_is_not_finite_moves_nothing(entry: Entry) -> None:
    model = llama()
    before, optimizer = weights(model), entry.on(model)
    optimizer.backward(loss_of(model, 0) * float("nan"))
    optimizer.step()
    assert optimizer.skipped
    assert_bit_equal(weights(model), before)
    assert not optimizer.state
