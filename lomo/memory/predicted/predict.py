"""The ledger of a run that was never launched: the real step, on tensors without bytes.

What is simulated, what is not, and how right it is stand in docs/prediction.md.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import nn

from lomo.engines.single import Single, StepPhase, training_step
from lomo.errors import UserError
from lomo.memory.measured.counters import GRANULE_BYTES
from lomo.memory.measured.ledger import Ledger, StepMeter
from lomo.memory.predicted.closed_form import Zero3, closed_form_ledger, zero3_ledger
from lomo.memory.predicted.fake import Wrap, fake_engine, fake_tensors, unsupported_operation
from lomo.memory.predicted.first_step import (
    drop_unused_state,
    is_ours,
    make_state,
    repeated_updates,
)
from lomo.methods import Prepared, describe, prepare
from lomo.model import june_2023
from lomo.model.architecture import Architecture, check_request
from lomo.model.head_loss import fuse_head_loss
from lomo.model.weights import checkpoint_activations
from lomo.specs import MeasureSpec
from lomo.tasks.batches import Batch

ZERO3 = Zero3()

Device = Literal["cuda", "cpu"]
Account = Literal["simulated", "model_of_buffers", "closed_form"]


@dataclass(frozen=True)
class Prediction:
    """A predicted ledger, of one device. `unsupported` names what stopped the simulation, if any.

    account: how it was made. numels: elements of each parameter, over all devices, tied ones once.
    changes: of every storage in the simulated step, as `StepMeter` has them.
    """

    ledger: Ledger
    account: Account
    numels: tuple[int, ...]
    num_trainable_parameters: int
    unsupported: str | None = None
    changes: Sequence[tuple[str, int, int]] = field(default=(), repr=False)

    @property
    def num_parameters(self) -> int:
        return sum(self.numels)


def predict(
    architecture: Architecture,
    spec: MeasureSpec,
    *,
    device: Device = "cuda",
    wrap: Wrap = "layer",
    zero3: Zero3 = ZERO3,
) -> Prediction:
    """The ledger that `measure` would find for `spec` with a model of this architecture.

    device: "cuda" rounds sizes as its allocator does and takes the optimizers' scratch of a GPU;
    "cpu" gives what the meter counts there, to the byte.
    wrap: what FSDP2 gathers at a time. zero3: sizes of DeepSpeed's buffers.
    Where the simulation can't run the model, the ledger is the closed formula's.
    Raises UserError for what model, method or engine cannot do.
    """
    check_request(architecture, spec)
    if spec.engine == "zero3":
        return _predict_zero3(architecture, spec, device, zero3)
    granule_bytes = GRANULE_BYTES if device == "cuda" else 1
    with _quiet_process_state(), fake_tensors(as_device=device):
        with fake_engine(spec.engine, spec.num_devices, wrap) as engine:
            step = _Step(architecture.config, spec, engine, granule_bytes)
            try:
                return step.prediction(step.simulate())
            except Exception as error:
                operation = unsupported_operation(error)
                if operation is None:
                    raise
        with fake_engine("single", 1, wrap) as engine:
            step = _Step(architecture.config, spec, engine, granule_bytes)
            ledger = closed_form_ledger(step.stand_in(), architecture.config, spec)
            return step.prediction(ledger, unsupported=operation)


def _predict_zero3(
    architecture: Architecture, spec: MeasureSpec, device: Device, sizes: Zero3
) -> Prediction:
    alone = spec.model_copy(update={"engine": "single", "num_devices": 1})
    own = predict(architecture, alone, device=device)
    fused = own
    if spec.method not in ("lomo", "adalomo"):
        hyper = describe("lomo").hyper().model_dump()
        lomo = alone.model_copy(update={"method": "lomo", "hyper": hyper, "max_grad_norm": None})
        fused = predict(architecture, lomo, device=device)
    ledger = zero3_ledger(fused.ledger, own.ledger, own.numels, spec, sizes)
    account: Account = "model_of_buffers" if own.unsupported is None else "closed_form"
    return replace(own, ledger=ledger, account=account)


@contextmanager
def _quiet_process_state() -> Iterator[None]:
    """Nothing of the caller's random numbers is used up."""
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


