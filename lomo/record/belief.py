"""Whether a record is believed: it equals its plan, itself, and the files that lie beside it.

All that contradicts is named, of all records at once. Where a value can be worked out again, from
the evaluations, the samples, the history or the timeline, it is; docs/measurement.md defines it.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from lomo import methods
from lomo.errors import UserError
from lomo.record import evidence
from lomo.record.evidence import Scored
from lomo.record.schema import (
    Evaluation,
    InstructTraining,
    Memory,
    Record,
    Training,
    read_record,
)
from lomo.specs import MeasureSpec, TaskSpec, TrainSpec
from lomo.system import processes

MOST_NAMED = 50  # records in one message
MANY = 1000  # records, from which on it pays to read them in several processes
AT_ONCE = 100  # of which a process is given so many
Keep = Callable[[Record, Scored | None], Any]
AGAIN = "pipeline again: only what was deleted is repeated"


class Claim(NamedTuple):
    """What a record says of `key`, and what `source` says: doubted where they differ."""

    key: str
    found: Any
    source: str
    expected: Any

    @property
    def holds(self) -> bool:
        """Whether both say the same; floats may differ by rounding."""
        found, expected = self.found, self.expected
        if isinstance(found, float) and isinstance(expected, int | float):
            return math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-9)
        return bool(found == expected)

    def __str__(self) -> str:
        return f"{self.key} is {_short(self.found)}, {self.source} {_short(self.expected)}"


class Read(NamedTuple):
    """What was read of a record: what is kept of it, or what is wrong with it; and hashes of the
    examples that it is scored on and of the facts of its model, None where it has none."""

    kept: Any
    fault: UserError | None = None
    scored_on: int | None = None
    model: int | None = None


def read_believed(
    results: Path,
    planned: Mapping[str, TrainSpec | MeasureSpec],
    keep: Keep = lambda record, scored: record,
) -> dict[str, Any]:
    """What `keep` keeps of the records of a results folder that exist, and of what their samples
    say, by run id, in the plan's order: the whole record, if it is not given.

    Raises UserError that names every record that is not believed.
    """
    records: dict[str, Any] = {}
    faults: dict[str, UserError] = {}
    examples: dict[str, dict[str, int]] = {}
    models: dict[str, dict[str, int]] = {}
    for run_id, read in _read(results, list(planned.items()), keep):
        spec = planned[run_id]
        if read.fault is not None:
            faults[run_id] = read.fault
            continue
        records[run_id] = read.kept
        if read.scored_on is not None and isinstance(spec, TrainSpec):
            # Of an instruction's answer each model has tokens of its own.
            own = spec.task if isinstance(spec, TaskSpec) else f"{spec.model} {spec.max_length}"
            drawn = f"{spec.kind} {own} {spec.num_test} {spec.sample_seed} {spec.data_path}"
            examples.setdefault(drawn, {})[run_id] = read.scored_on
        if read.model is not None:
            made = f"{spec.model} {spec.method} {spec.hyper} {spec.dtype}"
            models.setdefault(made, {})[run_id] = read.model
    unlike = [
        *_unlike(examples.values(), f"{evidence.SAMPLES} is of other examples than that of"),
        *_unlike(models.values(), "`model` has other facts of the same model than that of"),
    ]
    for run_id, problem in unlike:
        faults[run_id] = _fault(problem, results / "runs" / run_id / "record.json")
    if len(faults) == 1:
        raise next(iter(faults.values()))
    if faults:
        raise _of_all(list(faults.values()), results)
    return records


def _read(
    results: Path,
    planned: Sequence[tuple[str, TrainSpec | MeasureSpec]],
    keep: Keep,
) -> Iterator[tuple[str, Read]]:
    """The records that exist, in the plan's order; of many, each process reads a part at a time."""

    def part(number: int) -> list[tuple[str, Read]]:
        there = slice(number * AT_ONCE, (number + 1) * AT_ONCE)
        found = (
            (run_id, _read_one(results, run_id, spec, keep)) for run_id, spec in planned[there]
        )
        return [(run_id, read) for run_id, read in found if read is not None]

    num_parts = math.ceil(len(planned) / AT_ONCE)
    num_processes = (os.cpu_count() or 1) if len(planned) >= MANY else 1
    parts = dict(processes.results(part, num_parts, num_processes))
    for number in range(num_parts):
        yield from parts[number]


