"""What failed jobs have said: a console that is quiet about jobs shows none of it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

# Whole, but for one that would push all others out of sight.
_LINES = 400


def tell(logs: Iterable[Path], *, since: float) -> str:
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
            left_out = len(lines) - _LINES
            head = f"{path}, less its first {left_out} lines:" if left_out > 0 else f"{path}:"
            parts.append("\n".join([head, *lines[-_LINES:]]))
    return "\n\n".join(parts)
