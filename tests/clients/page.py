"""The snippets of docs/in-your-loop.md, section by section."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "in-your-loop.md"


def sections() -> dict[str, list[str]]:
    """The Python blocks of each section that has some, by its title."""
    parts = re.split(r"^## (.*)\n", PAGE.read_text(encoding="utf-8"), flags=re.M)[1:]
    blocks = {
        title: re.findall(r"```python\n(.*?)```", text, re.S)
        for title, text in zip(parts[::2], parts[1::2], strict=True)
    }
    return {title: found for title, found in blocks.items() if found}


def run_section(title: str, names: dict[str, Any]) -> dict[str, Any]:
    """Runs the blocks of a section one after the other, and gives the names that they leave."""
    for block in sections()[title]:
        exec(compile(block, f"{PAGE.name}: {title}", "exec"), names)
    return names
