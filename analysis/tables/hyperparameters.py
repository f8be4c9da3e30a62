"""Table 4: what every method was given to try, and what was selected. And what a search found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from lomo.specs import TrainSpec

from ..paper.printed import value_text
from ..records import accuracy
from ..records.accuracy import AVERAGE
from ..records.collected import Collected
from ..records.tuning import NEAR, Tuned, tuned
from ..text.grid import Block, Cell, Table
from ..text.names import method_title, task_title
from ..text.units import EN_DASH, percent

SECTIONS = {
    "superglue": "Table 3: values tried, and the one selected for each task",
    "lora_rank": "Figure 3: values tried, and the one selected for each task",
}
# Settings that all methods of a section share.
SHARED = ("epochs", "batch_size", "schedule", "max_grad_norm", "weight_decay", "num_train", "dtype")
BEST_OF = (1, 2, 4, 8)
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


def table_tuning(collected: Collected) -> Table:
    """What each method's search found: its best rate, and how wide the range of good ones is."""
    found = tuned(collected)
    split = {"dev": "the split that selects", "test": "the reported examples"}
    return Table(
        name="table_tuning",
        title="Tuning: the same number of trials for each method",
        caption=(
            "Trials at random on a logarithmic scale; accuracy in % on "
            f"{split[collected.plan.study.selection]}, a mean over tasks and seeds. Range: "
            f"learning rates around the best within {100 * NEAR:.0f} points of it, as a factor. "
            "Best of k: expected of so many trials, and the 95 % band that holds for all k at once."
        ),
        blocks=[_tuned_block(found)] if found else [],
        notes=_tuned_notes(found),
        data=pd.DataFrame([_tuned_data(each) for each in found]),
    )


def _tuned_block(found: Sequence[Tuned]) -> Block:
    heads = ["model", "method", "trials", "best rate", "accuracy", "test", "range", "factor"]
    rows: list[list[Cell | str]] = [
        [
            *(each.model, method_title(each.method), str(len(each.points))),
            Cell(shown(each.best.rate), runs=each.best.run_ids),
            Cell(percent(each.best.score), runs=each.best.run_ids),
            Cell(percent(each.best.test), runs=each.best.run_ids),
            f"{shown(each.near[0].rate)} to {shown(each.near[-1].rate)}",
            f"{'at least ' if any(each.open_ends) else ''}{each.width:.3g}",
            *map(_best_text, map(each.best_of, BEST_OF)),
        ]
        for each in found
    ]
    return Block([*heads, *(f"best of {k}" for k in BEST_OF)], rows, 2)


def _best_text(told: tuple[float, tuple[float, float]] | None) -> str:
    if told is None:
        return EN_DASH
    value, (low, high) = told
    return f"{percent(value)} ({percent(low)} to {percent(high)})"


def _tuned_notes(found: Sequence[Tuned]) -> list[str]:
    if not found:
        return []
    lost = [
        f"{method_title(e.method)} {n}" for e in found if (n := sum(p.num_lost for p in e.points))
    ]
    notes = [advice(found)]
    notes += [f"Runs that did not end well count 0: {', '.join(lost)}."] if lost else []
    waiting = sum(each.num_waiting for each in found)
    notes += [f"{waiting} trials lack a record and are left out."] if waiting else []
    return notes


def advice(found: Sequence[Tuned]) -> str:
    """Where a new user begins, and which method forgives most, in a sentence or two."""
    model = found[-1].model
    mine = [each for each in found if each.model == model]
    rates = ", ".join(f"{method_title(e.method)} {shown(e.begin.rate)}" for e in mine)
    by_width = sorted(mine, key=lambda each: each.width)
    least, most = by_width[0], by_width[-1]
    told = f"To begin with, on tasks like these and {model}: {rates}."
    if len(mine) == 1:
        return told
    return (
        f"{told} {method_title(most.method)} forgives most (a factor of {most.width:.3g} "
        f"within {100 * NEAR:.0f} points of its best), {method_title(least.method)} least "
        f"({least.width:.3g})."
    )


def _tuned_data(each: Tuned) -> dict[str, Any]:
    row: dict[str, Any] = {
        **{"model": each.model, "method": each.method, "num_trials": len(each.points)},
        **{"best_rate": each.best.rate, "best_accuracy": each.best.score},
        **{"best_test_accuracy": each.best.test, "begin_rate": each.begin.rate},
        **{"range_low": each.near[0].rate, "range_high": each.near[-1].rate},
        **{"range_factor": each.width, "open_below": each.open_ends[0]},
        "open_above": each.open_ends[1],
    }
    for k in BEST_OF:
        value, band = each.best_of(k) or (None, (None, None))
        row |= {f"best_of_{k}": value, f"best_of_{k}_low": band[0], f"best_of_{k}_high": band[1]}
    return row


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
