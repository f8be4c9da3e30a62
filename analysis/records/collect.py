"""Collect: the plan and its records -> one tidy table, one row a run of the plan.

First the gate: a record that is cut or not believed (lomo/record/belief.py), records of another
protocol, of two versions of the same method's code, or of two sets of weights in one model's folder
stop there and never reach a table.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pandas as pd

from lomo.errors import UserError
from lomo.record.applied import APPLIED_GROUPS
from lomo.record.belief import Keep, read_believed
from lomo.record.evidence import Scored
from lomo.record.schema import (
    PERPLEXITY,
    PROTOCOL_VERSION,
    AllocatorPeaks,
    Clock,
    Efficiency,
    InstructTraining,
    LedgerParts,
    Memory,
    Record,
    SumOfTerms,
    Throughput,
)
from lomo.study.plan import Plan, read_plan
from lomo.system.files import write_bytes, write_text

from ..text.names import NOT_RUN
from ..text.render import csv_text


class Origin(NamedTuple):
    """What a record comes from: runs of one `group` are of one code."""

    run_id: str
    protocol_version: str
    kind: str
    group: tuple[str, ...]  # method, kind, task, engine
    fingerprint: str
    model: str
    model_path: str  # a base model that the pipeline trains has one for each seed
    # A run that failed early names no weights, one with random weights no file.
    weights_sha256: str | None


def origin_of(record: Record) -> Origin:
    """What a record says that it comes from."""
    spec = record.spec
    return Origin(
        record.run_id,
        record.protocol_version,
        record.kind,
        tuple(map(str, (spec["method"], record.kind, spec.get("task"), spec.get("engine")))),
        record.provenance.fingerprint,
        str(spec["model"]),
        str(spec["model_path"]),
        record.model.weights_sha256 if record.model else None,
    )


def read_records(
    results: Path, plan: Plan, keep: Keep = lambda record, scored: record
) -> dict[str, Any]:
    """What `keep` keeps of the records that exist, by run id: the whole record, if not given.

    Raises UserError for one that may not be used.
    """
    read = read_believed(
        results, plan.runs, lambda record, scored: (origin_of(record), keep(record, scored))
    )
    check_one_origin([origin for origin, _ in read.values()], where=str(results / "runs"))
    return {run_id: kept for run_id, (_, kept) in read.items()}


def check_one_origin(origins: Iterable[Origin], *, where: str) -> None:
    """Raises UserError unless all follow this protocol, each method one code, each model's folder
    one file of weights."""
    weights: dict[str, dict[str, str]] = {}
    codes: dict[tuple[str, ...], dict[str, str]] = {}
    for origin in origins:
        if origin.protocol_version != PROTOCOL_VERSION:
            raise UserError(
                f"run {origin.run_id} follows protocol {origin.protocol_version}",
                where=where,
                allowed=f"protocol {PROTOCOL_VERSION} (a table holds one protocol only)",
                fix="delete that run's folder and run the pipeline again",
            )
        seen = codes.setdefault(origin.group, {})
        seen.setdefault(origin.fingerprint, origin.run_id)
        if len(seen) > 1:
            raise UserError(
                f"the {origin.kind} runs of {origin.group[0]} come from different code: "
                f"{_two(seen)}",
                where=where,
                allowed="one fingerprint for each method, task, engine and kind of run",
                fix="delete the folders of the older runs and run the pipeline again",
            )
        if origin.weights_sha256 is None:
            continue
        seen = weights.setdefault(origin.model_path, {})
        seen.setdefault(origin.weights_sha256, origin.run_id)
        if len(seen) > 1:
            raise UserError(
                f"the runs of {origin.model} used different weights: {_two(seen)}",
                where=where,
                allowed="one weights_sha256 for each model's folder",
                fix="delete the folders of the older runs and run the pipeline again",
            )


def _two(runs: dict[str, str]) -> str:
    return " and ".join(f"{run_id} ({digest[:12]})" for digest, run_id in runs.items())


TEXT, WHOLE, REAL, FLAG = "string", "Int64", "Float64", "boolean"
_TYPES = {"str": TEXT, "int": WHOLE, "float": REAL, "bool": FLAG}


def _columns_of(block: Any, prefix: str) -> dict[str, str]:
    fields = {name: field for name, field in block.model_fields.items() if name != "missing"}
    return {prefix + name: _type_of(field.annotation) for name, field in fields.items()}


def _type_of(annotation: Any) -> str:
    options = [option.__name__ for option in (get_args(annotation) or (annotation,))]
    return next((_TYPES[option] for option in options if option in _TYPES), TEXT)


# Column -> pandas type. Names carry their units; empty = the run has no such value.
COLUMNS: dict[str, str] = {
    **dict.fromkeys(("run_id", "sections", "kind", "model", "paper_model", "method"), TEXT),
    **dict.fromkeys(("variant", "task"), TEXT),
    **dict.fromkeys(("rank", "seed", "trial", "round"), WHOLE),
    **dict.fromkeys(("status", "message", "hyper", "dtype", "attention"), TEXT),
    "activation_checkpointing": FLAG,
    **dict.fromkeys(("batch_size", "sequence_length", "epochs", "num_train", "num_test"), WHOLE),
    "protocol": TEXT,
    "max_grad_norm": REAL,
    "schedule": TEXT,
    **dict.fromkeys(("dev_accuracy", "test_accuracy", "test_stderr"), REAL),
    "test_accuracy_token_mean": REAL,
    **dict.fromkeys(("dev_perplexity", "test_perplexity", "test_perplexity_stderr"), REAL),
    "num_test_tokens": WHOLE,
    **dict.fromkeys(("num_test_examples", "selected_epoch", "num_steps"), WHOLE),
    "num_skipped_steps": WHOLE,
    **dict.fromkeys(("num_train_examples", "num_cut_train", "num_test_seen"), WHOLE),
    "num_dev_shared": WHOLE,
    **dict.fromkeys(("num_trained_tokens", "num_padding_tokens"), WHOLE),
    **dict.fromkeys(("num_left_out", "num_repeated"), WHOLE),
    **dict.fromkeys(("num_cut_test", "num_ties"), WHOLE),
    **dict.fromkeys(("first_epoch_loss", "last_epoch_loss"), REAL),
    **_columns_of(Throughput, ""),
    **_columns_of(Efficiency, ""),
    "counter": TEXT,
    "peak_bytes": WHOLE,
    "peak_phase": TEXT,
    **_columns_of(LedgerParts, "at_peak_"),
    **_columns_of(SumOfTerms, "sum_"),
    "gradients_peak_bytes": WHOLE,
    **_columns_of(AllocatorPeaks, "cuda_"),
    "cuda_timed_allocated_peak_bytes": WHOLE,
    "cuda_peaks_agree": FLAG,
    "allocator_settings": TEXT,
    "timeline_file": TEXT,
    "applied_intended": TEXT,
    "applied_share": REAL,
    **{f"applied_{what}_{group}": REAL for what in ("share", "moved") for group in APPLIED_GROUPS},
    **dict.fromkeys(("num_parameters", "num_trainable_parameters"), WHOLE),
    **dict.fromkeys(("model_parameters_bytes", "largest_parameter_bytes"), WHOLE),
    "tied_embeddings": FLAG,
    **_columns_of(Clock, "clock_"),
    **dict.fromkeys(("device_kind", "device_name", "cpu_capability"), TEXT),
    **dict.fromkeys(("num_devices", "num_threads"), WHOLE),
    "co_tenants": TEXT,
    **dict.fromkeys(("fingerprint", "protocol_version", "git_commit"), TEXT),
    "git_dirty": FLAG,
    **dict.fromkeys(("python", "torch", "transformers"), TEXT),
}


def tidy(plan: Plan, measured: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """One row a run of the plan, in the plan's order, with the columns of COLUMNS.

    `measured` holds what `row_of` tells of the runs that have a record.
    """
    sections: dict[str, list[str]] = {}
    for section, run_ids in plan.sections.items():
        for run_id in run_ids:
            sections.setdefault(run_id, []).append(section)
    rows = []
    for run_id, planned in plan.runs.items():
        told = measured.get(run_id) or _told(planned.model_dump()) | {"status": NOT_RUN}
        named = {
            "run_id": run_id,
            "sections": " ".join(sections.get(run_id, [])),
            "variant": run_id.split("/")[2],
            "paper_model": plan.models[planned.model].paper,
        }
        rows.append({**told, **named})
    columns = {name: [row.get(name) for row in rows] for name in COLUMNS}
    return pd.DataFrame(columns).astype(COLUMNS)


def row_of(record: Record) -> dict[str, Any]:
    """What a record tells, by column."""
    return _told(record.spec) | _measured(record)


def _told(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What a run was told, by column."""
    return {
        **{name: spec[name] for name in COLUMNS if name in spec},
        "rank": spec["hyper"].get("rank"),
        "hyper": json.dumps(spec["hyper"], sort_keys=True),
    }


