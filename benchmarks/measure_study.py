"""A study's measured runs on a machine without Snakemake, in pieces, going on where it stopped.

    python benchmarks/measure_study.py config/h200.yaml --minutes 9 [--only llama-65b/lomo]

One process and one record a run, as the pipeline's rules do it, and the same files under
results/<study>/: the pipeline, or another call of this, goes on with what is missing. Needs torch,
transformers, pydantic, psutil, pyyaml, and peft for LoRA. See docs/gpu.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from lomo.errors import UserError
from lomo.model.registry import random_config
from lomo.run.execute import finished
from lomo.specs import MeasureSpec
from lomo.study.config import load_study
from lomo.study.plan import Plan, make_plan
from lomo.system.command import refuse
from lomo.system.files import write_text

# A run is not begun with less time left: it would be cut before its first timed step.
SHORTEST_S = 60.0


def prepare(study: str) -> Plan:
    """The study's plan, written where the pipeline has it, with the models' config.json."""
    plan = make_plan(load_study(Path(study)), source=study)
    results = Path("results") / plan.study.study
    for entry in plan.models.values():
        if entry.weights == "random":
            config = json.dumps(random_config(entry), indent=1) + "\n"
            write_text(results / "models" / entry.name / "config.json", config)
    write_text(results / "plan.json", plan.model_dump_json())
    return plan


def run_all(plan: Plan, *, seconds: float, only: str = "") -> int:
    """Does the runs that have no record yet; how many are left, failed ones among them."""
    deadline = time.monotonic() + seconds
    folder = Path("results") / plan.study.study / "runs"
    wanted = [s for s in plan.runs.values() if isinstance(s, MeasureSpec) and only in s.run_id]
    waiting = [spec for spec in wanted if finished(spec, folder / spec.run_id) is None]
    left = len(waiting)
    for spec in waiting:
        remaining = deadline - time.monotonic()
        if remaining < SHORTEST_S:
            break
        command = [sys.executable, "-m", "lomo", "measure", "--spec", spec.model_dump_json()]
        try:
            # The run says itself what came of it.
            done = subprocess.run(
                [*command, "--out", str(folder / spec.run_id)], timeout=remaining, check=False
            )
        except subprocess.TimeoutExpired:
            print(f"{spec.run_id}: cut short, it comes again next time")
            break
        left -= done.returncode == 0
    print(f"{len(wanted) - left} of {len(wanted)} runs have a record")
    return left


def main() -> int:
    """0: all have a record; 3: some have none yet; 2: a mistake."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", help="the study's file")
    parser.add_argument("--minutes", type=float, required=True, help="time for this call")
    parser.add_argument("--only", default="", help="runs whose id holds this text")
    given = parser.parse_args()
    try:
        plan = prepare(given.study)
    except UserError as error:
        return refuse(error)
    return 3 if run_all(plan, seconds=60 * given.minutes, only=given.only) else 0


if __name__ == "__main__":
    sys.exit(main())
