"""The record of a suite: what a model folder scored, by which prompts and which way of scoring.

Beside it lies samples.jsonl, one line an example, of which every number here can be made again.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from lomo.errors import UserError
from lomo.record.evidence import SAMPLES, Broken, read_json_lines
from lomo.record.schema import Block, Clock, ModelFacts, Provenance, Whole
from lomo.specs import SuiteSpec
from lomo.system.files import read_json, write_text

SCHEMA_VERSION = 2
Status = Literal["ok", "unsupported", "oom", "diverged"]


class Score(Block):
    """What was scored, and how. Values are fractions where the metric is one."""

    title: str
    metric: str
    scoring: str  # the variant, in words: the same weights may differ by tens of points between two
    value: float
    # Of the mean over examples, as if each stood alone; the tables' intervals go by subject.
    stderr: float | None
    num_examples: Whole
    num_subjects: Whole
    num_cut: Whole  # examples whose prompt was cut on the left, to fit the model
    max_gen_toks: Whole | None  # tokens that an answer may take
    num_unfinished: Whole | None  # examples whose answer took all of them: it is scored as it is
    other_metrics: dict[str, float]
    num_fewshot: Whole
    limit: Whole | None
    task_version: str
    lm_eval: str
    # Over all requests in their order: prompt, continuation or how is generated.
    prompts_sha256: str
    data_sha256: str | None


class SuiteRecord(Block):
    """One run of one suite."""

    schema_version: int = SCHEMA_VERSION
    study: str
    run_id: str
    kind: Literal["suite"] = "suite"
    status: Status
    evidence: str | None  # why it did not end well
    spec: dict[str, Any]
    provenance: Provenance
    clock: Clock
    model: ModelFacts | None
    score: Score | None
    # Another run whose score of the same weights, requests and code this is.
    reused_from: str | None = None
    missing: dict[str, str] = Field(default_factory=dict)


def write_suite_record(path: Path, record: SuiteRecord) -> None:
    """Writes the record as indented JSON, whole or not at all."""
    write_text(path, record.model_dump_json(indent=1) + "\n")


def read_suite_record(path: Path) -> SuiteRecord:
    """The record at `path`. Raises UserError for a cut, foreign or other-version file."""
    fix = "delete its folder and run the pipeline again: only that run is repeated"
    data = read_json(path, fix=fix)
    try:
        record = SuiteRecord.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "record"
        raise UserError(f"{key}: {first['msg']}", where=str(path), fix=fix) from error
    if record.schema_version != SCHEMA_VERSION:
        what = f"schema_version is {record.schema_version}"
        raise UserError(what, where=str(path), allowed=str(SCHEMA_VERSION), fix=fix)
    return record


def prompts_sha256(requests: Iterable[Sequence[Any]]) -> str:
    """One hash over requests, each a JSON value, in their order."""
    digest = hashlib.sha256()
    for request in requests:
        digest.update(json.dumps(request, ensure_ascii=False, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def mean_of(outcomes: Sequence[float]) -> tuple[float, float | None]:
    """The mean of outcomes and its standard error, None of one."""
    num = len(outcomes)
    mean = math.fsum(outcomes) / num
    if num < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((x - mean) ** 2 for x in outcomes) / (num - 1) / num)


def unfinished_in(samples: Sequence[Mapping[str, Any]]) -> int | None:
    """How many answers took all their tokens; None where none is written."""
    written = [sample["finished"] for sample in samples if "finished" in sample]
    return written.count(False) if written else None


def believed(path: Path, planned: SuiteSpec) -> tuple[SuiteRecord, list[dict[str, Any]]]:
    """A record with its samples. Raises UserError where it is not of this plan, or is contradicted
    by what lies beside it."""
    record = read_suite_record(path)
    odd = list(_contradictions(record, planned))
    lines: list[dict[str, Any]] = []
    if not odd and record.score is not None:
        try:
            lines = [dict(line) for line in read_json_lines(path.parent / SAMPLES)]
            odd = list(unlike(record.score, lines))
        except Broken as error:
            odd = [str(error)]
        except (LookupError, TypeError, ValueError) as error:
            odd = [f"{SAMPLES} does not hold what it has to ({type(error).__name__}: {error})"]
    if odd:
        fix = "delete its folder and run the pipeline again"
        raise UserError("; ".join(odd[:3]), where=str(path), fix=fix)
    return record, lines


def _contradictions(record: SuiteRecord, planned: SuiteSpec) -> Iterable[str]:
    spec = planned.model_dump(mode="json")
    for key in ("study", "run_id"):
        if getattr(record, key) != spec[key]:
            yield f"{key} is {getattr(record, key)!r}, the plan says {spec[key]!r}"
    for key in {**spec, **record.spec}:
        mine, plans = record.spec.get(key, "missing"), spec.get(key, "no such key")
        if mine != plans:
            yield f"spec.{key} is {mine!r}, the plan says {plans!r}"
    if (record.status == "ok") != (record.score is not None):
        yield f"score is {record.score and 'there'}, and the status is {record.status}"


def unlike(score: Score, lines: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """What a score says otherwise than its examples."""
    if len(lines) != score.num_examples:
        yield f"score.num_examples is {score.num_examples}, {SAMPLES} has {len(lines)} lines"
        return
    subjects = len({line["subject"] for line in lines})
    if subjects != score.num_subjects:
        yield f"score.num_subjects is {score.num_subjects}, {SAMPLES} has {subjects}"
    unfinished = unfinished_in(lines)
    if unfinished != score.num_unfinished:
        yield f"score.num_unfinished is {score.num_unfinished}, {SAMPLES} has {unfinished}"
    known = [line["outcome"] for line in lines if line["outcome"] is not None]
    if len(known) == len(lines):
        mean, _ = mean_of(known)
        if not math.isclose(mean, score.value, rel_tol=1e-9, abs_tol=1e-12):
            yield f"score.value is {score.value}, {SAMPLES} gives {mean}"
