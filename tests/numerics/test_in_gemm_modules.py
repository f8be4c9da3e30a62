"""Beside its update, a model with in-GEMM modules stays an ordinary one: saved, copied, wrapped."""

import copy
import gc
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lomo.optim import Lomo
from lomo.optim.in_gemm import InGemmLinear, update_in_gemm
from tests.numerics.in_gemm import ONE_ROUNDING, mlp, mlp_loss, train_in_gemm, train_sgd
from tests.numerics.models import llama, loss_of, max_difference, weights


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
    else:
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


def test_a_hook_on_a_weight_gets_its_gradient() -> None:
    model = nn.Linear(4, 2, bias=False)
    optimizer = Lomo(model.named_parameters(), lr=0.5)
    update_in_gemm(optimizer, model)
    model.weight.register_hook(lambda gradient: gradient * 2.0)
    before = model.weight.detach().clone()
    optimizer.backward(model(torch.ones(3, 4)).sum())
    assert torch.equal(model.weight, before - 3.0)


def test_a_weight_that_is_frozen_later_stays() -> None:
    model = mlp()
    optimizer = Lomo(model.parameters(), lr=0.1)
    update_in_gemm(optimizer, model)
    model[1].weight.requires_grad_(False)
    before = weights(model)
    optimizer.backward(mlp_loss(model, 0))
    optimizer.step()
    moved = {name for name, weight in weights(model).items() if not weight.equal(before[name])}
    assert moved == set(before) - {"1.weight"}


def test_a_module_with_a_forward_of_its_own_keeps_its_hook() -> None:
    model = mlp()
    linear = model[1]
    linear.forward = lambda x: nn.Linear.forward(linear, x) * 2.0
    optimizer = Lomo(model.named_parameters(), lr=0.1)
    assert "1.weight" not in update_in_gemm(optimizer, model)
    assert type(linear) is nn.Linear
