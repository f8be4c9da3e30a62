"""Whether lm-eval has a task of a name, told from its YAML files alone: to index them takes lm-eval
ten seconds, which every start of the pipeline would feel."""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from lomo.errors import UserError
from lomo.suites.known import SUITES

_KEY = re.compile(r"""^["']?(?:task|group|tag)["']?\s*:[ \t]*["']?([\w.+-]*)""", re.MULTILINE)
_TAGS = re.compile(
    r"""^["']?(?:tag|group)["']?\s*:[ \t]*\n((?:[ \t]*-[ \t]*\S+\n)+)""", re.MULTILINE
)
_UNSAFE = re.compile(r"^unsafe_code\s*:\s*true", re.MULTILINE)


@cache
def _known() -> tuple[dict[str, set[Path]], frozenset[Path]]:
    """Name of a task, group or tag -> its YAMLs' folders; and the folders that run code."""
    package = importlib.util.find_spec("lm_eval")
    assert package is not None and package.origin is not None, "lm_eval is not installed"
    found: dict[str, set[Path]] = defaultdict(set)
    unsafe = set()
    for path in Path(package.origin).parent.joinpath("tasks").rglob("*"):
        if path.suffix not in (".yaml", ".yml") and not path.name.endswith("_yaml"):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        names = _KEY.findall(text)
        for listed in _TAGS.findall(text):
            names += re.findall(r"-\s*[\"']?([\w.+-]+)", listed)
        for name in filter(None, names):
            found[name].add(path.parent)
        if _UNSAFE.search(text):
            unsafe.add(path.parent)
    return found, frozenset(unsafe)


def check_name(name: str, *, where: str) -> None:
    """Raises UserError for a name that lm-eval has not, and for a task that runs what models write.

    Only HumanEval is run here, contained: lm-eval's own way runs it as it is.
    """
    known, unsafe = _known()
    if name not in known:
        close = _closest(name, {*known, *SUITES})
        raise UserError(
            f"unknown suite {name!r}",
            where=where,
            allowed=f"{', '.join(SUITES)}, or a task of lm-eval (lm-eval ls tasks)",
            fix=f"did you mean {' or '.join(map(repr, close))}?" if close else "correct the name",
        )
    if known[name] & unsafe:
        raise UserError(
            f"{name} runs code that a model has written, and can't be contained here",
            where=where,
            allowed="of such suites: humaneval",
            fix="take it out of `tasks`",
        )


def _closest(name: str, known: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.75)
