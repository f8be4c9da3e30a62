"""What a command's process is told before the libraries load, which read it only then."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Any


def settle(num_threads: int = 1) -> None:
    """No network, no chatter, threads as told: what every measuring process needs."""
    # Read by the libraries when they load: torch's own setting alone leaves MKL's behind.
    os.environ["OMP_NUM_THREADS"] = str(num_threads)
    os.environ["HF_HUB_OFFLINE"] = "1"
    quieten()
    import torch

    torch.set_num_threads(num_threads)


def quieten() -> None:
    """No chatter of libraries, neither of those that are loaded nor of those that will be."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    # transformers reads both when it loads, which is not before a command needs it: it takes long.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    warnings.filterwarnings("ignore", category=FutureWarning)
    loaded: Any = sys.modules.get("transformers")
    if loaded is not None:
        loaded.logging.set_verbosity_error()
        loaded.utils.logging.disable_progress_bar()