class _Step:
    """One spec's step on fake tensors: its model and optimizers, and the meter around it."""

    def __init__(self, config: Any, spec: MeasureSpec, engine: Single, granule_bytes: int) -> None:
        self.spec, self.engine, self.granule_bytes = spec, engine, granule_bytes
        self.numels: tuple[int, ...] = ()
        self.num_trainable_parameters = 0
        self.changes: Sequence[tuple[str, int, int]] = ()
        self.updated: set[torch.Tensor] = set()  # of the fused optimizers' parameters
        model = _build(config, spec)
        _check_ranks(model, engine.world_size)
        self.prepared = self._prepare(model)

    def simulate(self) -> Ledger:
        """The ledger of a step that finds the state of earlier ones."""
        self._make_state()
        ledger = self._meter_step(self.prepared.model)
        fused = (o for o, _ in self.prepared.optimizers if is_ours(o))
        # FSDP2's buffers are new in its first step, and known to the meter in later ones. (Without
        # state the first is told, as ever: docs/log.md.)
        first_of_ranks = self.engine.world_size > 1 and any(o.state for o in fused)
        if self._drop_unused_state() or first_of_ranks:
            ledger = self._meter_step(self.prepared.model)
        if _has_made_state(ledger):
            # Somebody else's fused optimizer has made its state inside the backward.
            ledger = self._meter_step(self.prepared.model)
        return ledger

    def stand_in(self) -> Ledger:
        """The ledger of a step whose forward only touches each weight: all but the activations."""
        self._make_state()
        ledger = self._meter_step(_Touch(self.prepared.model))
        if _has_made_state(ledger):
            ledger = self._meter_step(_Touch(self.prepared.model))
        return ledger

    def prediction(self, ledger: Ledger, unsupported: str | None = None) -> Prediction:
        account: Account = "simulated" if unsupported is None else "closed_form"
        counts = self.numels, self.num_trainable_parameters
        return Prediction(ledger, account, *counts, unsupported=unsupported, changes=self.changes)

    def _prepare(self, model: nn.Module) -> Prepared:
        def spread(adapted: nn.Module) -> nn.Module:
            # Counted before: afterwards a rank holds its part only.
            parameters = list(adapted.parameters())
            trainable = [p for p in parameters if p.requires_grad]
            self.numels = tuple(p.numel() for p in parameters)
            self.num_trainable_parameters = sum(p.numel() for p in trainable)
            return self.engine.spread(adapted)

        prepared = prepare(self.spec.method)(model, self.spec, spread)
        prepared.model.train()
        return self.engine.ready(prepared, max_grad_norm=self.spec.max_grad_norm)

    def _make_state(self) -> None:
        for optimizer, _ in self.prepared.optimizers:
            make_state(optimizer)

    def _drop_unused_state(self) -> bool:
        optimizers = [optimizer for optimizer, _ in self.prepared.optimizers]
        return any([drop_unused_state(optimizer, self.updated) for optimizer in optimizers])

    def _meter_step(self, model: nn.Module) -> Ledger:
        optimizers = [optimizer for optimizer, _ in self.prepared.optimizers]
        rows = self.spec.batch_size * self.engine.world_size
        tokens_BS = torch.zeros(rows, self.spec.sequence_length, dtype=torch.long)
        batch = Batch(tokens_BS, torch.ones_like(tokens_BS), tokens_BS.clone())
        # All are targets. Nothing is in these tensors that could be counted.
        batch.__dict__.update(
            num_tokens=tokens_BS.numel(), num_targets=rows * (tokens_BS.shape[1] - 1)
        )
        batch = batch.to("cpu")
        with StepMeter(
            self.prepared.model,
            lambda: [optimizer.state for optimizer in optimizers],
            inputs=[batch.input_ids_BS, batch.attention_mask_BS, batch.labels_BS],
            granule_bytes=self.granule_bytes,
        ) as meter:

            def enter(phase: StepPhase) -> None:
                meter.phase(phase)

            with repeated_updates(optimizers, meter.counters) as self.updated:
                training_step(
                    model,
                    optimizers,
                    # From the second micro-batch on the gradients of earlier ones are held.
                    [batch] * min(self.spec.gradient_accumulation, 2),
                    max_grad_norm=self.spec.max_grad_norm,
                    engine=self.engine,
                    enter=enter,
                )
        self.changes = meter.changes
        return meter.ledger()


def _has_made_state(ledger: Ledger) -> bool:
    return ledger.sum_of_terms["optimizer_state_bytes"] > ledger.at_start["optimizer_state_bytes"]


@dataclass
class _Loss:
    loss: torch.Tensor


class _Touch(nn.Module):
    """Gives every trainable parameter a gradient of its own size, and nothing else."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **_batch: object) -> _Loss:
        trained = [p for p in self.model.parameters() if p.requires_grad]
        return _Loss(torch.stack([p.square().sum().float() for p in trained]).sum())


def _build(config: Any, spec: MeasureSpec) -> nn.Module:
    if june_2023.in_use():
        return june_2023.build(config, spec)
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_config(
        copy.deepcopy(config),
        dtype=getattr(torch, spec.dtype),
        attn_implementation=spec.attention,
        trust_remote_code=False,
    )
    model.config.use_cache = False
    if spec.head_loss == "fused":
        fuse_head_loss(model)
    if spec.activation_checkpointing:
        checkpoint_activations(model)
    assert isinstance(model, nn.Module)
    return model


def _check_ranks(model: nn.Module, world_size: int) -> None:
    # FSDP2 would give the last ranks empty parts: allowed, and surely not what was meant.
    for name, parameter in model.named_parameters():
        if parameter.dim() and parameter.shape[0] < world_size:
            raise UserError(
                f"{world_size} devices can't share the {parameter.shape[0]} rows of {name}",
                where="--gpus",
                allowed=f"at most {min(p.shape[0] for p in model.parameters() if p.dim())}",
            )