def _read_one(results: Path, run_id: str, spec: TrainSpec | MeasureSpec, keep: Keep) -> Read | None:
    """The record of a run, and what is wrong with it; None if it has none."""
    path = results / "runs" / run_id / "record.json"
    if not os.path.lexists(path):
        return None
    try:
        record = read_record(path)
        found, scored = _examined(record, spec, path.parent)
    except UserError as error:
        return Read(None, error)
    if found:
        return Read(None, _fault("; ".join(found), path))
    # Of the same model each says the same, but of the weights, whose hash is told by itself, and
    # why there is none: where nothing is trained they may be random.
    told_apart = {"weights_sha256", "weights_from", "missing"}
    facts = record.model.model_dump_json(exclude=told_apart) if record.model else None
    scored_on = scored.examples if scored else None
    return Read(keep(record, scored), None, scored_on, None if facts is None else hash(facts))


def _fault(problem: str, path: Path) -> UserError:
    return UserError(problem, where=str(path), fix=f"delete its folder and run the {AGAIN}")


def _unlike(groups: Iterable[Mapping[str, int]], problem: str) -> Iterator[tuple[str, str]]:
    """Runs that found another than most of those that must have found the same; and whose.

    All of them where there is no most.
    """
    for group in groups:
        usual, num = Counter(group.values()).most_common(1)[0]
        for run_id, found in group.items():
            if found != usual or 2 * num <= len(group) > 1:
                yield run_id, f"{problem} {next(r for r, got in group.items() if got != found)}"


def _of_all(faults: Sequence[UserError], results: Path) -> UserError:
    lines = [f"  {fault.where}: {fault.what}" for fault in faults[:MOST_NAMED]]
    if len(faults) > MOST_NAMED:
        lines.append(f"  and {len(faults) - MOST_NAMED} more")
    return UserError(
        "\n".join([f"{len(faults)} records are not believed", *lines]),
        where=str(results / "runs"),
        allowed="a whole record that equals its plan, its evaluations, its samples and its history",
        fix=f"delete the folders of these runs and run the {AGAIN}",
    )


def doubts(record: Record, planned: TrainSpec | MeasureSpec, folder: Path) -> list[str]:
    """What contradicts in the record of a run that was planned so, with its files in `folder`.

    Another run's record is told as that alone: what else differs follows from it.
    """
    return _examined(record, planned, folder)[0]


def _examined(
    record: Record, planned: TrainSpec | MeasureSpec, folder: Path
) -> tuple[list[str], Scored | None]:
    """The doubts, and what its samples say, None if there are none."""
    odd = _unheld(planned_claims(record, planned))[:3] or list(_lacking(record))
    odd = odd or _unheld(_claims(record, planned))
    if odd:
        return odd, None
    scored = None
    for name, claims in evidence.claims_of_files(record, planned).items():
        try:
            lines = evidence.read_json_lines(folder / name)
            odd += _unheld(Claim(*told) for told in claims(lines))
            if name == evidence.SAMPLES and record.result is not None:
                scored = evidence.scored_in(lines, record.result.metric)
        except evidence.Broken as error:
            odd.append(str(error))
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            odd.append(f"{name} does not hold what it has to ({type(error).__name__}: {error})")
    return odd, scored


def _unheld(claims: Iterable[Claim]) -> list[str]:
    return [str(claim) for claim in claims if not claim.holds]


def planned_claims(record: Record, planned: TrainSpec | MeasureSpec) -> Iterator[Claim]:
    """Run, study and the whole spec are those of the plan."""
    for key in ("run_id", "study", "kind"):
        yield Claim(key, getattr(record, key), "the plan says", getattr(planned, key))
    spec = planned.model_dump(mode="json")
    if record.spec == spec:
        return
    for key in {**spec, **record.spec}:
        if key not in record.spec or key not in spec:
            there = "is missing" if key in spec else "is unknown to the plan"
            yield Claim(f"spec.{key}", there, "the plan says", spec.get(key, "no such key"))
        else:
            yield Claim(f"spec.{key}", record.spec[key], "the plan says", spec[key])


