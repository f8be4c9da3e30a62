"""The fused head loss: the model's own loss and gradients, in less memory, where it is allowed."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Gemma2Config, PhiConfig

from lomo import methods
from lomo.engines.single import training_step
from lomo.errors import UserError
from lomo.memory.predicted.predict import predict
from lomo.model import head_loss as module
from lomo.model.head_loss import fuse_head_loss, head_loss
from lomo.study.config import Study
from lomo.study.plan import make_plan
from lomo.tasks.batches import IGNORED, micro_batches, random_batch
from tests.memory.predictions import CONFIGS, SIZES, measured, predicted, small, spec_of
from tests.numerics.models import llama, max_difference, weights

TOKENS, WIDTH, VOCABULARY = 48, 32, 100
FAMILIES = {
    **CONFIGS,
    # Its head has a bias.
    "phi": PhiConfig(**SIZES, intermediate_size=80, bos_token_id=0, eos_token_id=0),
}


def problem(dtype: torch.dtype, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, a head with a bias, and targets of which some are ignored."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        drawn = torch.randn(*shape, generator=generator).mul_(scale)
        return drawn.to(dtype).requires_grad_()

    hidden_TH, weight_VH, bias_V = normal(TOKENS, WIDTH), normal(VOCABULARY, WIDTH), normal(100)
    targets_T = torch.randint(0, VOCABULARY, (TOKENS,), generator=generator)
    targets_T[::5] = IGNORED
    return hidden_TH, weight_VH, bias_V, targets_T


def own_loss(hidden_TH: Tensor, weight_VH: Tensor, bias_V: Tensor, targets_T: Tensor) -> Tensor:
    """transformers' way: fp32 copies of all logits (fp64 ones stay)."""
    logits_TV = nn.functional.linear(hidden_TH, weight_VH, bias_V)
    wide = logits_TV if logits_TV.dtype == torch.float64 else logits_TV.float()
    return nn.functional.cross_entropy(wide, targets_T, ignore_index=IGNORED)


def with_gradients(loss_of: Any, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """The loss and the gradients of hidden states, weight and bias."""
    loss = loss_of(*inputs)
    return [loss.detach(), *torch.autograd.grad(loss, inputs[:3])]


def in_fp64(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (*(x.detach().double().requires_grad_() for x in inputs[:3]), inputs[3])


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_loss_and_gradients_are_the_model_s_own_in_fp32(scale: float) -> None:
    inputs = problem(torch.float32, scale)
    exact = with_gradients(own_loss, in_fp64(inputs))
    for found, expected in zip(with_gradients(head_loss, inputs), exact, strict=True):
        size = expected.abs().max()
        assert (found.double() - expected).abs().max() <= 1e-6 * max(1.0, float(size))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_16_bit_gradients_are_no_worse_than_the_model_s_own(
    scale: float, dtype: torch.dtype
) -> None:
    inputs = problem(dtype, scale)
    exact = with_gradients(own_loss, in_fp64(inputs))
    mine, theirs = with_gradients(head_loss, inputs), with_gradients(own_loss, inputs)
    for found, own, expected in zip(mine, theirs, exact, strict=True):
        error = (found.double() - expected).norm() / expected.norm()
        own_error = (own.double() - expected).norm() / expected.norm()
        assert error <= 1.02 * own_error + 1e-6


def pair(family: str) -> tuple[Any, Any]:
    """A model and its copy with the fused loss, weights so large that the softmax is not flat."""
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(FAMILIES[family]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5)
    fused = copy.deepcopy(model)
    fuse_head_loss(fused)
    return model, fused


def batch_of() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 120, (2, 16), generator=generator)
    labels = ids.clone()
    labels[0, :6] = IGNORED
    return {"input_ids": ids, "labels": labels}


@pytest.mark.parametrize("num_items", [None, 7])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_its_own_loss_and_gradients(family: str, num_items: int | None) -> None:
    model, fused = pair(family)
    more: dict[str, Any] = {} if num_items is None else {"num_items_in_batch": num_items}
    own, mine = (m(**batch_of(), **more) for m in (model, fused))
    assert mine.logits is None
    assert mine.loss.item() == pytest.approx(own.loss.item(), rel=1e-6)
    own.loss.backward()
    mine.loss.backward()
    used = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    given = {name: p.grad for name, p in fused.named_parameters() if p.grad is not None}
    assert used.keys() == given.keys()
    largest = max(float(gradient.abs().max()) for gradient in used.values())
    for name, gradient in used.items():
        assert (gradient - given[name]).abs().max() <= 1e-5 * largest, name


def test_logits_are_as_before_where_there_are_no_labels() -> None:
    model, fused = pair("llama")
    ids = batch_of()["input_ids"]
    assert torch.equal(model(input_ids=ids).logits, fused(input_ids=ids).logits)


def test_a_target_outside_the_vocabulary_is_nan_and_not_silent() -> None:
    *inputs, targets_T = problem(torch.float32)
    targets_T[1] = VOCABULARY
    assert head_loss(*inputs, targets_T).isnan()


def test_an_ignored_token_has_no_gradient() -> None:
    inputs = problem(torch.float32)
    _, d_hidden, _, _ = with_gradients(head_loss, inputs)
    assert (d_hidden[::5] == 0).all() and (d_hidden[1::5] != 0).any()


def steps(model: nn.Module, method: str, **options: Any) -> tuple[dict[str, Tensor], list[Any]]:
    """Weights, and losses with norms, after three steps."""
    spec = spec_of(method, **options)
    prepared = methods.prepare(method)(model.train(), spec, lambda adapted: adapted)
    optimizers = [optimizer for optimizer, _ in prepared.optimizers]
    found = []
    for step in range(3):
        given = random_batch(
            vocabulary=64, batch_size=2, sequence_length=16, seed=step, device="cpu"
        )
        halves = micro_batches(given, 2)
        batches = halves if options.get("gradient_accumulation") else [given]
        limit = spec.max_grad_norm
        result = training_step(prepared.model, optimizers, batches, max_grad_norm=limit)
        found += [result.loss, result.grad_norm or 0.0]
    return weights(prepared.model), found


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("lomo", {}),
        ("lomo", {"max_grad_norm": 0.5}),
        ("lomo", {"max_grad_norm": 0.5, "hyper": {"update": "gemm"}}),
        ("adalomo", {}),
        ("sgd", {"max_grad_norm": 0.5}),
        ("sgd", {"gradient_accumulation": 2}),
        ("lora", {}),
        ("lora_lomo", {"max_grad_norm": 0.5}),
    ],
)
@pytest.mark.parametrize("tied", [False, True])
def test_steps_are_those_with_the_model_s_own_loss(
    method: str, options: dict[str, Any], tied: bool
) -> None:
    if tied and "hyper" in options:
        pytest.skip("the update in the product refuses tied weights")
    model = llama(tied=tied)
    fused = copy.deepcopy(model)
    fuse_head_loss(fused)
    torch.manual_seed(0)  # adapters
    expected, own = steps(model, method, **options)
    torch.manual_seed(0)
    found, mine = steps(fused, method, **options)
    assert max_difference(found, expected) <= 2e-6
    assert mine == pytest.approx(own, rel=2e-5)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("family", ["llama", "qwen", "opt"])
