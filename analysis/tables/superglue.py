"""Table 3: accuracy on SuperGLUE, with the error of the test sample and of the seeds apart."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pandas as pd

from ..paper.printed import value
from ..records import accuracy
from ..records.accuracy import AVERAGE
from ..records.collected import Collected
from ..records.comparable import computed_notes, why_not_accuracy
from ..records.compared import GAIN_LEVEL, behind, compared, gains_nothing
from ..statistics.several import holm
from ..text.grid import Block, Cell, Table
from ..text.names import NOT_RUN, PAPER_TASKS, listed, status_text, task_title
from ..text.units import decimals, percent
from .ranks import alike_over, mean_ranks, rank_notes, ranks_and_alike, variant_title
from .shortened import (
    budget_notes,
    cut_notes,
    departure_notes,
    fewer_notes,
    seen_notes,
    shared_notes,
    tie_notes,
    token_mean_notes,
)

SECTION = "superglue"
LEVEL = 0.05


def table_superglue(collected: Collected) -> Table:
    """Table 3 of the study."""
    cells = accuracy.accuracy_cells(collected, SECTION)
    return Table(
        name="table3_superglue",
        title="Table 3: accuracy on SuperGLUE",
        caption=_caption(collected, cells),
        blocks=_blocks(collected, cells) if cells else [],
        notes=_notes(collected, cells),
        data=_data(collected, cells),
    )


@cache
def winners(collected: Collected) -> frozenset[tuple[str, str, str]]:
    """The cells (model, variant, task) that are decided to be above every other method's on the
    same model and task, by paired tests, corrected for the columns of the table."""
    cells = accuracy.accuracy_cells(collected, SECTION)
    columns: dict[tuple[str, str], list[accuracy.Cell]] = {}
    for cell in cells:
        if cell.accuracy is not None:
            columns.setdefault((cell.model, cell.task), []).append(cell)
    best = [max(of, key=lambda c: c.accuracy or 0.0) for of in columns.values()]
    ps = holm([_p_of_winner(collected, cells, of) for of in columns.values()])
    return frozenset(
        (cell.model, cell.variant, cell.task)
        for cell, p in zip(best, ps, strict=True)
        if p is not None and p <= LEVEL
    )


def _p_of_winner(
    collected: Collected, cells: Sequence[accuracy.Cell], column: Sequence[accuracy.Cell]
) -> float | None:
    """The largest p of a column's best against each other; None where one can't be told."""
    best = max(column, key=lambda cell: cell.accuracy or 0.0)
    ps = []
    for other in column:
        if other.variant != best.variant:
            found = compared(collected, behind(cells, best), behind(cells, other))
            ps.append(None if isinstance(found, str) else found.p)
    known = [p for p in ps if p is not None]
    return max(known) if known and len(known) == len(ps) else None


def _key(cell: accuracy.Cell) -> tuple[str, str, str]:
    return (cell.model, cell.variant, cell.task)


def gain(cells: Sequence[accuracy.Cell], cell: accuracy.Cell) -> float | None:
    """Points above zero-shot, as a fraction; None where one of the two is missing."""
    base = accuracy.find(cells, model=cell.model, task=cell.task, method="zero_shot")
    if cell.accuracy is None or base is None or base.accuracy is None:
        return None
    return cell.accuracy - base.accuracy


def _caption(collected: Collected, cells: Sequence[accuracy.Cell]) -> str:
    if not cells:
        return "Not run: the study has no superglue section."
    protocol = collected.plan.study.protocol
    if protocol == "sound":
        chosen = (
            "Epoch and trial are the best on a split of the training set that is not trained on "
            "(protocol sound)."
        )
    else:
        chosen = (
            "Epoch and trial are the best on the reported set itself, as in the paper "
            "(protocol paper): read these as upper bounds."
        )
    return (
        f"Test accuracy in %, with the standard error of the test sample. {chosen} "
        "Bold: above every other method by paired tests over seeds and examples, p at most "
        f"{LEVEL:g}, corrected for the columns of the table. "
        "In brackets: the paper's printed value, where it is comparable."
    )


def _blocks(collected: Collected, cells: Sequence[accuracy.Cell]) -> list[Block]:
    columns = [*accuracy.tasks_of(collected, SECTION), AVERAGE]
    rows: list[list[Cell | str]] = []
    gains: list[list[Cell | str]] = []
    seeds: list[list[Cell | str]] = []
    for model in collected.models(SECTION):
        for variant in accuracy.variants(cells, model):
            row = [
                cell
                for task in columns
                if (cell := accuracy.find(cells, model=model, variant=variant, task=task))
            ]
            keys: list[Cell | str] = [model, variant_title(cells, row[0])]
            rows.append(keys + [_shown(collected, cell) for cell in row])
            seeds.append(keys + [_seed_text(cell) for cell in row])
            if row[0].method != "zero_shot":
                gains.append(keys + [decimals(_points(gain(cells, cell)), 1) for cell in row])
    heads = ["model", "method", *map(task_title, columns)]
    blocks = [Block(heads, rows, 2, heading="Accuracy (%)")]
    if any(cell.seeds for cell in cells):
        blocks.append(Block(heads, seeds, 2, heading="95 % interval of the mean over seeds (%)"))
    if any(cell.method == "zero_shot" for cell in cells):
        blocks.append(Block(heads, gains, 2, heading="Points above zero-shot"))
    blocks += ranks_and_alike(collected, cells, SECTION)
    return blocks


def _points(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction


def _shown(collected: Collected, cell: accuracy.Cell) -> Cell:
    printed = printed_value(collected, cell)
    beside = None if printed is None else decimals(printed, 1)
    runs = cell.run_ids if cell.status != NOT_RUN else ()
    if cell.accuracy is None:
        return Cell(status_text(cell.status), printed=beside, runs=runs)
    num, planned = len(cell.by_seed), cell.num_planned_seeds
    remarks = [f"{num} of {planned} seeds"] if num < planned else []
    remarks += ["no gain"] if gains_nothing(collected, SECTION)[_key(cell)] else []
    bold = _key(cell) in winners(collected)
    remark = ", ".join(remarks) or None
    return Cell(percent(cell.accuracy), percent(cell.stderr), beside, bold, remark, runs)


def _seed_text(cell: accuracy.Cell) -> str:
    if cell.seeds is None:
        return decimals(None, 1)
    low, high = cell.seeds
    # Student's interval knows no bounds; an accuracy has some.
    return f"{percent(max(0.0, low))} to {percent(min(1.0, high))}"


def printed_value(collected: Collected, cell: accuracy.Cell) -> float | None:
    """The paper's value of the cell in %, or None where it is not comparable or not printed."""
    if why_not_accuracy(collected, cell.model) is not None:
        return None
    if cell.task == AVERAGE and set(accuracy.tasks_of(collected, SECTION)) != set(PAPER_TASKS):
        return None
    size = collected.plan.models[cell.model].paper
    return value("table3_superglue", f"{size}/{cell.method}", cell.task)


