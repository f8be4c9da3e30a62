"""The model of ZeRO-3's buffers, on ledgers small enough to add up by hand."""

from __future__ import annotations

from dataclasses import replace

from lomo.memory.measured.ledger import Ledger
from lomo.memory.predicted.closed_form import Zero3, zero3_ledger
from tests.memory.predictions import spec_of

PARTS = ("parameters", "gradients", "optimizer_state", "activations", "other")
NUMELS = (40, 30, 30, 20)
SIZES = Zero3(
    max_live_parameters=0,
    max_reuse_distance=0,
    prefetch_bucket=0,
    reduce_bucket=64,
    sub_group=1,
    persistence_threshold=0,
)
TEMPORARY = 1000


def ledger(**state: int) -> Ledger:
    """One process: nothing but what the step takes beyond its start."""
    start = {f"{part}_bytes": 0 for part in PARTS}
    terms = {**start, "total_bytes": 0, **state}
    return Ledger(TEMPORARY, "backward", start, start, {}, terms, 0, [])


def peak(method: str, sizes: Zero3, num_devices: int = 2) -> int:
    fused, own = ledger(), ledger(optimizer_state_bytes=8)
    spec = spec_of(method, dtype="bfloat16", engine="zero3", num_devices=num_devices)
    return zero3_ledger(
        fused, fused if method == "lomo" else own, NUMELS, spec, sizes
    ).phase_peak_bytes["backward"]


def held(reduce_bucket: int) -> int:
    """Parts, what is gathered, flat gradients, state and bucket of SGD on a rank of two."""
    return 2 * 60 + 2 * 40 + 2 * 60 + 4 + 2 * reduce_bucket


def test_a_full_bucket_is_copied_in_the_middle_of_the_pass() -> None:
    # From the last parameter on: 20 + 30, then 30, then 40; 64 are never full.
    assert peak("sgd", SIZES) == held(64) + TEMPORARY + 2 * 50


def test_one_that_takes_all_is_copied_after_it() -> None:
    assert peak("sgd", replace(SIZES, reduce_bucket=120)) == held(120) + TEMPORARY
    large = [1000, 1000]
    spec = spec_of("sgd", dtype="bfloat16", engine="zero3", num_devices=2)
    made = zero3_ledger(ledger(), ledger(), large, spec, replace(SIZES, reduce_bucket=2000))
    assert made.at_peak["activations_bytes"] == 2 * 2000  # above the 1000 of the pass


def test_a_fused_update_has_no_bucket() -> None:
    assert peak("lomo", SIZES) == 2 * 60 + 2 * 40 + 1 * 40 + TEMPORARY


def test_a_rank_alone_gathers_nothing() -> None:
    assert peak("lomo", SIZES, num_devices=1) == 2 * 120 + 2 * 40 + TEMPORARY
