"""What Snakemake's jobs inherit from the process that starts them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lomo.forecast.unlaunched import ANYWAY
from lomo.model.registry import CHECKOUT


def settle_place(checkout: str | Path) -> None:
    """What this process and Snakemake's jobs know of where they are, in any working folder.

    The registry is that of `checkout` where the working folder has none. A job imports this
    package, and nothing that lies in the working folder under the name of a module.
    """
    os.environ[CHECKOUT] = str(Path(checkout).resolve())
    os.environ["PYTHONSAFEPATH"] = "1"
    own = str(Path(__file__).resolve().parents[2])
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if "site-packages" not in own:
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([own, *others]))


def settle_jobs(wandb: str, *, launch_anyway: bool = False) -> None:
    """What Snakemake's jobs inherit: its Python, one line a job and no bars, and W&B or not.

    launch_anyway: whether a run that is predicted not to fit is launched all the same.
    """
    folder = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join([folder, os.environ.get("PATH", "")])
    os.environ["LOMO_QUIET"] = "1"
    os.environ["LOMO_WANDB"] = wandb
    os.environ[ANYWAY] = "1" if launch_anyway else ""
