"""What Snakemake's own command line takes in silence and drops: told before a study is planned."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from lomo.errors import UserError


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
