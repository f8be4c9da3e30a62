"""What lm-eval calls for the documents of a suite that lies in local files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lomo.suites.known import SUITES
from lomo.suites.layouts import documents

if TYPE_CHECKING:
    import datasets


def lm_eval_dataset(
    *, data: str, suite: str, subject: str = "", **_: Any
) -> dict[str, datasets.Dataset]:
    """The splits of a subject, as the hub's copy has them (`custom_dataset` of a task).

    Raises UserError with file and line for what is broken.
    """
    import datasets

    splits = documents(SUITES[suite], Path(data), subject)
    return {split: datasets.Dataset.from_list(found) for split, found in splits.items()}
