"""What docs/in-your-loop.md shows runs, and trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.clients.page import run_section, sections
from tests.clients.words import texts, tokenizer
from tests.numerics.models import llama, loss_of, max_difference, weights

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
BY_TORCHRUN = "FSDP2"


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("title", [title for title in sections() if title != BY_TORCHRUN])
def test_a_snippet_trains(title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = llama()
    batches = torch.utils.data.DataLoader(list(range(3)), batch_size=1)
    names = {"model": model, "loss_of": loss_of, "batches": batches, "texts": texts()}
    run_section(title, {**names, "tokenizer": tokenizer()})
    assert max_difference(weights(model), weights(llama())) > 1e-3


def test_fsdp2_in_a_plain_loop_is_sgd_and_its_snippet_trains() -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launch, "-m", "tests.clients.fsdp2_rank"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["plain"] == 0.0
    assert found["clipped"] < 1e-6
    assert min(found["moved"], found["clipping matters"], found["snippet"]) > 1e-3
