"""lora_lomo: adapters under AdamW and the base weights under LOMO, at once (the paper's 4.3.3).

Each parameter belongs to one optimizer. Each optimizer clips the global norm of its own
parameters: their learning rates differ by orders of magnitude, and so do their gradients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from lomo.methods import FUSED, FUSED_NOTES, Method, Prepared, Spread, lora

if TYPE_CHECKING:
    from torch import nn

    from lomo.specs import RunSpec


class Hyper(lora.Hyper):
    """LoRA's, and those of the base weights (Table 4 tries 5e-3, 1e-3, 5e-4; 0.05, 0.1)."""

    lomo_learning_rate: float = Field(1e-3, gt=0, description="peak, base weights")
    lomo_warmup_ratio: float = Field(0.05, ge=0, le=1, description="warm-up, base weights")


METHOD = Method(
    title="LoRA+LOMO",
    hyper=Hyper,
    honours=FUSED,
    notes={
        **FUSED_NOTES,
        "max_grad_norm": "adapters and base weights are clipped by a norm of their own each",
    },
)


def prepare(model: nn.Module, spec: RunSpec, spread: Spread) -> Prepared:
    """Adapters under AdamW, base weights under LOMO."""
    import torch

    from lomo.optim import Lomo

    hyper = Hyper.model_validate(spec.hyper)
    base = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model = lora.with_adapters(model, hyper)
    for parameter in base:
        parameter.requires_grad_(True)
    model = spread(model)
    # By name: spreading may have made other parameters of them.
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    adapters = [parameter for name, parameter in trainable if "lora_" in name]
    base = [parameter for name, parameter in trainable if "lora_" not in name]
    fused = Lomo(
        base,
        lr=hyper.lomo_learning_rate,
        weight_decay=spec.weight_decay,
        max_grad_norm=spec.max_grad_norm,
        loss_scale="dynamic" if spec.dtype == "float16" else None,
    )
    adamw = torch.optim.AdamW(
        adapters, lr=hyper.learning_rate, weight_decay=spec.weight_decay, foreach=False
    )
    return Prepared(model, [(fused, hyper.lomo_warmup_ratio), (adamw, hyper.warmup_ratio)])
