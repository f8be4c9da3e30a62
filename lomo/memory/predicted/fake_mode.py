"""Fake tensors whose operators run once: what decides an output's layout is looked up next time.

torch's own cache asks 17 things of each tensor and is told of every operator by three modes in
turn; both together were most of a prediction's time.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from functools import cache
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from lomo.memory.measured.tensors import is_wrapper

_ATEN = torch.ops.aten
_DEVICE = torch.ops.prim.device.default
_UNSOUND = frozenset(
    {
        torch.Tag.data_dependent_output,
        torch.Tag.dynamic_output_shape,
        torch.Tag.inplace_view,
        torch.Tag.maybe_aliasing_or_mutating,
    }
)
_PLAIN = frozenset({int, float, bool, str, type(None), torch.dtype, torch.layout, torch.device})
# A profiler's marks, which DTensor and optimizers set: as they are.
_OF_NO_TENSORS = frozenset(
    {
        torch.ops.profiler._record_function_enter_new.default,
        torch.ops.profiler._record_function_exit._RecordFunction,
    }
)
_CPU = torch.device("cpu")
_MOST_KNOWN = 100_000  # some 100 MB


class Watcher(Protocol):
    """Is told of every operator's tensors: before it runs, and of what came out."""

    def before(self, args: Any, kwargs: Any) -> None: ...

    def after(self, func: Any, args: Any, result: Any) -> None: ...


class _Output(NamedTuple):
    """One tensor that came out: an argument, a view of one, or new; by their number among tensors.

    attributes: what Python sees on it, nothing of which is one tensor's own.
    """

    same: int | None
    viewed: int | None
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    attributes: dict[str, Any]


class _Known(NamedTuple):
    """What an operator gives: None, one output, or several in a container of that type."""

    outputs: list[_Output | None]
    container: type | None


