"""Made-up records of benchmark suites, with their samples."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import synthetic

from analysis.records.collect import COLUMNS
from analysis.records.collected import Collected
from lomo.record.schema import Clock, Device, Provenance
from lomo.record.suite import Score, SuiteRecord, mean_of, write_suite_record
from lomo.specs import SuiteSpec
from lomo.study.config import Study
from lomo.study.plan import Plan

Outcomes = Mapping[str, Sequence[float]]  # by subject
SUBJECTS = {"mmlu_a": 10, "mmlu_b": 14, "mmlu_c": 16}


def drawn(
    share: float, seed: int, subjects: Mapping[str, int] = SUBJECTS
) -> dict[str, list[float]]:
    draw = np.random.default_rng(seed)
    return {name: list((draw.random(num) < share).astype(float)) for name, num in subjects.items()}


def spec_of(suite: str, method: str = "base", seed: int | None = None) -> SuiteSpec:
    made = "" if seed is None else f"/s{seed}"
    return SuiteSpec(
        study="made-up",
        run_id=f"suite/mini/{method}/{suite}{made}",
        model="mini",
        model_path="m",
        method=method,
        seed=seed,
        task=suite,
        data_path="data",
        num_fewshot=None,
        limit=None,
        max_gen_toks=None,
        batch_size=1,
        device="cpu",
        dtype="float32",
        attention="sdpa",
        num_threads=1,
    )


def provenance() -> Provenance:
    device = Device(
        kind="cpu",
        name="made up",
        num_devices=1,
        memory_bytes=1,
        num_threads=1,
        driver=None,
        cpu_capability="AVX2",
        co_tenants=[],
        missing={"driver": "a CPU"},
    )
    return Provenance(
        fingerprint="0",
        git_commit="0",
        git_dirty=False,
        python="3",
        platform="p",
        packages={},
        device=device,
        started_at="2026-01-01T00:00:00+00:00",
    )


def write(folder: Path, spec: SuiteSpec, outcomes: Outcomes, **more: Any) -> None:
    """A record of these outcomes with its samples."""
    prompt = more.pop("prompt", "p")
    unfinished = more.get("num_unfinished")
    lines = [
        {
            "subject": subject,
            "doc_id": number,
            "outcome": value,
            "prompt_sha256": f"{prompt}{number}",
        }
        for subject, values in outcomes.items()
        for number, value in enumerate(values)
    ]
    if unfinished is not None:
        lines = [line | {"finished": place >= unfinished} for place, line in enumerate(lines)]
    value, stderr = mean_of([line["outcome"] for line in lines])
    score = Score(
        **{
            "title": spec.task.upper(),
            "metric": "acc",
            "scoring": "by letter",
            "value": value,
            "stderr": stderr,
            "num_examples": len(lines),
            "num_subjects": len(outcomes),
            "num_cut": 0,
            "max_gen_toks": None,
            "num_unfinished": None,
            "other_metrics": {},
            "num_fewshot": 5,
            "limit": None,
            "task_version": "1.0",
            "lm_eval": "0.4.13",
            "prompts_sha256": "0" * 64,
            "data_sha256": "0" * 64,
            "missing": {"limit": "-"}
            | {key: "-" for key in ("max_gen_toks", "num_unfinished") if key not in more},
            **more,
        }
    )
    zero = dict.fromkeys(("load_s", "compile_s", "train_s", "evaluate_s", "save_s", "other_s"), 0.0)
    record = SuiteRecord(
        study=spec.study,
        run_id=spec.run_id,
        status="ok",
        evidence=None,
        spec=spec.model_dump(mode="json"),
        provenance=provenance(),
        clock=Clock(**zero, wall_s=0.0),
        model=None,
        score=score,
        missing={"evidence": "-", "model": "-", "reused_from": "-"},
    )
    path = folder / "runs" / spec.run_id
    path.mkdir(parents=True, exist_ok=True)
    (path / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_suite_record(path / "record.json", record)


def collected(folder: Path, *specs: SuiteSpec) -> Collected:
    suites = {"models": ["mini"], "data": "hub", "tasks": {spec.task: {} for spec in specs}}
    study = Study.model_validate(
        {"study": "made-up", "title": "t", "data": "generated", "suites": suites}
    )
    models = {"mini": synthetic.models()["mini"]}
    by_id = {spec.run_id: spec for spec in specs}
    plan = Plan(study=study, source="s", models=models, runs={}, sections={}, suites=by_id)
    return Collected(folder, plan, pd.DataFrame(columns=list(COLUMNS)))
