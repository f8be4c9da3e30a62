"""Which optimizer updates a parameter, and that it is the only parameter in its memory.

A second optimizer would take gradients that the first has used. A second parameter in the same
memory would be read after the first was updated.
"""

import weakref
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils.weak import WeakTensorKeyDictionary

_owners: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def claim(parameter: Tensor, optimizer: "weakref.ref[Any]") -> None:
    """Note that `optimizer` updates `parameter`, for as long as both live."""
    _owners[parameter] = optimizer


def release(parameters: Iterable[Tensor]) -> None:
    """Let other optimizers have them."""
    for parameter in parameters:
        _owners.pop(parameter, None)


def require_free(parameters: Iterable[Tensor]) -> None:
    """Raise ValueError for a parameter that holds a gradient or that an optimizer updates."""
    for parameter in parameters:
        if parameter.grad is not None:
            raise ValueError(
                "a parameter already holds a gradient, which would be added to the first "
                "step; set it to None before making the optimizer"
            )
        owner = _owners.get(parameter)
        if owner is not None and owner() is not None:
            raise ValueError(
                "a parameter is updated by another optimizer already, which would drop its "
                "gradient; give it to one of them, or close() the other first"
            )


def require_same_members(groups: list[dict[str, Any]], members: list[list[int]]) -> None:
    """Raise RuntimeError where a parameter was taken out of its group, or put into another.

    members: ids of each group's parameters when it was added. What was appended since has no hook,
    and is told at `step()`.
    """
    there = [[id(parameter) for parameter in group["params"]] for group in groups]
    kept = [ids[: len(own)] for ids, own in zip(there, members, strict=False)]
    if kept != members:
        raise RuntimeError(
            "param_groups was edited: its parameters are not those that were hooked, which would "
            "go on training, or by another group's options. No weight was changed. To freeze one, "
            "set requires_grad to False; for other groups, close() this optimizer and make a new "
            "one"
        )


def named(groups: list[dict[str, Any]]) -> dict[str, Tensor]:
    """All parameters of the groups by the names that a user gave, or by number and shape."""
    found: dict[str, Tensor] = {}
    for group in groups:
        names = group.get("param_names") or [""] * len(group["params"])
        for name, parameter in zip(names, group["params"], strict=True):
            found[name or f"number {len(found)} {tuple(parameter.shape)}"] = parameter
    return found


def require_own_memory(parameters: Mapping[str, Tensor]) -> None:
    """Raise ValueError where a trained parameter shares memory with another, or with itself.

    Looks at `parameters`, by name, and at what other optimizers update. Disjoint views of one
    storage are let be, and so are sharded and fake tensors, whose memory isn't known here.
    """
    known = {id(parameter) for parameter in parameters.values()}
    others = [p for p, owner in _owners.items() if owner() is not None and id(p) not in known]
    spans = [_span(name, p) for name, p in parameters.items() if _has_memory(p)]
    spans += [_span(_OTHERS, p) for p in others if _has_memory(p)]
    cluster: list[_Span] = []
    for span in sorted(spans, key=lambda span: span[:2]):
        if cluster and (span.device, span.start) >= (cluster[-1].device, _end(cluster)):
            _require_disjoint(cluster)
            cluster = []
        cluster.append(span)
    _require_disjoint(cluster)


class _Span(NamedTuple):
    """The bytes from the first to the last element of a tensor; others may lie in between."""

    device: str
    start: int
    end: int
    name: str
    tensor: Tensor


def _span(name: str, tensor: Tensor) -> _Span:
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    last = sum((size - 1) * stride for size, stride in steps)
    start = tensor.data_ptr()
    end = start + (last + 1) * tensor.element_size()
    return _Span(str(tensor.device), start, end, name, tensor)


def _end(spans: list[_Span]) -> int:
    return max(span.end for span in spans)


def _has_memory(tensor: Tensor) -> bool:
    elsewhere = isinstance(tensor, FakeTensor) or is_traceable_wrapper_subclass(tensor)
    return not elsewhere and tensor.layout == torch.strided and tensor.data_ptr() != 0


def _require_disjoint(spans: list[_Span]) -> None:
    """The exact check, for tensors whose spans meet: columns of one matrix do, and are disjoint."""
    if all(span.name is _OTHERS for span in spans):
        return  # looked at when theirs was made
    if not any(span.tensor.requires_grad for span in spans):
        return
    for span in spans:
        if span.end - span.start < span.tensor.nbytes:
            raise ValueError(_FOLDED.format(name=span.name))
    if len(spans) == 1:
        return
    first = spans[0].start
    marks = torch.zeros(_end(spans) - first, dtype=torch.bool)
    for span in spans:
        width = span.tensor.element_size()
        strides = [width * stride for stride in span.tensor.stride()]
        place = marks.as_strided((*span.tensor.shape, width), (*strides, 1), span.start - first)
        if bool(place.any()):
            names = " and ".join(sorted(other.name for other in spans))
            raise ValueError(_SHARED.format(names=names))
        place.fill_(True)


_OTHERS = "one of another optimizer"
_SHARED = (
    "two of these parameters share memory: {names} (tied by .data, or views that overlap). The "
    "first that gets its gradient would change the other before that is read. Make them one "
    "parameter (head.weight = embedding.weight), or give each its own memory with .clone()"
)
_FOLDED = (
    "parameter {name} shows one place in memory as several elements (expand()?), so it can't be "
    "updated in place; make it with .clone()"
)
