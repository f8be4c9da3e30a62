"""How long a run will take: the operations that it executes, over what the machine sustains.

A rough account, good to a factor of two (docs/plan.md): enough to tell minutes from days and to ask
a cluster for time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lomo.errors import UserError
from lomo.memory.predicted.closed_form import BYTES
from lomo.model.registry import ModelEntry
from lomo.specs import MeasureSpec, PeerSpec, TaskSpec, TrainSpec
from lomo.speed.flops import backwards_per_step, hardware_flops_per_step
from lomo.study.cards import peak_flops_per_s
from lomo.study.machine import Machine, Speed
from lomo.study.native_dtype import DTYPES, time_products
from lomo.tasks.instructions import read_instructions
from lomo.tasks.superglue import files_of, read_documents

# Share of a GPU's peak that large products of a transformer sustain.
SUSTAINED = 0.45
# Host time of one layer's operators in forward, backward and update; a GPU computes meanwhile.
LAYER_S = 0.003
# Start: on a CPU a fork of a process that has the imports (decision 007); and what a disk reads.
START_S = {"cpu": 1.0, "cuda": 20.0}
DISK_BYTES_PER_S = 1e9
# Tokens of an example with its prompt: the mean of SuperGLUE's lines, four characters a token; and
# the miniature's words.
MEAN_TOKENS = {"rte": 94, "boolq": 161, "wsc": 54, "wic": 42, "multirc": 439, "copa": 19}
MINIATURE_TOKENS = 24
ALPACA_TOKENS = 150  # of the hub's items, while they are not here
CHARACTERS_A_TOKEN, PROMPT_TOKENS = 4, 15


@dataclass(frozen=True)
class Sizes:
    """What the time of a model depends on: its config's values and the counts of its weights.

    drawn: its weights are random, so nothing is read.
    """

    config: Mapping[str, Any]
    num_parameters: int
    num_trainable_parameters: int
    drawn: bool = False


def speed_of(machine: Machine, num_threads: int) -> Speed:
    """What the machine sustains: by its card's peak rate, or on a CPU by timing a product."""
    if machine.kind == "cuda":
        peaks = {dtype: peak_flops_per_s(machine.name, dtype) for dtype in DTYPES}
        known = {dtype: SUSTAINED * peak for dtype, peak in peaks.items() if peak is not None}
        why = None if known else f"the peak rate of {machine.name} is not known"
        return Speed(flops_per_s=known, source=f"{SUSTAINED} of its peak", why_unknown=why)
    timed = time_products(num_threads)
    return Speed(flops_per_s=timed.flops_per_s, source=timed.timed)


def run_seconds(
    run: TrainSpec | MeasureSpec, sizes: Sizes, machine: Machine, speed: Speed
) -> float | None:
    """Seconds of a run's process, None where the speed or the operations are not known."""
    rate = speed.flops_per_s.get(run.dtype)
    if rate is None:
        return None
    start = START_S[machine.kind]
    if not sizes.drawn:
        start += sizes.num_parameters * BYTES[run.dtype] / DISK_BYTES_PER_S
    if isinstance(run, TrainSpec):
        training = _training_seconds(run, sizes, machine, rate)
        return None if training is None else start + training
    step = _step_seconds(run, sizes, machine, rate, run.batch_size, run.sequence_length)
    # The metered step takes up to three times as long.
    return None if step is None else start + step * (run.num_warmup_steps + run.num_timed_steps + 3)


def base_seconds(entry: ModelEntry, sizes: Sizes, machine: Machine, speed: Speed) -> float | None:
    """Seconds of a base model's own training, on the host; None where its speed is not known."""
    plan, rate = entry.pretrain, speed.flops_per_s.get("float32")
    if plan is None or rate is None or machine.kind != "cpu":
        return None
    try:
        flops = hardware_flops_per_step(
            sizes.config,
            num_parameters=sizes.num_parameters,
            num_trainable_parameters=sizes.num_parameters,
            batch_size=plan.batch_size,
            sequence_length=plan.sequence_length,
            activation_checkpointing=False,
            attention="sdpa",
        )
    except ValueError:
        return None
    return START_S["cpu"] + plan.num_steps * (flops / rate + _host_seconds(sizes))