def _notes(collected: Collected, cells: Sequence[accuracy.Cell]) -> list[str]:
    if not cells:
        return []
    study = collected.plan.study
    notes = [study.note] if study.note else []
    notes.append(_seed_note(cells))
    reasons = {why_not_accuracy(collected, cell.model) for cell in cells} - {None}
    notes += [f"Not comparable with the paper: {reason}." for reason in sorted(map(str, reasons))]
    notes += _task_notes(accuracy.tasks_of(collected, SECTION))
    lost = [
        cell for cell in cells if cell.task != AVERAGE and cell.num_usable_trials < cell.num_trials
    ]
    if lost:
        trials = sum(cell.num_trials - cell.num_usable_trials for cell in lost)
        cells_text = "1 cell" if len(lost) == 1 else f"{len(lost)} cells"
        notes.append(
            f"Trials that did not end well or have not run: {trials}, in {cells_text}; "
            "records.csv names them."
        )
    if any(gains_nothing(collected, SECTION).values()):
        notes.append(
            "No gain: not above zero-shot by a paired test over seeds and examples, one-sided at "
            f"{GAIN_LEVEL:g}. Such a value shows nothing of its method there; a method of which a "
            "third of the cells are so is no baseline for another."
        )
    notes += rank_notes(collected, cells, SECTION)
    notes += _skipped_notes(collected, cells)
    for told in (
        *(departure_notes, budget_notes, token_mean_notes, fewer_notes),
        *(cut_notes, seen_notes, shared_notes, tie_notes),
    ):
        notes += told(collected, SECTION, cells)
    notes += computed_notes(collected.rows(SECTION))
    if any(cell.status == "not_run" for cell in cells):
        notes.append("An en dash marks what has no record yet.")
    return notes


