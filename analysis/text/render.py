"""A table for readers -> Markdown, LaTeX (booktabs) and a small HTML page; its data -> CSV. A page
links to what was measured and predicted, and committed: results/published of this checkout.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from lomo.record.made import PUBLISHED
from lomo.system.files import write_text

from .grid import Table
from .latex import floats
from .units import EN_DASH

TEMPLATES = Path(__file__).parents[1] / "templates"
FORMATS = ("csv", "md", "tex", "html")
NUMBER = re.compile(r"[+-]?(\d[\d,]*(\.\d*)?|\.\d+)(e[+-]?\d+)?( ?[A-Za-z/%]+)*")


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


def json_in_page(data: Any) -> str:
    """Data for a page's script: `<` ends a script where a tag's name follows."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


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
    templates = environment()
    given = {"published": link_from(folder), "floats": floats(table), "scripted": True}
    texts = {"csv": csv_text(table.data)} | {
        suffix: templates.get_template(f"table.{suffix}.jinja").render(table=table, **given)
        for suffix in FORMATS[1:]
    }
    paths = []
    for suffix, text in texts.items():
        paths.append(folder / f"{table.name}.{suffix}")
        write_text(paths[-1], text)
    return paths


def link_from(folder: Path) -> str:
    """The way there from a page in `folder`, as a link has it."""
    return Path(os.path.relpath(PUBLISHED, folder)).as_posix()
