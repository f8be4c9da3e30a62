"""The predictions of a study (results/<study>/predictions), as tables read them. No torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.comparable import PAPER_SETTING
from analysis.names import SUMMED_PARTS
from lomo.errors import UserError
from lomo.specs import AblationSpec, MeasureSpec

TERMS = (*SUMMED_PARTS, "total")


@dataclass(frozen=True)
class Predicted:
    """One prediction: what was asked, and its ledger in bytes, or the reason why there is none.

    buffers: "authors" or "defaults", ZeRO-3's sizes; None for another engine.
    paper_model: the size of the paper that the model stands for, None if it is none of them.
    """

    section: str
    spec: MeasureSpec
    paper_model: str | None
    buffers: str | None
    reason: str | None
    account: str | None
    unsupported: str | None
    wall_s: float
    ledger: dict[str, Any] | None

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


def read_predictions(results: Path) -> list[Predicted]:
    """The predictions of a study in the order of its plan. Raises UserError for a broken file."""
    folder = results / "predictions"
    names = _read(folder / "index.json", folder)
    return [_predicted(folder / f"{name}.json", folder) for name in names]


def _predicted(path: Path, folder: Path) -> Predicted:
    data = _read(path, folder)
    try:
        del data["fingerprint"]
        return Predicted(**{**data, "spec": _spec(data["spec"])})
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
    return f"make it again: python -m lomo predictions --results {folder.parent}"
