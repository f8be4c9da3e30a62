"""What each method makes of held-out answers: the trial that the protocol picks, over seeds.

Perplexities are averaged as losses are: in nats, and then turned back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy.special import stdtrit

from ..records.collected import Collected
from ..records.outcomes import answers
from ..statistics.intervals import CONFIDENCE, Interval, seed_interval
from ..text.names import worst_status

SECTION = "instruct"


@dataclass(frozen=True)
class Tuned:
    """One model and variant; a value is None where none is known.

    perplexity: of the held-out answers, None unless `status` is ok. examples: its 95 % interval
    over them; seeds: over seeds. change: over that of zero-shot, and its 95 % interval, example by
    example. loss: of training, in the last epoch. padding: as a share of all
    tokens in batches. runs: those of the trial that is told, by seed.
    """

    model: str
    variant: str
    method: str
    rank: int | None
    status: str
    trial: int | None
    perplexity: float | None
    examples: Interval | None
    seeds: Interval | None
    change: tuple[float, Interval] | None
    loss: float | None
    tokens_per_s: float | None
    padding: float | None
    runs: tuple[Any, ...]
    num_planned_seeds: int

    @property
    def run_ids(self) -> tuple[str, ...]:
        """The runs that are told, or all that were planned where none ended well."""
        return tuple(row.run_id for row in self.runs)


@cache
def tuned(collected: Collected) -> tuple[Tuned, ...]:
    """All of the section, by model and method."""
    groups: dict[tuple[str, str], list[Any]] = {}
    for row in collected.rows(SECTION):
        groups.setdefault((row.model, row.variant), []).append(row)
    selection = collected.plan.study.selection
    told = {key: _told(rows, selection) for key, rows in groups.items()}
    return tuple(
        _tuned(rows, told[key], _change(collected, told[key], told.get((key[0], "zero_shot"), [])))
        for key, rows in groups.items()
    )


def _told(rows: Sequence[Any], selection: str) -> list[Any]:
    """The runs of the trial that the protocol reports, those that ended well."""
    trial = _chosen(rows, selection)
    return [row for row in rows if _usable(row) and row.trial == trial]


def _tuned(
    rows: Sequence[Any], ended: Sequence[Any], change: tuple[float, Interval] | None
) -> Tuned:
    first = rows[0]
    losses = [math.log(row.test_perplexity) for row in ended]
    mean = _mean(losses)
    over_seeds = seed_interval(losses)
    return Tuned(
        model=first.model,
        variant=first.variant,
        method=first.method,
        rank=first.rank,
        status="ok" if ended else worst_status(row.status for row in rows),
        trial=ended[0].trial if ended else None,
        perplexity=None if mean is None else math.exp(mean),
        examples=None if mean is None else _over_examples(ended, mean),
        seeds=None if over_seeds is None else _exp(over_seeds),
        change=change,
        loss=_mean(row.last_epoch_loss for row in ended),
        tokens_per_s=_mean(row.tokens_per_s_per_device for row in ended),
        padding=_mean(map(_padding, ended)),
        runs=tuple(ended or rows),
        num_planned_seeds=len({row.seed for row in rows}),
    )


def _chosen(rows: Sequence[Any], selection: str) -> int | None:
    """The trial of the least mean loss on what selects; of equals the first.

    A trial counts with all its seeds or, where none has all of them, with as many as any has.
    """
    by_trial: dict[int, list[Any]] = {}
    for row in filter(_usable, rows):
        by_trial.setdefault(row.trial, []).append(row)
    most = max(map(len, by_trial.values()), default=0)
    whole = sorted(trial for trial, runs in by_trial.items() if len(runs) == most)

    def loss(trial: int) -> float:
        values = [getattr(row, f"{selection}_perplexity") for row in by_trial[trial]]
        return math.inf if None in values else sum(map(math.log, values)) / len(values)

    return min(whole, key=loss, default=None)


def _usable(row: Any) -> bool:
    return row.status == "ok" and row.test_perplexity is not None


def _over_examples(ended: Sequence[Any], mean: float) -> Interval | None:
    """Student's interval, in nats, turned back. All seeds are put to the same examples, so that
    their error does not shrink with the number of seeds."""
    errors = [
        row.test_perplexity_stderr / row.test_perplexity
        for row in ended
        if row.test_perplexity_stderr is not None
    ]
    error, number = _mean(errors), ended[0].num_test_examples
    if error is None or number < 2:
        return None
    half = _student(number) * error
    return _exp((mean - half, mean + half))


def _change(
    collected: Collected, ended: Sequence[Any], base: Sequence[Any]
) -> tuple[float, Interval] | None:
    """Perplexity over that of the untrained model, with Student's interval over examples.

    Each example is compared with itself; over seeds its losses are averaged first.
    """
    if not ended or not base or ended[0].method == "zero_shot":
        return None
    known = answers(collected)
    ours, theirs = ([known[row.run_id] for row in rows] for rows in (ended, base))
    if len({each.examples for each in (*ours, *theirs)}) > 1 or len(ours[0].losses) < 2:
        return None
    lengths, number = ours[0].lengths, len(ours[0].losses)
    means = [np.mean([each.losses for each in of], axis=0) for of in (ours, theirs)]
    differences = means[0] - means[1]
    mean = float(differences.sum() / lengths.sum())
    squares = float(((differences - mean * lengths) ** 2).sum())
    error = math.sqrt(number / (number - 1) * squares) / float(lengths.sum())
    half = _student(number) * error
    return math.exp(mean), _exp((mean - half, mean + half))


def _student(number: int) -> float:
    """Errors in half of a two-sided 95 % interval over so many examples."""
    return float(stdtrit(number - 1, 0.5 + CONFIDENCE / 2))


def _exp(ends: Interval) -> Interval:
    return (math.exp(ends[0]), math.exp(ends[1]))


def _padding(row: Any) -> float | None:
    if row.num_padding_tokens is None or not row.num_trained_tokens:
        return None
    return float(row.num_padding_tokens / (row.num_padding_tokens + row.num_trained_tokens))


def _mean(values: Iterable[Any]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def of_model(
    found: Sequence[Tuned], model: str, *, kept: Callable[[Tuned], bool] = lambda _: True
) -> list[Tuned]:
    """Those of one model that are `kept`."""
    return [each for each in found if each.model == model and kept(each)]
