"""What stands in a study's folder and is not of its present plan and code: made again at the start.

Where Snakemake knows what a file was made with, it finds the same. It does not where .snakemake is
lost or the folder was copied: then what stands must tell itself (lomo/record/made.py, and each
record).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lomo.model.registry import random_config, with_random_weights
from lomo.record import made
from lomo.record.evidence import HISTORY, SAMPLES
from lomo.record.provenance import fingerprint, fingerprint_of
from lomo.study.plan import Plan

LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
# Clocks of two machines may differ by so much.
CLOCKS = timedelta(seconds=120)
ANALYSIS = {"collect": "collect", "tables": "table", "figures": "figure", "report": "report"}


@dataclass
class Standing:
    """What is to be made again: rules by name, single jobs by an output; and why, in words."""

    rules: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)
    reasons: list[str] = field(default_factory=list)
    unestimated: bool = False  # nothing tells what the runs would take


def look(results: Path, plan: Plan, *, estimated: bool = True) -> Standing:
    """Compares what stands in `results` with the plan and the sources; imports no torch.

    Of what is as it has to be, the times of files are set right: a copy leaves them in any order.
    estimated: whether this pipeline tells beforehand what its runs will take.
    """
    found = Standing()
    path = results / "plan.json"
    if path.is_file() and path.read_text(encoding="utf-8") != plan_text(plan):
        found.rules.add("list_runs")
        found.reasons.append(f"{path} is not the present plan: it and the tables are made again")
    inputs = dict(_inputs(results, plan, found))
    _look_at_records(results, plan, inputs, found)
    _look_at_suites(results, plan, inputs, found)
    _look_at_predictions(results, plan, found)
    if "list_runs" not in found.rules and not found.files:
        _look_at_tables(results, plan, found)
    found.unestimated = estimated and not is_estimated(results / "estimates.json", plan)
    if found.unestimated and (results / "tables").is_dir():
        found.rules.add("tables")
        found.reasons.append(f"{results}/estimates.json is not there or lacks runs: made again")
    return found


def is_estimated(path: Path, plan: Plan) -> bool:
    """Whether the estimates in a file are of all runs of the plan. A cut one is the user's case."""
    runs = made.read(path).get("runs", {})
    return (path.is_file() and not runs) or set(plan.runs) <= set(runs)


def plan_text(plan: Plan) -> str:
    """A plan as plan.json holds it."""
    return plan.model_dump_json(indent=1) + "\n"


def _inputs(results: Path, plan: Plan, found: Standing) -> Iterator[tuple[str, datetime]]:
    """(model's folder, or "data"; when it was made) of what is there and from the present plan."""
    folder = results / "data" / "superglue"
    text = folder.parent / "text.txt"
    if plan.study.data == "generated" and text.is_file():
        spec, code = plan.study.generated.model_dump(mode="json"), fingerprint("generate")
        told = made.made_from(folder / made.NAME, spec=spec, code=code)
        if told is None:
            found.rules.add("generate")
            found.reasons.append(f"{folder.parent} is of another setting or code: made again")
        elif told.content == made.digest(made.files_in(folder)):
            yield "data", told.at
    for base, (name, seed) in plan.bases().items():
        folder = results / "models" / name / Path(base).name
        last = folder / "model.safetensors"
        if not last.is_file():
            continue
        spec, code = plan.models[name].model_dump(mode="json"), fingerprint("pretrain")
        told = made.made_from(folder / made.NAME, spec=spec, seed=seed, code=code)
        if told is None:
            found.files.add(last.as_posix())
            found.reasons.append(f"{folder} is of another setting or code: made again")
        elif told.content == made.digest(made.files_in(folder)):
            yield base, told.at
            _settle([last], _newest([text] if "generate" not in found.rules else []))
    for name in dict.fromkeys(run.model for run in plan.runs.values() if run.kind == "measure"):
        config, entry = results / "models" / name / "config.json", plan.models[name]
        if entry.weights in ("random", "pretrain") and config.is_file():
            drawn = with_random_weights(entry, where=plan.source)
            if made.read(config) != random_config(drawn):
                found.files.add(config.as_posix())
                found.reasons.append(f"{config.parent} is of another setting: made again")


def _look_at_records(
    results: Path, plan: Plan, inputs: dict[str, datetime], found: Standing
) -> None:
    # Of ten thousand runs many share model and data, which are looked at once.
    newest: dict[tuple[str, str], float] = {}
    odd: list[str] = []
    files = made.record_files(results, plan.runs)
    for (run_id, spec), path in zip(plan.runs.items(), files, strict=True):
        record = made.read(path)
        if not record:  # none yet, or one that is refused when the tables are made
            continue
        why = _why_not(record, spec.model_dump(mode="json"), fingerprint_of(spec), path.parent)
        names = (spec.model_path, "data") if spec.kind == "train" else (spec.model_path,)
        sources = [inputs[name] for name in names if name in inputs]
        if why is None and sources and _started(record) + CLOCKS < max(sources):
            why = "it was done before its model or data were made"
        if why is not None:
            found.files.add(path.as_posix())
            odd.append(f"{run_id} ({why})")
        elif len(sources) == len(names):
            shared = (spec.kind, spec.model_path)
            if shared not in newest:
                newest[shared] = _newest(_inputs_of(results, spec))
            _settle([path], newest[shared])
    _tell_again(odd, found)


def _tell_again(odd: list[str], found: Standing) -> None:
    if odd:
        more = f", and {len(odd) - 1} more" if len(odd) > 1 else ""
        found.reasons.append(f"done again: {odd[0]}{more}")


