"""How the two contained processes talk: a line of JSON each, values as plain data of exact types.

What comes out of `decoded` is made here, of built-in types, whatever the other side has sent: an
object that says it equals everything does not arrive.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, BinaryIO

_TASK = "/task.json"
MAX_LINE_BYTES = 8 << 20
# Items that are taken from an iterator; one without an end is no answer.
MAX_ITEMS = 100_000
# Whole numbers up to here are written as they are; to write longer ones in tens takes Python long.
_SMALL = 1 << 53


# What is made of a list of items, and of a few parts.
_OF_ITEMS: dict[str, Callable[[list[Any]], Any]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "iterator": iter,
}
_OF_PARTS: dict[str, Callable[..., Any]] = {
    "complex": complex,
    "range": range,
}


class Opaque:
    """Stands for a value that is no plain data: equal to itself alone."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __repr__(self) -> str:
        return f"<{self.kind}>"


def read_task() -> dict[str, Any]:
    """What this process was told."""
    # Not by pathlib, which takes longer to load than most programs to run.
    with os.fdopen(os.open(_TASK, os.O_RDONLY), "rb") as file:
        told: dict[str, Any] = json.load(file)
    return told


def send(to: BinaryIO, message: dict[str, Any]) -> None:
    """Writes one message. Raises ValueError where it is too long to be read."""
    line = json.dumps(message).encode() + b"\n"
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"a message of {len(line)} bytes")
    to.write(line)
    to.flush()


def receive(source: BinaryIO) -> dict[str, Any]:
    """The next message. Raises EOFError where there is none, ValueError where it is broken."""
    line = source.readline(MAX_LINE_BYTES + 1)
    if not line:
        raise EOFError
    message = json.loads(line)
    if not line.endswith(b"\n") or type(message) is not dict:
        raise ValueError("no message")
    return message


def encoded(value: Any) -> Any:
    """A value as what JSON can hold. Raises RecursionError for one that holds itself."""
    if value is None or isinstance(value, (bool, str, float)):
        return value
    if isinstance(value, int):
        return value if -_SMALL < value < _SMALL else {"int": hex(value)}
    if isinstance(value, list):
        return [encoded(item) for item in value]
    if isinstance(value, dict):
        return {"dict": [[encoded(key), encoded(item)] for key, item in value.items()]}
    for kind in (tuple, set, frozenset):
        if isinstance(value, kind):
            return {kind.__name__: [encoded(item) for item in value]}
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": value.hex()}
    return _rare(value)


def _rare(value: Any) -> Any:
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, range):
        return {"range": [encoded(part) for part in (value.start, value.stop, value.step)]}
    if _is_a(value, "decimal", "Decimal"):
        return {"Decimal": str(value)}
    if _is_a(value, "fractions", "Fraction"):
        return {"Fraction": [encoded(value.numerator), encoded(value.denominator)]}
    if isinstance(value, Iterator):
        items = [encoded(item) for item in islice(value, MAX_ITEMS + 1)]
        return {"iterator": items} if len(items) <= MAX_ITEMS else {"opaque": "endless iterator"}
    return {"opaque": type(value).__name__}


def _is_a(value: Any, module: str, kind: str) -> bool:
    # To import it takes longer than most programs; where it is not loaded there is no such value.
    return module in sys.modules and isinstance(value, getattr(sys.modules[module], kind))


def is_plain(data: Any) -> bool:
    """Whether nothing in what `encoded` has written stands for what can't be sent."""
    if type(data) is list:
        return all(is_plain(item) for item in data)
    return type(data) is not dict or ("opaque" not in data and all(map(is_plain, data.values())))


def decoded(data: Any) -> Any:
    """What `encoded` has written, made anew. Raises ValueError or TypeError for anything else."""
    if type(data) is list:
        return [decoded(item) for item in data]
    if type(data) is not dict:
        return data
    ((kind, held),) = data.items()
    if kind == "dict":
        return {decoded(key): decoded(item) for key, item in held}
    if kind == "int":
        return int(held, 16)
    if kind == "bytes":
        return bytes.fromhex(held)
    if kind == "opaque":
        return Opaque(str(held))
    if kind == "Decimal":
        return _decimal(str(held))
    items = [decoded(item) for item in held]
    if kind == "Fraction":
        return _fraction(*items)
    return _OF_ITEMS[kind](items) if kind in _OF_ITEMS else _OF_PARTS[kind](*items)


def _decimal(text: str) -> Any:
    from decimal import Decimal

    return Decimal(text)


def _fraction(numerator: int, denominator: int) -> Any:
    from fractions import Fraction

    return Fraction(numerator, denominator)
