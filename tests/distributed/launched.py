"""What the ranks of one launch found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from tests.distributed.cases import NUM_RANKS

ROOT = Path(__file__).parent.parent.parent


def launched(module: str, engine: str, folder: Path, *, timeout_s: float) -> list[dict[str, Any]]:
    """By rank, what `python -m MODULE ENGINE FOLDER` under torchrun left in the folder."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={NUM_RANKS}", "-m", module, engine, str(folder)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [torch.load(folder / f"{rank}.pt") for rank in range(NUM_RANKS)]
