"""A table for readers -> Markdown, LaTeX (booktabs) and a small HTML page; its data -> CSV."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from lomo.files import write_text

from .latex import floats
from .names import NOT_RUN
from .published import link_from
from .units import EN_DASH

TEMPLATES = Path(__file__).parent / "templates"
FORMATS = ("csv", "md", "tex", "html")
NUMBER = re.compile(r"[+-]?(\d[\d,]*(\.\d*)?|\.\d+)(e[+-]?\d+)?( ?[A-Za-z/%]+)*")


@dataclass(frozen=True)
class Cell:
    """One cell: a text, its error behind a plus-minus, a remark on it in round brackets, and the
    paper's printed value beside it.

    What its number is read from, for a page to link to: `runs`, ids of runs of the study, and
    `predictions`, files below results/published.
    """

    text: str
    error: str | None = None
    printed: str | None = None
    bold: bool = False
    remark: str | None = None
    runs: tuple[str, ...] = ()
    predictions: tuple[str, ...] = ()
    # A key that repeats the one above it: blank, but on a page that can be sorted.
    repeats: bool = False

    def __str__(self) -> str:
        return self.text

    @property
    def shown(self) -> str:
        """The text where rows stay in their order."""
        return "" if self.repeats else self.text

    def links(self, published: str) -> list[tuple[str, str]]:
        """(where, name) of what the number is read from, from a page beside the runs' folder.

        published: the way to results/published. A dash comes from nowhere.
        """
        if self.text == EN_DASH:
            return []
        of_runs = [(f"../runs/{run}/record.json", run) for run in self.runs]
        return of_runs + [(f"{published}/{file}", file) for file in self.predictions]


class Notes:
    """Remarks on rows of one table: each gets a letter where it first stands."""

    def __init__(self) -> None:
        self.letters: dict[str, str] = {}

    def mark(self, reasons: Sequence[str]) -> str:
        """The letters of the reasons."""
        for reason in reasons:
            self.letters.setdefault(reason, chr(ord("a") + len(self.letters)))
        return " ".join(self.letters[reason] for reason in reasons)

    def texts(self) -> list[str]:
        """The remarks, each behind its letter."""
        return [f"{letter}: {reason}." for reason, letter in self.letters.items()]


def of_run(cells: Sequence[Cell | str], row: Any) -> list[Cell | str]:
    """The cells, those with a text as read from the run of a row, if it has a record."""
    made = [cell if isinstance(cell, Cell) else Cell(cell) for cell in cells]
    if row.status == NOT_RUN:
        return [*made]
    return [replace(cell, runs=(row.run_id,)) if cell.text else cell for cell in made]


@dataclass(frozen=True)
class Block:
    """A grid under a heading of its own. `num_keys` columns on the left name the row.

    `prose` names further columns that hold words, and stand at the left of their column.
    `anchors`: an id for each row, for a page to link to; none where nobody does.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    num_keys: int
    heading: str | None = None
    prose: frozenset[str] = frozenset()
    anchors: Sequence[str] = ()

    def kinds(self, *, key: str, prose: str, number: str) -> list[str]:
        """For each column what a format writes for its kind."""
        return [
            key if index < self.num_keys else prose if column in self.prose else number
            for index, column in enumerate(self.columns)
        ]

    def cells(self) -> list[list[Cell]]:
        """The rows with every entry as a Cell; a key that repeats the one above it says so."""
        return self._cells

    @cached_property
    def _cells(self) -> list[list[Cell]]:
        grid: list[list[Cell]] = []
        above: list[str] = []
        for row in self.rows:
            cells = [entry if isinstance(entry, Cell) else Cell(entry) for entry in row]
            texts = [cell.text for cell in cells[: self.num_keys]]
            same = 0
            while same < min(self.num_keys - 1, len(above)) and texts[same] == above[same]:
                same += 1
            above = texts
            repeated = [replace(cell, repeats=True) for cell in cells[:same]]
            grid.append(repeated + cells[same:])
        return grid


@dataclass(frozen=True)
class Table:
    """A table: what readers see (blocks, caption, notes) and what programs read (data)."""

    name: str
    title: str
    caption: str
    blocks: Sequence[Block]
    notes: Sequence[str]
    data: pd.DataFrame = field(compare=False)

    @property
    def subject(self) -> str:
        """The title without its number, which LaTeX gives itself; first letter large."""
        subject = self.title.split(": ", 1)[-1]
        return subject[0].upper() + subject[1:]


def tex_escape(text: str) -> str:
    """`text` for LaTeX."""
    plain = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    for sign in "&%$#_{}":
        plain[sign] = "\\" + sign
    plain |= {
        EN_DASH: "--",
        "\N{MINUS SIGN}": r"$-$",
        "\N{MULTIPLICATION SIGN}": r"$\times$",
        "\N{PLUS-MINUS SIGN}": r"$\pm$",
        "\N{GREATER-THAN OR EQUAL TO}": r"$\geq$",
        "\N{LESS-THAN OR EQUAL TO}": r"$\leq$",
        "<": r"\textless{}",
        "[": "{[}",  # behind the end of a row it would open an option
        ">": r"\textgreater{}",
    }
    escaped = "".join(plain.get(sign, sign) for sign in text)
    # A path or an option may break behind its slashes, or a line of it would stand out.
    return re.sub(r"(?<=[A-Za-z0-9}])/(?=[A-Za-z0-9])", r"/\\allowbreak{}", escaped)


def environment() -> Environment:
    """The templates; a name that a template asks for and is not given is an error."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=lambda name: name is not None and name.endswith(".html.jinja"),
    )
    made.filters["tex"] = tex_escape
    made.filters["wrapped"] = wrapped
    made.filters["md"] = md_escape
    return made


def md_escape(text: str) -> str:
    """`text` on one line of Markdown, without a tag, a link or a cell's end."""
    one_line = " ".join(text.split("\n")).replace("|", r"\|").replace("](", r"]\(")
    # `<` alone is a sign of ours; before a letter it opens a tag.
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", one_line)


def csv_safe(text: object) -> object:
    """`text` with a quote in front where a spreadsheet would take it for a formula.

    Numbers, and those with a unit behind, stay as they are.
    """
    if not isinstance(text, str) or not text.startswith(("=", "+", "-", "@", "\t", "\r")):
        return text
    return text if NUMBER.fullmatch(text) else f"'{text}"


def csv_text(data: pd.DataFrame) -> str:
    """The data as CSV, one line feed a row; no text of it is a formula."""
    texts = data.select_dtypes(["object", "string", "category"]).columns
    safe = data.assign(**{name: data[name].map(csv_safe, na_action="ignore") for name in texts})
    return str(safe.to_csv(index=False, lineterminator="\n"))


def wrapped(text: str) -> Markup:
    """`text` for a narrow page: it may break behind a slash, an underscore or a hyphen."""
    return Markup(re.sub(r"(?<=[/_-])(?=\w)", "<wbr>", str(escape(text))))


def write_table(table: Table, folder: Path) -> list[Path]:
    """Writes the table in every format into `folder`; the paths."""
    templates, given = environment(), {"published": link_from(folder), "floats": floats(table)}
    texts = {"csv": csv_text(table.data)} | {
        suffix: templates.get_template(f"table.{suffix}.jinja").render(table=table, **given)
        for suffix in FORMATS[1:]
    }
    paths = []
    for suffix, text in texts.items():
        paths.append(folder / f"{table.name}.{suffix}")
        write_text(paths[-1], text)
    return paths
