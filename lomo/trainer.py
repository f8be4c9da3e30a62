"""A fused optimizer in the Hugging Face Trainer: what it asks for is honoured or refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import Tensor
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from lomo.optim import FusedBackward


class FusedBackwardCallback(TrainerCallback):
    """Makes a `Trainer` whose optimizer is a `FusedBackward` clip exactly and log the true norm.

    trainer = Trainer(model, args, optimizers=(Lomo(model.parameters(), lr=...), scheduler), ...)
    trainer.add_callback(FusedBackwardCallback(trainer))

    While `trainer.train()` runs, the accelerator's `backward` is `optimizer.backward`, and the norm
    that it gives to the log is `optimizer.grad_norm`, before clipping; without clipping nothing
    measures a norm, and none is logged. Left alone, the Trainer would clip gradients that are gone:
    it would train unclipped and log a norm of 0.

    Raises when training begins, before any step: ValueError where the Trainer asks for something
    that the optimizer does not do (accumulation, another clipping limit or weight decay, a gradient
    scaler, several processes or devices, ...), TypeError where the optimizer is no FusedBackward.
    """

    def __init__(self, trainer: Trainer) -> None:
        # A Trainer hands its accelerator to no callback, so it must be given.
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check the arguments and take over backward and norm. Raises: see the class."""
        if args is not self._trainer.args:
            raise ValueError("this FusedBackwardCallback was made for another Trainer")
        optimizer = _checked_optimizer(self._trainer)
        accelerator = self._trainer.accelerator
        accelerator.backward = optimizer.backward
        accelerator.clip_grad_norm_ = _norm_of(optimizer)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Give the accelerator its own methods back."""
        for name in ("backward", "clip_grad_norm_"):
            vars(self._trainer.accelerator).pop(name, None)


def _checked_optimizer(trainer: Trainer) -> FusedBackward:
    """The Trainer's optimizer, if it can do all that the Trainer asks for."""
    # accelerate wraps the optimizer.
    optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    problems = list(_unsupported(trainer))
    if isinstance(optimizer, FusedBackward):
        problems += _not_the_optimizers(trainer, optimizer)
    if problems:
        raise ValueError(
            "an update inside backward can't do all that this Trainer asks for:\n- "
            + "\n- ".join(problems)
        )
    # Last: DeepSpeed, which is refused above, puts its own optimizer in the place of ours.
    if not isinstance(optimizer, FusedBackward):
        raise TypeError(
            f"the Trainer's optimizer is a {type(optimizer).__name__}, not a FusedBackward: "
            "give Lomo or AdaLomo through optimizers=, or leave this callback out"
        )
    return optimizer


def _unsupported(trainer: Trainer) -> Iterator[str]:
    """What no update inside backward can honour, each with what to set instead."""
    args, accelerator = trainer.args, trainer.accelerator
    if args.gradient_accumulation_steps != 1:
        yield (
            f"gradient_accumulation_steps={args.gradient_accumulation_steps}: the first gradient "
            "is used and dropped before the second comes; set it to 1 and "
            "per_device_train_batch_size to the whole batch"
        )
    if args.fp16 or accelerator.scaler is not None:
        yield (
            "fp16=True: its GradScaler would unscale gradients that have been used already; set "
            'bf16=True, or hold the weights in float16 and give the optimizer loss_scale="dynamic"'
        )
    if accelerator.distributed_type != DistributedType.NO or args.n_gpu > 1:
        kind = "DataParallel" if args.n_gpu > 1 else accelerator.distributed_type.value
        yield (
            f"{kind}: each process or device would update from gradients that are not reduced, or "
            "reduced all at once; run one process on one device, without torchrun and with "
            "CUDA_VISIBLE_DEVICES=0"
        )
    if args.auto_find_batch_size:
        yield (
            "auto_find_batch_size=True: running out of memory inside a backward leaves part of the "
            "weights updated, and the retry would start from there; set the batch size"
        )
    if args.optim in ("lomo", "adalomo"):
        yield (
            f"optim={args.optim} asks for another package's optimizer and its way to "
            "call backward; leave optim at its default, since optimizers= overrides it"
        )


def _not_the_optimizers(trainer: Trainer, optimizer: FusedBackward) -> Iterator[str]:
    """Where the arguments ask for something else than the optimizer was made to do."""
    args, limit = trainer.args, optimizer.max_grad_norm
    # 0.0 switches off the Trainer's own clipping; the optimizer's is its own affair then.
    if args.max_grad_norm and (args.max_grad_norm, "global") != (limit, optimizer.norm_scope):
        yield (
            f"max_grad_norm={args.max_grad_norm} in the arguments (1.0 is the Trainer's default), "
            f"but {limit} of norm_scope={optimizer.norm_scope!r} in the optimizer: set "
            f"max_grad_norm=0.0 in the arguments, or max_grad_norm={args.max_grad_norm} and "
            'norm_scope="global" in the optimizer'
        )
    if args.use_liger_kernel and limit is not None and optimizer.norm_scope != "parameter":
        yield (
            "use_liger_kernel=True with clipping by the global norm: its kernels write over what "
            "they have saved, so the second of two passes would make other gradients; set "
            'use_liger_kernel=False, or norm_scope="parameter" in the optimizer'
        )
    decays = sorted({group["weight_decay"] for group in optimizer.param_groups})
    if args.weight_decay and args.weight_decay not in decays:
        yield (
            f"weight_decay={args.weight_decay} in the arguments, but {decays} in the optimizer's "
            "groups: a Trainer with optimizers= ignores its own; set it in the optimizer alone"
        )
    assert trainer.model is not None
    model = trainer.model
    held = [p for group in optimizer.param_groups for p in group["params"]]
    trained, own = {id(p) for p in held}, {id(p) for p in model.parameters()}
    others = [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in trained]
    gone = sum(id(p) not in own for p in held)
    if others and gone:
        yield (
            f"the optimizer holds {gone} parameters that the model does not have, and "
            f"{len(others)} of the model's are not in it, such as {others[0]}: it was made before "
            "something replaced them (resize_token_embeddings, load_state_dict(assign=True)), or "
            "for another model; make the optimizer afterwards"
        )
    elif others:
        yield (
            f"{len(others)} parameters require gradients but are not in the optimizer, such as "
            f"{others[0]}: their gradients would be kept, and not counted in the norm; set "
            "requires_grad to False"
        )


def _norm_of(optimizer: FusedBackward) -> Any:
    def clip_grad_norm_(parameters: Any, max_norm: float, norm_type: float = 2) -> Tensor | None:
        """The norm that `optimizer.backward` has clipped by, or None if it does not clip."""
        return None if optimizer.grad_norm is None else torch.tensor(optimizer.grad_norm)

    return clip_grad_norm_
