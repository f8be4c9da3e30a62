"""Table 4: what every method was given to try, what was selected, and the paper's own."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from lomo.specs import TrainSpec

from ..paper.printed import value_text
from ..records import accuracy
from ..records.accuracy import AVERAGE
from ..records.collected import Collected
from ..text.grid import Block, Cell, Table
from ..text.names import method_title, task_title
from ..text.units import EN_DASH

SECTIONS = {
    "superglue": "Table 3: values tried, and the one selected for each task",
    "lora_rank": "Figure 3: values tried, and the one selected for each task",
}
# Settings that all methods of a section share.
SHARED = ("epochs", "batch_size", "schedule", "max_grad_norm", "weight_decay", "num_train", "dtype")
COLUMNS = (
    *("section", "model", "method", "rank", "hyperparameter", "tried", "num_trials"),
    *("task", "trial", "selected", "paper", "run_id"),
)


def table_hyperparameters(collected: Collected) -> Table:
    """Table 4 of the study."""
    rows = [row for section in SECTIONS for row in _rows(collected, section)]
    data = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"rank": "Int64", "trial": "Int64"})
    blocks = [block for section in SECTIONS if (block := _block(collected, data, section))]
    return Table(
        name="table4_hyperparameters",
        title="Table 4: hyper-parameters",
        caption=_caption(collected, bool(blocks)),
        blocks=[*_shared(collected), *blocks],
        notes=[
            "Every trial is kept in records.csv. The paper gave LOMO six trials a cell, LoRA one, "
            "and reported the best of them on the test set.",
            "Blank: one value, nothing to select. En dash: ranks stand side by side and none is "
            "selected, no trial ended well, or the paper gives no value.",
        ]
        if blocks
        else [],
        data=data,
    )


def _caption(collected: Collected, any_rows: bool) -> str:
    if not any_rows:
        return "Not run: the study has no accuracy section."
    where = {"dev": "on a split of the training set", "test": "on the reported set itself"}
    return (
        "What each method was given to try, how many trials that made for each task, and the "
        f"values of the trial that was best {where[collected.plan.study.selection]}. "
        "The last column is the paper's own Table 4."
    )


def shown(setting: Any) -> str:
    """A setting as text; numbers in their shortest form."""
    if setting is None:
        return "none"
    return f"{setting:g}" if isinstance(setting, int | float) else str(setting)


def tried(collected: Collected, section: str, model: str, variant: str) -> dict[str, list[Any]]:
    """Hyper-parameter -> the values that a variant was given, in the plan's order."""
    values: dict[str, list[Any]] = {}
    given = dict.fromkeys(
        row.hyper for row in collected.rows(section) if (row.model, row.variant) == (model, variant)
    )
    for hyper in given:
        for name, setting in json.loads(hyper).items():
            known = values.setdefault(name, [])
            if setting not in known:
                known.append(setting)
    return values


def _rows(collected: Collected, section: str) -> list[dict[str, Any]]:
    cells = [c for c in accuracy.accuracy_cells(collected, section) if c.task != AVERAGE]
    hyper = {row.run_id: row.hyper for row in collected.rows(section)}
    rows = []
    for cell in cells:
        chosen = json.loads(hyper[cell.run_ids[0]]) if cell.trial is not None else {}
        for name, values in tried(collected, section, cell.model, cell.variant).items():
            rows.append(
                {
                    "section": section,
                    "model": cell.model,
                    "method": cell.method,
                    "rank": cell.rank,
                    "hyperparameter": name,
                    "tried": " | ".join(map(shown, values)),
                    "num_trials": cell.num_trials,
                    "task": cell.task,
                    "trial": cell.trial,
                    "selected": shown(chosen[name]) if chosen else None,
                    "paper": value_text("table4_hyperparameters", cell.method, name),
                    "run_id": " ".join(cell.run_ids) if chosen else None,
                }
            )
    return rows


def _block(collected: Collected, data: pd.DataFrame, section: str) -> Block | None:
    rows = data[data["section"] == section]
    if rows.empty:
        return None
    tasks = accuracy.tasks_of(collected, section)
    rows = _ranks_in_one(rows)
    grid: list[list[Cell | str]] = []
    keys = ["model", "method", "rank", "hyperparameter"]
    for (model, method, rank, name), group in rows.groupby(keys, dropna=False, sort=False):
        by_task, runs = (group.set_index("task")[name] for name in ("selected", "run_id"))
        # A single value leaves nothing to select.
        choice = " | " in group.iloc[0]["tried"]
        selected = [
            Cell(_text(by_task.get(task)), runs=tuple(str(runs.get(task) or "").split()))
            if choice
            else Cell("")
            for task in tasks
        ]
        title = method_title(method, None if pd.isna(rank) else rank)
        first = group.iloc[0]
        grid.append(
            [
                *(model, title, str(first["num_trials"]), name.replace("_", " ")),
                *(first["tried"].replace(" | ", ", "), *selected),
                _text(first["paper"]).replace(" | ", ", "),
            ]
        )
    heads = ["model", "method", "trials", "hyper-parameter", "tried"]
    columns = [*heads, *map(task_title, tasks), "paper"]
    return Block(columns, grid, 4, SECTIONS[section], frozenset({"tried"}))


def _ranks_in_one(rows: pd.DataFrame) -> pd.DataFrame:
    """A method's ranks as one group of rows, where they differ in nothing but the rank."""
    parts = []
    for _, group in rows.groupby(["model", "method"], sort=False):
        others = group[group["hyperparameter"] != "rank"]
        alike = others.groupby("hyperparameter")["tried"].nunique().eq(1).all()
        ranks = group["rank"].dropna().unique()
        if len(ranks) > 1 and alike and not others["tried"].str.contains("|", regex=False).any():
            listed = " | ".join(shown(int(rank)) for rank in sorted(ranks))
            group = group[group["rank"] == ranks[0]].assign(rank=None, selected=None)
            group.loc[group["hyperparameter"] == "rank", "tried"] = listed
        parts.append(group)
    return pd.concat(parts)


def _shared(collected: Collected) -> list[Block]:
    grid: list[list[Cell | str]] = []
    for section in SECTIONS:
        run_ids = collected.plan.sections.get(section, [])
        spec = next(iter(collected.plan.runs[run_id] for run_id in run_ids), None)
        if isinstance(spec, TrainSpec):
            grid += [
                [section, name.replace("_", " "), shown(getattr(spec, name)), _paper(name)]
                for name in SHARED
            ]
    heads = ["section", "setting", "all methods", "paper"]
    return [Block(heads, grid, 2, "Settings that all methods share")] if grid else []


def _paper(name: str) -> str:
    return _text(value_text("table4_hyperparameters", "lomo", name))


def _text(known: Any) -> str:
    return EN_DASH if known is None or pd.isna(known) else str(known)