def _lacking(record: Record) -> Iterator[str]:
    """Parts that a run of this kind and status must have, or cannot have."""
    well, trains = record.status == "ok", _trains(record.spec["method"])
    measured = record.kind == "measure"
    must = {
        "evidence": not well,
        "model": True if well else None,
        "training": False if measured else trains if well else None,
        "result": well and not measured,
        "throughput": None if not well or not measured else True,
        "efficiency": None if measured and not well else measured,
        "memory": well and measured,
        "applied": False if record.spec["dtype"] == "float32" else None,
    }
    for name, needed in must.items():
        there = getattr(record, name) is not None
        if needed is not None and there != needed:
            verb = "has no" if needed else "has a"
            yield f"{verb} {name}, though the {record.kind} run's status is {record.status}"
    if record.resumed_at_steps and record.training is None:
        yield "resumed_at_steps are not empty, though nothing was trained"
    if measured and record.evaluations:
        yield "evaluations are not empty, though a measured run is not scored"


@cache
def _trains(method: str) -> bool | None:
    """Whether the method trains; None where its package is not installed."""
    try:
        return methods.describe(method).trains
    except UserError:
        return None


def _claims(record: Record, planned: TrainSpec | MeasureSpec) -> Iterator[Claim]:
    clock = record.clock
    parts = ("load_s", "compile_s", "train_s", "evaluate_s", "save_s", "other_s")
    yield Claim("clock.wall_s", clock.wall_s, "its parts add up to", _sum(clock, parts))
    device = record.provenance.device
    num_devices = planned.num_devices
    yield Claim("provenance.device.num_devices", device.num_devices, "the plan says", num_devices)
    if planned.device != "auto":
        yield Claim("provenance.device.kind", device.kind, "the plan says", planned.device)
    if record.model is not None:
        yield Claim("model.name", record.model.name, "the plan says", planned.model)
        yield Claim("model.dtype", record.model.dtype, "the plan says", planned.dtype)
    if record.throughput is not None:
        yield Claim(
            "throughput.world_size", record.throughput.world_size, "the plan says", num_devices
        )
    if record.memory is not None:
        yield from _ledger(record.memory, device.kind)
    if record.efficiency is not None:
        yield from _shares(record, planned)
    if isinstance(planned, TrainSpec) and record.status == "ok":
        yield from _scores(record, planned)
    if isinstance(planned, TrainSpec) and record.training is not None:
        of_kind = isinstance(record.training, InstructTraining)
        yield Claim("training is of instructions", of_kind, "the kind", record.kind == "instruct")
        yield from _steps(record.training, planned, record.resumed_at_steps, record.status == "ok")


def _ledger(memory: Memory, kind: str) -> Iterator[Claim]:
    parts = ("parameters_bytes", "gradients_bytes", "optimizer_state_bytes", "activations_bytes")
    terms, peak = memory.sum_of_terms, memory.at_peak
    whole = _sum(peak, (*parts, "other_bytes", "residual_bytes"))
    yield Claim("memory.peak_bytes", memory.peak_bytes, "its parts add up to", whole)
    key = "memory.sum_of_terms.total_bytes"
    yield Claim(key, terms.total_bytes, "its terms add up to", _sum(terms, parts))
    highest = memory.gradients_peak_bytes
    key = "memory.sum_of_terms.gradients_bytes"
    yield Claim(key, terms.gradients_bytes, "memory.gradients_peak_bytes is", highest)
    counter = "storage_meter" if memory.cuda is None else "max_memory_allocated"
    yield Claim("memory.counter", memory.counter, "without and with `cuda` it is", counter)
    yield Claim("memory.cuda is there", memory.cuda is not None, "on the device", kind == "cuda")
    if memory.cuda is None:
        residual = peak.residual_bytes
        yield Claim("memory.at_peak.residual_bytes", residual, "on a CPU it is", 0)
    else:
        allocated = memory.cuda.metered.allocated_peak_bytes
        yield Claim("memory.peak_bytes", memory.peak_bytes, "the allocator counted", allocated)


