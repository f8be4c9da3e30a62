"""What a study of 10,000 runs costs around its runs: made up, planned, collected and shown.

    python benchmarks/big_study.py make FOLDER [--runs 10000] [--shape seeds]
    python benchmarks/big_study.py time FOLDER [--times 3] [--against CHECKOUT] [--only plan ...]

`make` writes FOLDER/study.yaml and FOLDER/results/big: a real plan, records of the present code
with made-up numbers, histories, samples, data, base models of a few bytes. `time` runs the commands
on it, each a process of its own; with `--against`, those of another checkout in turn with ours, so
that a drift of the machine meets both alike, and tells the ratio. On a busy machine the processors'
seconds say more than the wall's.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).resolve().parent.parent
RESULTS = "results/big"
STABILITY = ROOT / "config" / "stability.yaml"


def study_of(shape: str, num_runs: int) -> dict[str, Any]:
    """A study of about so many runs, as its file would hold it.

    seeds: the default study's Table 3 with many seeds, each with a base model of its own. trials:
    three seeds, and many trials of each method, drawn at random.
    """
    study: dict[str, Any] = yaml.safe_load(STABILITY.read_text(encoding="utf-8"))
    section = study["superglue"]
    num_trained = len(section["tasks"]) * (len(section["methods"]) - 1)
    if shape == "seeds":
        num_seeds = max(3, round(num_runs / (num_trained + len(section["tasks"]))))
        section["seeds"] = list(range(1, num_seeds + 1))
    else:
        section["seeds"] = [1, 2, 3]
        tuned = yaml.safe_load((ROOT / "config" / "tuning.yaml").read_text(encoding="utf-8"))
        num_trials = max(2, round(num_runs / (3 * num_trained)))
        section["grids"] = tuned["superglue"]["grids"]
        section["search"] = tuned["superglue"]["search"] | {"trials": num_trials}
    return study | {"study": "big", "title": f"A made-up study of many {shape}"}


def make(folder: Path, num_runs: int, shape: str) -> None:
    """Writes the study, its data, its base models and its records, in that order."""
    folder.mkdir(parents=True, exist_ok=True)
    study = study_of(shape, num_runs)
    (folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    os.chdir(folder)
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "analysis")]
    from lomo.pipeline.standing import plan_text
    from lomo.study.config import load_study
    from lomo.study.plan import make_plan
    from lomo.system import processes
    from lomo.system.files import write_text

    plan = make_plan(load_study(Path("study.yaml")), source="study.yaml")
    results = Path(RESULTS)
    write_inputs(plan, results)
    write_text(results / "plan.json", plan_text(plan))
    run_ids = list(plan.runs)
    num_parts = os.cpu_count() or 1
    parts = processes.results(
        lambda part: write_runs(plan, run_ids[part::num_parts], results), num_parts, num_parts
    )
    print(f"{sum(number for _, number in parts)} records in {folder / RESULTS}")


def write_inputs(plan: Any, results: Path) -> None:
    """Generated data and a folder for each base model, with notes of what they are made from."""
    from lomo.record import made
    from lomo.record.provenance import fingerprint
    from lomo.tasks import miniature

    given = plan.study.generated
    data = results / "data" / "superglue"
    miniature.write_text(results / "data" / "text.txt", seed=given.seed, num_sentences=100)
    miniature.write_superglue(
        data, seed=given.seed, num_train=given.num_train, num_val=given.num_val
    )
    spec = given.model_dump(mode="json")
    made.note_folder(data, spec=spec, code=fingerprint("generate"))
    for base, (name, seed) in plan.bases().items():
        folder = Path(base)
        folder.mkdir(parents=True, exist_ok=True)
        for file in ("config.json", "tokenizer.json", "model.safetensors"):
            (folder / file).write_text(f"made up, {base}\n", encoding="utf-8")
        spec = plan.models[name].model_dump(mode="json")
        made.note_folder(folder, spec=spec, seed=seed, code=fingerprint("pretrain"))


def write_runs(plan: Any, run_ids: list[str], results: Path) -> int:
    """Writes the records of these runs and what bears them out; how many."""
    import synthetic

    from lomo.record.provenance import fingerprint_of

    codes: dict[tuple[str, str], str] = {}
    now = datetime.now(UTC).isoformat()

    def of_today(run_id: str, record: dict[str, Any]) -> dict[str, Any]:
        """As if the present code had made it now, from a base model of its seed."""
        spec = plan.runs[run_id]
        key = (spec.method, spec.task)
        if key not in codes:
            codes[key] = fingerprint_of(spec)
        record["provenance"] |= {"fingerprint": codes[key], "started_at": now}
        record["model"]["weights_sha256"] = f"{spec.seed:064x}"
        return record

    part = plan.model_copy(update={"runs": {run_id: plan.runs[run_id] for run_id in run_ids}})
    synthetic.write_runs(results, part, of_today)
    return len(run_ids)


def commands(checkout: Path) -> dict[str, list[str]]:
    """The command lines that are timed, by name."""
    lomo = [sys.executable, "-m", "lomo"]
    analysis = [sys.executable, "-m", "lomo_analysis"]
    snakemake = [sys.executable, "-m", "snakemake", "--snakefile", str(checkout / "Snakefile")]
    snakemake += [
        "--configfile",
        "study.yaml",
        "--cores",
        "2",
    ]
    snakemake += ["--workflow-profile", str(checkout / "profiles" / "default"), "--dry-run"]
    results = ["--results", RESULTS]
    return {
        "dry run, nothing there": [*snakemake, "--config", "study=fresh"],
        "dry run, all done": snakemake,
        "plan": [*lomo, "plan", "study.yaml"],
        "status": [*lomo, "status", RESULTS],
        "collect": [*analysis, "collect", *results],
        "table": [*analysis, "table", *results],
        "figure": [*analysis, "figure", *results],
        "report": [*analysis, "report", *results],
    }


def against(folder: Path, checkout: Path) -> Path:
    """A folder for another checkout: the same runs, data and models, tables of its own."""
    beside = folder / "against"
    (beside / RESULTS).mkdir(parents=True, exist_ok=True)
    (beside / "lomo_analysis").unlink(missing_ok=True)
    (beside / "lomo_analysis").symlink_to(checkout.resolve() / "analysis")
    shutil.copy(folder / "study.yaml", beside / "study.yaml")
    shutil.copy(folder / RESULTS / "plan.json", beside / RESULTS / "plan.json")
    for name in ("runs", "data", "models"):
        link = beside / RESULTS / name
        if not link.is_symlink():
            link.symlink_to((folder / RESULTS / name).resolve())
    return beside


class Took(NamedTuple):
    """Of one command: seconds on the wall, and of processors, its children's among them."""

    wall_s: float
    cpu_s: float


