"""lora: low-rank adapters on q_proj and v_proj under AdamW, as the paper's Table 4 sets them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from lomo.config import Strict
from lomo.methods import ORDINARY, ORDINARY_NOTES, Method, Prepared, Spread

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


def with_adapters(model: nn.Module, hyper: Hyper) -> nn.Module:
    """The model with trainable fp32 adapters on q_proj and v_proj, all else frozen."""
    from peft import LoraConfig, get_peft_model

    return get_peft_model(
        model,
        LoraConfig(
            task_type="CAUSAL_LM",
            r=hyper.rank,
            lora_alpha=hyper.alpha,
            lora_dropout=hyper.dropout,
            target_modules=["q_proj", "v_proj"],
            bias="none",
        ),
    )


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
