"""Which lomo this is: the package's version, and the commit of the checkout it comes from."""

from __future__ import annotations

import argparse
import subprocess
import tomllib
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class Version(argparse.Action):
    """Prints it and leaves; git is asked only then."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(version_line())
        parser.exit()


def version_line() -> str:
    """Name and version, and the commit where the package lies in a checkout of its own."""
    top = _git("rev-parse", "--show-toplevel")
    commit = _git("rev-parse", "--short", "HEAD") if top and Path(top).resolve() == ROOT else None
    changed = ", with changes" if commit and _git("status", "--porcelain") else ""
    return f"lomo-repro {package_version()}{f' (commit {commit}{changed})' if commit else ''}"


def package_version() -> str:
    """Of the checkout, which may be newer than what was installed from it; else of that."""
    project = ROOT / "pyproject.toml"
    try:
        found = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        if found["name"] == "lomo-repro":
            return str(found["version"])
    except (OSError, ValueError, KeyError):
        pass
    try:
        return version("lomo-repro")
    except PackageNotFoundError:
        return "of no known version"


def _git(*arguments: str) -> str | None:
    command = ["git", *arguments]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
