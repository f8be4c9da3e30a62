"""A second backward that does not make what the first has measured is told; a sound one is not."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lomo.optim import AdaLomo, Lomo, update_in_gemm
from lomo.optim.guards.second_pass import SecondPass

from .models import llama, loss_of, max_difference, weights

CLIP = {"max_grad_norm": 1e3}


class Overwrites(torch.autograd.Function):
    """silu(a) b whose backward writes into what it saved, as Liger's SwiGLU does."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return F.silu(a) * b

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        sigmoid = torch.sigmoid(a)
        da = dy * b * (sigmoid + a * sigmoid * (1 - sigmoid))
        db = dy * a * sigmoid
        a.data.copy_(da)
        b.data.copy_(db)
        return a, b


class InPlaceLoss(torch.autograd.Function):
    """A cross entropy whose gradient is made in the forward, and scaled in place in backward."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        probabilities = logits.softmax(-1)
        loss = F.nll_loss(probabilities.log(), labels)
        ctx.gradient = (probabilities - F.one_hot(labels, logits.shape[-1])) / len(labels)
        return loss

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        ctx.gradient.mul_(dy * 0.5)
        return ctx.gradient.clone(), None


class Counts(torch.autograd.Function):
    """An identity whose n-th backward is `factor(n)` times the first."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Callable[[int], Any]) -> Tensor:
        ctx.factor, ctx.calls = factor, 0
        return x.clone()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        ctx.calls += 1
        return dy * ctx.factor(ctx.calls), None


def counter_mask(call: int) -> Tensor:
    return (torch.arange(24) + call) % 2.0


class Net(nn.Module):
    """Two linear layers, and in between what is to be tried."""

    def __init__(self, between: Callable[[Tensor], Tensor], num: int = 24) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(12, num), nn.Linear(24, 5)
        self.between = between

    def forward(self, step: int) -> Tensor:
        torch.manual_seed(step + 1)
        logits: Tensor = self.last(self.between(self.first(torch.randn(40, 12))))
        return logits.square().mean()


def gated(hidden: Tensor) -> Tensor:
    a, b = hidden.chunk(2, -1)
    output: Tensor = Overwrites.apply(a.clone(), b.clone())
    return output


def redrawn(hidden: Tensor) -> Tensor:
    output: Tensor = checkpoint(
        lambda x: F.dropout(x, 0.1), hidden, use_reentrant=False, preserve_rng_state=False
    )
    return output


def counted(factor: Callable[[int], Any]) -> Callable[[Tensor], Tensor]:
    return lambda hidden: Counts.apply(hidden, factor)


FALSE: dict[str, Callable[[], Net]] = {
    "saved tensors are overwritten": lambda: Net(gated, num=48),
    "the checkpoint draws a new mask": lambda: Net(redrawn),
    "5 % more": lambda: Net(counted(lambda call: 1.0 if call == 1 else 1.05)),
    "the other sign": lambda: Net(counted(lambda call: 1.0 if call == 1 else -1.0)),
    "a mask from a counter": lambda: Net(counted(counter_mask)),
    "one element": lambda: Net(
        counted(
            lambda call: torch.ones(24).index_fill_(0, torch.tensor([3]), 1.0 if call == 1 else 0.0)
        )
    ),
    "nothing": lambda: Net(counted(lambda call: 1.0 if call == 1 else 0.0)),
    "nan": lambda: Net(counted(lambda call: 1.0 if call == 1 else float("nan"))),
}


def optimizer_of(model: nn.Module, kind: str, **options: Any) -> Lomo | AdaLomo:
    make = AdaLomo if kind == "adalomo" else Lomo
    optimizer: Any = make(model.named_parameters(), lr=1e-3, **{**CLIP, **options})
    if kind == "in the product":
        update_in_gemm(optimizer, model)
    return optimizer


@pytest.mark.parametrize("kind", ["lomo", "adalomo", "in the product"])
@pytest.mark.parametrize("case", FALSE)
def test_a_pass_that_differs_is_told_before_the_next_step(case: str, kind: str) -> None:
    model = FALSE[case]()
    optimizer = optimizer_of(model, kind)
    saved, state = weights(model), optimizer.state_dict()
    with pytest.raises(RuntimeError, match=r"of first\.weight.*norm_scope"):
        optimizer.backward(model(0))
    for go_on in (optimizer.step, lambda: optimizer.backward(model(1))):
        with pytest.raises(RuntimeError, match="load the weights"):
            go_on()
    model.load_state_dict(saved)
    optimizer.load_state_dict(state)
    optimizer.norm_scope = "parameter"  # the way out
    optimizer.backward(model(1))
    optimizer.step()


