"""The update inside the weight-gradient product: the same step, and no gradient matrix."""

import copy
import gc
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from lomo.optim import AdaLomo, Lomo
from lomo.optim import ghost_norms as ghost
from lomo.optim.in_gemm import InGemmLinear, update_in_gemm
from tests.numerics.models import CHECKPOINTING, llama, loss_of, max_difference, weights

ONE_ROUNDING = 1.2e-6
"""Steps that differ by the order of sums alone stay this close in fp32."""


def mlp(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """An embedding whose row 0 is padding, and two layers with biases."""
    torch.manual_seed(0)
    layers = [nn.Embedding(11, 12, padding_idx=0), nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, 5)]
    return nn.Sequential(*layers).to(dtype)


def mlp_loss(model: nn.Module, step: int) -> Tensor:
    """Ids repeat, and some are padding."""
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(0, 5, (3, 7), generator=generator)
    return 3.0 * model(ids).square().mean()


def train_sgd(
    model: nn.Module,
    loss_at: Callable[[nn.Module, int], Tensor],
    *,
    lr: float = 0.1,
    weight_decay: float = 0.0,
    max_grad_norm: float | None = None,
    num_steps: int = 5,
) -> list[float]:
    """The reference; returns the norms where it clips."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=lr, weight_decay=weight_decay, foreach=False)
    norms = []
    for step in range(num_steps):
        optimizer.zero_grad()
        loss_at(model, step).backward()
        if max_grad_norm is not None:
            norms.append(float(nn.utils.clip_grad_norm_(trained, max_grad_norm, foreach=False)))
        optimizer.step()
    return norms


def train_in_gemm(
    model: nn.Module,
    loss_at: Callable[[nn.Module, int], Tensor],
    *,
    num_steps: int = 5,
    lr: float = 0.1,
    **options: Any,
) -> list[float | None]:
    optimizer = Lomo(model.named_parameters(), lr=lr, **options)
    update_in_gemm(optimizer, model)
    norms = []
    for step in range(num_steps):
        optimizer.backward(loss_at(model, step))
        optimizer.step()
        assert all(p.grad is None for p in model.parameters())
        norms.append(optimizer.grad_norm)
    return norms


# --- the step


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
def test_steps_are_those_of_sgd(
    checkpointing: str, max_grad_norm: float | None, weight_decay: float
) -> None:
    reference, model = llama(), llama(checkpointing=checkpointing)
    options = {"weight_decay": weight_decay, "max_grad_norm": max_grad_norm}
    expected = train_sgd(reference, loss_of, **options)
    actual = train_in_gemm(model, loss_of, **options)
    assert max_difference(weights(model), weights(reference)) <= ONE_ROUNDING
    if max_grad_norm is not None:
        assert actual == pytest.approx(expected, rel=2e-6)
        assert min(expected) > max_grad_norm  # it did clip


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("max_grad_norm", [None, 0.1])
def test_biases_padding_and_repeated_ids(max_grad_norm: float | None, weight_decay: float) -> None:
    reference, model = mlp(), mlp()
    options = {"weight_decay": weight_decay, "max_grad_norm": max_grad_norm}
    expected = train_sgd(reference, mlp_loss, **options)
    actual = train_in_gemm(model, mlp_loss, **options)
    assert max_difference(weights(model), weights(reference)) <= ONE_ROUNDING
    if max_grad_norm is not None:
        assert actual == pytest.approx(expected, rel=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
def test_a_batch_without_tokens(max_grad_norm: float | None, dtype: torch.dtype) -> None:
    """As an expert that no token was sent to has it."""
    model = mlp(dtype)
    before = weights(model)
    optimizer = Lomo(model.parameters(), lr=0.1, max_grad_norm=max_grad_norm)
    update_in_gemm(optimizer, model)
    optimizer.backward(model(torch.zeros(2, 0, dtype=torch.int64)).sum())
    assert max_difference(weights(model), before) == 0.0


def test_ids_of_32_bits() -> None:
    models = mlp(), mlp()
    for model, dtype in zip(models, (torch.int32, torch.int64), strict=True):
        optimizer = Lomo(model.parameters(), lr=0.1)
        update_in_gemm(optimizer, model)
        model(torch.tensor([[1, 2, 1]], dtype=dtype)).square().sum().backward()
    assert max_difference(*map(weights, models)) == 0.0


def test_clipping_each_parameter_by_its_own_norm() -> None:
    by_hook, in_gemm = llama(), llama()
    options = {"lr": 0.1, "max_grad_norm": 0.05, "norm_scope": "parameter"}
    optimizer = Lomo(by_hook.parameters(), **options)
    for step in range(3):
        optimizer.backward(loss_of(by_hook, step))
        optimizer.step()
    train_in_gemm(in_gemm, loss_of, num_steps=3, **options)
    assert max_difference(weights(in_gemm), weights(by_hook)) <= ONE_ROUNDING


@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
def test_a_loss_scale_is_taken_out(max_grad_norm: float | None) -> None:
    plain, scaled = llama(), llama()
    train_in_gemm(plain, loss_of, num_steps=3, max_grad_norm=max_grad_norm)
    options = {"max_grad_norm": max_grad_norm, "loss_scale": 1024.0}
    train_in_gemm(scaled, loss_of, num_steps=3, **options)
    assert max_difference(weights(scaled), weights(plain)) <= ONE_ROUNDING


@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
def test_a_gradient_that_is_not_finite_moves_nothing(max_grad_norm: float | None) -> None:
    model = mlp()
    optimizer = Lomo(model.parameters(), lr=0.1, max_grad_norm=max_grad_norm, loss_scale=2.0)
    update_in_gemm(optimizer, model)
    before = weights(model)
    optimizer.backward(mlp_loss(model, 0) * torch.inf)
    optimizer.step()
    assert optimizer.skipped
    assert max_difference(weights(model), before) == 0.0


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("factor", [0.5, 0.0])
def test_a_coefficient_on_the_device(
    monkeypatch: pytest.MonkeyPatch, factor: float, weight_decay: float
) -> None:
    """On a GPU the coefficient is a tensor: 0 says that the gradient is not finite."""
    models = mlp(), mlp()
    before = weights(models[0])
    for model, scale in zip(models, (torch.tensor(factor), factor or None), strict=True):
        optimizer = Lomo(model.parameters(), lr=0.1, weight_decay=weight_decay)
        update_in_gemm(optimizer, model)
        monkeypatch.setattr(optimizer, "_coefficient", lambda slot, norm_of, scale=scale: scale)
        mlp_loss(model, 0).backward()
    on_device, on_host = map(weights, models)
    assert max_difference(on_device, on_host) <= ONE_ROUNDING
    assert (max_difference(on_device, before) == 0.0) == (factor == 0.0)


def test_bf16_is_no_further_from_fp32_than_sgd() -> None:
    exact = llama(dtype=torch.bfloat16).float()
    sgd, model = llama(dtype=torch.bfloat16), llama(dtype=torch.bfloat16)
    train_sgd(exact, loss_of, lr=0.3, num_steps=3)
    train_sgd(sgd, loss_of, lr=0.3, num_steps=3)
    train_in_gemm(model, loss_of, lr=0.3, num_steps=3)

    def distance(other: nn.Module) -> float:
        pairs = zip(other.parameters(), exact.parameters(), strict=True)
        return sum(float((p.detach().float() - e.detach()).square().sum()) for p, e in pairs)

    assert distance(model) <= distance(sgd)


@pytest.mark.parametrize("lr", [0.1, 0.03, 1e-3])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize("num_tokens", [5, 3000])
def test_16_bit_products_round_the_weight_once(
    num_tokens: int, weight_decay: float, lr: float
) -> None:
    """Neither the step size nor the sum over tokens is rounded to 16 bits on the way."""
    torch.manual_seed(0)
    layer = nn.Linear(40, 24, bias=False).bfloat16()
    x, dy = torch.randn(num_tokens, 40).bfloat16(), torch.randn(num_tokens, 24).bfloat16()
    weight = layer.weight.detach().double()
    step = dy.double().t() @ x.double() + weight_decay * weight
    exact = weight - lr * step
    optimizer = Lomo(layer.parameters(), lr=lr, weight_decay=weight_decay)
    update_in_gemm(optimizer, layer)
    layer(x).backward(dy)
    half_ulp = exact.abs() * 2.0**-8
    # fp32 sums over all tokens, and half a unit of the last of 8 bits.
    slack = 1e-6 * num_tokens * lr
    assert ((layer.weight.double() - exact).abs() <= half_ulp + slack).all()


# --- norms


def exact_norm(x: Tensor, dy: Tensor) -> float:
    return float((dy.double().t() @ x.double()).norm())


SHAPES = {"gram": (200, 400, 300), "blocks": (300, 40, 60), "one_token": (1, 40, 60)}


def test_shapes_take_both_ways() -> None:
    ways = {name: ghost.gram_is_cheaper(*shape, 128) for name, shape in SHAPES.items()}
    assert ways == {"gram": True, "blocks": False, "one_token": False}
    assert ghost.gram_is_cheaper(1024, 4096, 4096, 1024)
    assert not ghost.gram_is_cheaper(8192, 4096, 4096, 1024)


@pytest.mark.parametrize("parallel", [0.0, 20.0])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_ghost_norm_is_the_norm(shape: tuple[int, int, int], parallel: float) -> None:
    num_tokens, num_in, num_out = shape
    torch.manual_seed(1)
    x = torch.randn(num_tokens, num_in) + parallel  # nearly parallel tokens
    dy = torch.randn(num_tokens, num_out)
    assert float(ghost.linear_gradient_norm(x, dy)) == pytest.approx(exact_norm(x, dy), rel=1e-6)


@pytest.mark.parametrize("parallel", [0.0, 20.0])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_ghost_norm_in_bf16(shape: tuple[int, int, int], parallel: float) -> None:
    """Each rounding is off by 2^-9 / sqrt(3) in the root mean square; terms are P = Gx * Gy.

    Two factors and the mirror image make 2 * 2^-9 / sqrt(3) sqrt(sum P^2) of sum P, half of that
    for its root; allowed are four such deviations.
    """
    num_tokens, num_in, num_out = shape
    torch.manual_seed(1)
    x = (torch.randn(num_tokens, num_in) + parallel).bfloat16()
    dy = torch.randn(num_tokens, num_out).bfloat16()
    terms = (x.double() @ x.double().t()) * (dy.double() @ dy.double().t())
    deviation = 2.0**-9 / 3.0**0.5 * float(terms.norm() / terms.sum())
    norm = float(ghost.linear_gradient_norm(x, dy))
    assert norm == pytest.approx(exact_norm(x, dy), rel=4 * deviation)
    assert 4 * deviation < 5e-3 or num_tokens == 1


def test_terms_that_cancel_do_not_spoil_a_bf16_norm() -> None:
    """Equal tokens with opposite gradients: what is left is far below the Gram entries' error."""
    torch.manual_seed(2)
    x = torch.randn(1, 400).repeat(100, 1).bfloat16()
    half = torch.randn(50, 300).bfloat16()
    dy = torch.cat([half, -half])
    dy[0] *= 1.0 + 2.0**-6
    assert ghost.gram_is_cheaper(100, 400, 300, 128)
    norm = float(ghost.linear_gradient_norm(x, dy))
    assert norm == pytest.approx(exact_norm(x, dy), rel=1e-3)


