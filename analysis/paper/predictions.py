"""Predictions as tables read them: of a study (results/<study>/predictions), and of the paper's
Tables 1 and 2 at their size, as results/published has them. No torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from lomo.errors import UserError
from lomo.model import june_2023
from lomo.record.made import names_in, read
from lomo.record.provenance import fingerprint
from lomo.specs import AblationSpec, MeasureSpec
from lomo.system.files import write_text

from ..records.comparable import PAPER_SETTING
from ..text import render
from ..text.names import SUMMED_PARTS

TERMS = (*SUMMED_PARTS, "total")


@dataclass(frozen=True)
class Predicted:
    """One prediction: what was asked, and its ledger in bytes, or the reason why there is none.

    buffers: "authors" or "defaults", ZeRO-3's sizes; None for another engine.
    paper_model: the size of the paper that the model stands for, None if it is none of them.
    packages: versions that made it, torch and transformers among them.
    code: hash of the sources that made it, None where it is not told; name: its file.
    """

    section: str
    spec: MeasureSpec
    paper_model: str | None
    buffers: str | None
    packages: dict[str, str]
    reason: str | None
    account: str | None
    unsupported: str | None
    wall_s: float
    ledger: dict[str, Any] | None
    code: str | None = None
    name: str = ""

    @property
    def is_june_2023(self) -> bool:
        """Whether the modelling code was that of June 2023, as the authors' trainer calls it."""
        return self.packages["transformers"] == june_2023.VERSION

    @property
    def modelling(self) -> str:
        """Whose modelling code it was, as tables say it."""
        return "June 2023" if self.is_june_2023 else "today"

    @property
    def comparable(self) -> bool:
        """Whether tokens and dtype are those of the paper's table, and the model one of its."""
        mine = (self.spec.sequence_length, self.spec.batch_size)
        same = mine == PAPER_SETTING[self.section] and self.spec.dtype != "float32"
        return self.paper_model is not None and same

    def term(self, part: str) -> int | None:
        """Bytes of one term of the paper's account (TERMS), or None."""
        return None if self.ledger is None else int(self.ledger["sum_of_terms"][f"{part}_bytes"])

    @property
    def peak_bytes(self) -> int | None:
        """The true peak of a device, or None."""
        return None if self.ledger is None else int(self.ledger["peak_bytes"])


def read_predictions(folder: Path) -> list[Predicted]:
    """The predictions of a folder, in its list's order. Raises UserError for a broken file."""
    names = _read(folder / "index.json", folder)
    return [replace(_predicted(folder / f"{name}.json", folder), name=name) for name in names]


def beside(rows: Sequence[Predicted], then: Sequence[Predicted]) -> list[Predicted]:
    """`rows`, and after the last of each setting what `then` has of it; the rest is left out."""
    last = {_setting(row): number for number, row in enumerate(rows)}
    both: list[Predicted] = []
    for number, row in enumerate(rows):
        both.append(row)
        if last[_setting(row)] == number:
            both += [other for other in then if _setting(other) == _setting(row)]
    return both


def _setting(row: Predicted) -> tuple[object, ...]:
    spec = row.spec
    tokens = spec.batch_size, spec.sequence_length, spec.activation_checkpointing
    where = spec.engine, spec.num_devices, row.buffers
    return row.section, row.paper_model, spec.method, *tokens, *where


def _predicted(path: Path, folder: Path) -> Predicted:
    data = _read(path, folder)
    try:
        del data["fingerprint"]
        made = Predicted(**{**data, "spec": _spec(data["spec"])})
        made.packages["transformers"]
        return made
    except (KeyError, TypeError, ValueError) as error:
        raise UserError("is no prediction", where=str(path), fix=_fix(folder)) from error


def _spec(given: Any) -> MeasureSpec:
    kind = AblationSpec if "cell" in given else MeasureSpec
    return kind.model_validate(given)


def _read(path: Path, folder: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read: {error}", where=str(path), fix=_fix(folder)) from error


def _fix(folder: Path) -> str:
    if "published" in folder.parts:
        return f"it is committed: git checkout {folder}"
    return f"make it again: python -m lomo predictions --results {folder.parent}"


# With the modelling code of today, and with that of the paper.
TODAY, JUNE_2023 = "paper-predictions", "modelling-2023-06"
REMAKE = {
    TODAY: "snakemake --cores all predict --configfile config/paper.yaml",
    JUNE_2023: "snakemake --cores all predict_june_2023 --configfile config/paper.yaml, then cp -r "
    "results/paper/predictions-2023-06/. results/published/modelling-2023-06",
}
ABSENT = "the published predictions are not installed with the package: they are in the checkout"


@cache
def _published(folder: Path) -> Sequence[Predicted]:
    return read_predictions(folder) if folder.is_dir() else []


def paper_predictions(which: str) -> Sequence[Predicted]:
    """All of TODAY or JUNE_2023, in their list's order; none where they are not installed."""
    return _published(render.PUBLISHED / which)


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
