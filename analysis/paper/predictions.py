"""The paper's Tables 1 and 2 at their size, as results/published has them predicted. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from lomo.record.made import names_in, read
from lomo.record.provenance import fingerprint
from lomo.system.files import write_text

from ..text import published
from .predicted import Predicted, read_predictions

# With the modelling code of today, and with that of the paper.
TODAY, JUNE_2023 = "paper-predictions", "modelling-2023-06"
REMAKE = {
    TODAY: "snakemake --cores all predict --configfile config/paper.yaml",
    JUNE_2023: "snakemake --cores all predict_june_2023 --configfile config/paper.yaml, then cp -r "
    "results/paper/predictions-2023-06/. results/published/modelling-2023-06",
}
ABSENT = "the published predictions are not installed with the package: they are in the checkout"


@cache
def _read(folder: Path) -> Sequence[Predicted]:
    return read_predictions(folder) if folder.is_dir() else []


def paper_predictions(which: str) -> Sequence[Predicted]:
    """All of TODAY or JUNE_2023, in their list's order; none where they are not installed."""
    return _read(published.FOLDER / which)


def publish_predictions(made: Path, to: Path) -> list[Path]:
    """Copies a folder of predictions over the published ones; the files that were written.

    A prediction that differs in nothing but the seconds that it took is left as it stands. Nothing
    is written where the published ones are not all there: a changed study has made others.
    """
    names, before = names_in(made / "index.json"), names_in(to / "index.json")
    if not set(before) <= set(names):
        return []
    files = [f"{name}.json" for name in names]
    changed = [name for name in files if _but_seconds(made / name) != _but_seconds(to / name)]
    changed += ["index.json"] if names != before else []
    for name in changed:
        write_text(to / name, (made / name).read_text(encoding="utf-8"))
    return [to / name for name in changed]


def _but_seconds(path: Path) -> dict[str, Any]:
    return {key: value for key, value in read(path).items() if key != "wall_s"}


def find(which: str, section: str, size: str, method: str, checkpointed: bool) -> Predicted | None:
    """The prediction of one row of Table 1 or 2 in the paper's setting; None if there is none.

    That is eager attention in Table 1, which the code of June 2023 alone had, and in Table 2
    ZeRO-3 with the authors' sizes on the paper's number of devices.
    """
    for row in paper_predictions(which):
        spec = row.spec
        wanted = (section, size, method, checkpointed)
        if (row.section, row.paper_model, spec.method, spec.activation_checkpointing) != wanted:
            continue
        if spec.attention == "eager" if section == "memory" else row.buffers == "authors":
            return row
    return None


@cache
def _code_now(method: str, engine: str) -> str:
    return fingerprint("predict", method, engine=engine)


def is_stale(row: Predicted) -> bool:
    """Whether a prediction was made by other code than that of this checkout."""
    return row.code != _code_now(row.spec.method, row.spec.engine)


def file_of(row: Predicted) -> str:
    """The prediction's file, below results/published."""
    return f"{JUNE_2023 if row.is_june_2023 else TODAY}/{row.name}.json"


def remake(rows: Sequence[Predicted]) -> list[str]:
    """What to say of predictions by other code, and how to make them again; [] if there is none."""
    told = []
    for which, command in REMAKE.items():
        of = [row for row in rows if row.is_june_2023 == (which == JUNE_2023)]
        num = sum(map(is_stale, of))
        if num:
            told.append(
                f"Stale: {num} of the {len(of)} predictions in results/published/{which} that "
                f"stand here were made by other code than that of this checkout; make them again: "
                f"{command}."
            )
    return told
