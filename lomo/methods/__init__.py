"""The registry of methods: how a model is adapted. One line a method; its file says the rest.

A method's module defines `METHOD` (title, hyper-parameters, options that it honours) and
`prepare(model, spec, spread) -> Prepared`: it adapts the model, lets `spread` distribute its
parameters over the devices (in one process that does nothing), and makes optimizers of what it gets
back. A package outside this repository adds one through the entry point group `lomo.methods`,
whose value is such a module. Nothing here imports torch: a plan asks every method what it honours
before any weight is loaded.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from lomo import peers
from lomo.config import Strict
from lomo.errors import UserError, nearest

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

MODULES = {
    "zero_shot": "lomo.methods.zero_shot",
    "sgd": "lomo.methods.sgd",
    "adamw": "lomo.methods.adamw",
    "lora": "lomo.methods.lora",
    "lora_lomo": "lomo.methods.lora_lomo",
    "lomo": "lomo.methods.lomo",
    "adalomo": "lomo.methods.adalomo",
}

# Settings that a method may be unable to honour. Those outside this set concern all alike.
OPTIONS = frozenset({"max_grad_norm", "weight_decay", "gradient_accumulation", "float16"})

# What torch's own optimizers honour, and fused ones, and why not the rest (see lomo/support.py).
ORDINARY = OPTIONS - {"float16"}
ORDINARY_NOTES = {"float16": "only the fused optimizers scale the loss; use bfloat16 or float32"}
FUSED = OPTIONS - {"gradient_accumulation"}
FUSED_NOTES = {
    "gradient_accumulation": "the first gradient is used and dropped before the second comes",
    "float16": "the loss is scaled, and a step whose gradients overflow is skipped",
}


Spread = Callable[["nn.Module"], "nn.Module"]
"""Distributes the parameters of an adapted model over the devices: Engine.spread."""


@dataclass(frozen=True)
class Method:
    """What a plan needs to know of a method.

    honours: the options of lomo/support.py that it does not refuse; `hyper` may hold some of them.
    notes: option -> how it differs from the reference, or why it is refused.
    """

    title: str
    hyper: type[Strict]
    honours: frozenset[str]
    trains: bool = True
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Prepared:
    """A model ready to train, and its optimizers, each with the share of steps that warm it up.

    Each trainable parameter belongs to exactly one of the optimizers.
    """

    model: nn.Module
    optimizers: list[tuple[Optimizer, float]]

    def __post_init__(self) -> None:
        """Raises ValueError for a parameter in two optimizers, or trainable and in none."""
        held = [
            id(parameter)
            for optimizer, _ in self.optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        ]
        if len(set(held)) != len(held):
            raise ValueError("a parameter is in two optimizers; each may be in one")
        named = self.model.named_parameters()
        lacking = [name for name, p in named if p.requires_grad and id(p) not in set(held)]
        if lacking:
            raise ValueError(f"trainable and in no optimizer: {', '.join(lacking[:3])}")


@cache
def modules() -> dict[str, str]:
    """Method id -> module name, with those of installed packages behind the built-in ones."""
    outside = {point.name: point.value for point in entry_points(group="lomo.methods")}
    return {**outside, **MODULES}


def module_name(method: str) -> str:
    """The name of the module of a method or a peer. Raises UserError for an unknown one."""
    check_name(method, where="method", peers_too=True)
    return {**peers.MODULES, **modules()}[method]


def module_of(method: str) -> Any:
    """The module of a method or a peer. Raises UserError for an unknown one."""
    return importlib.import_module(module_name(method))


def describe(method: str) -> Method:
    """What `method` needs and honours."""
    described: Method = module_of(method).METHOD
    return described


def prepare(method: str) -> Callable[[nn.Module, Any, Spread], Prepared]:
    """The function `(model, spec, spread) -> Prepared` of a method."""
    function: Callable[[nn.Module, Any, Spread], Prepared] = module_of(method).prepare
    return function


def check_name(method: str, *, where: str, peers_too: bool = False) -> None:
    """Raises UserError if there is no method, or peer, of that name, or a package is not there."""
    known = [*modules(), *(peers.MODULES if peers_too else ())]
    if method in known:
        peers.check_installed(method, where=where)
    elif method in peers.MODULES:
        raise UserError(
            f"{method} is a peer: there to be compared with, in a `peers` section",
            where=where,
            allowed=", ".join(known),
            fix="name it as the method of one of the variants of `peers`",
        )
    else:
        close = nearest(method, known)
        raise UserError(
            f"unknown method {method!r}",
            where=where,
            allowed=", ".join(known),
            fix=f"did you mean {close!r}?" if close else None,
        )
