"""What the Snakefile needs around its jobs: what Snakemake's own command line takes in silence and
drops is told before a study is planned, jobs inherit what they need, and failed ones are heard.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lomo.errors import UserError
from lomo.forecast.unlaunched import ANYWAY
from lomo.model.registry import CHECKOUT


def check_given_config(arguments: Sequence[str]) -> None:
    """Raises UserError where `--config` names a key twice, or stands there twice.

    Snakemake keeps the last of them and forgets the others.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", "-C", nargs="*", action="append", default=[])
    given = parser.parse_known_args(list(arguments))[0].config
    entries = [entry.partition("=") for group in given for entry in group]
    keys = [key for key, _, _ in entries]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        values = [value for key, _, value in entries if key == twice]
        raise UserError(
            f"is given {len(values)} times, and Snakemake takes the last alone",
            where=f"--config {twice}",
            fix=f"write {twice}='[{', '.join(values)}]' for several, or leave the others out",
        )
    if len(given) > 1:
        raise UserError(
            "is given more than once, and Snakemake takes the last alone",
            where="--config",
            fix=f"write one: --config {' '.join(map(''.join, entries))}",
        )


_TEXT_KEYS = ("study", "title", "data", "note", "models")


def as_typed(config: dict[str, Any], entries: Iterable[str] | None) -> dict[str, Any]:
    """`config`, with the text of `entries` (key=value) where the study wants text.

    A list of models, [a, b], and a value in quotes are read as YAML.
    """
    typed = dict(config)
    for entry in entries or ():
        key, _, value = entry.partition("=")
        value = value.strip()
        if key not in _TEXT_KEYS or not value:
            continue
        is_list = key == "models" and isinstance(config.get(key), list)
        is_quoted = value[0] in "\"'" and value[-1] == value[0] and len(value) > 1
        if not (is_list or is_quoted):
            typed[key] = value
    return typed


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


# Whole, but for one that would push all others out of sight.
_LOG_LINES = 400


def failed_logs(logs: Iterable[Path], *, since: float) -> str:
    """The end of each log that was written after `since` (a time stamp) and is not empty."""
    parts = []
    for path in logs:
        try:
            if path.stat().st_mtime < since:
                continue
            text = path.read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            continue
        if text:
            lines = text.splitlines()
            left_out = len(lines) - _LOG_LINES
            head = f"{path}, less its first {left_out} lines:" if left_out > 0 else f"{path}:"
            parts.append("\n".join([head, *lines[-_LOG_LINES:]]))
    return "\n\n".join(parts)
