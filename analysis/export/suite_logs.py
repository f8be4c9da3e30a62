"""Benchmark suites as Every Eval Ever: one JSON a model and method, one result a suite."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lomo.record.suite import Score, SuiteRecord
from lomo.study.plan import Plan
from lomo.suites.known import find

from ..records.collected import Collected
from ..suites.scored import BASE, Entry, entries
from ..text.names import listed, method_title, status_text
from . import every_eval_ever
from .every_eval_ever import FORMAT
from .reported import DEVELOPER, LeftOut, base_of

COLLECTION = "suites"


def write_suite_logs(collected: Collected, made_at: int, folder: Path) -> list[LeftOut]:
    """Writes a log for each model as a method left it into `folder`; what is left out.

    made_at: seconds of the epoch at which the export is made. Raises UserError for a record that
    is not believed.
    """
    by_model: dict[tuple[str, str], list[Entry]] = {}
    left = []
    for entry in entries(collected):
        if why := _why_not(entry):
            left.append(LeftOut(FORMAT, f"{entry.model} {entry.method} {entry.suite}", why))
        else:
            by_model.setdefault((entry.model, entry.method), []).append(entry)
    for (model, method), of in by_model.items():
        log = _log(collected.plan, model, method, of, made_at)
        every_eval_ever.write_log(log, folder)
        why = "what a model is asked and writes are the suites' texts, which stay where they are"
        left.append(LeftOut(f"{FORMAT}, examples", f"{model} {method}, suites", why))
    return left


def _why_not(entry: Entry) -> str | None:
    if entry.value is None:
        return f"no run of it ended well: {status_text(entry.status)}"
    if find(entry.suite) is None:  # another task of lm-eval's
        return "the range of its metric, and whether more of it is better, is not known here"
    return None


def _log(
    plan: Plan, model: str, method: str, of: Sequence[Entry], made_at: int
) -> every_eval_ever.Log:
    model_id = f"{DEVELOPER}/" + re.sub(r"[^A-Za-z0-9._-]", "-", f"{model}-{method}")
    records = [run.record for entry in of for run in entry.runs]
    versions = {key: _told(r.provenance.packages.get(key) for r in records) for key in _PACKAGES}
    parts = {
        "source_metadata": every_eval_ever.source(plan, model, is_base=method == BASE),
        "eval_library": {
            "name": "lm_eval",
            "version": versions["lm-eval"],
            "additional_details": {
                "called_by": DEVELOPER,
                "git_commit": _told(r.provenance.git_commit for r in records),
            },
        },
        "model_info": _model(plan, model, method, model_id, records, versions["transformers"]),
    }
    results = [_result(entry) for entry in of]
    started = max(record.provenance.started_at for record in records)
    return every_eval_ever.log(COLLECTION, model_id, parts, results, [], (started, made_at))


_PACKAGES = ("lm-eval", "transformers")


def _told(values: Iterable[Any]) -> str:
    """The different values, in words."""
    known = ("unknown" if value is None or value == "" else str(value) for value in values)
    return listed(dict.fromkeys(known))


def _model(
    plan: Plan,
    model: str,
    method: str,
    model_id: str,
    records: Sequence[SuiteRecord],
    transformers: str,
) -> dict[str, Any]:
    is_base = method == BASE
    public = is_base and plan.models[model].weights in ("hub", "package")
    title = model if is_base else f"{model}, {method_title(method)}"
    weights = {
        str(record.spec["seed"]): record.model and record.model.weights_sha256 for record in records
    }
    return {
        "name": title,
        "id": model_id,
        "developer": DEVELOPER,
        "inference_engine": {"name": "transformers", "version": transformers},
        "additional_details": {
            "deployment_type": "self_deployed",
            "model_availability": "open_weights" if public else "unknown",
            **base_of(plan, model),
            "weights_sha256_by_seed": json.dumps(weights),
            "method": method,
            "dtype": _told(record.spec["dtype"] for record in records),
            "trained": "no" if is_base else "on instructions",
        },
    }


def _result(entry: Entry) -> dict[str, Any]:
    score = entry.scores[0]
    records = [run.record for run in entry.runs]
    started = max(record.provenance.started_at for record in records)
    return {
        "evaluation_result_id": entry.suite,
        "evaluation_name": score.title,
        "source_data": _data(score),
        "evaluation_timestamp": started,
        "metric_config": every_eval_ever.share(
            score.metric, score.metric, f"{score.metric}: {score.scoring}"
        ),
        "score_details": {
            "score": entry.value,
            "details": {
                "source_records": " ".join(entry.run_ids),
                "value_by_seed": json.dumps(
                    {str(r.spec["seed"]): r.score and r.score.value for r in records}
                ),
                "num_examples": str(score.num_examples),
                "num_subjects": str(score.num_subjects),
                "num_cut": _told(s.num_cut for s in entry.scores),
                "num_unfinished": _told(s.num_unfinished for s in entry.scores),
                "max_gen_toks": _told(s.max_gen_toks for s in entry.scores),
                "prompts_sha256": _told(s.prompts_sha256 for s in entry.scores),
                "data_sha256": _told(s.data_sha256 for s in entry.scores),
                "fingerprint": _told(r.provenance.fingerprint for r in records),
                "device": _told(r.provenance.device.name for r in records),
            },
            "uncertainty": _uncertainty(entry, score),
        },
        "generation_config": {
            "generation_args": {"prompt_template": f"lm-eval {score.lm_eval}, {entry.suite}"},
            "additional_details": {
                "scoring": score.scoring,
                "num_fewshot": str(score.num_fewshot),
                "task_version": score.task_version,
            },
        },
    }


def _uncertainty(entry: Entry, score: Score) -> dict[str, Any]:
    told: dict[str, Any] = {"num_samples": score.num_examples}
    if entry.interval is not None:
        low, high = entry.interval
        method = "by subject where there are several, and over the seeds"
        told["confidence_interval"] = {
            **{"lower": low, "upper": high, "confidence_level": 0.95, "method": method}
        }
    return told


def _data(score: Score) -> dict[str, Any]:
    limit = "all" if score.limit is None else f"the first {score.limit} of each subject"
    return {
        "dataset_name": score.title,
        "source_type": "other",
        "additional_details": {"examples": limit, "sha256": score.data_sha256 or "unknown"},
    }
