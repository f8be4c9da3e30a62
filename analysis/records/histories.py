"""Training curves: what the histories of a cell's runs say step by step, over its seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, Protocol

import pandas as pd

from lomo.record.schema import PERPLEXITY
from lomo.system.files import read_lines

from . import accuracy
from .collected import Collected

Quantity = Literal["loss", "accuracy", "perplexity", "grad_norm"]
Over = Literal["steps", "tokens", "seconds"]

# A line through single steps is noise: the mean over this share of the steps is drawn.
SMOOTHED_SHARE = 0.06
# What can leave a history that breaks off.
STOPPED = ("diverged", "oom", "timeout")
# A running mean has no more to show, and a page holds every point of its pictures.
MOST_POINTS = 60


# What each evaluation tells of; of other quantities there is a value a step.
SCORED = ("accuracy", "perplexity")


class Cell(Protocol):
    """What a curve is of: runs of one method, a seed each."""

    @property
    def method(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def run_ids(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Curve:
    """One quantity of a cell at its steps: the seeds' mean, least and most.

    x: optimizer steps, or the seeds' mean of the tokens or training seconds up to each step.
    loss in nats a token; accuracy in percent. whole: no run of it stopped before its end.
    """

    method: str
    x: list[float]
    mean: list[float]
    least: list[float]
    most: list[float]
    num_seeds: int
    whole: bool


def curve(
    collected: Collected, cell: Cell, quantity: Quantity, over: Over, *, smooth: bool = True
) -> Curve | None:
    """The curve of a cell's reported trial, or of its first one where none ended well.

    Accuracy is of the split that selects. None where no run has told the quantity. `smooth`: each
    seed's running mean, at no more than MOST_POINTS steps, in place of all its single steps;
    scores are never smoothed.
    """
    run_ids, values = _seeds(collected, tuple(_runs_of(collected, cell)), quantity, smooth)
    if not run_ids:
        return None
    if smooth and len(values) > MOST_POINTS:
        last = len(values) - 1
        values = values.iloc[[round(i * last / (MOST_POINTS - 1)) for i in range(MOST_POINTS)]]
    places = _places(collected, run_ids, over)
    return Curve(
        method=cell.method,
        x=places.loc[values.index].tolist(),
        mean=values.mean(axis=1).tolist(),
        least=values.min(axis=1).tolist(),
        most=values.max(axis=1).tolist(),
        num_seeds=len(run_ids),
        whole=cell.status == "ok",
    )


# Three figures share each of both: of a thousand seeds they are all that takes time.
@cache
def _seeds(
    collected: Collected, run_ids: tuple[str, ...], quantity: Quantity, smooth: bool
) -> tuple[tuple[str, ...], pd.DataFrame]:
    """The runs whose history tells the quantity, and its values: a row a step, a column each."""
    selection = collected.plan.study.selection
    seeds = [_values(_run(collected, run_id), quantity, selection) for run_id in run_ids]
    if smooth and quantity not in SCORED:
        seeds = [_smoothed(seed) for seed in seeds]
    told = [(run_id, seed) for run_id, seed in zip(run_ids, seeds, strict=True) if len(seed)]
    values = pd.concat([seed for _, seed in told], axis=1) if told else pd.DataFrame()
    return tuple(run_id for run_id, _ in told), values


@cache
def _places(collected: Collected, run_ids: tuple[str, ...], over: Over) -> pd.Series:
    """Where each step stands: the mean of what it adds, so that x goes on where one seed stops."""
    runs = [_run(collected, run_id)[over] for run_id in run_ids]
    return pd.concat([run.diff().fillna(run) for run in runs], axis=1).mean(axis=1).cumsum()


def untrained(collected: Collected, cells: Sequence[accuracy.Cell], task: str) -> float | None:
    """The base model's accuracy on the split that selects, in percent; None where none is known."""
    ids = {
        i for cell in cells if (cell.task, cell.method) == (task, "zero_shot") for i in cell.run_ids
    }
    column = f"{collected.plan.study.selection}_accuracy"
    mean = collected.runs.loc[collected.runs["run_id"].isin(ids), column].mean()
    return None if pd.isna(mean) else 100 * float(mean)


def _runs_of(collected: Collected, cell: Cell) -> Sequence[str]:
    if cell.status == "ok":
        return cell.run_ids
    rows = [row for row in collected.runs.itertuples() if row.run_id in cell.run_ids]
    began = [row for row in rows if row.status in STOPPED]
    first = min((row.trial for row in began), default=None)
    return [row.run_id for row in began if row.trial == first]


@cache
def _run(collected: Collected, run_id: str) -> pd.DataFrame:
    """A run's history, a row a step (its index): what was read there and what went before."""
    events = read_lines(collected.run_folder(run_id) / "history.jsonl")
    steps = [event for event in events if event["event"] == "step"]
    frame = pd.DataFrame(
        {
            name: pd.Series([event.get(of) for event in steps], dtype=float)
            for name, of in _COLUMNS.items()
        }
    )
    frame[["tokens", "seconds"]] = frame[["tokens", "seconds"]].cumsum()
    frame.index = frame["steps"].astype(int)
    for event in events:
        # An evaluation before the first step has no place on a curve of a training.
        if event["event"] == "evaluation" and event["step"] in frame.index:
            whole = 1 if event.get("metric") == PERPLEXITY else 100
            frame.loc[event["step"], event["split"]] = whole * event["value"]
    return frame


_COLUMNS = {
    "steps": "step",
    "tokens": "num_tokens",
    "seconds": "step_s",
    "loss": "loss",
    "grad_norm": "grad_norm",
}


def _values(run: pd.DataFrame, quantity: Quantity, split: str) -> pd.Series:
    name = split if quantity in SCORED else quantity
    return run[name].dropna() if name in run else pd.Series(dtype=float)


def _smoothed(seed: pd.Series) -> pd.Series:
    # Odd: as many steps before as after.
    window = 2 * (max(5, round(SMOOTHED_SHARE * len(seed))) // 2) + 1
    return seed.rolling(window, min_periods=1, center=True).mean()