def _training_seconds(run: TrainSpec, sizes: Sizes, machine: Machine, rate: float) -> float | None:
    num_tokens = min(run.max_length, _mean_tokens(run))
    rows = math.ceil(run.batch_size / run.num_devices)
    step: float | None = 0.0
    num_steps = run.epochs * math.ceil(run.num_train / run.batch_size)
    if sizes.num_trainable_parameters:
        step = _step_seconds(run, sizes, machine, rate, rows, num_tokens)
    if step is None:
        return None
    num_scored = run.num_test
    if sizes.num_trainable_parameters:
        selecting = run.num_test if run.selection == "test" else run.num_dev
        num_scored = run.epochs * selecting + (0 if run.selection == "test" else run.num_test)
    candidates = len(set(files_of(run.task).labels.values())) if isinstance(run, TaskSpec) else 1
    requests = num_scored * candidates
    scoring = requests * num_tokens * 2 * sizes.num_parameters / rate
    calls = math.ceil(requests / run.eval_batch_size)
    return num_steps * step + scoring + calls * _host_seconds(sizes) / 3


@dataclass(frozen=True)
class Work:
    """What one step takes of one device: operations, host seconds, and how often it goes back."""

    flops: float
    host_s: float
    num_backwards: int


def work_of(run: TrainSpec | MeasureSpec, sizes: Sizes, rows: int, sequence_length: int) -> Work:
    """Of a step of `rows` sequences. Raises ValueError where its operations can't be told."""
    num_backwards = 1
    if not isinstance(run, PeerSpec):
        # Ghost norms in the product cost about one backward more.
        num_backwards = backwards_per_step(run.method, run.hyper, run.max_grad_norm) or 2
    flops = hardware_flops_per_step(
        sizes.config,
        num_parameters=sizes.num_parameters,
        num_trainable_parameters=sizes.num_trainable_parameters,
        batch_size=rows,
        sequence_length=sequence_length,
        activation_checkpointing=run.activation_checkpointing,
        num_backwards=num_backwards,
        attention=run.attention,
        head_recomputed=run.head_loss == "fused",
    )
    return Work(flops, num_backwards * _host_seconds(sizes), num_backwards)


def _step_seconds(
    run: TrainSpec | MeasureSpec,
    sizes: Sizes,
    machine: Machine,
    rate: float,
    rows: int,
    sequence_length: int,
) -> float | None:
    """One step of one device's share; None where its operations can't be told."""
    try:
        work = work_of(run, sizes, rows, sequence_length)
    except ValueError:
        return None
    computing = work.flops / rate
    return computing + work.host_s if machine.kind == "cpu" else max(computing, work.host_s)


def _host_seconds(sizes: Sizes) -> float:
    num_layers = sizes.config.get("num_hidden_layers") or sizes.config.get("n_layer") or 1
    return LAYER_S * (int(num_layers) + 1)


def _mean_tokens(run: TrainSpec) -> int:
    if not isinstance(run, TaskSpec):
        return _tokens_of_instructions(run.data_path) or ALPACA_TOKENS
    if run.data_path.startswith("results/"):
        return MINIATURE_TOKENS
    return MEAN_TOKENS.get(run.task) or _tokens_in(run.data_path, run.task) or run.max_length


@cache
def _tokens_of_instructions(file: str) -> int | None:
    """Of an instruction with its answer, in a file; None where that is not here."""
    try:
        items = read_instructions(Path(file))
    except UserError:
        return None
    characters = sum(len(item.prompt) + len(item.output) for item in items)
    return characters // len(items) // CHARACTERS_A_TOKEN


@cache
def _tokens_in(folder: str, task: str) -> int | None:
    """The same of a task that stands in a folder of its user's; None where that is not here."""
    try:
        documents = read_documents(Path(folder), task, "val")
    except UserError:
        return None
    characters = sum(len(str(value)) for document in documents for value in document.values())
    return PROMPT_TOKENS + characters // len(documents) // CHARACTERS_A_TOKEN