def test_what_the_forward_keeps_falls_by_the_log_softmax(
    family: str, checkpointing: bool, tmp_path: Path
) -> None:
    """And a prediction with the fused loss is what a run measures, to the byte."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(CONFIGS[family]).save_pretrained(tmp_path / family)
    peaks, kept = [], []
    for kind in ("model", "fused"):
        spec = spec_of(
            "lomo",
            head_loss=kind,
            model_path=str(tmp_path / family),
            activation_checkpointing=checkpointing,
            sequence_length=64 if family == "llama" else 16,
        )
        found = predicted(predict(small(family), spec, device="cpu").ledger)
        assert found == measured(spec, tmp_path / "run")
        kept.append(found["sum_of_terms"]["activations_bytes"])
        peaks.append(found["peak_bytes"])
    tokens = spec.batch_size * spec.sequence_length
    # fp32 log-softmax, less a logarithm a token; nll_loss keeps a weight of 4 bytes.
    assert kept[0] - kept[1] == 4 * tokens * 120 - 4 * tokens + 4
    # Where layers are recomputed, the head of so small a model is not the peak.
    assert peaks[1] <= peaks[0] - (0 if checkpointing else 1)


def test_a_model_that_changes_its_logits_is_refused() -> None:
    config = Gemma2Config(**SIZES, intermediate_size=80, num_key_value_heads=2, head_dim=8)
    model: Any = AutoModelForCausalLM.from_config(config)
    fuse_head_loss(model)
    with pytest.raises(UserError, match="changes its logits before its loss"):
        model(**batch_of())
    assert model(input_ids=batch_of()["input_ids"]).logits.shape == (2, 16, 120)


@pytest.mark.parametrize(
    ("changed", "engine", "told"),
    [
        ({"final_logit_softcapping": 30.0}, "single", "final_logit_softcapping"),
        ({}, "zero3", "ZeRO-3"),
    ],
)
def test_a_plan_refuses_what_cannot_have_it(
    changed: dict[str, Any], engine: str, told: str, tmp_path: Path
) -> None:
    folder = tmp_path / "capped"
    folder.mkdir()
    config = {**CONFIGS["llama"].to_dict(), **changed, "random_weights_seed": 0}
    (folder / "config.json").write_text(json.dumps(config))
    section = {
        "models": [str(folder)],
        "methods": ["lomo"],
        "batch_size": 1,
        "sequence_length": 8,
        "head_loss": "fused",
        "engine": engine,
        "num_devices": 1 if engine == "single" else 2,
    }
    study = {"study": "unit", "title": "t", "data": "generated", "memory": section}
    with pytest.raises(UserError, match=told) as refused:
        make_plan(Study.model_validate(study), source="unit.yaml")
    assert refused.value.where.endswith("head_loss")


@pytest.mark.parametrize("num_kept", [0, 1, 9, 23])
def test_few_targets_give_the_same_from_products_over_their_tokens_alone(
    num_kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = problem(torch.float32)
    generator = torch.Generator().manual_seed(2)
    targets_T = torch.full((TOKENS,), IGNORED)
    chosen = torch.randperm(TOKENS, generator=generator)[:num_kept]
    targets_T[chosen] = torch.randint(0, VOCABULARY, (num_kept,), generator=generator)
    inputs = (*inputs[:3], targets_T)
    rows: list[int] = []
    real = module._logits
    monkeypatch.setattr(
        module, "_logits", lambda h, *rest: (rows.append(len(h)), real(h, *rest))[1]
    )

    def of_few(*given: Tensor) -> Tensor:
        return head_loss(*given, num_targets=num_kept or 7)

    def of_all(*given: Tensor) -> Tensor:  # a tensor is not looked at: no token is left out
        return head_loss(*given, num_targets=torch.tensor(num_kept or 7))

    found = with_gradients(of_few, inputs)
    assert set(rows) == {num_kept}
    for mine, expected in zip(found, with_gradients(of_all, inputs), strict=True):
        assert (mine - expected).abs().max() <= 1e-6 * max(1.0, float(expected.abs().max()))