def _shares(record: Record, planned: TrainSpec | MeasureSpec) -> Iterator[Claim]:
    """MFU, HFU and energy a token, from the values that they are made of."""
    found, speed = record.efficiency, record.throughput
    if found is None or speed is None or not isinstance(planned, MeasureSpec):
        return
    tokens = planned.batch_size * planned.sequence_length
    peak, rate = found.peak_flops_per_s, speed.tokens_per_s_per_device
    shares = {
        "mfu": (found.model_flops_per_token, 1),
        "hfu": (found.hardware_flops_per_step, tokens * planned.num_devices),
    }
    for name, (flops, num_tokens) in shares.items():
        # Of a peak of 0, or none, there is no share.
        share = flops * rate / num_tokens / peak if peak and flops is not None else None
        yield Claim(f"efficiency.{name}", getattr(found, name), "flops and speed give", share)
    step_j, token_j = found.energy_j_per_step, found.energy_j_per_token
    of_token = None if step_j is None else step_j / tokens
    yield Claim("efficiency.energy_j_per_token", token_j, "a step's gives", of_token)


def _steps(
    training: Training, planned: TrainSpec, joints: Sequence[int], well: bool
) -> Iterator[Claim]:
    found = training.num_train_examples
    yield Claim("training.num_train_examples", found, "at most", min(found, planned.num_train))
    for key, most in (("num_cut", found), ("num_skipped_steps", training.num_steps)):
        told = getattr(training, key)
        yield Claim(f"training.{key}", told, "at most", min(told, most))
    yield Claim("resumed_at_steps", list(joints), "in order", sorted(joints))
    last = max(joints, default=0)
    yield Claim("resumed_at_steps", last, "at most", min(last, training.num_steps))
    if well:
        each = math.ceil(found / planned.batch_size)
        yield Claim("training.num_epochs", training.num_epochs, "the plan says", planned.epochs)
        steps = planned.epochs * each
        yield Claim("training.num_steps", training.num_steps, "the epochs have", steps)


def _scores(record: Record, planned: TrainSpec) -> Iterator[Claim]:
    """One evaluation an epoch, and the result is the one that the protocol picks."""
    trained = record.training
    epochs = list(range(1, planned.epochs + 1)) if trained else [0]
    each = trained.num_steps // planned.epochs if trained else 0
    selecting = [e for e in record.evaluations if e.split == planned.selection]
    told = [(e.epoch, e.step) for e in selecting]
    expected = [(epoch, epoch * each) for epoch in epochs]
    yield Claim("evaluations (epoch, step)", told, "the epochs are", expected)
    for index, evaluation in enumerate(record.evaluations):
        asked = planned.num_dev if evaluation.split == "dev" else planned.num_test
        yield Claim(
            f"evaluations.{index}.num_examples",
            evaluation.num_examples,
            f"the {evaluation.split} split of this run has",
            _first_of(record.evaluations, evaluation.split, asked),
        )
    # Of equals the latest, as the training keeps it.
    best = max(selecting, key=lambda e: (e.goodness, e.step), default=None)
    reported = record.evaluations[-1:] if planned.selection == "dev" else [best]
    expected_result = next(iter(reported), None)
    yield Claim("result", _told(record.result), "the protocol picks", _told(expected_result))
    if best is not None and record.result is not None:
        picked = ("test", best.epoch, best.step)
        result = (record.result.split, record.result.epoch, record.result.step)
        yield Claim("result (split, epoch, step)", result, "the best evaluation is", picked)
        num_test = sum(e.split == "test" for e in record.evaluations)
        if planned.selection == "dev":
            yield Claim("evaluations of test", num_test, "under protocol: sound", 1)
        if trained:
            key = "training.selected_epoch"
            yield Claim(key, trained.selected_epoch, "the best evaluation is of", best.epoch)


def _first_of(evaluations: Sequence[Evaluation], split: str, asked: int) -> int:
    first = next(e.num_examples for e in evaluations if e.split == split)
    return min(max(first, 1), asked)


def _told(evaluation: Evaluation | None) -> dict[str, Any] | None:
    return None if evaluation is None else evaluation.model_dump(exclude={"missing"})


def _sum(block: Any, names: Sequence[str]) -> Any:
    return sum(getattr(block, name) for name in names)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
