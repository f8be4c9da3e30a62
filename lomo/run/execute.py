"""One run = one process = one directory = one record, whatever happens inside.

Running out of memory, diverging or running out of time is a result: the record says so, with the
evidence, and the process exits with 0.
"""

from __future__ import annotations

import importlib
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from lomo import engines
from lomo.engines.launch import RankFailed, launch, launch_on_nodes
from lomo.engines.nodes import num_nodes
from lomo.errors import UserError
from lomo.record.applied import applied_in
from lomo.record.belief import doubts
from lomo.record.clock import Clock
from lomo.record.made import origin_of
from lomo.record.provenance import ENTRY, fingerprint_of, read_provenance
from lomo.record.schema import Evidence, Record, Status, read_record, write_record
from lomo.record.tracking import History
from lomo.run.findings import Findings, RunStopped
from lomo.run.resume.checkpoints import forget
from lomo.specs import MeasureSpec, TrainSpec
from lomo.system.files import read_lines

# How a CPU's allocator, CUDA itself and cuBLAS say that memory has run out.
_OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def choose_device(asked: str, num_devices: int = 1) -> str:
    """ "cpu" or "cuda". Raises UserError where CUDA is asked for and there is too little of it."""
    there = torch.cuda.is_available()
    if asked == "cuda" and not there:
        raise UserError("no CUDA device is there", where="device", allowed="auto, cpu")
    if there and asked != "cpu":
        if torch.cuda.device_count() < num_devices:
            raise UserError(
                f"{num_devices} devices are asked for, {torch.cuda.device_count()} are there",
                where="num_devices",
            )
        return "cuda"
    return "cpu"


def launch_ranks(
    spec: TrainSpec | MeasureSpec,
    arguments: Sequence[str],
    folder: Path,
    clock: Clock,
    nodes: int = 1,
) -> None:
    """Does the run in one process a device; rank 0 writes the record, or else this process.

    A rank that ran out of memory leaves the others waiting, so that none of them can write it.
    Raises UserError or RankFailed for what is no result.
    """
    device = choose_device(spec.device, spec.num_devices // nodes)
    started_at = time.time() - clock.wall_s
    try:
        if nodes == 1:
            launch(arguments, spec.num_devices, started_at=started_at)
        else:
            launch_on_nodes(
                arguments,
                spec.num_devices,
                nodes,
                folder,
                num_threads=spec.num_threads,
                started_at=started_at,
            )
    except RankFailed as failed:
        if failed.kind != "oom":
            raise
        evidence = _evidence(str(failed), failed.step, device, of_a_rank=True)
        provenance = read_provenance(spec, device)
        record = as_record(spec, "oom", evidence, provenance, clock)
        write_record(folder / "record.json", record)
        forget(folder)
    finally:
        for left in folder.glob(".rank*"):
            shutil.rmtree(left, ignore_errors=True)


def execute(spec: TrainSpec | MeasureSpec, folder: Path, clock: Clock) -> Record:
    """Does the run, writes its record into `folder` and returns it."""
    device = choose_device(spec.device, spec.num_devices // num_nodes())
    engine = engines.start(spec.engine, device)
    if engine.world_size != spec.num_devices:
        raise UserError(
            f"{engine.world_size} processes were started for it",
            where="num_devices",
            allowed=str(engine.world_size),
            fix="leave torchrun out: the command starts its own ranks",
        )
    if engine.rank:  # it works as rank 0 does, and what it writes is thrown away
        folder = folder / f".rank{engine.rank}"
        os.environ.pop("LOMO_WANDB", None)
    # Asked first: whoever is busy on the device now was there before us.
    provenance = read_provenance(spec, device)
    history = History(spec.study, spec.run_id, spec.model_dump(), folder)
    findings = Findings()
    status: Status = "ok"
    evidence: Evidence | None = None
    try:
        work = importlib.import_module(ENTRY[spec.kind]).work
        work(spec, folder, engine, clock, history, findings)
    except RunStopped as stopped:
        status, evidence = stopped.status, _evidence(str(stopped), stopped.step, device)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            history.close(None)
            raise
        first_line = (str(error) or "out of memory").splitlines()[0]
        if engine.world_size > 1:
            history.close(None)
            raise RankFailed(first_line, kind="oom", step=findings.step) from error
        status, evidence = "oom", _evidence(first_line, findings.step, device)
    except BaseException:
        history.close(None)
        raise
    # From what was told: a run that was begun by another process has told the most there.
    findings.applied = applied_in(read_lines(folder / "history.jsonl"))
    if findings.model is not None:
        origin = origin_of(Path(spec.model_path), findings.model.weights_sha256)
        findings.model = findings.model.model_copy(update={"weights_from": origin})
    record = as_record(spec, status, evidence, provenance, clock, findings)
    with clock.phase("save"):
        history.close(record)
    record = record.model_copy(update={"clock": clock.read()})
    write_record(folder / "record.json", record)
    if not engine.rank:
        forget(folder)
    return record


def finished(spec: TrainSpec | MeasureSpec, folder: Path) -> Record | None:
    """The record in `folder` if it is believed and of just this spec and code, else None."""
    try:
        record = read_record(folder / "record.json")
    except UserError:
        return None
    same_code = record.provenance.fingerprint == fingerprint_of(spec)
    return record if same_code and not doubts(record, spec, folder) else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory has run out, of the host or of CUDA."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(sign in str(error) for sign in _OUT_OF_MEMORY)


def _evidence(message: str, step: int | None, device: str, *, of_a_rank: bool = False) -> Evidence:
    missing = {} if step is not None else {"step": "it stopped before the first step"}
    peak = None
    if device != "cuda":
        missing["peak_before_bytes"] = "a CPU has no counter of its peak outside the ledger"
    elif of_a_rank:
        missing["peak_before_bytes"] = "the counter ended with the rank's process"
    else:
        peak = torch.cuda.max_memory_allocated()
    return Evidence(message=message, step=step, peak_before_bytes=peak, missing=missing)


def as_record(
    spec: TrainSpec | MeasureSpec,
    status: Status,
    evidence: Evidence | None,
    provenance: object,
    clock: Clock,
    findings: Findings | None = None,
) -> Record:
    """The record of a run that ended so; without findings, of one that found nothing."""
    findings = findings or Findings()
    parts = {
        "evidence": evidence,
        "model": findings.model,
        "training": findings.training,
        "result": findings.result,
        "throughput": findings.throughput,
        "efficiency": findings.efficiency,
        "memory": findings.memory,
        "applied": findings.applied,
    }
    reasons = {
        "evidence": "the run ended well",
        "efficiency": "it is taken of measured runs",
        **findings.missing,
    }
    stopped = f"the run ended with status {status} before it"
    return Record.model_validate(
        {
            "study": spec.study,
            "run_id": spec.run_id,
            "kind": spec.kind,
            "status": status,
            "spec": spec.model_dump(),
            "provenance": provenance,
            "clock": clock.read(),
            "resumed_at_steps": findings.resumed_at_steps,
            "checkpoints_refused": findings.checkpoints_refused,
            "evaluations": findings.evaluations,
            "missing": {
                name: reasons.get(name, stopped) for name, part in parts.items() if part is None
            },
            **parts,
        }
    )
