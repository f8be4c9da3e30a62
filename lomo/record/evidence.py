"""What lies beside a record: samples, history and timeline; and what in it they contradict."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic_core import from_json

from lomo.record.applied import applied_in
from lomo.record.clock import NUM_WARMUP_STEPS, TimedStep, summarise
from lomo.record.schema import PERPLEXITY, Record
from lomo.specs import MeasureSpec, TrainSpec

SAMPLES, HISTORY = "samples.jsonl", "history.jsonl"
Lines = Sequence[Mapping[str, Any]]
# (key, what the record says, who says otherwise, what they say)
Claims = Iterator[tuple[str, Any, str, Any]]


class Scored(NamedTuple):
    """What a run's samples say, example by example, short enough to keep of ten thousand runs.

    examples: a hash of which examples they are. right: "1" for each that is right, "0" for each
    other; None of answers, which are neither. groups: the number of what each shares with others,
    where the task has such. losses: of answers, each in nats; lengths: their tokens.
    """

    examples: int
    right: str | None
    groups: tuple[int, ...] | None
    losses: tuple[float, ...] | None = None
    lengths: tuple[int, ...] | None = None


class Broken(Exception):
    """A file beside a record that is not there, or not what it has to be."""


def claims_of_files(
    record: Record, planned: TrainSpec | MeasureSpec
) -> dict[str, Callable[[Lines], Claims]]:
    """The files that the record needs beside it, and what each of them claims."""
    checks: dict[str, Callable[[Lines], Claims]] = {}
    if record.result is not None:
        of_samples = _answers if record.kind == "instruct" else _samples
        checks[SAMPLES] = lambda lines: of_samples(record, lines)
    measured = record.kind == "measure" and record.status == "ok"
    if measured or record.training is not None or record.evaluations:
        checks[HISTORY] = lambda lines: _history(record, planned, lines)
    if record.memory is not None and record.memory.timeline_file is not None:
        checks[record.memory.timeline_file] = lambda lines: _timeline(record, lines)
    return checks


def read_json_lines(path: Path) -> Lines:
    """The objects of a JSON-lines file. Raises Broken if it is missing or no such file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Broken(f"{path.name} beside it cannot be read ({error.strerror})") from error
    if data and not data.endswith(b"\n"):
        raise Broken(f"{path.name} beside it does not end with a whole line; it was cut")
    try:
        # One list is parsed in a fraction of the time of as many lines.
        lines = from_json(b"[" + data.rstrip().replace(b"\n", b",") + b"]", allow_inf_nan=False)
    except ValueError as error:
        raise Broken(f"{path.name} beside it is not JSON lines ({error})") from error
    if not set(map(type, lines)) <= {dict}:
        raise Broken(f"{path.name} beside it holds a line that is no object")
    found: Lines = lines
    return found


def outcomes(log_likelihoods: Sequence[Sequence[float]], labels: Sequence[int]) -> list[float]:
    """lm-eval's `acc` of examples: is the likeliest candidate, of equals the first, right?"""
    likeliest = [each.index(max(each)) for each in log_likelihoods]
    return [float(first == label) for first, label in zip(likeliest, labels, strict=True)]


def scored_in(lines: Lines, metric: str) -> Scored:
    """What is kept of samples: which they are (their numbers and labels), and which are right."""
    if metric == PERPLEXITY:
        which = [(line["doc_id"], line["num_tokens"]) for line in lines]
        losses = tuple([-line["log_likelihood"] for line in lines])
        return Scored(hash(tuple(which)), None, None, losses, tuple(n for _, n in which))
    grouped = bool(lines) and "group" in lines[0]
    return Scored(
        hash(tuple([(line["doc_id"], line["label"]) for line in lines])),
        "".join(["1" if line[metric] else "0" for line in lines]),
        tuple([int(line["group"]) for line in lines]) if grouped else None,
    )


