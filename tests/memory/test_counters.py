"""The counters of host and device that stand beside a ledger."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from lomo.memory.measured import counters
from lomo.memory.measured.counters import (
    host_peak_rss_bytes,
    read_cuda_peaks,
    reset_cuda_peaks,
    reset_host_peak_rss,
    residual_bytes,
)
from lomo.memory.measured.ledger import StepMeter

MIB = 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's counter is Linux's")
def test_host_peak_sees_a_block_that_was_touched() -> None:
    reset_host_peak_rss()
    before = host_peak_rss_bytes()
    block = torch.ones(64 * MIB, dtype=torch.uint8)
    del block
    after = host_peak_rss_bytes()
    assert before is not None
    assert after is not None
    assert after >= before + 32 * MIB


def test_host_peak_is_none_where_there_is_no_counter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    missing = tmp_path / "nowhere" / "status"
    monkeypatch.setattr(counters, "_STATUS", missing)
    monkeypatch.setattr(counters, "_CLEAR_REFS", missing)
    assert host_peak_rss_bytes() is None
    assert reset_host_peak_rss() is False


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_parts_and_residual_are_the_allocators_peak() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    # cuBLAS keeps the workspace of an earlier test: 64 MiB on a Hopper card.
    torch._C._cuda_clearCublasWorkspaces()
    model = torch.nn.Linear(1024, 1024, bias=False, device=device)
    reset_cuda_peaks(device)
    with StepMeter(model, granule_bytes=512) as meter:
        meter.phase("forward")
        torch.empty(1024 * MIB, dtype=torch.uint8, device=device)
    peaks, ledger = read_cuda_peaks(device), meter.ledger()
    assert ledger.peak_bytes == 1028 * MIB
    assert 0 <= residual_bytes(peaks, ledger) < 64 * MIB
    assert peaks.num_ooms == 0
