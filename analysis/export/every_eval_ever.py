"""Every Eval Ever, schema 0.3.0: one JSON a model and method, and its examples as JSON lines.

Each result is the mean over the seeds. All its detail is text, as the schema wants it.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from pathlib import Path
from typing import Any, NamedTuple

from lomo.study.config import Study
from lomo.study.plan import Plan
from lomo.system.files import write_text

from ..records.collected import Collected
from .examples import SUPERGLUE_PAGE, collection, data_title, prompt_template
from .instances import lines_of
from .reported import DEVELOPER, LeftOut, Reported, Variant, base_of

FORMAT, SCHEMA = "Every Eval Ever", "0.3.0"
SCORING = "the answer with the largest sum of its tokens' log-likelihoods; no example in the prompt"


class Log(NamedTuple):
    """One JSON file below `data/`, and the lines of the file beside it, none where it has none."""

    path: str
    text: str
    samples_path: str
    samples: str


def write_logs(
    collected: Collected, variants: list[Variant], made_at: int, folder: Path
) -> list[LeftOut]:
    """Writes the logs of all variants into `folder`; those whose examples are left out.

    made_at: seconds of the epoch at which the export is made.
    """
    left = []
    # One at a time: the examples of a whole study may be more than memory holds.
    for variant in variants:
        lines, why = lines_of(collected, variant)
        if why:
            left.append(LeftOut(f"{FORMAT}, examples", f"{variant.model} {variant.variant}", why))
        write_log(_log(collected.plan, variant, lines, made_at), folder)
    return left


def write_log(log: Log, folder: Path) -> None:
    """Writes a log, and its samples where it has any, below `folder`."""
    (folder / log.path).parent.mkdir(parents=True, exist_ok=True)
    write_text(folder / log.path, log.text)
    if log.samples:
        write_text(folder / log.samples_path, log.samples)


def _log(plan: Plan, variant: Variant, lines: list[dict[str, Any]], made_at: int) -> Log:
    study = plan.study
    results = [_result(study, reported) for reported in variant.accuracies]
    model_id = f"{DEVELOPER}/{variant.name}"
    untrained = variant.accuracies[0].cell.method == "zero_shot"
    parts = {
        "source_metadata": source(plan, variant.model, is_base=untrained),
        "eval_library": _library(variant),
        "model_info": _model(plan, variant, model_id),
    }
    started = max(reported.started_at for reported in variant.accuracies)
    return log(collection(study), model_id, parts, results, lines, (started, made_at))


def log(
    collection: str,
    model_id: str,
    parts: dict[str, Any],
    results: list[dict[str, Any]],
    lines: list[dict[str, Any]],
    at: tuple[str, int],
) -> Log:
    """The log of a model's results, with the lines of its examples.

    parts: what it says of source, library and model. at: when the last run began, and the seconds
    of the epoch at which the export is made.
    """
    started_at, made_at = at
    # Made of what it says, so that the same study has the same name again; marked as version 4.
    said = json.dumps([model_id, results], sort_keys=True).encode()
    name = uuid.UUID(bytes=hashlib.sha256(said).digest()[:16], version=4)
    folder = f"data/{collection}/{model_id}"
    identity = {
        "schema_version": SCHEMA,
        "evaluation_id": f"{collection}/{model_id}/{made_at}",
    }
    told = {
        **identity,
        "evaluation_timestamp": started_at,
        "retrieved_timestamp": str(made_at),
        **parts,
        "evaluation_results": results,
    }
    samples = "".join(
        json.dumps({**identity, "model_id": model_id, **line}) + "\n" for line in lines
    )
    samples_path = f"{folder}/{name}_samples.jsonl"
    if samples:
        told["detailed_evaluation_results"] = {
            "format": "jsonl",
            "file_path": samples_path,
            "hash_algorithm": "sha256",
            "checksum": hashlib.sha256(samples.encode()).hexdigest(),
            "total_rows": len(lines),
        }
    text = json.dumps(told, indent=1, allow_nan=False) + "\n"
    return Log(f"{folder}/{name}.json", text, samples_path, samples)


def source(plan: Plan, model: str, *, is_base: bool) -> dict[str, Any]:
    """Whose evaluation it is; is_base: of a model that nothing here has tuned."""
    trained_here = plan.models[model].weights == "pretrain" or not is_base
    return {
        "source_name": f"{DEVELOPER}: {plan.study.title}",
        "source_type": "evaluation_run",
        "source_organization_name": "unknown",
        # Who trains a model is its first party.
        "evaluator_relationship": "first_party" if trained_here else "third_party",
        "additional_details": {"study": plan.study.study, "plan": plan.source},
    }


def _library(variant: Variant) -> dict[str, Any]:
    first = variant.accuracies[0]
    versions = first.facts()
    return {
        "name": "lm_eval",
        "version": versions["lm_eval"],
        "additional_details": {
            "called_by": DEVELOPER,
            "git_commit": versions["git_commit"],
            "protocol_version": versions["protocol_version"],
        },
    }


def _model(plan: Plan, variant: Variant, model_id: str) -> dict[str, Any]:
    first = variant.accuracies[0]
    facts, base = first.facts(), plan.models[variant.model]
    untrained = first.cell.method == "zero_shot"
    public = untrained and base.weights in ("hub", "package")
    return {
        "name": variant.title,
        "id": model_id,
        "developer": DEVELOPER,
        "inference_engine": {"name": "transformers", "version": facts["transformers"]},
        "additional_details": {
            "deployment_type": "self_deployed",
            "model_availability": "open_weights" if public else "unknown",
            **base_of(plan, variant.model),
            "base_weights_sha256_by_seed": facts["base_weights_sha256_by_seed"],
            "method": first.cell.method,
            "variant": variant.variant,
            "num_parameters": first.told_of(
                lambda record: record.model.num_parameters if record.model else "unknown"
            ),
            "dtype": str(first.first.spec["dtype"]),
            "trained": "no" if untrained else "on the task's own training examples, for each task",
        },
    }


def _result(study: Study, reported: Reported) -> dict[str, Any]:
    cell, facts = reported.cell, reported.facts()
    return {
        "evaluation_result_id": cell.task,
        "evaluation_name": data_title(study, cell.task),
        "source_data": _data(study, reported),
        "evaluation_timestamp": reported.started_at,
        "metric_config": share("acc", "accuracy", f"accuracy: {SCORING}"),
        "score_details": {
            "score": cell.accuracy,
            "details": facts,
            "uncertainty": _uncertainty(reported),
        },
        "generation_config": {
            "generation_args": {"prompt_template": prompt_template(cell.task)},
            "additional_details": {"scoring": SCORING, "num_fewshot": "0"},
        },
    }


def share(metric: str, name: str, description: str) -> dict[str, Any]:
    """What a metric is whose values are shares, the more the better."""
    return {
        "evaluation_description": description,
        "metric_id": metric,
        "metric_name": name,
        "metric_kind": "accuracy" if metric == "acc" else metric,
        "metric_unit": "proportion",
        "lower_is_better": False,
        "score_type": "continuous",
        "min_score": 0,
        "max_score": 1,
    }


def _uncertainty(reported: Reported) -> dict[str, Any]:
    cell = reported.cell
    told: dict[str, Any] = {"num_samples": cell.num_examples}
    if cell.stderr is not None:
        method = "analytic, of the examples; mean over the seeds, which share the examples"
        told["standard_error"] = {"value": cell.stderr, "method": method}
    if cell.seeds is not None:
        method = f"Student's interval over {len(cell.by_seed)} seeds"
        low, high = cell.seeds
        told["confidence_interval"] = {
            **{"lower": low, "upper": high, "confidence_level": 0.95, "method": method}
        }
    return told


def _data(study: Study, reported: Reported) -> dict[str, Any]:
    spec = reported.first.spec
    told = {
        "split": "val",
        "drawn": f"at most {spec['num_test']} examples, by seed {spec['sample_seed']}",
        "num_examples": str(reported.cell.num_examples),
        "trained_on": f"at most {spec['num_train']} of train",
    }
    found = {"dataset_name": data_title(study, reported.cell.task), "source_type": "other"}
    if study.data == "superglue":
        return {
            **found,
            "source_type": "url",
            "url": [SUPERGLUE_PAGE],
            "additional_details": told,
        }
    if study.data == "generated":
        told["generated_by"] = study.generated.model_dump_json()
    return {**found, "additional_details": told}
