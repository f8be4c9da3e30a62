"""What the ranks train and what one process trains instead, on the full batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MixtralConfig, MixtralForCausalLM
from transformers.modeling_outputs import CausalLMOutput

from lomo import methods
from lomo.engines.single import ALONE, Single, training_step
from lomo.methods import Prepared
from lomo.model.head_loss import fuse_head_loss
from lomo.optim import AdaLomo, Lomo
from lomo.tasks.batches import IGNORED, Batch, micro_batches
from tests.numerics.models import llama

NUM_STEPS = 5
NUM_RANKS = 2
RATES = {"sgd": 0.1, "lomo": 0.1, "adamw": 1e-3, "adalomo": 1e-2, "lora": 1e-3, "lora_lomo": 1e-3}
OPTIMIZERS = {"lomo": Lomo, "adalomo": AdaLomo}


class Narrow(nn.Module):
    """A model with tensors of one and of three rows, which two ranks can't share evenly."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(64, 5)
        self.layers = nn.ModuleList([nn.Linear(5, 1), nn.Linear(1, 3)])
        self.head = nn.Linear(3, 64)
        self.config = SimpleNamespace(vocab_size=64)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, num_items_in_batch: int
    ) -> CausalLMOutput:
        hidden = self.embedding(input_ids)
        for layer in self.layers:
            hidden = layer(hidden).tanh()
        logits = self.head(hidden)[:, :-1]
        loss = nn.functional.cross_entropy(
            logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum", ignore_index=IGNORED
        )
        return CausalLMOutput(loss=loss / num_items_in_batch)


def fused(**settings: Any) -> nn.Module:
    """The model with the fused head loss."""
    model = llama(**settings)
    fuse_head_loss(model)
    return model


def mixture(**settings: Any) -> nn.Module:
    """A Mixtral with more experts than some rank has tokens for."""
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=32,
        num_experts_per_tok=1,
        max_position_embeddings=32,
        **settings,
    )
    return MixtralForCausalLM(config)


@dataclass(frozen=True)
class Case:
    """A method with its options; `direct` ones are given to the optimizer, not through a spec."""

    method: str
    options: dict[str, Any] = field(default_factory=dict)
    direct: dict[str, Any] = field(default_factory=dict)
    engines: tuple[str, ...] = ("fsdp2", "zero3")
    model: Callable[..., nn.Module] = llama
    settings: dict[str, Any] = field(default_factory=dict)  # of the model
    hyper: dict[str, Any] = field(default_factory=dict)
    # What the spec says: float16 scales the loss, and fp32 weights show how exactly.
    dtype: str | None = None
    tolerance: float = 1e-6

    @property
    def name(self) -> str:
        """Its id in reports."""
        given = {**self.settings, **self.options, **self.hyper, **self.direct}
        if self.dtype is not None:
            given["dtype"] = self.dtype
        words = [f"{key}={value}" for key, value in given.items()]
        kind = {Narrow: ["narrow"], fused: ["fused_head"], mixture: ["mixture"]}.get(self.model, [])
        return "-".join([self.method, *kind, *words])


FUSED = ("lomo", "adalomo")
LORA = ("lora", "lora_lomo")
ALL = ("sgd", "adamw", *FUSED, *LORA)