def _measured(record: Record) -> dict[str, Any]:
    row: dict[str, Any] = {
        "status": record.status,
        "message": record.evidence.message if record.evidence else None,
        "protocol_version": record.protocol_version,
        **{f"clock_{name}": value for name, value in _values(record.clock).items()},
        **_provenance(record),
    }
    if record.model:
        row |= {
            "num_parameters": record.model.num_parameters,
            "num_trainable_parameters": record.model.num_trainable_parameters,
            "model_parameters_bytes": record.model.parameters_bytes,
            "largest_parameter_bytes": record.model.largest_parameter_bytes,
            "tied_embeddings": record.model.tied_embeddings,
        }
    if record.training:
        for name in ("selected_epoch", "num_steps", "num_skipped_steps"):
            row[name] = getattr(record.training, name)
        row["num_train_examples"] = record.training.num_train_examples
        row["num_test_seen"] = record.training.num_test_seen
        row["num_dev_shared"] = record.training.num_dev_shared
        row["num_cut_train"] = record.training.num_cut
        for name in ("first_epoch_loss", "last_epoch_loss"):
            row[name] = getattr(record.training, name)
    if isinstance(record.training, InstructTraining):
        row["num_trained_tokens"] = record.training.num_tokens
        for name in ("num_padding_tokens", "num_left_out", "num_repeated"):
            row[name] = getattr(record.training, name)
    if record.applied:
        row |= {"applied_intended": record.applied.intended, "applied_share": record.applied.share}
        for group, found in record.applied.groups.items():
            row |= {f"applied_{what}_{group}": getattr(found, what) for what in ("share", "moved")}
    for block in (record.throughput, record.efficiency):
        row |= _values(block) if block else {}
    return row | _scores(record) | _memory(record)


