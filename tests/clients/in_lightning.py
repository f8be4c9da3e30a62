"""Modules of Lightning as people write them, around a tiny LLaMA, and how they are fitted.

Apart from the tests, which import it when they run: Lightning takes seconds to import.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning import pytorch as pl
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from tests.numerics.models import llama
from tests.trainer.training import examples

NUM_STEPS = 6  # two epochs of three batches
Make = Callable[[Any], Optimizer]


class Module(pl.LightningModule):
    """A tiny LLaMA as people write it; `own_backward` is the page's way to clip."""

    interval = "step"

    def __init__(self, make: Make, *, manual: bool = False, own_backward: bool = False) -> None:
        super().__init__()
        self.model = llama()
        self.make = make
        self.automatic_optimization = not manual
        self.own_backward = own_backward
        self.losses: list[float] = []
        self.rates: list[float] = []
        self.norms: list[float | None] = []

    def configure_optimizers(self) -> Any:
        optimizer = self.make(self.model.parameters())
        scheduler = LambdaLR(optimizer, lambda step: 1.0 / (1 + step))
        return [optimizer], [{"scheduler": scheduler, "interval": self.interval}]

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        if self.own_backward:
            self.optimizers().backward(loss)
            self.norms.append(self.optimizers().grad_norm)
        else:
            super().backward(loss, *args, **kwargs)

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        loss: Tensor = self.model(**batch, use_cache=False).loss
        self.losses.append(float(loss.detach()))
        self.rates.append(self.optimizers().param_groups[0]["lr"])
        if not self.automatic_optimization:
            self.step_by_hand(loss)
        return loss

    def step_by_hand(self, loss: Tensor) -> None:
        self.optimizers().zero_grad()
        self.manual_backward(loss)
        self.optimizers().step()
        self.lr_schedulers().step()


def trainer(**options: Any) -> Any:
    defaults = {"max_epochs": 2, "enable_checkpointing": False}
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **{**defaults, **options},
    )


def batches() -> Any:
    return torch.utils.data.DataLoader(examples(12), batch_size=4)


def fit(module: Any, *, ckpt_path: Path | None = None, **options: Any) -> Any:
    trainer(**options).fit(module, batches(), ckpt_path=ckpt_path)
    return module


def trained(
    make: Make, *, manual: bool = False, own_backward: bool = False, **options: Any
) -> Module:
    module: Module = fit(Module(make, manual=manual, own_backward=own_backward), **options)
    return module


class Halves(pl.LightningModule):
    """Two optimizers, each with a loss and a half of the weights of its own, as in a GAN."""

    def __init__(self, make: Make, closures: bool) -> None:
        super().__init__()
        self.model = llama()
        self.make = make
        self.closures = closures
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        layers = self.model.model.layers
        return [self.make(layers[0].parameters()), self.make(layers[1].parameters())]

    def training_step(self, batch: dict[str, Tensor], index: int) -> None:
        for sign, optimizer in zip((torch.positive, torch.neg), self.optimizers(), strict=True):
            with optimizer.toggle_model():
                if self.closures:
                    optimizer.step(closure=lambda o=optimizer, s=sign: self.one(o, s, batch))
                else:
                    self.one(optimizer, sign, batch)
                    optimizer.step()

    def one(self, optimizer: Any, sign: Any, batch: dict[str, Tensor]) -> None:
        optimizer.zero_grad()
        self.manual_backward(sign(self.model(**batch, use_cache=False).loss))
