"""State dicts as JSON and named tensors, and back: the same values, tuples and keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor

from lomo.run.resume.tensors import Unkept

_PLAIN = (bool, int, float, str, type(None))


class Part:
    """This rank's part of a tensor that is spread as its parameter is."""

    def __init__(self, local: Tensor) -> None:
        self.local = local

    def spread_as(self, parameter: Any) -> DTensor:
        """The whole, as `parameter` is spread."""
        return DTensor.from_local(
            self.local,
            parameter.device_mesh,
            parameter.placements,
            run_check=False,
            shape=parameter.shape,
            stride=parameter.stride(),
        )


def pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON; its tensors go to `tensors`, under names that begin with `name`.

    Raises Unkept for what is neither a tensor, a number, a text nor made of them.
    """
    if isinstance(value, DTensor):
        tensors[name] = value.to_local()
        return {"part": name}
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        pairs = [[key, pack(inner, f"{name}/{key}", tensors)] for key, inner in value.items()]
        if any(type(key) not in (int, str) for key, _ in pairs):
            raise Unkept(f"{name} has a key that is neither a number nor a text")
        return {"pairs": pairs}
    if isinstance(value, list | tuple):
        items = [pack(inner, f"{name}/{i}", tensors) for i, inner in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if type(value) not in _PLAIN:
        raise Unkept(f"{name} is a {type(value).__name__}, which is not kept")
    return value


def unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What was packed. A tensor that was spread comes back as the Part of this rank."""
    if isinstance(packed, list):
        return [unpack(inner, tensors) for inner in packed]
    if not isinstance(packed, dict):
        return packed
    ((kind, content),) = packed.items()
    if kind == "part":
        return Part(tensors[content])
    if kind == "tensor":
        return tensors[content]
    if kind == "tuple":
        return tuple(unpack(inner, tensors) for inner in content)
    return {key: unpack(inner, tensors) for key, inner in content}
