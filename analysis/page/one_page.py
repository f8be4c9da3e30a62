"""report/summary.{md,html,tex}: the study on one page, as reproducibility reports are written."""

from __future__ import annotations

from pathlib import Path

from lomo.system.files import write_text

from ..records.collected import load
from ..text.latex import floats
from ..text.render import environment, link_from
from .report import summary
from .reproduction import sections

FORMATS = ("md", "html", "tex")


def make_summary(results: Path) -> list[Path]:
    """Writes the summary of a collected study in each format; the paths."""
    collected = load(results)
    folder = results / "report"
    given = {
        "study": collected.plan.study,
        "lead": summary(collected),
        "sections": sections(collected),
        "floats": floats,
        "published": link_from(folder),
    }
    paths = []
    for suffix in FORMATS:
        text = environment().get_template(f"summary.{suffix}.jinja").render(**given)
        paths.append(folder / f"summary.{suffix}")
        write_text(paths[-1], text)
    return paths