@pytest.mark.parametrize("mean", [1e2, 1e3, 1e4])
def test_terms_that_cancel_do_not_spoil_an_fp32_norm(mean: float) -> None:
    """Inputs far from 0 before a batch norm, whose gradients sum to 0 over the tokens."""
    torch.manual_seed(2)
    x, dy = mean + torch.randn(100, 400), torch.randn(100, 300)
    dy -= dy.mean(0)
    assert ghost.gram_is_cheaper(100, 400, 300, 128)
    norm = float(ghost.linear_gradient_norm(x, dy))
    assert norm == pytest.approx(exact_norm(x, dy), rel=2e-4)


def test_float16_squares_do_not_overflow() -> None:
    x = torch.full((100, 400), 40.0).half()
    dy = torch.full((100, 300), 1e-3).half()
    norm = float(ghost.linear_gradient_norm(x, dy))
    assert norm == pytest.approx(exact_norm(x, dy), rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("padding_idx", [None, 3])
def test_embedding_norm(padding_idx: int | None, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    ids, dy = torch.randint(0, 9, (50,)), torch.randn(50, 16).to(dtype)
    table = torch.zeros(9, 16, dtype=torch.float64).index_add_(0, ids, dy.double())
    if padding_idx is not None:
        table[padding_idx] = 0.0
    gradient = ghost.EmbeddingGradient(ids, dy, padding_idx)
    assert float(gradient.norm()) == pytest.approx(float(table.norm()), rel=1e-6)


def test_blocks_of_columns_and_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = mlp(), mlp()
    train_in_gemm(whole, mlp_loss, max_grad_norm=0.1)
    monkeypatch.setattr(ghost, "_SCRATCH_ELEMENTS_CPU", 64)
    monkeypatch.setattr(ghost, "_GRAM_TOKENS_CPU", 4)
    train_in_gemm(parts, mlp_loss, max_grad_norm=0.1)
    assert max_difference(weights(parts), weights(whole)) <= ONE_ROUNDING


# --- memory


class Sizes(TorchDispatchMode):
    """Notes how many elements each new storage has."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        known = {t.untyped_storage()._cdata for t in args if isinstance(t, Tensor)}
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in known:
                self.seen.add(tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
@pytest.mark.parametrize("norm_scope", ["global", "parameter"])
@pytest.mark.parametrize("num_tokens", [3, 200])
def test_no_tensor_of_a_matrixs_size(
    num_tokens: int, norm_scope: str, max_grad_norm: float | None
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 37), nn.Linear(37, 41), nn.Linear(41, 47))
    sizes = {layer.weight.numel() for layer in model}
    scope = "global" if max_grad_norm is None else norm_scope
    optimizer = Lomo(model.parameters(), lr=0.1, max_grad_norm=max_grad_norm, norm_scope=scope)
    update_in_gemm(optimizer, model)
    loss = model(torch.arange(num_tokens) % 50).square().sum()
    with Sizes() as in_gemm:
        optimizer.backward(loss)
    assert not sizes & in_gemm.seen
    optimizer.close()
    loss = model(torch.arange(num_tokens) % 50).square().sum()
    with Sizes() as ordinary:
        loss.backward()
    assert sizes <= ordinary.seen


def test_runs_on_fake_tensors() -> None:
    with FakeTensorMode():
        for dtype in (torch.float32, torch.bfloat16):
            layers = (
                nn.Embedding(500, 64, dtype=dtype),
                nn.Linear(64, 96, dtype=dtype),
                nn.Linear(96, 500, dtype=dtype),
            )
            model = nn.Sequential(*layers)
            optimizer = Lomo(model.parameters(), lr=0.1)
            update_in_gemm(optimizer, model)
            for num_tokens in (8, 900):
                ids = torch.zeros(2, num_tokens, dtype=torch.int64)
                optimizer.backward(model(ids).float().sum())
                optimizer.step()
                x = torch.randn(num_tokens, 400, dtype=dtype)
                assert ghost.linear_gradient_norm(x, x).shape == ()
                assert ghost.EmbeddingGradient(ids[0], x, 1).norm().shape == ()
            optimizer.close()


# --- what stays as it was


def test_names_and_what_keeps_its_hook() -> None:
    class Twice(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2.0 * super().forward(input)

    reference = nn.Sequential(nn.Embedding(11, 12), nn.Linear(12, 12), Twice(12, 12), nn.ReLU())
    reference.append(nn.Linear(12, 12))
    reference[1].weight.requires_grad = False
    model = copy.deepcopy(reference)
    optimizer = Lomo(model.named_parameters(), lr=0.1)
    assert update_in_gemm(optimizer, model) == ["0.weight", "4.weight"]
    assert [type(layer).__name__ for layer in model] == [
        "InGemmEmbedding",
        "Linear",
        "Twice",
        "ReLU",
        "InGemmLinear",
    ]
    mlp_loss(model, 0).backward()
    train_sgd(reference, mlp_loss, num_steps=1)
    assert max_difference(weights(model), weights(reference)) <= ONE_ROUNDING


def test_inference_is_unchanged() -> None:
    model = llama().eval()
    tokens = torch.arange(20).view(2, 10)
    before = weights(model)
    with torch.no_grad():
        expected = model(input_ids=tokens).logits
        optimizer = Lomo(model.parameters(), lr=0.1)
        update_in_gemm(optimizer, model)
        assert torch.equal(model(input_ids=tokens).logits, expected)
    assert torch.equal(model(input_ids=tokens).logits, expected)
    assert max_difference(weights(model), before) == 0.0


def test_the_state_dict_is_that_of_an_ordinary_model() -> None:
    model, other = mlp(), mlp()
    keys = list(model.state_dict())
    optimizer = Lomo(model.parameters(), lr=0.1)
    update_in_gemm(optimizer, model)
    assert list(model.state_dict()) == keys
    mlp_loss(model, 0).backward()
    other.load_state_dict(model.state_dict())
    assert max_difference(weights(other), weights(model)) == 0.0
    assert "in_features=12, out_features=24, bias=True" in repr(model)
    assert isinstance(model[1], nn.Linear)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_is_an_ordinary_model(copied: Callable[[nn.Module], nn.Module]) -> None:
    model = mlp()
    optimizer = Lomo(model.parameters(), lr=0.1)
    update_in_gemm(optimizer, model)
    before = weights(model)
    other = copied(model)
    assert [type(layer) for layer in other] == [nn.Embedding, nn.Linear, nn.Tanh, nn.Linear]
    mlp_loss(other, 0).backward()
    assert all(p.grad is not None for p in other.parameters())
    assert max_difference(weights(model), before) == 0.0
    assert isinstance(model[1], InGemmLinear)


@pytest.mark.parametrize("end", ["close", "drop", "close_in_flight", "drop_in_flight"])
def test_the_end_leaves_an_ordinary_model(end: str) -> None:
    model, reference = mlp(), mlp()
    optimizer: Lomo | None = Lomo(model.parameters(), lr=0.1)
    assert optimizer is not None
    update_in_gemm(optimizer, model)
    loss = mlp_loss(model, 0)
    if end.startswith("close"):
        optimizer.close()
    optimizer = None
    gc.collect()
    assert [type(layer) for layer in model] == [nn.Embedding, nn.Linear, nn.Tanh, nn.Linear]
    if not end.endswith("in_flight"):
        loss = mlp_loss(model, 0)
    loss.backward()
    mlp_loss(reference, 0).backward()
    for parameter, expected in zip(model.parameters(), reference.parameters(), strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, expected.grad)


def test_asking_autograd_for_gradients_updates_nothing() -> None:
    model = mlp()[1:]
    optimizer = Lomo(model.parameters(), lr=0.1)
    update_in_gemm(optimizer, model)
    before = weights(model)
    x = torch.randn(4, 12, requires_grad=True)
    (of_input,) = torch.autograd.grad(model(x).sum(), x)
    of_weight, of_input_again = torch.autograd.grad(model(x).sum(), [model[0].weight, x])
    model(x).sum().backward(inputs=[x])
    assert max_difference(weights(model), before) == 0.0
    optimizer.close()
    expected = torch.autograd.grad(model(x).sum(), [model[0].weight, x])
    for actual, gradient in ((of_weight, 0), (of_input, 1), (of_input_again, 1)):
        torch.testing.assert_close(actual, expected[gradient])


def test_checkpointed_modules_of_ones_own() -> None:
    for use_reentrant in (True, False):
        reference, model = mlp(), mlp()

        def checkpointed(
            model: nn.Module, step: int, use_reentrant: bool = use_reentrant
        ) -> Tensor:
            assert isinstance(model, nn.Sequential)
            hidden = model[0](torch.randint(0, 5, (3, 7)).fill_(step))
            return checkpoint(model[1:], hidden, use_reentrant=use_reentrant).square().sum()

        train_sgd(reference, checkpointed, num_steps=2, max_grad_norm=0.3)
        train_in_gemm(model, checkpointed, num_steps=2, max_grad_norm=0.3)
        assert max_difference(weights(model), weights(reference)) <= ONE_ROUNDING


def test_lora_on_top() -> None:
    """The base layers of peft are nn.Linear: frozen ones stay, trained ones move."""
    from peft import LoraConfig, get_peft_model

    model = llama()
    wrapped = get_peft_model(model, LoraConfig(target_modules=["q_proj"], r=2))
    for name, parameter in wrapped.named_parameters():
        parameter.requires_grad = "lora" not in name
    reference = copy.deepcopy(wrapped)
    optimizer = Lomo([p for p in wrapped.parameters() if p.requires_grad], lr=0.1)
    names = update_in_gemm(optimizer, wrapped)
    assert any(name.endswith("q_proj.base_layer.weight") for name in names)
    loss_of(wrapped, 0).backward()
    train_sgd(reference, loss_of, num_steps=1)
    assert max_difference(weights(wrapped), weights(reference)) <= ONE_ROUNDING


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_layer_keeps_its_hook() -> None:
    reference, model = mlp(), mlp()
    optimizer = Lomo(model.parameters(), lr=0.1)
    update_in_gemm(optimizer, model)
    model[1].compile(backend="eager")
    mlp_loss(model, 0).backward()
    train_sgd(reference, mlp_loss, num_steps=1)
    assert max_difference(weights(model), weights(reference)) <= ONE_ROUNDING


def test_a_weight_that_was_replaced_is_ordinary() -> None:
    model = mlp()
    optimizer = Lomo(model.parameters(), lr=0.1)
    update_in_gemm(optimizer, model)
    model[3].weight = nn.Parameter(model[3].weight.detach().clone())
    mlp_loss(model, 0).backward()
    assert model[3].weight.grad is not None
    assert model[1].weight.grad is None


# --- refusals


def refuse(optimizer: Any, model: nn.Module, error: type[Exception], match: str) -> None:
    types = [type(module) for module in model.modules()]
    with pytest.raises(error, match=match):
        update_in_gemm(optimizer, model)
    assert [type(module) for module in model.modules()] == types


def test_refuses_other_optimizers() -> None:
    model = mlp()
    refuse(torch.optim.SGD(model.parameters(), lr=0.1), model, TypeError, "needs a Lomo, got SGD")
    refuse(AdaLomo(model.parameters(), lr=0.1), model, TypeError, "needs a Lomo, got AdaLomo")


def test_refuses_options_that_need_the_gradient() -> None:
    model = mlp()
    refuse(Lomo(model.parameters(), lr=0.1, clip_value=1.0), model, ValueError, "clip_value")
    optimizer = Lomo(mlp().parameters(), lr=0.1, rounding="stochastic")
    refuse(optimizer, model, ValueError, "rounding='stochastic'")


def test_refuses_shared_weights() -> None:
    model = llama(tied=True)
    optimizer = Lomo(model.parameters(), lr=0.1)
    refuse(optimizer, model, ValueError, "embed_tokens.weight and lm_head.weight are one")
    layer = nn.Linear(3, 3)
    model = nn.Sequential(layer, layer)
    refuse(Lomo(layer.parameters(), lr=0.1), model, ValueError, "0.weight and 1.weight are one")


@pytest.mark.parametrize("option", ["max_norm", "scale_grad_by_freq", "sparse"])
def test_refuses_embedding_options(option: str) -> None:
    model = nn.Sequential(nn.Embedding(5, 3, **{option: True}))
    refuse(Lomo(model.parameters(), lr=0.1), model, ValueError, option)


def test_refuses_partitioned_weights() -> None:
    model = mlp()
    model[1].weight.ds_id = 7
    refuse(Lomo(model.parameters(), lr=0.1), model, ValueError, "1.weight is sharded")


@pytest.fixture
def two_ranks() -> Iterator[None]:
    """The first of two ranks that do not exist."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield
    dist.destroy_process_group()


def test_refuses_fsdp_and_ddp(two_ranks: None) -> None:
    model = mlp()
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    refuse(Lomo(model.parameters(), lr=0.1), model, ValueError, "sharded or wrapped")
    model = mlp()
    wrapped = nn.parallel.DistributedDataParallel(model)
    refuse(Lomo(model.parameters(), lr=0.1), wrapped, ValueError, "DistributedDataParallel")


def test_replicas_in_several_processes_are_refused(two_ranks: None) -> None:
    model = nn.Linear(4, 2, bias=False)
    optimizer = Lomo(model.named_parameters(), lr=0.1)
    update_in_gemm(optimizer, model)
    before = model.weight.detach().clone()
    with pytest.raises(RuntimeError, match="several processes train"):
        optimizer.backward(model(torch.ones(3, 4)).sum())
    assert torch.equal(model.weight, before)


def test_a_hook_on_a_weight_gets_its_gradient() -> None:
    model = nn.Linear(4, 2, bias=False)
    optimizer = Lomo(model.named_parameters(), lr=0.5)
    update_in_gemm(optimizer, model)
    model.weight.register_hook(lambda gradient: gradient * 2.0)
    before = model.weight.detach().clone()
    optimizer.backward(model(torch.ones(3, 4)).sum())
    assert torch.equal(model.weight, before - 3.0)


def test_refuses_a_model_without_such_a_weight() -> None:
    model, other = mlp(), mlp()
    optimizer = Lomo(model.parameters(), lr=0.1)
    refuse(optimizer, other, ValueError, "no nn.Linear or nn.Embedding")
    update_in_gemm(optimizer, model)
    refuse(optimizer, model, ValueError, "call update_in_gemm once")
    optimizer.close()
    refuse(optimizer, model, RuntimeError, "closed")


@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
def test_a_module_that_is_used_twice(max_grad_norm: float | None) -> None:
    model = nn.Linear(4, 4)
    optimizer = Lomo(model.named_parameters(), lr=0.1, max_grad_norm=max_grad_norm)
    update_in_gemm(optimizer, model)
    loss = model(model(torch.ones(2, 4))).sum()
    with pytest.raises(RuntimeError, match="weight got a second gradient.*used twice"):
        optimizer.backward(loss)


def test_a_weight_that_is_used_outside_of_its_module() -> None:
    model = nn.Linear(4, 4, bias=False)
    optimizer = Lomo(model.named_parameters(), lr=0.1)
    update_in_gemm(optimizer, model)
    x = torch.ones(2, 4)
    with pytest.raises(RuntimeError, match="second gradient"):
        (model(x).sum() + F.linear(x, model.weight).sum()).backward()


def test_a_weight_that_changed_since_the_forward_pass() -> None:
    model = nn.Linear(4, 4)
    optimizer = Lomo(model.named_parameters(), lr=0.1)
    update_in_gemm(optimizer, model)
    loss = model(torch.ones(2, 4)).sum()
    with torch.no_grad():
        model.weight.mul_(2.0)
    with pytest.raises(RuntimeError, match="changed between forward and backward"):
        loss.backward()


def test_autocast_is_refused_and_clipping_needs_backward_of_the_optimizer() -> None:
    model = mlp()
    optimizer = Lomo(model.parameters(), lr=0.1, max_grad_norm=1.0)
    update_in_gemm(optimizer, model)
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(RuntimeError, match="autocast"):
        model(torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(RuntimeError, match=r"needs optimizer.backward\(loss\)"):
        mlp_loss(model, 0).backward()


def test_modules_with_one_input_share_its_gram_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    make = ghost._make_input_grams

    def counted(*arguments: Any) -> Any:
        made.append(1)
        return make(*arguments)

    monkeypatch.setattr(ghost, "_make_input_grams", counted)
    torch.manual_seed(0)
    x, other = torch.randn(20, 256), torch.randn(20, 256)

    def check(x: Tensor, num_made: int) -> None:
        dy = torch.randn(len(x), 300)
        expected = dy.t().double().mm(x.double()).norm()
        norm = ghost.linear_gradient_norm(x, dy)
        assert float(norm) == pytest.approx(float(expected), rel=1e-6)
        assert len(made) == num_made

    check(x, 1)
    check(x, 1)
    check(x[:], 1)  # another view of the same
    check(x[1:], 2)
    check(other, 3)
    check(x, 4)
    x.mul_(2.0)
    check(x, 5)
    del x, other
    assert not ghost._last.grams
