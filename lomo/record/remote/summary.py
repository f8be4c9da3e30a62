"""What W&B keeps of a record beside its history: its results, by the columns of the tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lomo.record.remote.naming import cell_of, key_of
from lomo.record.schema import PERPLEXITY, Record, read_record
from lomo.record.suite import SuiteRecord, read_suite_record


def record_at(path: Path, run_id: str) -> Record | SuiteRecord:
    """The record of a run, or of a scored suite. Raises UserError where it is broken."""
    return read_suite_record(path) if run_id.startswith("suite/") else read_record(path)


def summary_of(record: Record | SuiteRecord) -> dict[str, Any]:
    """The record's results, and those that stand in a table under the key of their column, too."""
    summary: dict[str, Any] = {"status": record.status, "wall_s": record.clock.wall_s}
    if isinstance(record, SuiteRecord):
        in_tables = _of_suite(record, summary)
    else:
        in_tables = _of_run(record, summary)
    for quantity, value in in_tables.items():
        summary[quantity] = value
        summary[key_of(quantity, record.spec["model"], cell_of(record.run_id))] = value
    return summary


def _of_run(record: Record, summary: dict[str, Any]) -> dict[str, float]:
    in_tables: dict[str, float] = {}
    if record.result:
        name = "perplexity" if record.result.metric == PERPLEXITY else "accuracy"
        in_tables[name] = record.result.value
    if record.throughput:
        speed = record.throughput.tokens_per_s_per_device
        if record.kind == "measure":
            in_tables["tokens_per_s_per_device"] = speed
        else:  # is in no table: its batches differ from task to task
            summary["training_tokens_per_s_per_device"] = speed
    if record.memory:
        in_tables["peak_bytes"] = record.memory.peak_bytes
        summary.update(record.memory.sum_of_terms.model_dump(exclude={"missing"}))
    return in_tables


def _of_suite(record: SuiteRecord, summary: dict[str, Any]) -> dict[str, float]:
    if record.score is None:
        return {}
    summary |= {"metric": record.score.metric, "scoring": record.score.scoring}
    summary |= {"num_examples": record.score.num_examples, "stderr": record.score.stderr}
    return {"suite_score": record.score.value}
