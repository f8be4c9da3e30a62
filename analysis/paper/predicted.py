"""The predictions of a study (results/<study>/predictions), as tables read them. No torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lomo.errors import UserError
from lomo.model import june_2023
from lomo.specs import AblationSpec, MeasureSpec

from ..records.comparable import PAPER_SETTING
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
