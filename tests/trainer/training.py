"""A tiny LLaMA in the Hugging Face Trainer, with torch's own SGD or an optimizer of ours."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainingArguments

from lomo.optim import AdaLomo, Lomo
from lomo.trainer import FusedBackwardCallback
from tests.numerics.models import assert_bit_equal, llama, weights

NUM_STEPS = 5
Make = Callable[[Any], Optimizer]


def sgd(params: Any) -> Optimizer:
    return SGD(params, lr=0.1, foreach=False)


def lomo(params: Any) -> Optimizer:
    return Lomo(params, lr=0.1)


def clipping_lomo(params: Any) -> Optimizer:
    return Lomo(params, lr=0.1, max_grad_norm=1.0)


def clipping_adalomo(params: Any) -> Optimizer:
    return AdaLomo(params, lr=0.01, max_grad_norm=1.0)


def examples(num: int = 16) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(0, 64, (num, 16), generator=generator)
    return [{"input_ids": row, "labels": row} for row in tokens]


def make_trainer(
    folder: Path,
    make: Make,
    *,
    model: nn.Module | None = None,
    callback: bool | None = None,
    decay: Callable[[int], float] | None = None,
    **options: Any,
) -> Trainer:
    """A Trainer of a tiny LLaMA; with our callback where the optimizer is ours, unless told."""
    defaults: dict[str, Any] = {
        "max_grad_norm": 0.0,  # the Trainer's own default is 1.0
        "max_steps": NUM_STEPS,
        "per_device_train_batch_size": 4,
        "save_strategy": "no",
    }
    args = TrainingArguments(
        output_dir=str(folder),
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        logging_steps=1,
        dataloader_pin_memory=False,
        **{**defaults, **options},
    )
    model = llama() if model is None else model
    optimizer = make([p for p in model.parameters() if p.requires_grad])
    scheduler = None if decay is None else LambdaLR(optimizer, decay)
    trainer = Trainer(model, args, train_dataset=examples(), optimizers=(optimizer, scheduler))
    if callback is None:
        callback = not isinstance(optimizer, SGD)
    if callback:
        trainer.add_callback(FusedBackwardCallback(trainer))
    return trainer


def train(folder: Path, make: Make, **options: Any) -> Trainer:
    trainer = make_trainer(folder, make, **options)
    trainer.train()
    return trainer


def logged(trainer: Trainer, key: str) -> list[float]:
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def refused(folder: Path, message: str, make: Make = lomo, **options: Any) -> None:
    """Training must raise before a step."""
    trainer = make_trainer(folder, make, **options)
    before = weights(trainer.model)
    with pytest.raises(ValueError, match=re.escape(message)):
        trainer.train()
    assert trainer.state.global_step == 0
    assert_bit_equal(weights(trainer.model), before)