def test_a_hook_that_acts_once() -> None:
    model, calls = Net(torch.tanh), []

    def once(gradient: Tensor) -> Tensor | None:
        calls.append(1)
        return gradient * 2.0 if len(calls) == 1 else None

    model.last.weight.register_hook(once)
    with pytest.raises(RuntimeError, match=r"of last\.weight"):
        optimizer_of(model, "lomo").backward(model(0))


def test_a_gradient_that_comes_in_one_pass_only() -> None:
    model, calls = Net(torch.tanh), []

    class Stops(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, dy: Tensor) -> Tensor | None:
            calls.append(1)
            return dy if len(calls) == 1 else None

    model.between = Stops.apply
    with pytest.raises(RuntimeError, match=r"of first\.weight, first\.bias"):
        optimizer_of(model, "lomo").backward(model(0))


def test_an_in_place_loss() -> None:
    layer = nn.Linear(8, 4)
    optimizer = optimizer_of(layer, "lomo")
    loss = InPlaceLoss.apply(layer(torch.randn(6, 8)), torch.tensor([0, 1, 2, 3, 0, 1]))
    with pytest.raises(RuntimeError, match="in-place cross entropies"):
        optimizer.backward(loss)


def test_two_gradients_that_change_places() -> None:
    """The global norm is the same."""
    first, second = (nn.Parameter(torch.randn(30, 40)) for _ in range(2))
    factors = torch.randn(2, 30, 40)
    calls: list[int] = []

    class Swaps(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
            return (a * factors[0] + b * factors[1]).sum()

        @staticmethod
        def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
            calls.append(1)
            one, two = factors if len(calls) % 2 else factors.flip(0)
            return dy * one, dy * two

    optimizer = Lomo([first, second], lr=0.1, **CLIP)
    with pytest.raises(RuntimeError, match="of number 0, number 1"):
        optimizer.backward(Swaps.apply(first, second))


def test_a_fault_beside_one_sample_is_met_by_another() -> None:
    """Samples of large tensors start elsewhere in each step."""
    weight = nn.Parameter(torch.randn(300, 400))
    optimizer = Lomo([weight], lr=1e-6, **CLIP)
    column = torch.ones(400)

    def changes(call: int) -> Tensor:
        column[7] = call
        return column

    with pytest.raises(RuntimeError, match="of number 0"):
        for _ in range(40):
            optimizer.backward(Counts.apply(weight, changes).square().mean())
            optimizer.step()


def test_every_element_comes_into_some_sample() -> None:
    weight, calls = nn.Parameter(torch.randn(100, 100)), [0]
    optimizer = Lomo([weight], lr=1e-6, **CLIP)

    class Fails(torch.autograd.Function):
        """A sum whose second backward has another element at place 1."""

        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.sum()

        @staticmethod
        def backward(ctx: Any, dy: Tensor) -> Tensor:
            calls[0] += 1
            gradient = torch.ones(10_000) * dy
            gradient[1] = 1.0 if calls[0] % 2 else 50.0
            return gradient.view(100, 100)

    optimizer.backward(Fails.apply(weight))  # beside the sample
    optimizer.step()
    with pytest.raises(RuntimeError, match="of number 0"):
        for _ in range(3):
            optimizer.backward(Fails.apply(weight))
            optimizer.step()


def test_a_difference_is_weighed_by_its_share_of_the_norm() -> None:
    """A sample is as much smaller than its gradient as the global norm is taken smaller for it."""
    gradient = torch.randn(1_000_000) * 0.015
    for tensors, norm in (([gradient], 1e5), ([torch.ones(3, 2), gradient], 1e9)):
        check = SecondPass(0)
        check.note(0, 0, tensors)
        check.note(1, 0, [*tensors[:-1], tensors[-1] * 1.1])
        assert check.differing(norm) == [0]  # two are factors, which the norm is not of


SOUND: dict[str, dict[str, Any]] = {
    "bfloat16": {"dtype": torch.bfloat16},
    "reentrant": {"checkpointing": "reentrant"},
    "non_reentrant": {"checkpointing": "non_reentrant"},
    "tied": {"tied": True},
}


@pytest.mark.parametrize("kind", ["lomo", "adalomo", "in the product"])
@pytest.mark.parametrize("case", SOUND)
def test_no_alarm_in_a_language_model(case: str, kind: str) -> None:
    if case == "tied" and kind == "in the product":
        pytest.skip("refused")
    model = llama(**SOUND[case])
    optimizer = optimizer_of(model, kind)
    for step in range(5):
        optimizer.backward(loss_of(model, step))
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("use_reentrant", [None, False, True])
def test_no_alarm_with_dropout_and_autocast(use_reentrant: bool | None, dtype: torch.dtype) -> None:
    def between(hidden: Tensor) -> Tensor:
        if use_reentrant is None:
            return F.dropout(hidden, 0.5)
        output: Tensor = checkpoint(F.dropout, hidden, 0.5, use_reentrant=use_reentrant)
        return output

    model = Net(between)
    scale = {"loss_scale": "dynamic"} if dtype == torch.float16 else {}
    optimizer = optimizer_of(model, "lomo", **scale)
    for step in range(5):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = model(step)
        optimizer.backward(loss)
        optimizer.step()


def test_no_alarm_where_a_gradient_is_rounding_alone() -> None:
    """The sum over all columns of a softmax's gradient: 0, but for what rounding leaves."""
    weight, shift = nn.Parameter(torch.randn(6, 5)), nn.Parameter(torch.zeros(1))
    optimizer = Lomo([weight, shift], lr=0.1, **CLIP)
    noise: list[float] = []

    def noisy(gradient: Tensor) -> Tensor:  # as atomic additions would be on a GPU
        noise.append(1e-8 * (-1.0) ** len(noise))
        return gradient + noise[-1]

    shift.register_hook(noisy)
    for step in range(4):
        logits = torch.randn(8, 6, generator=torch.Generator().manual_seed(step)) @ weight + shift
        optimizer.backward(F.cross_entropy(logits, torch.arange(8) % 5))
        optimizer.step()


def test_layouts_and_shapes_that_are_odd() -> None:
    torch.manual_seed(0)
    odd = [
        torch.randn(5, 7).t(),
        torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        torch.tensor(3.0),
        torch.zeros(0, 4),
        torch.randn(1, 9000),
    ]
    params = [nn.Parameter(tensor) for tensor in odd]
    copies = [nn.Parameter(p.detach().clone()) for p in params]
    optimizer = Lomo(params, lr=0.1, **CLIP)
    reference = torch.optim.SGD(copies, lr=0.1, foreach=False)
    for _ in range(3):
        optimizer.backward(torch.stack([p.square().sum() for p in params]).sum())
        optimizer.step()
        torch.stack([p.square().sum() for p in copies]).sum().backward()
        nn.utils.clip_grad_norm_(copies, 1e3, foreach=False)
        reference.step()
        reference.zero_grad()
    for parameter, copied in zip(params, copies, strict=True):
        assert torch.allclose(parameter, copied, rtol=0.0, atol=1e-6)


@pytest.mark.slow
def test_a_long_training_without_alarm() -> None:
    model = llama(checkpointing="reentrant")
    optimizer = Lomo(model.parameters(), lr=0.05, max_grad_norm=1.0)
    before = weights(model)
    for step in range(300):
        optimizer.backward(loss_of(model, step))
        optimizer.step()
    assert max_difference(weights(model), before) > 0.1


class ChangesOnce(torch.autograd.Function):
    """Hands on a gradient, and in the second pass what `change` makes of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.change, ctx.passes = change, 0
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        ctx.passes += 1
        return (dy if ctx.passes == 1 else ctx.change(dy)), None


@pytest.mark.parametrize("change", ["signs", "classes", "rows"])
def test_gradients_whose_sum_is_zero_by_nature(change: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 4)
    optimizer = Lomo(model.parameters(), lr=0.1, max_grad_norm=1e3)
    changes: dict[str, Callable[[Tensor], Tensor]] = {
        "signs": lambda dy: -dy,
        "classes": lambda dy: dy.flip(-1),
        "rows": lambda dy: dy.roll(1, 0),
    }
    logits = ChangesOnce.apply(model(torch.randn(6, 8)), changes[change])
    loss = nn.functional.cross_entropy(logits, torch.randint(0, 4, (6,)))
    with pytest.raises(RuntimeError, match="the second backward pass made other gradients"):
        optimizer.backward(loss)


@pytest.mark.parametrize("fails", [False, True])
def test_what_a_step_has_seen_is_not_kept(fails: bool) -> None:
    """A later step of one pass would be noted beside it."""

    def factor(call: int) -> float:
        if fails and call == 2:
            raise ArithmeticError
        return 1.0

    model = Net(counted(factor))
    optimizer = optimizer_of(model, "lomo")
    with pytest.raises(ArithmeticError) if fails else nullcontext():
        optimizer.backward(model(0))
    assert optimizer._check is None
