"""What every table and figure starts from: the plan and the tidy table that collect wrote."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from lomo.errors import UserError
from lomo.study.plan import Plan, read_plan

from ..text.names import NOT_RUN, method_order
from .collect import COLUMNS


# Compared by identity, so that what is worked out from it can be cached.
@dataclass(frozen=True, eq=False)
class Collected:
    """A study's plan and its runs, one row each, in `runs` (columns: collect.COLUMNS)."""

    folder: Path
    plan: Plan
    runs: pd.DataFrame

    @cache  # noqa: B019 - lives as long as the command
    def section(self, name: str) -> pd.DataFrame:
        """The runs of a section by model and method, in their order; empty if there is none."""
        asked = self.runs.loc[[name in sections.split() for sections in self.runs["sections"]]]
        models = list(self.plan.models)
        keys = [
            (models.index(model), method_order(method))
            for model, method in zip(asked["model"], asked["method"], strict=True)
        ]
        return asked.iloc[sorted(range(len(keys)), key=keys.__getitem__)]

    @cache  # noqa: B019
    def rows(self, section: str) -> list[Any]:
        """The runs of a section as named tuples, None where a value is missing."""
        frame = self.section(section).astype(object)
        return list(frame.where(frame.notna(), None).itertuples(index=False))

    def models(self, section: str) -> list[str]:
        """The models of a section, in the plan's order."""
        found = self.section(section)["model"].tolist()
        return [name for name in self.plan.models if name in found]

    @property
    def parts(self) -> set[str]:
        """What only some studies have: sections, and `tuning` where trials are searched."""
        asked = self.plan.study.superglue
        searched = {"tuning"} if asked is not None and asked.search is not None else set()
        scored = {"suites"} if self.plan.suites else set()
        return {*self.plan.sections, *searched, *scored}

    def largest_model(self, section: str) -> str:
        """The section's model with the most parameters; the last planned one if none is known."""
        rows = self.section(section)
        sizes = rows.groupby("model")["num_parameters"].max()
        # Of equals the last: studies list their models by size.
        return max(reversed(self.models(section)), key=lambda name: _size(sizes, name))

    def why_empty(self, section: str) -> str | None:
        """Why nothing can be shown of a section; None if at least one run of it is ok."""
        if section not in self.plan.sections:
            return f"the study has no {section} section"
        statuses = set(self.section(section)["status"])
        if "ok" in statuses:
            return None
        if statuses == {NOT_RUN}:
            return f"no run of the {section} section has a record yet"
        return f"no run of the {section} section ended well"

    def run_folder(self, run_id: str) -> Path:
        """The folder with a run's record, history and timeline."""
        return self.folder / "runs" / run_id


def _size(sizes: pd.Series, model: str) -> int:
    value = sizes.get(model)
    return 0 if pd.isna(value) else int(value)


def load(folder: Path) -> Collected:
    """The collected study in a results folder. Raises UserError if collect has not run."""
    path = folder / "tables" / "records.parquet"
    if not path.is_file():
        raise UserError(
            "there is no collected table yet",
            where=str(path),
            fix=f"python -m lomo_analysis collect --results {folder}",
        )
    try:
        runs = pd.read_parquet(path).astype(COLUMNS)
    except (OSError, ValueError, KeyError) as error:  # pyarrow's own are among them
        raise UserError(
            "is no collected table, or was cut",
            where=str(path),
            fix=f"make it again: python -m lomo_analysis collect --results {folder}",
        ) from error
    return Collected(folder, read_plan(folder), runs)