def _samples(record: Record, lines: Lines) -> Claims:
    result = record.result
    assert result is not None
    name, source = result.metric, "samples.jsonl has"
    ids, labels = [line["doc_id"] for line in lines], [line["label"] for line in lines]
    yield "result.num_examples", result.num_examples, source, len(ids)
    yield "examples of samples.jsonl", len(ids), "different ones are", len(set(ids))
    likelihoods = [line["log_likelihoods"] for line in lines]
    scored = outcomes(likelihoods, labels)
    odd = [line["doc_id"] for line, own in zip(lines, scored, strict=True) if line[name] != own]
    yield f"{name} of samples.jsonl", odd, "other than the log-likelihoods say are examples", []
    if not scored:
        return
    ties = sum([each.count(max(each)) > 1 for each in likelihoods])
    yield "result.num_ties", result.num_ties, "its samples give", ties
    number = len(scored)
    mean = sum(scored) / number
    yield "result.value", result.value, "its samples give", mean
    if result.stderr is not None and number > 1:
        spread = math.sqrt(mean * (1 - mean) / (number - 1))
        yield "result.stderr", result.stderr, "its samples give", spread
    means = [
        [total / length for total, length in zip(totals, line["num_tokens"], strict=True)]
        for totals, line in zip(likelihoods, lines, strict=True)
    ]
    told = [line["acc_token_mean"] for line in lines]
    yield "acc_token_mean of samples.jsonl", told, "its means say", outcomes(means, labels)
    for metric, value in result.other_metrics.items():
        own = sum(line[metric] for line in lines) / number
        yield f"result.other_metrics.{metric}", value, "its samples give", own


class Perplexity(NamedTuple):
    """Of answers: `value` is exp of `nll_per_token`, in nats. stderr: None of one example."""

    value: float
    stderr: float | None
    nll_per_token: float
    num_tokens: int


def perplexity_of(samples: Lines) -> Perplexity:
    """Of all tokens of the samples' answers alike; its error is over examples, whose tokens go
    together (a ratio of two sums, to first order). Raises ValueError or OverflowError where it is
    not finite."""
    losses = [-line["log_likelihood"] for line in samples]
    lengths = [line["num_tokens"] for line in samples]
    num_tokens, number = sum(lengths), len(samples)
    mean = math.fsum(losses) / num_tokens
    value = math.exp(mean)
    if not math.isfinite(value):
        raise ValueError(f"the perplexity is {value}")
    if number < 2:
        return Perplexity(value, None, mean, num_tokens)
    squares = math.fsum(
        (loss - mean * length) ** 2 for loss, length in zip(losses, lengths, strict=True)
    )
    error = math.sqrt(number / (number - 1) * squares) / num_tokens
    return Perplexity(value, value * error, mean, num_tokens)


def _answers(record: Record, lines: Lines) -> Claims:
    result = record.result
    assert result is not None
    source = "samples.jsonl has"
    ids = [line["doc_id"] for line in lines]
    yield "result.num_examples", result.num_examples, source, len(ids)
    yield "examples of samples.jsonl", len(ids), "different ones are", len(set(ids))
    found, source = perplexity_of(lines), "its samples give"
    yield "result.value", result.value, source, found.value
    yield "result.stderr", result.stderr, source, found.stderr
    for key in ("nll_per_token", "num_tokens"):
        yield f"other_metrics.{key}", result.other_metrics.get(key), source, getattr(found, key)


def _history(record: Record, planned: TrainSpec | MeasureSpec, lines: Lines) -> Claims:
    steps = [line for line in lines if line["event"] == "step"]
    numbers = [line["step"] for line in steps]
    if isinstance(planned, MeasureSpec):
        number = planned.num_warmup_steps + planned.num_timed_steps
        each: int | None = planned.batch_size * planned.sequence_length * planned.num_devices
    else:
        number, each = record.training.num_steps if record.training else 0, None
        scores = [line for line in lines if line["event"] == "evaluation"]
        yield from _losses(record, steps)
        yield from _evaluations(record, scores)
    yield from _applied(record, lines)
    yield "number of steps", number, "history.jsonl has", len(steps)
    if len(steps) == number:
        yield "steps of history.jsonl", numbers == list(range(1, number + 1)), "counted up", True
        yield from _speed(record, steps, each)


