"""What saves how much: each change alone, in the stack, and left out of the full stack."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from lomo.study.measured import Ablation
from lomo.study.plan import Plan

from ..paper.ablation import (
    PEAK_PARTS,
    REFUSED,
    SECTION,
    Entry,
    Found,
    Side,
    entries,
    measured,
    predicted,
    predicted_beside,
    unit_of,
)
from ..paper.predictions import Predicted
from ..records.collected import Collected
from ..records.comparable import measured_notes
from ..text.grid import Block, Cell, Table
from ..text.names import NOT_RUN, status_text
from ..text.units import EN_DASH, Unit, decimals

WAYS = ("stacked", "alone", "without")
MEANING = (
    "Alone: the base, what the change needs, and the change, less the same without it. Stacked: "
    "with all changes above it, less the stack as it was. Left out: what the stack down to "
    "{last} takes more without it, and without what needs it. All are of the true peak of a device."
)


def predicted_ablation(plan: Plan, predictions: Sequence[Predicted]) -> Table:
    """The table from predictions alone."""
    found = entries(plan, predicted(predictions))
    took = sum(row.wall_s for row in predictions if row.section == SECTION)
    notes = [f"{len(plan.sections[SECTION])} predictions took {decimals(took, 0)} s in all."]
    how = "Every step was simulated, not run"
    return _table("predicted_ablation", "What saves how much, predicted", how, plan, found, notes)


def table_ablation(collected: Collected) -> Table:
    """The table from records, with the prediction of each run beside it where there is one."""
    plan, beside = collected.plan, predicted_beside(collected.folder)
    found = entries(plan, measured(collected))
    notes = measured_notes(collected.rows(SECTION))
    table = _table("table_ablation", "What saves how much", "Measured", plan, found, notes)
    unit = unit_of(found)
    runs = [_runs_block(model, of, beside, unit) for model, of in _by_model(found)]
    blocks = [block for pair in zip(table.blocks, runs, strict=True) for block in pair]
    data = table.data.assign(
        predicted_peak_bytes=pd.array(
            [beside.get(run, Found()).peak_bytes for run in table.data["run_id"]], dtype="Int64"
        )
    )
    return Table(table.name, table.title, table.caption, blocks, table.notes, data)


def _table(
    name: str, title: str, how: str, plan: Plan, found: Sequence[Entry], notes: Sequence[str]
) -> Table:
    section, unit = plan.study.ablation, unit_of(found)
    assert section is not None
    letters: dict[str, str] = {}
    blocks = [_block(model, of, unit, letters) for model, of in _by_model(found)]
    reasons = [f"{letter}: {reason}." for reason, letter in letters.items()]
    if any(change.compile == "layers" for change in section.changes.values()):
        reasons.append("The peak of compiled layers is that of the eager step.")
    return Table(
        name=name,
        title=title,
        caption=f"{how}: {_setting(section)}. {MEANING.format(last=_last(section))}",
        blocks=blocks,
        notes=[*reasons, *notes],
        data=_data(found),
    )


def _setting(section: Ablation) -> str:
    return f"batches of {section.batch_size} x {section.sequence_length} tokens a device"


def _last(section: Ablation) -> str:
    last = section.left_out_of or list(section.changes)[-1]
    return f'"{section.changes[last].title or last}"'


def _by_model(found: Sequence[Entry]) -> Iterator[tuple[str, list[Entry]]]:
    for model in dict.fromkeys(entry.row.model for entry in found):
        yield model, [entry for entry in found if entry.row.model == model]


def _block(model: str, found: Sequence[Entry], unit: Unit, letters: dict[str, str]) -> Block:
    rows: list[list[Cell | str]] = []
    for entry in found:
        if entry.is_base:
            rows.append([entry.row.title, _peak(entry.stacked, unit), "", "", ""])
            continue
        sides = [_change(getattr(entry, way), unit, letters) for way in WAYS]
        rows.append([f"+ {entry.row.title}", _peak(entry.stacked, unit), *sides])
    columns = ["stack", "peak", "saved, stacked", "saved, alone", "lost, left out"]
    return Block(columns, rows, 1, f"{model} ({unit.name})")


def _peak(side: Side, unit: Unit) -> str:
    if side.cell.run_id is None:
        return EN_DASH
    known = side.found.peak_bytes is not None
    return unit.text(side.found.peak_bytes) if known else status_text(side.found.status)


def _change(side: Side, unit: Unit, letters: dict[str, str]) -> Cell | str:
    reason = side.cell.reason or side.found.reason
    if side.change_bytes is not None:
        return unit.text(side.change_bytes)
    if reason is None:
        # A run that ended well has nothing to stand beside where the other did not.
        ended = side.cell.run_id is None or side.found.status == "ok"
        return EN_DASH if ended else status_text(side.found.status)
    letter = letters.setdefault(reason, chr(ord("a") + len(letters)))
    return Cell(REFUSED if side.cell.reason else status_text(side.found.status), remark=letter)


def _runs_block(
    model: str, found: Sequence[Entry], beside: Mapping[str, Found], unit: Unit
) -> Block:
    """Each run once: measured, predicted, difference, and the time of its step over the base's."""
    base = found[0].stacked.found.step_s
    rows: list[list[Cell | str]] = []
    for cell, mine in _runs(found):
        theirs = beside.get(cell, Found()).peak_bytes
        off = None if None in (mine.peak_bytes, theirs) else _minus(theirs, mine.peak_bytes)
        ratio = mine.step_s / base if mine.step_s and base else None
        rows.append(
            [
                cell.split("/")[-1].replace("-", " + ").replace("_", " "),
                Cell(
                    unit.text(mine.peak_bytes) if mine.peak_bytes else status_text(mine.status),
                    runs=(cell,) if mine.status != NOT_RUN else (),
                ),
                unit.text(theirs),
                EN_DASH if off is None else f"{off:+,} B" if off else "0 B",
                decimals(mine.step_s and 1000 * mine.step_s, 0),
                decimals(ratio, 2),
            ]
        )
    columns = ["run", "measured", "predicted", "difference", "step (ms)", "over the base's"]
    return Block(columns, rows, 1, f"{model}: every run ({unit.name})")


