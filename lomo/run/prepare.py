"""The model of a run, adapted by its method, spread by its engine, with its optimizers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from lomo.engines.single import Draw, Single, as_it_is
from lomo.methods import Prepared, prepare
from lomo.model.head_loss import fuse_head_loss
from lomo.model.weights import (
    checkpoint_activations,
    compile_layers,
    load_model,
    open_for_ranks,
    weights_sha256,
)
from lomo.peers.loss import authors_loss
from lomo.run.findings import Findings, model_facts
from lomo.specs import MeasureSpec, PeerSpec, TrainSpec


def prepare_model(
    spec: TrainSpec | MeasureSpec, engine: Single, findings: Findings, *, seed: int
) -> Prepared:
    """The spec's model, ready for steps; its facts go to `findings`.

    `seed` draws the adapters, which are the same on every rank.
    """
    torch.manual_seed(seed)
    model, draw = _open(spec, engine)
    if isinstance(spec, PeerSpec):
        model.loss_function = authors_loss
    elif spec.head_loss == "fused":
        fuse_head_loss(model)
    if spec.activation_checkpointing:
        checkpoint_activations(model)

    if isinstance(spec, MeasureSpec) and spec.compile == "layers":
        compile_layers(model)

    def spread(adapted: nn.Module) -> nn.Module:
        # Counted before: afterwards a rank holds its part only.
        sha256 = None if engine.rank else weights_sha256(spec.model_path)
        findings.model = model_facts(adapted, spec.model, spec.dtype, sha256)
        return engine.spread(adapted, draw)

    prepared = prepare(spec.method)(model, spec, spread)
    return engine.ready(prepared, max_grad_norm=spec.max_grad_norm)


def _open(spec: TrainSpec | MeasureSpec, engine: Single) -> tuple[PreTrainedModel, Draw]:
    kind: dict[str, Any] = {
        "dtype": spec.dtype,
        "attention": spec.attention,
        "device": engine.device,
    }
    if engine.spreads:
        return open_for_ranks(spec.model_path, rank=engine.rank, **kind)
    return load_model(spec.model_path, **kind), as_it_is
