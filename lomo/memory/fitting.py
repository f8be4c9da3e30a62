"""What fits: the largest batch of each model and method on cards of given sizes."""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lomo.errors import UserError
from lomo.machine import RESERVE_GIB
from lomo.memory import ask

if TYPE_CHECKING:
    from lomo.memory.architecture import Architecture
    from lomo.specs import MeasureSpec

FIRST_PROBE, LARGEST_STRIDE = 4, 16


@dataclass(frozen=True)
class Cell:
    """One model and method on `num_gpus` cards of a size: what fits, or why nothing does.

    batch_size: sequences a device, 0 where not even one fits. peak_bytes: predicted at that batch,
    or at 1 where none fits; missing_bytes: of it beyond the card, then. account: how it was
    predicted. refused: why the engine or the method can't run it.
    """

    model: str
    method: str
    num_gpus: int
    gpu_gib: float
    batch_size: int
    peak_bytes: int
    missing_bytes: int
    account: str | None = None
    refused: str | None = None


@dataclass(frozen=True)
class Answer:
    """All cells of a question, by card size, number of cards, model and method."""

    cells: Sequence[Cell]
    models: Sequence[str]
    methods: Sequence[str]
    sequence_length: int
    wall_s: float

    def of_size(self, gpu_gib: float) -> list[Cell]:
        """The cells of one size of card."""
        return [cell for cell in self.cells if cell.gpu_gib == gpu_gib]


def card_counts(num_gpus: int) -> list[int]:
    """1, 2, 4, ... below `num_gpus`, and `num_gpus`."""
    return sorted({2**power for power in range((num_gpus - 1).bit_length())} | {num_gpus})


def find(
    architectures: Sequence[Architecture],
    methods: Sequence[str],
    *,
    gpus_gib: Sequence[float],
    counts: Sequence[int],
    sequence_length: int,
    num_processes: int,
    progress: bool,
) -> Answer:
    """The cells of all card sizes, numbers of cards, models and methods.

    Peaks do not depend on the size of a card, so each is predicted once for all sizes.
    """
    from lomo.memory import forked, peaks  # noqa: F401 (peaks: else each process imports it)

    started_at = time.perf_counter()
    questions = [
        (architecture, method, count)
        for count in counts
        for architecture in architectures
        for method in methods
    ]

    def work(number: int) -> list[Cell]:
        architecture, method, count = questions[number]
        cells = _cells(architecture, method, count, sequence_length, gpus_gib)
        gc.collect()  # a simulated model has cycles
        return cells

    # What takes longest comes first, so that no process is left alone with it at the end.
    order = sorted(range(len(questions)), key=lambda number: questions[number][2] == 1)
    by_question: dict[int, list[Cell]] = {}
    arriving = forked.results(lambda place: work(order[place]), len(order), num_processes)
    for place, cells in _shown(arriving, len(order), progress=progress):
        by_question[order[place]] = cells
    cells = [by_question[n][size] for size in range(len(gpus_gib)) for n in range(len(questions))]
    names = [architecture.name for architecture in architectures]
    wall_s = time.perf_counter() - started_at
    return Answer(cells, names, list(methods), sequence_length, wall_s)


def largest_batch(peak: Callable[[int], int], budget_bytes: int) -> int:
    """The largest batch whose peak is within the budget, 0 if not even 1 is.

    peak: batch -> bytes, never falling. Asked few times if it is (nearly) a line, and always at
    the answer and at one more.
    """
    fits = (1, peak(1))
    above: tuple[int, int] | None = None
    if fits[1] > budget_bytes:
        return 0
    probe, num_slow = FIRST_PROBE, 0
    while True:
        before, width = fits, above[0] - fits[0] if above else 0
        point = (probe, peak(probe))
        if point[1] > budget_bytes:
            above = point
        else:
            fits = point
        if above is None:
            guess = _crossing(before, fits, budget_bytes)
            probe = min(max(guess, fits[0] + 1), LARGEST_STRIDE * fits[0])
            continue
        left = above[0] - fits[0]
        if left == 1:
            return fits[0]
        num_slow = num_slow + 1 if 2 * left > width > 0 else 0
        guess = _crossing(fits, above, budget_bytes) if num_slow < 2 else fits[0] + left // 2
        probe = min(max(guess, fits[0] + 1), above[0] - 1)


def _crossing(low: tuple[int, int], high: tuple[int, int], budget_bytes: int) -> int:
    """The last batch within the budget, on the line through two points (batch, bytes)."""
    rise = high[1] - low[1]
    if rise <= 0:
        return LARGEST_STRIDE * high[0]
    return low[0] + (budget_bytes - low[1]) * (high[0] - low[0]) // rise


def _cells(
    architecture: Architecture,
    method: str,
    num_gpus: int,
    sequence_length: int,
    gpus_gib: Sequence[float],
) -> list[Cell]:
    """One cell for each size of card."""
    from lomo.memory.peaks import PeakByBatch

    where = architecture.name, method, num_gpus
    try:
        peak = PeakByBatch(architecture, asked(*where, sequence_length))
        cells = []
        for gpu_gib in gpus_gib:
            budget_bytes = int((gpu_gib - RESERVE_GIB) * ask.GIB)
            batch_size = largest_batch(peak, budget_bytes)
            peak_bytes = peak(max(batch_size, 1))
            missing_bytes = max(peak_bytes - budget_bytes, 0)
            found = batch_size, peak_bytes, missing_bytes
            cells.append(Cell(*where, gpu_gib, *found, account=peak.account))
    except UserError as error:
        return [Cell(*where, gpu_gib, 0, 0, 0, refused=error.what) for gpu_gib in gpus_gib]
    return cells


def asked(model: str, method: str, num_gpus: int, sequence_length: int) -> MeasureSpec:
    """The run that a cell asks for. Raises UserError for what the engine can't run."""
    question = argparse.Namespace(
        model=model,
        method=method,
        seq_len=sequence_length,
        batch_size=1,
        checkpointing=True,
        dtype="bfloat16",
        attention="sdpa",
        max_grad_norm=None,
        engine="single" if num_gpus == 1 else "fsdp2",
        world_size=num_gpus,
        wrap="layer",
    )
    return ask.spec_of(question)


def _shown(
    arriving: Iterator[tuple[int, list[Cell]]], num: int, *, progress: bool
) -> Iterator[tuple[int, list[Cell]]]:
    """Each result as it comes, with a bar on stderr that names it."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    hidden = not (progress and console.is_terminal)
    with Progress(console=console, disable=hidden, transient=True) as bar:
        task = bar.add_task("", total=num)
        for place, cells in arriving:
            cell = cells[0]
            bar.update(task, description=f"{cell.model} {cell.method} x {cell.num_gpus}")
            bar.advance(task)
            yield place, cells