def _minus(first: int | None, second: int | None) -> int:
    return int(first or 0) - int(second or 0)


def _runs(found: Sequence[Entry]) -> Iterator[tuple[str, Found]]:
    """Each run of a model once, those of the stack first."""
    seen: set[str] = set()
    for way in WAYS:
        for entry in found:
            side: Side = getattr(entry, way)
            if side.cell.run_id and side.cell.run_id not in seen:
                seen.add(side.cell.run_id)
                yield side.cell.run_id, side.found


def _data(found: Sequence[Entry]) -> pd.DataFrame:
    """One row a change and way, in bytes and seconds."""
    rows: list[dict[str, Any]] = []
    for entry in found:
        for way in WAYS:
            side: Side = getattr(entry, way)
            if entry.is_base and way != "stacked":
                continue
            at_peak = side.found.at_peak or {}
            rows.append(
                {
                    **{"model": entry.row.model, "change": entry.row.change, "way": way},
                    **{"run_id": side.cell.run_id, "against": side.cell.against},
                    "status": REFUSED if side.cell.reason else side.found.status,
                    "reason": side.cell.reason or side.found.reason,
                    "peak_bytes": side.found.peak_bytes,
                    "change_bytes": side.change_bytes,
                    **{f"at_peak_{part}_bytes": at_peak.get(part) for part in PEAK_PARTS},
                    **{"step_s": side.found.step_s, "time_ratio": side.time_ratio},
                }
            )
    frame = pd.DataFrame(rows)
    whole = [name for name in frame if name.endswith("_bytes")]
    return frame.astype(dict.fromkeys(whole, "Int64"))
