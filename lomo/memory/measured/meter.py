"""Counts the bytes of every live tensor storage, by category, at every moment.

First the words for that: categories, and the bytes under each at a point of the step.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lomo.memory.measured.tensors import is_wrapper, plain_tensors


class Category(IntEnum):
    """What a storage is held for. Where a storage is two things at once, the smaller value wins."""

    PARAMETERS = 0
    GRADIENTS = 1
    OPTIMIZER_STATE = 2
    ACTIVATIONS = 3
    OTHER = 4


class Moment(NamedTuple):
    """The counters at one point of the step; `order` grows with every change of any counter."""

    order: int
    phase: str
    total_bytes: int
    by_category_bytes: tuple[int, ...]


class Relabel(NamedTuple):
    """From `born` until `at`, `num_bytes` stood under `source` and belonged to `target`."""

    born: int
    at: int
    num_bytes: int
    source: Category
    target: Category


class GradientEvent(NamedTuple):
    """A gradient storage came into being or died: `kind` is gradient_created or _released."""

    kind: str
    moment: Moment
    parameter: str


def corrected(moments: Sequence[Moment], relabels: Iterable[Relabel]) -> list[Moment]:
    """`moments` with every storage under the category that it turned out to have, same order."""
    steps: list[tuple[int, int, Category, Category]] = []
    for label in relabels:
        steps.append((label.born, label.num_bytes, label.source, label.target))
        steps.append((label.at, -label.num_bytes, label.source, label.target))
    steps.sort(key=lambda step: step[0])
    shift = [0] * len(Category)
    result: list[Moment] = list(moments)
    position = 0
    for index in sorted(range(len(moments)), key=lambda index: moments[index].order):
        moment = moments[index]
        while position < len(steps) and steps[position][0] <= moment.order:
            _, num_bytes, source, target = steps[position]
            shift[source] -= num_bytes
            shift[target] += num_bytes
            position += 1
        both = zip(moment.by_category_bytes, shift, strict=True)
        result[index] = moment._replace(by_category_bytes=tuple(raw + more for raw, more in both))
    return result


# The phase, and the bytes of a storage before and after, not rounded.
Change = tuple[str, int, int]

# How autograd adds up what a tensor gets from each of its uses.
_SUMS = frozenset({torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor})


class _Storage(weakref.ref[torch.UntypedStorage]):
    """One live storage. The weak reference carries the facts, so that it costs one object."""

    __slots__ = ("birth", "category", "death", "key", "name", "nbytes", "shares")
    key: int
    nbytes: int
    category: Category
    birth: Moment
    death: Moment | None
    name: str
    shares: tuple[_Storage, ...]  # what it is the sum of


class StorageMeter(TorchDispatchMode):
    """Sees every operator and keeps the bytes of live storages, each counted once, by category.

    Counts storages on `device` only, real ones, or those of `fake_mode` where one is given.
    Sizes are `nbytes()` rounded up to `granule_bytes`. Raises NotImplementedError on a tensor
    that has no storage of its own (sparse and opaque layouts).
    """

    def __init__(
        self, device: torch.device, *, fake_mode: Any = None, granule_bytes: int = 1
    ) -> None:
        super().__init__()
        if granule_bytes < 1:
            raise ValueError(f"granule_bytes must be at least 1, got {granule_bytes}")
        self.device = device
        self.fake_mode = fake_mode
        self.granule_bytes = granule_bytes
        self.new_category = Category.OTHER  # what a storage made from now on is taken for
        self.phase = "start"
        self.total_bytes = 0
        self.peak = Moment(0, self.phase, 0, (0,) * len(Category))
        self.phase_peak_bytes: dict[str, int] = {}
        self.relabels: list[Relabel] = []
        self.gradient_events: list[GradientEvent] = []
        self.changes: list[Change] = []  # of every storage
        self._bytes = [0] * len(Category)
        self._live: dict[int, _Storage] = {}
        self._order = 0
        self._outer_resize: Any = None
        # A fake mode of ours tells of each operator, which is cheaper than a mode above it.
        self._is_told = hasattr(fake_mode, "watcher")

    def __enter__(self) -> Self:
        # `storage.resize_` is no operator: FSDP frees its gathered parameters by it, unseen.
        self._outer_resize = torch.UntypedStorage.__dict__.get("resize_")
        plain_resize = torch.UntypedStorage.resize_

        def resize_(storage: torch.UntypedStorage, size: int) -> Any:
            result = plain_resize(storage, size)
            known = self._live.get(storage._cdata)
            if known is not None:
                self._set_size(known, storage.nbytes())
            return result

        torch.UntypedStorage.resize_ = resize_  # type: ignore[assignment,method-assign]
        if self._is_told:
            self.fake_mode.watcher = self
        else:
            super().__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._is_told:
            self.fake_mode.watcher = None
        else:
            super().__exit__(*exc)
        del torch.UntypedStorage.resize_  # shows the inherited one again
        if self._outer_resize is not None:
            torch.UntypedStorage.resize_ = self._outer_resize  # type: ignore[method-assign]
        self._live.clear()  # drops the weak references, so that later deaths are not reported

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # A wrapper (DTensor, a quantised tensor) holds no bytes: let it unwrap itself, and
        # come back here with the tensors inside.
        if types and any(is_wrapper(kind) for kind in types):
            return NotImplemented
        self.before(args, kwargs or {})
        result = func(*args, **(kwargs or {}))
        self.after(func, args, result)
        return result

    def before(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> None:
        """What an operator is about to be given.

        An unknown storage among it was not made by an operator seen here: a batch, a constant. It
        counts from now on, as other.
        """
        self._observe_all(args, Category.OTHER)
        if kwargs:
            self._observe_all(kwargs.values(), Category.OTHER)

    def after(self, func: Any, args: Iterable[Any], result: Any) -> None:
        """What came out of the operator."""
        self._observe_all((result,), self.new_category)
        if func in _SUMS and not torch.is_grad_enabled():
            self._remember_sum(result, args)

    def mark(self, tensor: torch.Tensor, category: Category, name: str = "") -> None:
        """Counts `tensor` under `category` from its birth on, if that outranks what it is now."""
        for part in plain_tensors(tensor):
            storage = self._observe(part, category)
            if storage is None:
                continue
            if category is Category.GRADIENTS:
                self._mark_gradient(storage, name)
            elif category < storage.category:
                self._relabel(storage, category)

    def moment(self) -> Moment:
        """The counters now, as a point of its own in the order of things."""
        self._order += 1
        return self._snapshot()

    def start_phase(self, name: str, new_category: Category) -> None:
        """What is made from now on belongs to phase `name`, and is taken for `new_category`."""
        self.phase, self.new_category = name, new_category
        self.phase_peak_bytes[name] = max(self.phase_peak_bytes.get(name, 0), self.total_bytes)

    def held(self) -> tuple[object, ...]:
        """What is there now and what it is taken for: equal where memory is as it was."""
        marks = len(self.relabels), len(self.gradient_events)
        return (*self._bytes, *marks, frozenset(self._live))

    def repeat(self, changes: Iterable[Change]) -> None:
        """Counts once more what was made and freed between two equal `held`s."""
        for _, before, after in changes:
            self._change(self.new_category, before, after)

    def _snapshot(self) -> Moment:
        return Moment(self._order, self.phase, self.total_bytes, tuple(self._bytes))

    def _observe_all(self, values: Iterable[Any], category: Category) -> None:
        live = self._live
        for value in values:
            if isinstance(value, torch.Tensor):
                # Most storages are known and as they were: no call for those, on the hot path.
                storage = value.untyped_storage()
                known = live.get(storage._cdata)
                if known is None or known.nbytes != storage.nbytes():
                    self._observe(value, category)
            elif isinstance(value, (tuple, list)):
                self._observe_all(value, category)

    def _observe(self, tensor: torch.Tensor, category: Category) -> _Storage | None:
        """The storage of `tensor`, counted as `category` if it is new; None if it isn't ours."""
        storage = tensor.untyped_storage()
        known = self._live.get(storage._cdata)
        if known is None:
            return self._add(storage, category) if self._is_ours(tensor) else None
        if known.nbytes != storage.nbytes():
            self._set_size(known, storage.nbytes())  # aten.resize_ or aten.set_ changed it
        return known

    def _is_ours(self, tensor: torch.Tensor) -> bool:
        # DTensor works out its sharding with a fake mode of its own: nothing of that exists.
        exists = getattr(tensor, "fake_mode", None) is self.fake_mode
        return exists and tensor.device == self.device and not is_wrapper(tensor)

    def _add(self, raw: torch.UntypedStorage, category: Category) -> _Storage:
        storage = _Storage(raw, self._on_death)
        storage.key, storage.nbytes, storage.category, storage.name = raw._cdata, 0, category, ""
        storage.shares, storage.death = (), None
        self._live[storage.key] = storage
        self._set_size(storage, raw.nbytes())
        return storage

    def _set_size(self, storage: _Storage, nbytes: int) -> None:
        # A resized storage is born anew.
        storage.birth = self._change(storage.category, storage.nbytes, nbytes)
        storage.nbytes = nbytes

    def _change(self, category: Category, before: int, after: int) -> Moment:
        """Counts that a storage has grown, shrunk or died."""
        self._order += 1
        moved = self._rounded(after) - self._rounded(before)
        self._bytes[category] += moved
        self.total_bytes += moved
        self.changes.append((self.phase, before, after))
        now = self._snapshot()
        if now.total_bytes > self.peak.total_bytes:
            self.peak = now
        if after and now.total_bytes > self.phase_peak_bytes.get(self.phase, 0):
            self.phase_peak_bytes[self.phase] = now.total_bytes
        return now

    def _on_death(self, reference: weakref.ref[torch.UntypedStorage]) -> None:
        assert isinstance(reference, _Storage)
        del self._live[reference.key]
        reference.death = now = self._change(reference.category, reference.nbytes, 0)
        if reference.category is Category.GRADIENTS:
            self.gradient_events.append(GradientEvent("gradient_released", now, reference.name))

    def _remember_sum(self, result: torch.Tensor, terms: Iterable[Any]) -> None:
        tensors = [result, *(term for term in terms if isinstance(term, torch.Tensor))]
        whole, *shares = (self._live.get(each.untyped_storage()._cdata) for each in tensors)
        if whole is not None:
            whole.shares = tuple(each for each in shares if each is not None and each is not whole)

    def _mark_gradient(self, storage: _Storage, name: str) -> None:
        """Marks `storage` and what was added up to it: the shares of a weight used twice."""
        if storage.category < Category.GRADIENTS:
            return
        if not storage.name:
            storage.name = name
            self._relabel(storage, Category.GRADIENTS)
            self.gradient_events.append(GradientEvent("gradient_created", storage.birth, name))
            if storage.death is not None:
                event = GradientEvent("gradient_released", storage.death, name)
                self.gradient_events.append(event)
        shares, storage.shares = storage.shares, ()
        for share in shares:
            if share.category is Category.ACTIVATIONS:
                self._mark_gradient(share, name)

    def _relabel(self, storage: _Storage, category: Category) -> None:
        size = self._rounded(storage.nbytes)
        self._order += 1
        at = self._order
        if storage.death is None:
            self._bytes[storage.category] -= size
            self._bytes[category] += size
        else:
            at = storage.death.order
        # What a storage is for shows only after it was made (a gradient when it reaches its
        # parameter): the moments in between are put right when the ledger is written.
        self.relabels.append(Relabel(storage.birth.order, at, size, storage.category, category))
        storage.category = category

    def _rounded(self, nbytes: int) -> int:
        granule = self.granule_bytes
        return nbytes if granule == 1 else -(-nbytes // granule) * granule
