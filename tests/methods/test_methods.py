"""Each parameter belongs to one optimizer, and the step treats each as its method says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CTRLConfig,
    GPT2Config,
    GPTNeoXConfig,
    Phi3Config,
    PretrainedConfig,
)

from lomo import methods
from lomo.engines.single import training_step
from lomo.errors import UserError
from lomo.methods import lora
from lomo.model.weights import load_model
from lomo.study.config import Study
from lomo.study.plan import make_plan
from lomo.tasks.batches import random_batch

NARROW: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
TRAINED = [name for name in methods.MODULES if methods.describe(name).trains]


def prepared(study_dict: dict[str, Any], model_folder: Path, method: str, **changes: Any) -> Any:
    plan = make_plan(Study.model_validate(study_dict), source="unit.yaml")
    spec = next(s for s in plan.runs.values() if s.method == method and s.kind == "train")
    torch.manual_seed(0)
    dtype = changes.pop("dtype", "float32")
    model = load_model(str(model_folder), dtype=dtype, attention="sdpa", device="cpu")
    return methods.prepare(method)(model, spec.model_copy(update=changes), lambda model: model)


@pytest.mark.parametrize("method", TRAINED)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_each_trained_parameter_has_exactly_one_optimizer(
    study_dict: dict[str, Any], model_folder: Path, method: str, dtype: str
) -> None:
    made = prepared(study_dict, model_folder, method, dtype=dtype)
    owned = [
        id(parameter)
        for optimizer, _ in made.optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    trained = {id(p) for p in made.model.parameters() if p.requires_grad}
    assert len(owned) == len(set(owned))
    assert set(owned) == trained


def test_lora_trains_only_adapters_on_q_and_v(
    study_dict: dict[str, Any], model_folder: Path
) -> None:
    model = prepared(study_dict, model_folder, "lora").model
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert names and all("lora_" in name for name in names)
    assert all("q_proj" in name or "v_proj" in name for name in names)


FUSED_PROJECTIONS: dict[str, tuple[PretrainedConfig, str]] = {
    "gpt2": (GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=64), "c_attn"),
    "neox": (GPTNeoXConfig(**NARROW), "query_key_value"),
    "phi3": (Phi3Config(**NARROW, pad_token_id=0), "qkv_proj"),
}


@pytest.mark.parametrize(("config", "place"), FUSED_PROJECTIONS.values(), ids=FUSED_PROJECTIONS)
def test_adapters_go_where_a_family_makes_queries_and_values(
    config: PretrainedConfig, place: str
) -> None:
    """They start as nothing, train, and a step changes the model by them alone."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    batch = random_batch(
        vocabulary=64, batch_size=2, sequence_length=16, seed=0, device="cpu"
    ).input_ids_BS
    before = model.eval()(batch).logits
    adapted = lora.with_adapters(model, lora.Hyper(rank=2))
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 2 and all(f".{place}.lora_" in name for name in trained)
    adapted.eval()
    assert torch.equal(adapted(input_ids=batch).logits, before)
    adapted(input_ids=batch, labels=batch).loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in adapted.parameters())


def test_a_family_without_a_known_place_is_told_what_it_has() -> None:
    config = CTRLConfig(vocab_size=64, n_embd=32, dff=64, n_layer=2, n_head=2)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(UserError, match="ctrl has no q_proj and v_proj") as refused:
        lora.target_modules(model)
    assert "this one has 0, 2, Wk, Wq, Wv, dense, lm_head" in str(refused.value)
    assert "the other methods run" in str(refused.value)


@pytest.mark.parametrize("max_grad_norm", [None, 0.01])
def test_lora_lomo_gives_the_adapters_their_gradient_once(
    study_dict: dict[str, Any], model_folder: Path, max_grad_norm: float | None
) -> None:
    """Clipping takes two backward passes; the adapters' gradient must come from one of them."""
    made = prepared(study_dict, model_folder, "lora_lomo", max_grad_norm=max_grad_norm)
    reference = prepared(study_dict, model_folder, "lora_lomo", max_grad_norm=None).model
    for optimizer in (made.optimizers[0][0],):
        optimizer.param_groups[0]["lr"] = 1e-30  # the base stays where it is
    batch = random_batch(vocabulary=300, batch_size=2, sequence_length=16, seed=0, device="cpu")
    made.model.eval(), reference.eval()  # no dropout
    reference(input_ids=batch.input_ids_BS, labels=batch.labels_BS).loss.backward()
    expected = {n: p.grad for n, p in reference.named_parameters() if "lora_" in n}

    seen: dict[str, torch.Tensor] = {}
    adamw = made.optimizers[1][0]
    named = {n: p for n, p in made.model.named_parameters() if "lora_" in n}
    adamw.register_step_pre_hook(
        lambda *_: seen.update({n: p.grad.clone() for n, p in named.items()})
    )
    training_step(made.model, [o for o, _ in made.optimizers], [batch], max_grad_norm=None)
    assert seen.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(seen[name], gradient, atol=1e-6), name


@pytest.mark.parametrize("method", TRAINED)
def test_a_16_bit_model_trains(study_dict: dict[str, Any], model_folder: Path, method: str) -> None:
    rate = {"sgd": 0.1, "lomo": 0.1}.get(method, 0.003)
    hyper = {
        "learning_rate": rate,
        **({"lomo_learning_rate": 0.1} if method == "lora_lomo" else {}),
    }
    made = prepared(study_dict, model_folder, method, dtype="bfloat16", hyper=hyper)
    batch = random_batch(vocabulary=300, batch_size=2, sequence_length=16, seed=0, device="cpu")
    optimizers = [o for o, _ in made.optimizers]
    made.model.train()
    losses = [
        training_step(made.model, optimizers, [batch], max_grad_norm=1.0).loss for _ in range(8)
    ]
    assert losses[-1] < losses[0]


def test_each_parameter_belongs_to_one_optimizer() -> None:
    import torch

    from lomo.methods import Prepared

    model = torch.nn.Linear(2, 2)
    both, one = torch.optim.SGD(model.parameters(), 0.1), torch.optim.SGD([model.bias], 0.1)
    with pytest.raises(ValueError, match="in two optimizers"):
        Prepared(model, [(both, 0.0), (one, 0.0)])
    with pytest.raises(ValueError, match="in no optimizer: weight"):
        Prepared(model, [(one, 0.0)])
