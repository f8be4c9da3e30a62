"""lora: low-rank adapters on queries and values under AdamW, as the paper's Table 4 sets them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from lomo.errors import UserError
from lomo.methods import ORDINARY, ORDINARY_NOTES, Method, Prepared, Spread
from lomo.system.strict import Strict

if TYPE_CHECKING:
    from torch import nn

    from lomo.specs import RunSpec


class Hyper(Strict):
    """Defaults are the paper's (Table 4; dropout from the authors' code)."""

    learning_rate: float = Field(5e-4, gt=0, description="peak")
    warmup_ratio: float = Field(0.05, ge=0, le=1, description="share of steps that warm up")
    rank: int = Field(2, ge=1, description="rank of the adapters")
    alpha: int = Field(16, ge=1, description="adapters are scaled by alpha / rank")
    dropout: float = Field(0.05, ge=0, lt=1, description="before the adapters")


METHOD = Method(title="LoRA", hyper=Hyper, honours=ORDINARY, notes=ORDINARY_NOTES)
# What makes queries and values in the families of today; where one matrix makes keys, too, all of
# it is adapted. The first that a model has is taken.
PLACES = (
    ("q_proj", "v_proj"),
    ("query", "value"),
    ("qkv_proj",),
    ("query_key_value",),
    ("c_attn",),
    ("Wqkv",),
)


def with_adapters(model: nn.Module, hyper: Hyper) -> nn.Module:
    """The model with trainable fp32 adapters on its `target_modules`, all else frozen."""
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    targets = target_modules(model)
    turned = any(
        isinstance(part, Conv1D) and name.rpartition(".")[2] in targets
        for name, part in model.named_modules()
    )
    return get_peft_model(
        model,
        LoraConfig(
            task_type="CAUSAL_LM",
            r=hyper.rank,
            lora_alpha=hyper.alpha,
            lora_dropout=hyper.dropout,
            target_modules=targets,
            fan_in_fan_out=turned,
            bias="none",
        ),
    )


def target_modules(model: nn.Module) -> list[str]:
    """The names of the modules that get adapters: those that make queries and values.

    Raises UserError for a model that has none of PLACES.
    """
    import torch
    from transformers.pytorch_utils import Conv1D

    there = {
        name.rpartition(".")[2]
        for name, part in model.named_modules()
        if isinstance(part, torch.nn.Linear | Conv1D)
    }
    found = next((names for names in PLACES if there.issuperset(names)), None)
    if found is None:
        kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
        raise UserError(
            f"{kind} has no q_proj and v_proj, and no other module that lora knows to adapt",
            where="methods: lora, lora_lomo",
            allowed=f"models with {'; '.join(' and '.join(names) for names in PLACES)}; this one "
            f"has {', '.join(sorted(there))}",
            fix="leave lora and lora_lomo out for this model: the other methods run",
        )
    return list(found)


def prepare(model: nn.Module, spec: RunSpec, spread: Spread) -> Prepared:
    """The adapters under AdamW, the base frozen."""
    import torch

    hyper = Hyper.model_validate(spec.hyper)
    model = spread(with_adapters(model, hyper))
    adapters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        adapters, lr=hyper.learning_rate, weight_decay=spec.weight_decay, foreach=False
    )
    return Prepared(model, [(optimizer, hyper.warmup_ratio)])
