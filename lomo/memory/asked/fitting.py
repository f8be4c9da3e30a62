"""What fits: the largest batch of each model and method on cards of given sizes."""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from lomo.errors import UserError
from lomo.memory.asked import predict as ask
from lomo.memory.asked.cells import DEFAULT, Cell, Hint, Switches, more_switches, tight_cells
from lomo.model.causal_lm import attention_of
from lomo.study.machine import budget_bytes
from lomo.system.command import shown

if TYPE_CHECKING:
    from lomo.model.architecture import Architecture
    from lomo.specs import MeasureSpec

FIRST_PROBE, LARGEST_STRIDE = 4, 16


@dataclass(frozen=True)
class Answer:
    """All cells of a question, by card size, number of cards, model and method."""

    cells: Sequence[Cell]
    models: Sequence[str]
    methods: Sequence[str]
    sequence_length: int
    wall_s: float
    switches: Switches = DEFAULT
    hints: Sequence[Hint] = ()
    notes: Sequence[str] = ()

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
    switches: Switches = DEFAULT,
    hints: bool = False,
) -> Answer:
    """The cells of all card sizes, numbers of cards, models and methods.

    Peaks do not depend on the size of a card, so each is predicted once for all sizes. hints: for
    each model, what one switch more would let fit on the fewest cards.
    """
    started_at = time.perf_counter()
    questions = [
        _Question(architecture, method, count, sequence_length, tuple(gpus_gib), switches)
        for count in counts
        for architecture in architectures
        for method in methods
    ]
    answered = _answered(questions, num_processes, progress=progress)
    cells = [found[size] for size in range(len(gpus_gib)) for found in answered]
    found_hints: list[Hint] = []
    if hints:
        by_name = {architecture.name: architecture for architecture in architectures}
        wider = [
            (cell, switch, _Question(by_name[cell.model], *_place(cell, sequence_length), more))
            for cell in tight_cells(cells)
            for switch, more in more_switches(switches)
        ]
        tried = _answered([question for _, _, question in wider], num_processes, progress=progress)
        found_hints = [
            Hint(cell, switch, better.batch_size)
            for (cell, switch, _), (better,) in zip(wider, tried, strict=True)
            if better.batch_size > cell.batch_size
        ]
    return Answer(
        cells,
        [architecture.name for architecture in architectures],
        list(methods),
        sequence_length,
        time.perf_counter() - started_at,
        switches,
        found_hints,
        [f"{one.name}: {note}" for one in architectures for note in one.notes],
    )


@dataclass(frozen=True)
class _Question:
    """What one process works out at a time: a cell for each size of card."""

    architecture: Architecture
    method: str
    num_gpus: int
    sequence_length: int
    gpus_gib: tuple[float, ...]
    switches: Switches

    @property
    def cost(self) -> float:
        """What it takes, roughly, beside other questions."""
        from lomo.memory.predicted.peaks import NUM_LAYERS, can_unroll

        layers = int(self.architecture.config.num_hidden_layers)
        simulated = NUM_LAYERS if can_unroll(self.architecture) else layers
        return simulated * (2 if self.num_gpus > 1 else 1) * (2 if "adalomo" in self.method else 1)


def _answered(
    questions: Sequence[_Question], num_processes: int, *, progress: bool
) -> list[list[Cell]]:
    """The cells of each question, in their order."""
    from lomo.memory.predicted import peaks  # noqa: F401 (peaks: else each process imports it)
    from lomo.system import processes

    def work(number: int) -> list[Cell]:
        cells = _cells(questions[number])
        gc.collect()  # a simulated model has cycles
        return cells

    # What takes longest comes first, so that no process is left alone with it at the end.
    order = sorted(range(len(questions)), key=lambda number: -questions[number].cost)
    found: dict[int, list[Cell]] = {}
    arriving = processes.results(lambda place: work(order[place]), len(order), num_processes)
    gc.freeze()  # what is imported is no garbage, and looking through it takes long
    try:
        for place, cells in shown(arriving, len(order), _title, progress=progress):
            found[order[place]] = cells
    finally:
        gc.unfreeze()
    return [found[number] for number in range(len(questions))]


def _title(cells: list[Cell]) -> str:
    return f"{cells[0].model} {cells[0].method} x {cells[0].num_gpus}"


def _place(cell: Cell, sequence_length: int) -> tuple[str, int, int, tuple[float, ...]]:
    return cell.method, cell.num_gpus, sequence_length, (cell.gpu_gib,)


def largest_batch(peak: Callable[[int], int], budget: int) -> int:
    """The largest batch whose peak is within the budget (bytes), 0 if not even 1 is.

    peak: batch -> bytes, never falling. Asked few times if it is (nearly) a line, and always at
    the answer and at one more.
    """
    fits = (1, peak(1))
    above: tuple[int, int] | None = None
    if fits[1] > budget:
        return 0
    probe, num_slow = FIRST_PROBE, 0
    while True:
        before, width = fits, above[0] - fits[0] if above else 0
        point = (probe, peak(probe))
        if point[1] > budget:
            above = point
        else:
            fits = point
        if above is None:
            guess = _crossing(before, fits, budget)
            probe = min(max(guess, fits[0] + 1), LARGEST_STRIDE * fits[0])
            continue
        left = above[0] - fits[0]
        if left == 1:
            return fits[0]
        num_slow = num_slow + 1 if 2 * left > width > 0 else 0
        guess = _crossing(fits, above, budget) if num_slow < 2 else fits[0] + left // 2
        probe = min(max(guess, fits[0] + 1), above[0] - 1)


def _crossing(low: tuple[int, int], high: tuple[int, int], budget: int) -> int:
    """The last batch within the budget, on the line through two points (batch, bytes)."""
    rise = high[1] - low[1]
    if rise <= 0:
        return LARGEST_STRIDE * high[0]
    return low[0] + (budget - low[1]) * (high[0] - low[0]) // rise


def _cells(question: _Question) -> list[Cell]:
    """One cell for each size of card."""
    from lomo.memory.predicted.peaks import PeakByBatch

    architecture = question.architecture
    where = architecture.name, question.method, question.num_gpus
    try:
        spec = asked(*where, question.sequence_length, question.switches)
        if question.switches.attention is None:
            found = {"attention": attention_of(architecture.config)}
            spec = spec.model_copy(update=found)
        peak = PeakByBatch(architecture, spec)
        cells = []
        for gpu_gib in question.gpus_gib:
            budget = budget_bytes(gpu_gib)
            batch_size = largest_batch(peak, budget)
            peak_bytes = peak(max(batch_size, 1))
            missing_bytes = max(peak_bytes - budget, 0)
            numbers = batch_size, peak_bytes, missing_bytes
            cells.append(Cell(*where, gpu_gib, *numbers, account=peak.account))
    except UserError as error:
        return [Cell(*where, gpu_gib, 0, 0, 0, refused=error.what) for gpu_gib in question.gpus_gib]
    return cells


def asked(
    model: str, method: str, num_gpus: int, sequence_length: int, switches: Switches = DEFAULT
) -> MeasureSpec:
    """The run that a cell asks for. Raises UserError for what the engine can't run."""
    question = argparse.Namespace(
        model=model,
        method=method,
        seq_len=sequence_length,
        batch_size=1,
        engine="single" if num_gpus == 1 else "fsdp2",
        world_size=num_gpus,
        wrap="layer",
        **asdict(switches),
    )
    if not ask.has_rank(method):
        question.rank = None  # of the other methods
    return ask.spec_of(question)