def _task_notes(tasks: Sequence[str]) -> list[str]:
    """What the average is over, where that is not what the paper's is over."""
    if set(tasks) == set(PAPER_TASKS):
        return []
    others = [task_title(task) for task in tasks if task not in PAPER_TASKS]
    note = f"The average is over {listed(map(task_title, tasks))}, the paper's over its six tasks"
    return [note + (f"; {listed(others)} is not among them." if others else ".")]


def _seed_note(cells: Sequence[accuracy.Cell]) -> str:
    # Zero-shot has no seed to vary, an average none of its own.
    known = [c for c in cells if c.method != "zero_shot" and c.task != AVERAGE and c.by_seed]
    least, most = (pick((len(c.by_seed) for c in known), default=0) for pick in (min, max))
    seeds = f"{most} seeds" if least == most else f"{least} to {most} seeds"
    note = f"Values are means over {seeds}; a trial is chosen for all of them."
    if most < 2:
        note = "One seed: how much another seed would change a value is not known."
    if any(len(c.by_seed) < c.num_planned_seeds for c in known):
        note += (
            " Where not all ended well, round brackets say how many; of an average, in each task."
        )
    return note


def _skipped_notes(collected: Collected, cells: Sequence[accuracy.Cell]) -> list[str]:
    reported = {run_id for cell in cells for run_id in cell.run_ids}
    runs = [r for r in collected.rows(SECTION) if r.run_id in reported and r.num_skipped_steps]
    if not runs:
        return []
    names = ", ".join(f"{row.run_id} ({row.num_skipped_steps})" for row in runs)
    return [f"Steps skipped whole, their gradient norm not being finite: {names}."]


def _data(collected: Collected, cells: Sequence[accuracy.Cell]) -> pd.DataFrame:
    """One row a cell; accuracies are fractions, the printed value is in %."""
    rows = []
    rank_of = {
        (model, variant): rank
        for model in collected.models(SECTION)
        for variant, rank in mean_ranks(cells, model)[0].items()
    }
    for cell in cells:
        low, high = cell.sample or (None, None)
        seed_low, seed_high = cell.seeds or (None, None)
        rows.append(
            {
                **{name: getattr(cell, name) for name in ("model", "method", "rank", "task")},
                **{name: getattr(cell, name) for name in ("status", "accuracy", "stderr")},
                "sample_low": low,
                "sample_high": high,
                "num_seeds": len(cell.by_seed),
                "num_planned_seeds": cell.num_planned_seeds,
                "seed_low": seed_low,
                "seed_high": seed_high,
                "above_zero_shot": gain(cells, cell),
                "no_gain": gains_nothing(collected, SECTION)[_key(cell)],
                "winner": _key(cell) in winners(collected),
                "alike_over_seeds": alike_over(collected, cells, cell),
                "mean_rank": rank_of.get((cell.model, cell.variant)),
                "trial": cell.trial,
                "num_trials": cell.num_trials,
                "num_usable_trials": cell.num_usable_trials,
                "num_examples": cell.num_examples,
                "protocol": collected.plan.study.protocol,
                "printed_percent": printed_value(collected, cell),
                "run_id": " ".join(cell.run_ids),
            }
        )
    whole = ("rank", "trial", "num_examples")
    frame = pd.DataFrame(rows)
    return frame.astype(dict.fromkeys(whole, "Int64")) if rows else frame