class RememberingMode(FakeTensorMode):
    """FakeTensorMode on a CPU that answers what the host asks, and remembers operators.

    What the host reads of a tensor without values is True, 1, or "equal": so a mask hides nothing,
    a norm is finite and a weight is as its master copy left it, as a sound step would find.
    last: the operator that was worked out last. watcher: is told of every operator.
    """

    last: Any = None
    # Of the whole process: what an operator gives hangs on nothing that one mode has of its own.
    _known: ClassVar[dict[Hashable, _Known | None]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.watcher: Watcher | None = None

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and keeping dynamo out costs more than a look-up

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is _DEVICE and type(args[0]) is FakeTensor:
            return args[0].fake_device
        kwargs = kwargs or {}
        if func in _OF_NO_TENSORS:
            return func(*args, **kwargs)
        # A wrapper (DTensor) unwraps itself and comes back with the tensors inside.
        wrapped = any(is_wrapper(kind) for kind in types)
        watcher = None if wrapped else self.watcher
        if watcher is not None:
            watcher.before(args, kwargs)
        if func is _ATEN._local_scalar_dense.default:
            dtype = args[0].dtype
            return True if dtype == torch.bool else 1.0 if dtype.is_floating_point else 1
        if func is _ATEN.equal.default:
            return True
        if wrapped:
            return NotImplemented
        result = self._result(func, types, args, kwargs)
        if watcher is not None:
            watcher.after(func, args, result)
        return result

    def _result(self, func: Any, types: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        tensors: list[torch.Tensor] = []
        key = self._key(func, args, kwargs, tensors)
        known = None if key is None else self._known.get(key)
        if known is not None:
            return self._again(known, tensors)
        result = self._worked_out(func, types, args, kwargs)
        if key is not None and key not in self._known:
            same = self._key(func, args, kwargs, []) == key  # no argument was given another layout
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[key] = _known(result, tensors, self._is_simple) if same else None
        return result

    def _worked_out(self, func: Any, types: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        RememberingMode.last = func
        watcher, self.watcher = self.watcher, None  # of the operators inside nobody is told
        try:
            return super().__torch_dispatch__(func, types, args, kwargs)
        finally:
            self.watcher = watcher

    def _key(
        self, func: Any, args: Any, kwargs: Mapping[str, Any], tensors: list[torch.Tensor]
    ) -> Hashable:
        """All that decides what comes out; gathers the tensors. None where it is not known."""
        if not _is_sound(func):
            return None
        parts: list[Any] = [func, torch.get_default_dtype()]
        if not self._add(args, parts, tensors):
            return None
        if kwargs:
            parts.extend(kwargs)
            if not self._add(kwargs.values(), parts, tensors):
                return None
        return tuple(parts)

    def _add(self, values: Any, parts: list[Any], tensors: list[torch.Tensor]) -> bool:
        for value in values:
            kind = type(value)
            if kind is FakeTensor:
                if not self._is_simple(value):
                    return False
                tensors.append(value)
                parts += (value.dtype, value.shape, value.stride(), value.storage_offset())
                parts.append(value.untyped_storage().nbytes())
            elif kind in _PLAIN or kind is torch.memory_format:
                parts += (kind, value)  # 1, 1.0 and True are equal
            elif kind is list or kind is tuple:
                parts += (kind, len(value))
                if not self._add(value, parts, tensors):
                    return False
            else:
                return False
        return True

    def _is_simple(self, tensor: FakeTensor) -> bool:
        return (
            tensor.fake_mode is self
            and tensor.constant is None
            and tensor.layout is torch.strided
            and not tensor.dtype.is_complex
            and not tensor.is_neg()
            and not tensor.is_inference()
            and tensor.fake_device == _CPU
        )

    def _again(self, known: _Known, tensors: list[torch.Tensor]) -> Any:
        made = [
            None
            if output is None
            else tensors[output.same]
            if output.same is not None
            else self._made(output, tensors)
            for output in known.outputs
        ]
        return made[0] if known.container is None else known.container(made)

    def _made(self, output: _Output, tensors: list[torch.Tensor]) -> FakeTensor:
        _, viewed, dtype, shape, stride, offset, attributes = output
        if viewed is None:
            plain = torch.empty_strided(shape, stride, dtype=dtype, device="meta")
        else:
            plain = torch.empty(0, dtype=dtype, device="meta")
            plain.set_(tensors[viewed].untyped_storage(), offset, shape, stride)
        fake = torch.Tensor._make_subclass(
            FakeTensor, plain, False, dispatch_device=True, device_for_backend_keys=_CPU
        )
        torch._C._set_throw_on_mutable_data_ptr(fake)
        fake.__dict__.update(attributes)
        fake.fake_mode = self
        return fake


@cache
def _is_sound(func: Any) -> bool:
    """Whether layouts decide all that an operator gives, and it changes none of its arguments'."""
    return isinstance(func, torch._ops.OpOverload) and not _UNSOUND.intersection(func.tags)


def _known(
    result: Any, tensors: list[torch.Tensor], is_simple: Callable[[FakeTensor], bool]
) -> _Known | None:
    """How to make the result again, None for what is not made so."""
    container = type(result) if isinstance(result, (list, tuple)) else None
    if container not in (None, list, tuple):
        return None
    storages = {tensor.untyped_storage()._cdata: n for n, tensor in enumerate(tensors)}
    outputs: list[_Output | None] = []
    for part in [result] if container is None else result:
        if part is None:
            outputs.append(None)
            continue
        if type(part) is not FakeTensor or not is_simple(part):
            return None
        same = next((n for n, tensor in enumerate(tensors) if tensor is part), None)
        storage = part.untyped_storage()
        viewed = storages.get(storage._cdata)
        shape, stride, offset = tuple(part.shape), part.stride(), int(part.storage_offset())
        if same is None and viewed is None:
            plain = torch.empty_strided(shape, stride, dtype=part.dtype, device="meta")
            storages[storage._cdata] = -1  # a second output in it would be a view of the first
            if offset or plain.untyped_storage().nbytes() != storage.nbytes():
                return None
        if viewed == -1 or (same is None and part.requires_grad):
            return None
        attributes = {key: value for key, value in vars(part).items() if key != "fake_mode"}
        outputs.append(_Output(same, viewed, part.dtype, shape, stride, offset, attributes))
    return _Known(outputs, container)
