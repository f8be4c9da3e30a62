"""How many rooms of the house a training's spec visits, and how often it climbs back up.

A room is a folder of `lomo` (each of memory's three is one), or a loose module. The spec visits the
room of a function of ours that is handed it, as an argument or as `self.spec`, or that has it when
it returns. Calls in a row that stay in a room are one move, where they hand it on. The spec climbs
where it is handed to a function on a floor above that of the function of ours which called it: a
return is no climb, and what a step repeats counts once.

    python -m pytest -s tests/run/test_rooms.py   (prints the moves and the climbs)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import lomo
from lomo.cli import main
from lomo.specs import TrainSpec
from lomo.study.config import Study
from lomo.study.plan import make_plan
from tests.test_layers import FLOORS, floor_of

HOUSE = Path(lomo.__file__).parent


def module_of(frame: FrameType) -> str | None:
    """The module of ours that a frame's code stands in."""
    path = Path(frame.f_code.co_filename)
    if not path.is_relative_to(HOUSE):
        return None
    parts = path.relative_to(HOUSE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_handed_it(frame: FrameType) -> bool:
    """Whether a function that begins has the spec, or an object that holds it as `spec`."""
    num = frame.f_code.co_argcount + frame.f_code.co_kwonlyargcount
    given = [frame.f_locals.get(name) for name in frame.f_code.co_varnames[:num]]
    own = getattr(given[0], "__dict__", {}) if frame.f_code.co_varnames[:1] == ("self",) else {}
    return any(isinstance(value, TrainSpec) for value in [*given, own.get("spec")])


def caller_of(frame: FrameType) -> str | None:
    """The module of the nearest function of ours below it on the stack."""
    below = frame.f_back
    while below is not None:
        if (module := module_of(below)) is not None:
            return module
        below = below.f_back
    return None


class Visits:
    """Takes note of each call that is handed a spec."""

    def __init__(self) -> None:
        self.rooms: dict[str, None] = {}
        self.moves: list[str] = []
        self.climbs: dict[tuple[str, str], None] = {}

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event not in ("call", "return") or (module := module_of(frame)) is None:
            return
        room = str(floor_of(module))
        if event == "return":
            if any(isinstance(value, TrainSpec) for value in frame.f_locals.values()):
                self.rooms[room] = None
            return
        if not is_handed_it(frame):
            return
        self.rooms[room] = None
        if room not in self.moves[-1:]:
            self.moves.append(room)
        caller = caller_of(frame)
        if caller is not None:
            there, here = FLOORS.index(room), FLOORS.index(str(floor_of(caller)))
            if there > here:
                self.climbs[caller, f"{module}.{frame.f_code.co_name}"] = None


@pytest.mark.slow  # each call of the run is looked at, those of libraries too
def test_a_trainings_spec_visits_few_rooms(study_dict: dict[str, Any], tmp_path: Path) -> None:
    plan = make_plan(Study.model_validate(study_dict), source="unit.yaml")
    spec = next(run for run in plan.runs.values() if run.method == "lomo" and run.kind == "train")
    small = {"epochs": 1, "num_train": 8, "num_dev": 2, "num_test": 2}
    spec = spec.model_copy(update=small)
    visits = Visits()
    arguments = ["train", "--spec", json.dumps(spec.model_dump()), "--out", str(tmp_path)]
    before = sys.getprofile()
    sys.setprofile(visits)
    try:
        code = main(arguments)
    finally:
        sys.setprofile(before)
    assert code == 0
    print(f"\n{len(visits.rooms)} rooms: {', '.join(visits.rooms)}")
    print(f"{len(visits.moves) - 1} moves: {', '.join(visits.moves)}")
    print(f"{len(visits.climbs)} climbs: {', '.join(' -> '.join(c) for c in visits.climbs)}")
    assert len(visits.rooms) <= 8
    assert len(visits.climbs) <= 4
