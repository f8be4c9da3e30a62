"""results/index.html: what stands under results/, study by study, for whoever opens it first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pydantic_core import from_json

from lomo.system.files import write_text

from ..text.names import NOT_RUN, status_text
from ..text.render import environment

NAME = "index.html"
# (what it is called, its place in a study's folder), in the order of reading.
PAGES = (
    ("the page", "report/index.html"),
    ("summary", "report/summary.html"),
    ("verdicts", "tables/verdicts.html"),
    ("all runs (csv)", "tables/records.csv"),
    ("plan", "plan.json"),
)
FOLDERS = (("tables", "*.html"), ("figures", "*.svg"))
# What an export can be told by, beside a study or in its folder.
EXPORT = "ro-crate-metadata.json"


@dataclass(frozen=True)
class Listed:
    """A folder of results: its links as (words, file), those that are many in `lists`."""

    name: str
    title: str
    state: str
    pages: Sequence[tuple[str, str]]
    lists: Sequence[tuple[str, Sequence[tuple[str, str]]]]


def make_landing(root: Path) -> Path:
    """Writes index.html into `root`, the folder of all studies; its path."""
    studies = sorted(path.parent for path in root.glob("*/plan.json"))
    published = sorted(path.parent for path in root.glob("published/*/README.md"))
    exports = sorted([*root.glob(f"*/{EXPORT}"), *root.glob(f"*/*/{EXPORT}")])
    page = (
        environment()
        .get_template("landing.html.jinja")
        .render(
            studies=[_study(root, folder) for folder in studies],
            published=[_published(root, folder) for folder in published],
            exports=[
                (file.parent.relative_to(root).as_posix(), _link(root, file)) for file in exports
            ],
        )
    )
    path = root / NAME
    write_text(path, page)
    return path


def _study(root: Path, folder: Path) -> Listed:
    lists = [
        (f"{len(files)} {name}", [(file.stem, _link(root, file)) for file in files])
        for name, pattern in FOLDERS
        if (files := sorted((folder / name).glob(pattern)))
    ]
    pages = [(words, folder / place) for words, place in PAGES]
    return Listed(
        name=folder.name,
        title=_title(folder / "plan.json"),
        state=_state(folder),
        pages=[(words, _link(root, file)) for words, file in pages if file.is_file()],
        lists=lists,
    )


def _published(root: Path, folder: Path) -> Listed:
    """Committed results: the README says what they are."""
    first = (folder / "README.md").read_text(encoding="utf-8").split("\n", 1)[0]
    names = ("README.md", "*.csv", "*.json")
    files = [file for name in names for file in sorted(folder.glob(name))]
    pages = [(file.name, _link(root, file)) for file in files]
    return Listed(folder.name, first.lstrip("# "), "", pages, [])


def _title(plan: Path) -> str:
    """The study's title; of a plan that is cut, that."""
    try:
        return str(from_json(plan.read_bytes())["study"]["title"])
    except (OSError, ValueError, LookupError, TypeError):
        return "its plan.json is no whole plan"


def _state(folder: Path) -> str:
    """How many runs ended how, by the collected table; that there is none."""
    path = folder / "tables" / "records.parquet"
    try:
        statuses = Counter(pd.read_parquet(path, columns=["status"])["status"])
    except (OSError, ValueError):
        return "no tables yet"
    parts = [f"{number:,} {_words(name)}" for name, number in statuses.most_common()]
    return f"{sum(statuses.values()):,} runs: {', '.join(parts)}"


def _words(status: str) -> str:
    return "without a record" if status == NOT_RUN else status_text(status)


def _link(root: Path, file: Path) -> str:
    return file.relative_to(root).as_posix()
