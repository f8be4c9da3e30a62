"""What `--config` says, as it was typed.

Snakemake reads a value as a number, then as YAML: the folder 007 would be the number 7, 2024_11_25
the number 20241125, and `runs #2` the folder `runs`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_TEXT = ("study", "title", "data", "note", "models")


def as_typed(config: dict[str, Any], entries: Iterable[str] | None) -> dict[str, Any]:
    """`config`, with the text of `entries` (key=value) where the study wants text.

    A list of models, [a, b], and a value in quotes are read as YAML.
    """
    typed = dict(config)
    for entry in entries or ():
        key, _, value = entry.partition("=")
        value = value.strip()
        if key not in _TEXT or not value:
            continue
        is_list = key == "models" and isinstance(config.get(key), list)
        is_quoted = value[0] in "\"'" and value[-1] == value[0] and len(value) > 1
        if not (is_list or is_quoted):
            typed[key] = value
    return typed
