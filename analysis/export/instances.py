"""The examples of Every Eval Ever: what each was, what was answered, and whether it is right."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lomo.record.evidence import SAMPLES, read_json_lines
from lomo.record.schema import Record
from lomo.specs import TaskSpec

from ..records.collected import Collected
from .examples import Example, data_at, data_title, examples, why_no_texts
from .reported import Variant


def lines_of(collected: Collected, variant: Variant) -> tuple[list[dict[str, Any]], str | None]:
    """The examples of a variant, of all tasks and seeds, or none and why."""
    folder = data_at(collected.folder, collected.plan.study)
    why = why_no_texts(collected.plan.study, folder)
    if why:
        return [], why
    lines: list[dict[str, Any]] = []
    for reported in variant.accuracies:
        for seed, record in reported.records.items():
            spec = collected.plan.runs[record.run_id]
            assert isinstance(spec, TaskSpec)
            known = examples(folder, spec)
            scored = read_json_lines(collected.run_folder(record.run_id) / SAMPLES)
            labels = {number: example.label for number, example in enumerate(known)}
            if any(labels.get(one["doc_id"]) != one["label"] for one in scored):
                return [], "the data at hand has other examples than those that were scored"
            name = data_title(collected.plan.study, spec.task)
            lines += [_line(record, seed, name, known[one["doc_id"]], one) for one in scored]
    return lines, None


def _line(
    record: Record, seed: int, name: str, example: Example, scored: Mapping[str, Any]
) -> dict[str, Any]:
    likelihoods = scored["log_likelihoods"]
    answer = example.answers[likelihoods.index(max(likelihoods))]
    task, number = record.spec["task"], scored["doc_id"]
    more = {"group": str(scored["group"])} if "group" in scored else {}
    return {
        "evaluation_name": name,
        "evaluation_result_id": task,
        "sample_id": f"{task}-{number}-s{seed}",
        "sample_hash": example.digest,
        "interaction_type": "single_turn",
        "input": {
            "raw": example.prompt,
            "reference": [example.answers[example.label]],
            "choices": list(example.answers),
        },
        "output": {"raw": [answer]},
        "answer_attribution": [
            {
                **{"turn_idx": 0, "source": "output.raw", "extracted_value": answer},
                **{"extraction_method": "likeliest of the choices", "is_terminal": True},
            }
        ],
        "evaluation": {"score": scored["acc"], "is_correct": bool(scored["acc"])},
        "metadata": {
            "source_record": record.run_id,
            "seed": str(seed),
            "example": str(number),
            "log_likelihoods": json.dumps(likelihoods),
            **more,
        },
    }
