"""What the runs of the `peers` section say of each variant, beside the floor of its round."""

from __future__ import annotations

import json
from dataclasses import dataclass
from statistics import median
from typing import Any

from lomo.errors import UserError
from lomo.study.measured import Target
from lomo.system.files import read_lines

from ..statistics.intervals import Interval
from ..statistics.speed import paired_ratio
from ..text.names import worst_status
from .collected import Collected

SECTION = "peers"
FLOOR = "floor"


@dataclass(frozen=True)
class Entry:
    """One variant in one setting, over all its rounds; None where nothing could be measured."""

    model: str
    activation_checkpointing: bool
    variant: str
    title: str
    method: str
    clipping: str
    status: str
    num_rounds: int
    num_ok: int
    peak_bytes: int | None
    over_floor_bytes: int | None
    memory_ratio: float | None
    step_s: float | None
    time_ratios: tuple[float, ...]
    target: Target | None
    run_ids: tuple[str, ...] = ()

    @property
    def time_ratio(self) -> float | None:
        """The median over rounds of the step's time over the floor's."""
        return median(self.time_ratios) if self.time_ratios else None

    @property
    def time_interval(self) -> Interval | None:
        """The 95 % interval of the ratio over rounds, by Student's t of its logarithm; None of one
        round."""
        found = paired_ratio(self.time_ratios)
        return found.interval if found else None

    @property
    def time_p(self) -> float | None:
        """How often chance alone is so far from the time's target; None without a target, or of
        one round."""
        found = paired_ratio(self.time_ratios)
        return found.p(self.target.time_ratio) if found and self.target else None

    @property
    def memory_met(self) -> bool | None:
        """Whether the peak is within its target; None without a target or a measurement."""
        if self.target is None or self.over_floor_bytes is None:
            return None
        return self.over_floor_bytes <= self.target.over_floor_bytes

    @property
    def time_met(self) -> bool | None:
        """Whether the median time is within its target; None as above."""
        if self.target is None or self.time_ratio is None:
            return None
        return self.time_ratio <= self.target.time_ratio

    @property
    def rounds_agree(self) -> bool:
        """Whether all rounds are on one side of the time's target."""
        limit = self.target.time_ratio if self.target else 0.0
        return len({ratio <= limit for ratio in self.time_ratios}) < 2


def entries(collected: Collected) -> list[Entry]:
    """All variants by model and checkpointing, in the order of the study; [] without a section."""
    section = collected.plan.study.peers
    if section is None:
        return []
    cells: dict[tuple[str, bool], dict[str, dict[int, Any]]] = {}
    for row in collected.rows(SECTION):
        setting = cells.setdefault((row.model, bool(row.activation_checkpointing)), {})
        setting.setdefault(row.variant, {})[int(row.round)] = row
    floor = next(name for name, asked in section.variants.items() if asked.method == FLOOR)
    return [
        _entry(collected, name, of_setting[name], of_setting[floor])
        for of_setting in cells.values()
        for name in section.variants
    ]


def _entry(collected: Collected, name: str, rows: dict[int, Any], floors: dict[int, Any]) -> Entry:
    section = collected.plan.study.peers
    assert section is not None
    asked, first = section.variants[name], next(iter(rows.values()))
    ok = {number: row for number, row in rows.items() if row.status == "ok"}
    both = {number: row for number, row in ok.items() if floors[number].status == "ok"}
    seconds = {number: fastest_step_s(collected, row) for number, row in ok.items()}
    failed = [row.status for row in rows.values() if row.status != "ok"]
    over = [int(row.peak_bytes) - int(floors[number].peak_bytes) for number, row in both.items()]
    return Entry(
        model=first.model,
        activation_checkpointing=bool(first.activation_checkpointing),
        variant=name,
        title=asked.title or name,
        method=first.method,
        clipping=clipping(first),
        status=worst_status(failed) if failed else "ok",
        num_rounds=len(rows),
        num_ok=len(ok),
        # The meter gives the same bytes in each round; should it not, the largest counts.
        peak_bytes=max((int(row.peak_bytes) for row in ok.values()), default=None),
        over_floor_bytes=max(over, default=None),
        memory_ratio=max(
            (row.peak_bytes / floors[number].peak_bytes for number, row in both.items()),
            default=None,
        ),
        step_s=min(seconds.values(), default=None),
        time_ratios=tuple(
            seconds[number] / fastest_step_s(collected, floors[number]) for number in both
        ),
        target=asked.target,
        run_ids=tuple(row.run_id for row in ok.values()),
    )


def fastest_step_s(collected: Collected, row: Any) -> float:
    """Seconds of the fastest timed step of a run: what disturbs a step only makes it longer."""
    return min(timed_steps(collected, row))


def timed_steps(collected: Collected, row: Any) -> list[float]:
    """Seconds of a run's timed steps, in their order. Raises UserError where there is none."""
    path = collected.run_folder(row.run_id) / "history.jsonl"
    steps = [event["step_s"] for event in read_lines(path) if event.get("event") == "step"]
    timed = [float(step) for step in steps[int(row.num_warmup_steps) :]]
    if not timed:
        raise UserError(
            "holds no timed step, and its record says that there were some",
            where=str(path),
            fix="delete its folder and run the pipeline again: only that run is repeated",
        )
    return timed


def clipping(row: Any) -> str:
    """What a run does about the gradient's norm, in words."""
    hyper = json.loads(row.hyper)
    if row.max_grad_norm is None:
        return "none needed: normalised update" if row.method == "adalomo" else "none"
    if row.method == "lomo_optim":
        return "global norm: backward, forward again, backward"
    scope = hyper.get("norm_scope")
    if scope == "parameter":
        return "each tensor by its own norm"
    if scope == "previous_step":
        return "global norm of the step before"
    if scope == "global":
        return f"global norm, exact: {_measuring(hyper)}"
    return "global norm"


def _measuring(hyper: dict[str, Any]) -> str:
    ghost = hyper.get("update") == "gemm"
    return "ghost norms, two backwards" if ghost else "two backwards"