def _look_at_suites(
    results: Path, plan: Plan, inputs: dict[str, datetime], found: Standing
) -> None:
    """The miniature suite, and the records of suites, as those of the other runs."""
    folder = results / "data" / "suites"
    if (folder / made.NAME).is_file() and any(
        run.data_path == folder.as_posix() for run in plan.suites.values()
    ):
        seed, code = plan.study.generated.seed, fingerprint("generate_suites")
        if made.made_from(folder / made.NAME, seed=seed, code=code) is None:
            found.rules.add("generate_suites")
            found.reasons.append(f"{folder} is of another setting or code: made again")
    odd = []
    files = made.record_files(results, plan.suites)
    for (run_id, spec), path in zip(plan.suites.items(), files, strict=True):
        record = made.read(path)
        if not record:
            continue
        why = _other_plan(record, spec.model_dump(mode="json"), fingerprint_of(spec))
        if why is None and record.get("score") and not path.with_name(SAMPLES).exists():
            why = f"{SAMPLES} beside its record is gone"
        made_at = inputs.get(spec.model_path)
        if why is None and made_at is not None and _started(record) + CLOCKS < made_at:
            why = "it was done before its model was made"
        if why is not None:
            found.files.add(path.as_posix())
            odd.append(f"{run_id} ({why})")
    _tell_again(odd, found)


def _why_not(record: dict[str, Any], spec: dict[str, Any], code: str, folder: Path) -> str | None:
    """Why a record is not of the run that is planned now, in present code; None if it is."""
    if (why := _other_plan(record, spec, code)) is not None:
        return why
    timeline = (record.get("memory") or {}).get("timeline_file")
    needed = [SAMPLES] if record.get("result") else []
    needed += [HISTORY] if record.get("throughput") or record.get("evaluations") else []
    needed += [timeline] if timeline else []
    gone = [name for name in needed if not (folder / name).exists()]
    return f"{gone[0]} beside its record is gone" if gone else None


def _other_plan(record: dict[str, Any], spec: dict[str, Any], code: str) -> str | None:
    """Why a record is of another plan or code; None if it is of these."""
    for key in ("study", "run_id", "kind"):
        if record.get(key) != spec[key]:
            return f"its record has the {key} {record.get(key)!r}"
    if record.get("spec") != spec:
        given = record.get("spec") or {}
        key = next(key for key in {**spec, **given} if spec.get(key) != given.get(key))
        return f"its record has {key} {given.get(key)!r}, the plan {spec.get(key)!r}"
    if (record.get("provenance") or {}).get("fingerprint") != code:
        return "its record is of other code"
    return None


def _started(record: dict[str, Any]) -> datetime:
    """When the run began; of a record that does not tell, which no table takes, long ago."""
    try:
        told = datetime.fromisoformat(record["provenance"]["started_at"])
    except (KeyError, TypeError, ValueError):
        return LONG_AGO
    return told if told.tzinfo is not None else LONG_AGO


def _inputs_of(results: Path, spec: Any) -> list[Path]:
    folder = results / "models" / spec.model
    if spec.kind != "measure":
        folder /= Path(spec.model_path).name  # its base; there is none of another's model
    data = made.files_in(results / "data" / "superglue") if spec.kind == "train" else []
    return [*folder.glob("*.safetensors"), folder / "config.json", *data]


def _look_at_tables(results: Path, plan: Plan, found: Standing) -> None:
    """Tables, figures and report, each by its content: nothing before them is made again."""
    newest = _newest([results / "plan.json", *made.record_files(results, plan.runs)])
    sources = made.Sources(results, plan)
    published, page = results / "wandb/published.json", made.page(results, "wandb")
    if published.is_file() and made.made_from(page, **sources.of("wandb")):
        _settle([published], newest)
    for rule, command in ANALYSIS.items():
        place = {"collect": "tables", "report": "report"}.get(rule, rule)
        outputs = [file for file in made.files_in(results / place) if _is_of(rule, file)]
        if not outputs:
            return  # it and what follows are missing, and made for that
        page, code = made.page(results, command), fingerprint("analysis")
        if made.made_from(page, **sources.of(command), code=code) is None:
            found.rules.add(rule)
            found.reasons.append(f"{results / place} is not of what stands: {rule} made again")
            return  # what follows it is made again after it
        _settle(outputs, newest)
        newest = max(newest, _newest(outputs))


def predicting_code(plan: Plan) -> list[str]:
    """Hashes of the sources that predict what a plan measures."""
    methods = sorted({run.method for run in plan.runs.values() if run.kind == "measure"})
    return [fingerprint("predict", method) for method in methods]


def _look_at_predictions(results: Path, plan: Plan, found: Standing) -> None:
    """The list of predictions is there only where all of them are, and by the present code."""
    index = results / "predictions" / "index.json"
    if not index.is_file():
        return
    told = made.made_from(made.page(results, "predictions"), code=predicting_code(plan))
    names = made.names_in(index)
    gone = [name for name in names if not (index.parent / f"{name}.json").is_file()]
    if told is None or gone:
        found.rules.add("predictions")
        why = f"{gone[0]} is gone" if gone else "they are of other code"
        found.reasons.append(f"{index.parent}: {why}; what lacks is predicted again")


def _is_of(rule: str, file: Path) -> bool:
    predicted, collected = file.name.startswith("predicted_"), file.stem in ("records", "outcomes")
    return not predicted and (collected if rule == "collect" else not collected)


def _newest(paths: Iterable[Path]) -> float:
    """When the last of those that exist was written; 0 if there is none."""
    return max((path.stat().st_mtime for path in paths if path.is_file()), default=0.0)


def _settle(outputs: Sequence[Path], newest: float) -> None:
    """Makes outputs no older than their newest input, where they are what the inputs give."""
    if any(path.stat().st_mtime < newest for path in outputs):
        for path in outputs:
            os.utime(path)
