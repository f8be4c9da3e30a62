"""Tables 1 and 2 at the paper's size: each printed number beside the predicted, with a verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..paper.predictions import ABSENT, JUNE_2023, TODAY, Predicted, file_of, find, remake
from ..paper.printed import difference, printed, signed, why_memory, why_throughput
from ..records.collected import Collected
from ..tables.throughput import SPEED
from ..text.grid import Block, Cell, Notes, Table
from ..text.names import PARTS, SUMMED_PARTS, listed, method_title
from ..text.units import EN_DASH, GIB
from .predicted import predicted_memory_verdict, predicted_throughput_verdict
from .verdict import DIFFERS, Verdict

SETTING = (
    "Nothing was run: the step was simulated in the paper's own setting (float16 weights, eager "
    "attention, transformers 4.30.2 of June 2023{more}). Today's code: that of the installed "
    "transformers, bfloat16{today}. Off: over the printed value. Bold: differs."
)


@dataclass(frozen=True)
class _Row:
    """A printed row: its cells of analysis/paper, its verdicts, and what was predicted."""

    size: str
    method: str
    checkpointed: bool
    cells: dict[str, Any]
    verdicts: dict[str, Verdict | None]
    then: Predicted | None
    today: Predicted | None

    @property
    def keys(self) -> list[Cell | str]:
        return [self.size, method_title(self.method)]

    def verdict(self, column: str) -> Cell:
        found = self.verdicts.get(column)
        if found is None:
            return Cell(EN_DASH)
        return Cell(found.verdict, bold=found.verdict == DIFFERS)


def _rows(name: str, section: str, judge: Callable[[Any], Verdict | None]) -> Iterator[_Row]:
    cells = printed(name)
    for row, of in cells.groupby("row", sort=False):
        size, method, *setting = str(row).split("/")
        mine = {cell.column: cell for cell in of.itertuples()}
        checkpointed = setting != ["plain"]
        then, today = (
            find(which, section, size, method, checkpointed) for which in (JUNE_2023, TODAY)
        )
        verdicts = {column: judge(cell) for column, cell in mine.items()}
        yield _Row(size, method, checkpointed, mine, verdicts, then, today)


def paper_memory(_: Collected) -> Table:
    """Table 1 of the paper, LLaMA-7B: every printed number beside its prediction."""
    rows = list(_rows("table1_memory", "memory", predicted_memory_verdict))
    notes = Notes()
    blocks = [_totals(rows, notes), _terms(rows)]
    return _table(
        "paper_table1",
        "Table 1 at the paper's size: memory of a training step, predicted",
        "Bytes of one optimizer step of LLaMA-7B in GiB, batches of 8 x 512 tokens, in the "
        "paper's accounting: a sum of terms. " + SETTING.format(more="", today=", eager"),
        rows,
        blocks,
        notes,
    )


def _totals(rows: list[_Row], notes: Notes) -> Block:
    grid: list[list[Cell | str]] = []
    for row in rows:
        target = float(row.cells["total"].value)
        then, today = (_term(of, "total") for of in (row.then, row.today))
        grid.append(
            [
                *row.keys,
                "on" if row.checkpointed else "off",
                row.cells["total"].value,
                _linked(row, GIB.text(then)),
                signed(difference(then, target)),
                row.verdict("total"),
                _linked(row, GIB.text(row.then.peak_bytes if row.then else None)),
                _of_today(row, today),
                signed(difference(today, target)),
                notes.mark(why_memory(row.then) if row.then else []),
            ]
        )
    columns = ["model", "method", "checkpointing", "printed", "predicted", "off (%)", "verdict"]
    columns += ["true peak", "today's code", "its off (%)", "note"]
    return Block(columns, grid, 3, "Sum of terms (GiB)", frozenset({"verdict", "note"}))


def _terms(rows: list[_Row]) -> Block:
    grid: list[list[Cell | str]] = []
    for row in rows:
        differ = [p for p in SUMMED_PARTS if (v := row.verdicts[p]) and v.verdict == DIFFERS]
        parts = [
            Cell(
                GIB.text(_term(row.then, part)),
                printed=row.cells[part].value,
                bold=part in differ,
                predictions=_files(row, part),
            )
            for part in SUMMED_PARTS
        ]
        told = f"differs: {listed(PARTS[part] for part in differ)}" if differ else "reproduced"
        verdict = Cell(told if row.then else EN_DASH, bold=bool(differ))
        grid.append([*row.keys, "on" if row.checkpointed else "off", *parts, verdict])
    columns = ["model", "method", "checkpointing", *(PARTS[part] for part in SUMMED_PARTS)]
    heading = "The terms (GiB), predicted; in brackets the printed ones"
    return Block([*columns, "verdict"], grid, 3, heading, frozenset({"verdict"}))


def paper_throughput(_: Collected) -> Table:
    """Table 2 of the paper, 7B to 65B: every printed peak beside its prediction."""
    rows = list(_rows("table2_throughput", "throughput", predicted_throughput_verdict))
    notes = Notes()
    peaks: list[list[Cell | str]] = []
    rest: list[list[Cell | str]] = []
    for row in rows:
        text = row.cells["peak"].value
        target = None if text == "OOM" else float(text)
        then, today = (of.peak_bytes if of else None for of in (row.then, row.today))
        peaks.append(
            [
                *row.keys,
                text,
                _linked(row, GIB.text(then)),
                signed(difference(then, target)),
                row.verdict("peak"),
                _of_today(row, today),
                signed(difference(today, target)),
                notes.mark(why_throughput(row.then) if row.then else []),
            ]
        )
        speed = row.cells.get(SPEED)
        rest.append(
            [
                *row.keys,
                row.cells["num_devices"].value,
                row.verdict("num_devices"),
                speed.value if speed else EN_DASH,
                row.verdict(SPEED),
            ]
        )
    blocks = [
        Block(
            [
                *("model", "method", "printed", "predicted", "off (%)", "verdict"),
                *("today's code", "its off (%)", "note"),
            ],
            peaks,
            2,
            "Peak of a device (GiB)",
            frozenset({"verdict", "note"}),
        ),
        Block(
            ["model", "method", "devices", "they hold it", "tokens/s a device", "speed"],
            rest,
            2,
            "Devices and speed, as printed",
            frozenset({"they hold it", "speed"}),
        ),
    ]
    more = ", ZeRO-3 with the authors' settings"
    return _table(
        "paper_table2",
        "Table 2 at the paper's size: memory of a device, predicted",
        "Peak memory of a device in GiB, batches of 1 x 1024 tokens a device, checkpointed, on "
        "RTX 3090. "
        + SETTING.format(more=more, today=", sdpa")
        + " They hold it: whether the devices have room, or lack it where the paper ran out of "
        "memory. A speed cannot be predicted from memory: it is not run until somebody runs it "
        "on that card.",
        rows,
        blocks,
        notes,
    )


def _table(
    name: str, title: str, caption: str, rows: list[_Row], blocks: list[Block], notes: Notes
) -> Table:
    predictions = [of for row in rows for of in (row.then, row.today) if of is not None]
    data = [
        {"row": row.cells[column].row, "column": column, **verdict.row()}
        for row in rows
        for column, verdict in row.verdicts.items()
        if verdict is not None
    ]
    lacking = [] if predictions else [f"Not predicted: {ABSENT}."]
    return Table(
        name=name,
        title=title,
        caption=caption,
        blocks=blocks,
        notes=[*lacking, *notes.texts(), *remake(predictions)],
        data=pd.DataFrame(data),
    )


def _term(row: Predicted | None, part: str) -> int | None:
    return None if row is None else row.term(part)


def _files(row: _Row, column: str) -> tuple[str, ...]:
    verdict = row.verdicts.get(column)
    return tuple(verdict.prediction.split()) if verdict else ()


def _of_today(row: _Row, size_bytes: int | None) -> Cell:
    return Cell(GIB.text(size_bytes), predictions=(file_of(row.today),) if row.today else ())


def _linked(row: _Row, text: str) -> Cell:
    column = "total" if "total" in row.cells else "peak"
    return Cell(text, predictions=_files(row, column))