def _cases() -> list[Case]:
    cases = []
    for method in ALL:
        where = ("fsdp2",) if method in LORA else ("fsdp2", "zero3")
        for limit in (None, 0.5):
            cases.append(Case(method, {"max_grad_norm": limit}, engines=where))
        cases.append(Case(method, {"weight_decay": 0.1}, engines=where))
    for method in FUSED:
        for scope in ("parameter", "previous_step"):
            cases.append(Case(method, direct={"max_grad_norm": 0.5, "norm_scope": scope}))
        cases.append(Case(method, direct={"loss_scale": 1024.0}))
        clipped = {"max_grad_norm": 0.5}
        cases.append(Case(method, clipped, settings={"checkpointing": "non_reentrant"}))
        cases.append(Case(method, clipped, settings={"tied": True}))
        cases.append(Case(method, clipped, model=Narrow))
        cases.append(Case(method, model=Narrow))
    cases.append(Case("lomo", {"max_grad_norm": 0.5}, model=mixture))
    cases += [Case(m, {"max_grad_norm": 0.5}, model=Narrow) for m in ("sgd", "adamw")]
    cases += [Case(m, {"gradient_accumulation": 2}) for m in ("sgd", "adamw")]
    cases.append(Case("lora", {"gradient_accumulation": 2}, engines=("fsdp2",)))
    for method in ("sgd", "lomo"):
        cases.append(Case(method, {"max_grad_norm": 0.5}, engines=("fsdp2",), model=fused))
    cases.append(Case("lomo", engines=("fsdp2",), model=fused, settings={"tied": True}))
    cases.append(Case("lora_lomo", model=fused, engines=("fsdp2",)))
    cases.append(Case("lora_lomo", dtype="float16", engines=("fsdp2",)))
    # Two units in the last place of bfloat16 a step: the ranks draw other numbers than one process.
    rounds = {"hyper": {"rounding": "stochastic"}, "settings": {"dtype": torch.bfloat16}}
    cases.append(Case("lomo", {"max_grad_norm": 0.5}, tolerance=5 * 2**-6, **rounds))
    return cases


CASES = {case.name: case for case in _cases()}


def batch_of(step: int) -> Batch:
    """The global batch of a step: unequal rows and targets, sometimes fewer rows than ranks."""
    num_rows = (4, 3, 4, 1, 5)[step]
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(0, 64, (num_rows, 16), generator=generator)
    labels = tokens.clone()
    for row in range(num_rows):
        labels[row, : 2 + 3 * row] = IGNORED
    return Batch(tokens, torch.ones_like(tokens), labels)


def prepare(case: Case, engine: Single) -> Prepared:
    """The model and the optimizers of a case, spread by `engine`."""
    model = case.model(**case.settings)
    if case.direct:
        model = engine.spread(model)
        made = OPTIMIZERS[case.method](model.parameters(), lr=RATES[case.method], **case.direct)
        prepared = Prepared(model, [(made, 0.0)])
    else:
        hyper: dict[str, Any] = {"learning_rate": RATES[case.method]}
        if case.method in LORA:
            hyper |= {"rank": 2, "alpha": 16, "dropout": 0.0}
        if case.method == "lora_lomo":
            hyper |= {"lomo_learning_rate": 0.1}
        hyper |= case.hyper
        spec = SimpleNamespace(
            hyper=hyper,
            dtype=case.dtype or str(next(model.parameters()).dtype).removeprefix("torch."),
            max_grad_norm=case.options.get("max_grad_norm"),
            weight_decay=case.options.get("weight_decay", 0.0),
        )
        prepared = methods.prepare(case.method)(model, spec, engine.spread)
    return engine.ready(prepared, max_grad_norm=case.options.get("max_grad_norm"))


def train(case: Case, engine: Single = ALONE) -> tuple[Prepared, list[float], list[float | None]]:
    """What the steps have made, their losses and their gradients' norms."""
    torch.manual_seed(0)  # adapters
    prepared = prepare(case, engine)
    prepared.model.train()
    optimizers = [optimizer for optimizer, _ in prepared.optimizers]
    results = [
        training_step(
            prepared.model,
            optimizers,
            micro_batches(batch_of(step), case.options.get("gradient_accumulation", 1)),
            max_grad_norm=case.options.get("max_grad_norm"),
            engine=engine,
        )
        for step in range(NUM_STEPS)
    ]
    return prepared, [r.loss for r in results], [r.grad_norm for r in results]


def reference(case: Case) -> tuple[dict[str, Tensor], list[float], list[float | None]]:
    """Weights by name, losses and norms of one process: torch's own SGD stands in for LOMO."""
    method = "sgd" if case.method == "lomo" and not case.direct else case.method
    own_loss = llama if case.model is fused else case.model
    stand_in = replace(case, method=method, hyper={}, model=own_loss)
    prepared, losses, norms = train(stand_in)
    weights = {name: p.detach().clone() for name, p in prepared.model.named_parameters()}
    return weights, losses, norms