def time_of(command: list[str], folder: Path, checkout: Path) -> Took:
    """What one command takes in a folder, by the sources of a checkout."""
    paths = [str(checkout), str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "LOMO_QUIET": "1"}
    before, started = os.times(), time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    wall_s, after = time.perf_counter() - started, os.times()
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr[-3000:]}")
    cpu_s = after.children_user + after.children_system
    return Took(wall_s, cpu_s - before.children_user - before.children_system)


def measure(places: dict[str, tuple[Path, Path]], times: int, only: list[str] | None) -> None:
    """Times the commands in (folder, checkout), each by its name, in turn; prints medians."""
    for name in commands(ROOT):
        if only and not any(word in name for word in only):
            continue
        took: dict[str, list[Took]] = {place: [] for place in places}
        for _ in range(times):
            for place, (folder, checkout) in places.items():
                took[place].append(time_of(commands(checkout)[name], folder, checkout))
        for what in Took._fields:
            found = {place: [getattr(each, what) for each in of] for place, of in took.items()}
            words = [f"{name:24} {what:6}"]
            for place, of in found.items():
                spread = f"({min(of):.1f} to {max(of):.1f})"
                words.append(f"{place} {statistics.median(of):6.1f} {spread:18}")
            if "before" in found:
                pairs = zip(found["before"], found["now"], strict=True)
                words.append(f"ratio {statistics.median(old / new for old, new in pairs):.2f}")
            print("  ".join(words), flush=True)


def main() -> None:
    """Makes the study, or times what is done with it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["make", "time"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--shape", choices=["seeds", "trials"], default="seeds")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--against", type=Path, help="another checkout, timed in turn with this")
    parser.add_argument("--only", nargs="+", help="words of the names of commands")
    options = parser.parse_args()
    folder = options.folder.resolve()
    if options.what == "make":
        make(folder, options.runs, options.shape)
        return
    places = {"now": (folder, ROOT)}
    if options.against:
        other = options.against.resolve()
        places = {"before": (against(folder, other), other), **places}
    measure(places, options.times, options.only)


if __name__ == "__main__":
    main()
