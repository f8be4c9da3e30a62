"""kill -9, of anything, at any moment: nothing finished is lost, and no table differs."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from tests.faults.outcomes import Outcome
from tests.faults.study import LOMO_RUN, TABLES, Place, draw, family, kill, wait_until

VICTIMS = ("snakemake alone", "any one process", "all at once")
# What stands when a part of the work has begun; a moment later one is killed.
MOMENTS = (
    "results/mini/plan.json",
    "results/mini/.start/plan.json",
    "results/mini/data/text.txt",
    "results/mini/models/mini/.s42.lock",
    f"{LOMO_RUN}/history.jsonl",
    f"{LOMO_RUN}/checkpoints",
    f"{LOMO_RUN}/record.json",
    "results/mini/logs/collect.log",
    "results/mini/tables/records.parquet",
)


@pytest.mark.parametrize("victim", VICTIMS)
def test_killed(place: Place, reference: Path, outcome: Outcome, victim: str, number: int) -> None:
    outcome.fault, outcome.where = "kill -9", victim
    chance = draw(victim, number)
    moment = place.folder / chance.choice(MOMENTS)
    process = place.start(TABLES)
    wait_until(lambda: moment.exists() or process.poll() is not None)
    time.sleep(chance.uniform(0, 1))
    place.note_finished()
    for one in chosen(victim, family(process), chance):
        kill(one)
    outcome.codes.append(process.wait(timeout=300))
    said = [line for line in place.said().splitlines() if "killed" in line or "died" in line]
    outcome.message = said[0] if said else ""
    assert "Traceback" not in place.said()
    outcome.resume(place, reference, TABLES)


def chosen(victim: str, alive: list[psutil.Process], chance: object) -> list[psutil.Process]:
    if victim == "snakemake alone":
        return alive[:1]
    return alive if victim == "all at once" else [chance.choice(alive)]  # type: ignore[attr-defined]
