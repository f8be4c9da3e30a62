"""The peak of many layers and any batch, put together from few small steps, on made-up changes."""

from __future__ import annotations

import numpy as np
import pytest

from lomo.memory.predicted.peaks import (
    Changes,
    at_batch,
    changes_by_phase,
    insertions,
    peak_of,
    unrolled_peak,
)

Recorded = list[tuple[str, int, int]]


def took(phase: str, *sizes: int) -> Recorded:
    return [(phase, 0, size) for size in sizes]


def freed(phase: str, *sizes: int) -> Recorded:
    return [(phase, size, 0) for size in sizes]


def step(depth: int, batch: int, *, logits: int = 900, with_sum: bool = True) -> Recorded:
    """A training step that keeps a layer's input until its backward, and all gradients to the end.

    Its step frees in two loops and then takes 8 bytes, as FSDP2's does.
    """
    layers = range(depth)
    recorded = took("start", 1000, *(100 for _ in layers))
    for _ in layers:
        recorded += took("forward", 7 * batch, 30 * batch) + freed("forward", 30 * batch)
    recorded += took("forward", logits * batch)
    recorded += took("backward", logits * batch) + freed("backward", logits * batch, logits * batch)
    for _ in layers:
        recorded += took("backward", 50 * batch, 100) + freed("backward", 50 * batch, 7 * batch)
    for _ in layers:
        recorded += took("step", 300) + freed("step", 300)
    recorded += [change for _ in layers for change in freed("step", 100)]
    return recorded + (took("step", 8) + freed("step", 8) if with_sum else [])


def slow_peak(recorded: Recorded, granule: int) -> int:
    """The obvious reference: one running total, over all that follows the start."""
    total = at_start = peak = 0
    for phase, before, after in recorded:
        total += -(-after // granule) * granule - -(-before // granule) * granule
        if phase == "start":
            at_start = total
        else:
            peak = max(peak, total)
    return max(peak, at_start)


@pytest.mark.parametrize("granule", [1, 512])
@pytest.mark.parametrize("logits", [1, 900])
@pytest.mark.parametrize("batch", [1, 2, 3, 9, 40])
def test_few_layers_and_two_batches_tell_every_peak(logits: int, batch: int, granule: int) -> None:
    def changes(depth: int, batch: int) -> Changes:
        return changes_by_phase(step(depth, batch, logits=logits))

    few, more = (at_batch(changes(depth, 2), changes(depth, 3), batch) for depth in (4, 5))
    assert few is not None and more is not None
    places = insertions(few, more, granule)
    assert places is not None
    for depth in (4, 5, 6, 33):
        told = unrolled_peak(few, more, places, depth - 4, granule)
        assert told == slow_peak(step(depth, batch, logits=logits), granule)
        assert told == peak_of(changes(depth, batch), granule)


def test_a_layer_more_that_is_spread_over_a_phase_is_not_unrolled() -> None:
    def spread(depth: int) -> Recorded:
        twice = [*took("forward", *(10 for _ in range(depth))), *took("forward", 5)]
        return took("start", 1) + twice + took("forward", *(20 for _ in range(depth)))

    few, more = (changes_by_phase(spread(depth)) for depth in (4, 5))
    assert insertions(few, more, 1) is None


def test_a_tail_that_rises_is_no_tail() -> None:
    def rising(depth: int) -> Recorded:
        freed_first = freed("step", *(100 for _ in range(depth)))
        return took("start", 5000) + took("step", 300) + freed_first + took("step", 2000)

    few, more = (changes_by_phase(rising(depth)) for depth in (4, 5))
    places = insertions(few, more, 1)
    assert places is not None
    assert places["step"].end == len(few["step"]), "the rise was taken for a tail"
    assert unrolled_peak(few, more, places, 5, 1) == slow_peak(rising(9), 1)


def test_steps_that_differ_in_more_than_sizes_have_no_line() -> None:
    two, three = (changes_by_phase(step(4, batch)) for batch in (2, 3))
    shorter = {**three, "step": three["step"][:-1]}
    assert at_batch(two, shorter, 4) is None
    turned = {**three, "forward": three["forward"][:, ::-1]}
    assert at_batch(two, turned, 4) is None
    assert at_batch(two, {"start": three["start"]}, 4) is None


def test_a_phase_that_comes_back_is_refused() -> None:
    with pytest.raises(ValueError, match="backward came back"):
        changes_by_phase(took("backward", 1) + took("step", 1) + took("backward", 1))


def test_sizes_are_whole_bytes() -> None:
    changes = changes_by_phase(step(4, 2))
    assert all(part.dtype == np.int64 for part in changes.values())
