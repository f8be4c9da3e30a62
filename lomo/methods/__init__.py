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
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any

from lomo.engines.prepared import Prepared as Prepared
from lomo.engines.prepared import Spread as Spread
from lomo.errors import UserError, nearest
from lomo.methods import peers
from lomo.system.outside import by_name, check_point, imported, said_in
from lomo.system.strict import Strict as Strict

if TYPE_CHECKING:
    from torch import nn

GROUP = "lomo.methods"
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

# Those that are hyper-parameters of the methods that have them.
OWN_OPTIONS = frozenset({"norm_scope", "rounding", "update"})

# What torch's own optimizers honour, and fused ones, and why not the rest (see support.py).
ORDINARY = OPTIONS - {"float16"}
ORDINARY_NOTES = {"float16": "only the fused optimizers scale the loss; use bfloat16 or float32"}
FUSED = OPTIONS - {"gradient_accumulation"}
FUSED_NOTES = {
    "gradient_accumulation": "the first gradient is used and dropped before the second comes",
    "float16": "the loss is scaled, and a step whose gradients overflow is skipped",
}


@dataclass(frozen=True)
class Method:
    """What a plan needs to know of a method.

    honours: the options of lomo/methods/support.py that it does not refuse; `hyper` may hold some
    of them. notes: option -> how it differs from the reference, or why it is refused.
    """

    title: str
    hyper: type[Strict]
    honours: frozenset[str]
    trains: bool = True
    notes: Mapping[str, str] = field(default_factory=dict)


@cache
def points() -> dict[str, tuple[EntryPoint, ...]]:
    """The entry points of installed packages, by the name of their method."""
    return by_name(GROUP)


@cache
def modules() -> dict[str, str]:
    """Method id -> module name, with those of installed packages behind the built-in ones."""
    outside = {name: of_name[0].value for name, of_name in sorted(points().items())}
    return {**MODULES, **{name: value for name, value in outside.items() if name not in MODULES}}


def module_name(method: str) -> str:
    """The name of the module of a method or a peer. Raises UserError for an unknown one."""
    check_name(method, where="method", peers_too=True)
    return {**peers.MODULES, **modules()}[method]


def module_of(method: str) -> Any:
    """The module of a method or a peer. Raises UserError for an unknown one, and for one of another
    package that can't be used."""
    name = module_name(method)
    return _outside(method) if method in points() else importlib.import_module(name)


@cache
def _outside(method: str) -> Any:
    """The module of a method of another package, checked."""
    where = said_in(points()[method][0])
    check_point(points()[method], own={**MODULES, **peers.MODULES}, what="method")
    module = imported(modules()[method], where)
    if not isinstance(getattr(module, "METHOD", None), Method):
        raise UserError(
            f"{module.__name__} has no METHOD",
            where=where,
            allowed="METHOD = lomo.methods.Method(title, hyper, honours)",
        )
    unknown = module.METHOD.honours - OPTIONS - OWN_OPTIONS
    if unknown or not callable(getattr(module, "prepare", None)):
        raise UserError(
            f"METHOD of {module.__name__} honours {', '.join(sorted(unknown))}, which is no option"
            if unknown
            else f"{module.__name__} has no prepare(model, spec, spread)",
            where=where,
            allowed=", ".join(sorted(OPTIONS | OWN_OPTIONS)) if unknown else None,
            fix="see lomo/methods/sgd.py, which has both",
        )
    return module


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
        if method in points():
            _outside(method)
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
            fix=f"did you mean {close!r}?"
            if close
            else "a method of your own is one module and one entry point, see CONTRIBUTING.md",
        )