def _scores(record: Record) -> dict[str, Any]:
    result = record.result
    if result is None:
        return {}
    same_epoch = (
        evaluation.value
        for evaluation in record.evaluations
        if evaluation.split == "dev" and evaluation.epoch == result.epoch
    )
    if result.metric == PERPLEXITY:
        return {
            "dev_perplexity": next(same_epoch, None),
            "test_perplexity": result.value,
            "test_perplexity_stderr": result.stderr,
            "num_test_examples": result.num_examples,
            "num_test_tokens": int(result.other_metrics["num_tokens"]),
            "num_cut_test": result.num_cut,
        }
    return {
        "dev_accuracy": next(same_epoch, None),
        "test_accuracy": result.value if result.split == "test" else None,
        "test_stderr": result.stderr,
        "test_accuracy_token_mean": result.other_metrics.get("acc_token_mean"),
        "num_test_examples": result.num_examples,
        "num_cut_test": result.num_cut if result.split == "test" else None,
        "num_ties": result.num_ties if result.split == "test" else None,
    }


def _memory(record: Record) -> dict[str, Any]:
    memory = record.memory
    if memory is None:
        return {}
    return {
        **{name: getattr(memory, name) for name in ("counter", "peak_bytes", "peak_phase")},
        **{f"at_peak_{name}": value for name, value in _values(memory.at_peak).items()},
        **{f"sum_{name}": value for name, value in _values(memory.sum_of_terms).items()},
        "gradients_peak_bytes": memory.gradients_peak_bytes,
        "timeline_file": memory.timeline_file,
        **_cuda(memory),
    }


def _cuda(memory: Memory) -> dict[str, Any]:
    if memory.cuda is None:
        return {}
    return {
        **{f"cuda_{name}": value for name, value in _values(memory.cuda.metered).items()},
        "cuda_timed_allocated_peak_bytes": memory.cuda.timed.allocated_peak_bytes,
        "cuda_peaks_agree": memory.cuda.peaks_agree,
        "allocator_settings": memory.cuda.allocator_settings,
    }


def _provenance(record: Record) -> dict[str, Any]:
    origin = record.provenance
    tenants = origin.device.co_tenants
    return {
        **{name: getattr(origin, name) for name in ("fingerprint", "git_commit", "git_dirty")},
        "python": origin.python,
        "torch": origin.packages.get("torch"),
        "transformers": origin.packages.get("transformers"),
        "device_kind": origin.device.kind,
        "device_name": origin.device.name,
        "cpu_capability": origin.device.cpu_capability,
        "num_devices": origin.device.num_devices,
        "num_threads": origin.device.num_threads,
        "co_tenants": None if tenants is None else ", ".join(tenants),
    }


def _values(block: Any) -> dict[str, Any]:
    return {name: value for name, value in block if name != "missing"}


def collect(results: Path) -> pd.DataFrame:
    """Reads plan and records of `results` and writes tables/records.csv and .parquet, and which
    examples are right as tables/outcomes.parquet."""
    plan = read_plan(results)
    read = read_records(results, plan, lambda record, scored: (row_of(record), scored))
    frame = tidy(plan, {run_id: row for run_id, (row, _) in read.items()})
    _write_outcomes(results, {run_id: of for run_id, (_, of) in read.items() if of is not None})
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    write_text(results / "tables" / "records.csv", csv_text(frame))
    write_bytes(results / "tables" / "records.parquet", buffer.getvalue())
    return frame


def outcomes_path(results: Path) -> Path:
    """Where the outcomes of single examples lie (analysis/records/outcomes.py reads them)."""
    return results / "tables" / "outcomes.parquet"


def _write_outcomes(results: Path, scored: Mapping[str, Scored]) -> None:
    """One row a scored run: a hash of which examples, 0 or 1 for each and its group's number, or
    the loss and the length of each answer."""
    frame = pd.DataFrame(
        {
            "run_id": list(scored),
            "examples": pd.array([each.examples for each in scored.values()], "Int64"),
            "right": [each.right for each in scored.values()],
            "groups": [each.groups for each in scored.values()],
            "losses": [each.losses for each in scored.values()],
            "lengths": [each.lengths for each in scored.values()],
        }
    )
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    write_bytes(outcomes_path(results), buffer.getvalue())