def _losses(record: Record, steps: Lines) -> Claims:
    training, source = record.training, "history.jsonl gives"
    if training is None:  # zero-shot
        return
    # The loss of the step at which a run diverged is no number, and counts in no mean.
    finished = [line for line in steps if line["loss"] is not None]
    if finished:
        first, last = finished[0], finished[-1]
        yield "training.first_loss", training.first_loss, source, first["loss"]
        yield "training.last_loss", training.last_loss, source, last["loss"]
        for key, epoch in (("first", first["epoch"]), ("last", last["epoch"])):
            key = f"{key}_epoch_loss"
            losses = [line["loss"] for line in finished if line["epoch"] == epoch]
            yield f"training.{key}", getattr(training, key), source, sum(losses) / len(losses)
    tokens = sum(line["num_tokens"] for line in steps)
    yield "training.num_tokens", training.num_tokens, source, tokens


def _applied(record: Record, lines: Lines) -> Claims:
    found, source = applied_in(lines), "history.jsonl gives"
    if record.applied is None or found is None:
        yield "applied is there", record.applied is not None, source, found is not None
        return
    mine, again = (block.model_dump(exclude={"groups"}) for block in (record.applied, found))
    yield "applied", mine, source, again
    groups = record.applied.groups
    yield "applied.groups", sorted(groups), source, sorted(found.groups)
    for name in groups.keys() & found.groups.keys():
        for key, value in found.groups[name]:
            yield f"applied.groups.{name}.{key}", getattr(groups[name], key), source, value


def _evaluations(record: Record, scores: Lines) -> Claims:
    told = [(e.split, e.epoch, e.step, e.metric, e.value) for e in record.evaluations]
    keys = ("split", "epoch", "step", "metric", "value")
    found = [tuple(line[key] for key in keys) for line in scores]
    yield "number of evaluations", len(told), "history.jsonl has", len(found)
    for index, (mine, other) in enumerate(zip(told, found, strict=False)):
        yield f"evaluations.{index}", mine, "history.jsonl has", other


def _speed(record: Record, steps: Lines, num_tokens: int | None) -> Claims:
    """The throughput of the steps' own times; `num_tokens` of each step where all are alike."""
    speed = record.throughput
    if speed is None:
        return
    number = speed.num_warmup_steps + speed.num_timed_steps
    yield "throughput.num_timed_steps with warm-up", number, "history.jsonl has", len(steps)
    timed = [
        TimedStep(line["step_s"], tokens, tokens)
        for line in steps
        for tokens in (line["num_tokens"] if num_tokens is None else num_tokens,)
    ]
    joints = record.resumed_at_steps
    again = summarise(
        timed,
        num_warmup_steps=NUM_WARMUP_STEPS if joints else speed.num_warmup_steps,
        world_size=speed.world_size,
        resumed_at=joints,
    )
    for key in type(speed).model_fields:
        # Padding is not in a training's history; a measured run has none.
        if key != "missing" and (key != "padding_fraction" or num_tokens is not None):
            source = "history.jsonl gives"
            yield f"throughput.{key}", getattr(speed, key), source, getattr(again, key)


def _timeline(record: Record, lines: Lines) -> Claims:
    memory = record.memory
    assert memory is not None
    peaks = [line for line in lines if line["event"] == "peak"]
    yield "peaks of timeline.jsonl", len(peaks), "a step has", 1
    for line in peaks:
        source = "timeline.jsonl has"
        counted = memory.peak_bytes - memory.at_peak.residual_bytes
        yield "memory.peak_bytes without its residual", counted, source, line["total_bytes"]
        yield "memory.peak_phase", memory.peak_phase, source, line["phase"]
        for part in ("gradients_bytes", "activations_bytes"):
            yield f"memory.at_peak.{part}", getattr(memory.at_peak, part), source, line[part]
    highest = max((line["gradients_bytes"] for line in lines), default=0)
    yield "memory.gradients_peak_bytes", memory.gradients_peak_bytes, "timeline.jsonl has", highest
