"""Memory and throughput of a method's training step, on random tokens of a fixed shape.

Definitions of every number stand in docs/measurement.md. The clock runs without the meter; the
ledger is taken on one more step after the timed ones, when all state exists.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from lomo.engines.single import Single, StepPhase, training_step
from lomo.memory.measured.counters import (
    GRANULE_BYTES,
    allocator_settings,
    host_peak_rss_bytes,
    read_cuda_peaks,
    reset_cuda_peaks,
    residual_bytes,
)
from lomo.memory.measured.ledger import Ledger, StepMeter
from lomo.methods import Prepared
from lomo.record.clock import Clock, Phase, TimedStep, summarise
from lomo.record.schema import AllocatorPeaks, CudaMemory, LedgerParts, Memory, SumOfTerms
from lomo.record.tracking import History
from lomo.run.applied import WatchedSteps
from lomo.run.findings import Deadline, Findings, RunStopped, synchronise
from lomo.run.instruments import StepInstruments
from lomo.run.prepare import prepare_model
from lomo.specs import MeasureSpec
from lomo.speed.efficiency import efficiency
from lomo.system.files import write_text
from lomo.tasks.batches import Batch, random_batch

SEED = 0


def work(
    spec: MeasureSpec,
    folder: Path,
    engine: Single,
    clock: Clock,
    history: History,
    findings: Findings,
) -> None:
    """Takes warm-up and timed steps, then one under the meter; findings get both."""
    prepared = prepare_model(spec, engine, findings, seed=SEED)
    prepared.model.train()
    config: Any = prepared.model.config
    vocabulary = int(config.vocab_size)
    findings.missing.update(training="a measured step trains nothing", result="nothing is scored")
    clock.loaded()

    def batch(step: int) -> Batch:
        return random_batch(
            vocabulary=vocabulary,
            batch_size=spec.batch_size * engine.world_size,
            sequence_length=spec.sequence_length,
            seed=step,
            device=engine.device,
        )

    instruments = StepInstruments(engine.device)
    _time_steps(spec, prepared, batch, engine, clock, history, findings, instruments)
    assert findings.model is not None and findings.throughput is not None
    findings.efficiency = efficiency(
        spec,
        config.to_dict(),
        findings.model,
        findings.throughput,
        device_name=instruments.device_name,
        energy_j=instruments.energy.joules,
        why_no_energy=instruments.energy.reason,
    )
    with clock.phase("train"):
        ledger, metered = _meter_step(spec, prepared, batch(0), engine)
    _write_timeline(folder / "timeline.jsonl", ledger)
    findings.memory = _as_memory(ledger, metered, instruments.peaks)


def _time_steps(
    spec: MeasureSpec,
    prepared: Prepared,
    batch: Callable[[int], Batch],
    engine: Single,
    clock: Clock,
    history: History,
    findings: Findings,
    instruments: StepInstruments,
) -> None:
    optimizers = [optimizer for optimizer, _ in prepared.optimizers]
    deadline = Deadline(clock, spec.timeout_s, engine.agreed)
    # Before the clock starts.
    watched = WatchedSteps(
        *(spec, engine, prepared.model, optimizers, history, findings),
        range(1, spec.num_warmup_steps + 1),
    )
    timed: list[TimedStep] = []
    with clock.phase("train"):
        for step in range(1, spec.num_warmup_steps + spec.num_timed_steps + 1):
            deadline.check(step)
            findings.step = step
            given = batch(step)
            if step == spec.num_warmup_steps + 1:
                instruments.start()
            started = synchronise(engine.device)
            # The first step is the one that compiles.
            phase: Phase = "compile" if step == 1 and spec.compile != "none" else "train"
            with clock.phase(phase), watched.step(step):
                result = training_step(
                    prepared.model,
                    optimizers,
                    [given],
                    max_grad_norm=spec.max_grad_norm,
                    engine=engine,
                )
                seconds = synchronise(engine.device) - started
            if not math.isfinite(result.loss):
                raise RunStopped("diverged", f"the loss is {result.loss}", step=step)
            timed.append(TimedStep(seconds, given.num_tokens, given.input_ids_BS.numel()))
            history.add("step", step=step, loss=result.loss, step_s=seconds)
        instruments.stop()
    findings.throughput = summarise(
        timed, num_warmup_steps=spec.num_warmup_steps, world_size=engine.world_size
    )


def _meter_step(
    spec: MeasureSpec, prepared: Prepared, batch: Batch, engine: Single
) -> tuple[Ledger, AllocatorPeaks | None]:
    """One step under the meter: its ledger, and on CUDA what the allocator counted meanwhile."""
    on_cuda = engine.device == "cuda"
    optimizers = [optimizer for optimizer, _ in prepared.optimizers]
    if on_cuda:
        reset_cuda_peaks(torch.device("cuda"))
    with StepMeter(
        prepared.model,
        lambda: [optimizer.state for optimizer in optimizers],
        inputs=[batch.input_ids_BS, batch.attention_mask_BS, batch.labels_BS],
        granule_bytes=GRANULE_BYTES if on_cuda else 1,
    ) as meter:

        def enter(phase: StepPhase) -> None:
            engine.settle()
            meter.phase(phase)

        training_step(
            prepared.model,
            optimizers,
            [batch],
            max_grad_norm=spec.max_grad_norm,
            engine=engine,
            enter=enter,
        )
    return meter.ledger(), read_cuda_peaks(torch.device("cuda")) if on_cuda else None


def _as_memory(
    ledger: Ledger, metered: AllocatorPeaks | None, timed: AllocatorPeaks | None
) -> Memory:
    residual, cuda = 0, None
    if metered is not None and timed is not None:
        residual = residual_bytes(metered, ledger)
        cuda = CudaMemory(metered=metered, timed=timed, allocator_settings=allocator_settings())
    rss = host_peak_rss_bytes()
    return Memory(
        counter="max_memory_allocated" if cuda else "storage_meter",
        peak_bytes=ledger.peak_bytes + residual,
        peak_phase=ledger.peak_phase,
        at_peak=LedgerParts(**ledger.at_peak, residual_bytes=residual),
        sum_of_terms=SumOfTerms(**ledger.sum_of_terms),
        gradients_peak_bytes=ledger.gradients_peak_bytes,
        host_peak_rss_bytes=rss,
        cuda=cuda,
        timeline_file="timeline.jsonl",
        missing={
            **({} if cuda else {"cuda": "measured on a CPU"}),
            **({} if rss is not None else {"host_peak_rss_bytes": "the kernel gives none"}),
        },
    )


def _write_timeline(path: Path, ledger: Ledger) -> None:
    write_text(path, "".join(json.dumps(asdict(event)) + "\n" for event in ledger.timeline))
