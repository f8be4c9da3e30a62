"""Engines: how a model is spread over devices, and which methods and options each one honours.

A plan refuses from the tables below, with what the method says itself (methods/support.py), before
any weight is loaded. Nothing here imports torch.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lomo.errors import UserError

if TYPE_CHECKING:
    from lomo.engines.single import Single

MODULES = {
    "single": "lomo.engines.single",
    "fsdp2": "lomo.engines.fsdp2",
    "zero3": "lomo.engines.zero3",
}
ANY = "*"

Verdict = Literal["equal", "differs", "refused"]


@dataclass(frozen=True)
class Cell:
    """How an engine does one method, or one option of it, beside one process on the same batch."""

    verdict: Verdict
    note: str = ""


EQUAL = Cell("equal")

# Methods that an engine runs; one process runs all, also those from outside.
METHODS: dict[str, frozenset[str]] = {
    "fsdp2": frozenset({"zero_shot", "sgd", "adamw", "lora", "lora_lomo", "lomo", "adalomo"}),
    "zero3": frozenset({"zero_shot", "sgd", "adamw", "lomo", "adalomo"}),
}

# (engine, method, option) where that is not the same as in one process; ANY stands for all.
CELLS: dict[tuple[str, str, str], Cell] = {
    ("zero3", "lora", ANY): Cell("refused", "adapters have another precision than the base"),
    ("zero3", "lora_lomo", ANY): Cell("refused", "ZeRO-3 takes one optimizer"),
    **{
        (engine, "lomo", "update"): Cell(
            "refused", "a gradient is whole only after the ranks' parts are added up"
        )
        for engine in ("fsdp2", "zero3")
    },
    **{
        (engine, method, "rounding"): Cell(
            "differs", "16 bits, stochastic: each part draws its own random numbers"
        )
        for engine in ("fsdp2", "zero3")
        for method in ("lomo", "adalomo")
    },
    **{
        (engine, method, "dropout"): Cell("differs", "each rank draws its own mask")
        for engine in ("fsdp2", "zero3")
        for method in ("lora", "lora_lomo")
    },
}


def cell(engine: str, method: str, option: str = ANY) -> Cell:
    """What `engine` makes of `option` of `method`; with ANY, of the method as such."""
    for key in ((engine, method, ANY), (engine, ANY, option), (engine, method, option)):
        if key in CELLS:
            return CELLS[key]
    if engine in METHODS and method not in METHODS[engine]:
        return Cell("refused", "it is not known to work there")
    return EQUAL


def check(engine: str, num_devices: int, method: str, *, where: str) -> None:
    """Raises UserError for a method or a number of devices that the engine can't run.

    `where` is the place of the two keys, up to their name.
    """
    if engine == "single" and num_devices > 1:
        raise UserError(
            f"one process can't use {num_devices} devices",
            where=f"{where}num_devices",
            allowed="1 with engine: single",
            fix="write engine: fsdp2, or zero3",
        )
    if cell(engine, method).verdict == "refused":
        allowed = sorted(METHODS[engine])
        raise UserError(
            f"{engine} can't run {method}: {cell(engine, method).note}",
            where=f"{where}engine",
            allowed=f"with {engine}: {', '.join(allowed)}",
            fix=f"take {method} out of this section, or use another engine",
        )


def start(engine: str, device: str) -> Single:
    """The engine of this process, which `launch` or torchrun has started if there are several."""
    module: Any = importlib.import_module(MODULES[engine])
    started: Single = module.start(device)
    return started
