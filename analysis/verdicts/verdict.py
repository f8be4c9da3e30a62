"""One verdict: a printed value or claim, what was measured, and whether they agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..records.accuracy import Cell
from ..records.comparable import NOT_COMPARABLE, NOT_RUN
from ..text.names import NOT_RUN as STATUS_NOT_RUN
from ..text.names import status_text
from ..text.units import decimals

# Undecided: it was put to the test, and the error of what was measured leaves both answers open.
TESTED = REPRODUCED, DIFFERS, UNDECIDED = "reproduced", "differs", "undecided"
VERDICTS = (*TESTED, NOT_COMPARABLE, NOT_RUN)

# What a verdict stands on. Of a GPU, MEASURED_ON and its name.
MEASURED, PREDICTED, NEVER_RUN = "measured here", "predicted at full size", "never run"
MEASURED_ON = "measured on "


MEMORY, SPEED, ACCURACY, SETTINGS = KINDS = ("memory", "speed", "accuracy", "settings")


@dataclass(frozen=True)
class Tested:
    """What a test says of an order: the difference (a fraction; of speeds over the slower's), its
    95 % interval over seeds and examples (of speeds, over steps), that of the examples alone, p
    corrected for the claims of its table, and the least difference that 80 % of such studies see.

    None where it is not known; of one seed, all that depends on another.
    """

    difference: float
    difference_low: float | None = None
    difference_high: float | None = None
    examples_low: float | None = None
    examples_high: float | None = None
    p: float | None = None
    num_claims: int | None = None
    smallest_difference: float | None = None
    num_seeds: int | None = None
    num_examples: int | None = None
    num_steps: int | None = None


@dataclass(frozen=True)
class Verdict:
    """One printed value or claim and what became of it. `order`: a claim of which is larger.

    error: half of the 95 % interval of what was measured, in its unit, where it has one; num_seeds:
    those of a trained value. basis: what it stands on; prediction: the file below results/published
    that it was read from.
    """

    source: str
    what: str
    printed: str
    measured: str | None
    tolerance: str | None
    verdict: str
    reason: str
    order: bool = False
    run_id: str = ""
    error: float | None = None
    basis: str = NEVER_RUN
    prediction: str = ""
    num_seeds: int | None = None
    tested: Tested | None = None

    @property
    def kind(self) -> str:
        """What it is about: one of KINDS."""
        what = f"{self.source} {self.what}".lower()
        if "tokens/s" in what or "speed" in what or "throughput" in what or "time" in what.split():
            return SPEED
        if self.source == "Table 4":
            return SETTINGS
        accurate = self.source in ("Table 3", "Figure 3") or "accuracy" in what or "rank" in what
        return ACCURACY if accurate or "lora with lomo" in what else MEMORY

    def row(self) -> dict[str, Any]:
        """Its fields, without those of a test."""
        return {k: v for k, v in asdict(self).items() if k not in ("num_seeds", "tested")}


def counts_by_kind(verdicts: Sequence[Verdict]) -> dict[str, dict[str, str]]:
    """Kind -> verdict -> how many, and of those how many predicted; "" for none. Kinds of which
    there is none are left out."""
    kinds: dict[str, dict[str, str]] = {}
    for kind in KINDS:
        texts = {}
        for name in VERDICTS:
            of = [v for v in verdicts if (v.kind, v.verdict) == (kind, name)]
            predicted = sum(v.basis == PREDICTED for v in of)
            more = f" ({predicted} predicted)" if predicted else ""
            texts[name] = f"{len(of)}{more}" if of else ""
        if any(texts.values()):
            kinds[kind] = texts
    return kinds


def order(what: str, model: str, measured: str, runs: Sequence[Any], caution: str = "") -> Verdict:
    """An order that was measured on a model, still undecided."""
    reason = f"as an order, on {model}" + (f"; {caution}" if caution else "")
    return Verdict("Order", what, "", measured, None, UNDECIDED, reason, True, _run_ids(runs))


def untested(what: str, verdict: str, reason: str, runs: Sequence[Any] = ()) -> Verdict:
    """An order that was not put to the test."""
    return Verdict("Order", what, "", None, None, verdict, reason, True, _run_ids(runs))


def lacking(what: str, model: str, runs: Mapping[str, Any]) -> Verdict:
    """The verdict where not all `runs` are ok; they stand under their titles, None if unplanned."""
    ended = [r for r in runs.values() if r is not None and r.status not in ("ok", STATUS_NOT_RUN)]
    reasons = [_why_lacking(title, run) for title, run in runs.items() if not ok(run)]
    verdict = NOT_COMPARABLE if ended else NOT_RUN
    return untested(what, verdict, f"on {model}: {', '.join(reasons)}", ended)


def ok(run: Any | None) -> bool:
    """Whether a run, or an accuracy, ended well."""
    return run is not None and run.status == "ok"


def _why_lacking(title: str, run: Any | None) -> str:
    if run is None:
        return f"the study does not ask for {title}"
    if run.status == STATUS_NOT_RUN:
        return f"{title} has no record yet"
    return f"{title} ended as {status_text(run.status)}"


def _run_ids(runs: Sequence[Any]) -> str:
    of_each = (run.run_ids if isinstance(run, Cell) else (run.run_id,) for run in runs)
    return " ".join(dict.fromkeys(run_id for run_ids in of_each for run_id in run_ids))


def judge(printed: float, measured: float, tolerance: float) -> str:
    """reproduced if `measured` is within `tolerance` of `printed`, the boundary included."""
    # 1e-9: a difference of exactly the tolerance must not fail by a rounding of binary fractions.
    within = abs(measured - printed) <= tolerance + 1e-9 * max(1.0, abs(printed))
    return REPRODUCED if within else DIFFERS


def verdict_on(
    cell: Any,
    what: str,
    verdict: str,
    reason: str,
    measured: str | None = None,
    tolerance: str | None = None,
    run_id: str = "",
) -> Verdict:
    """A verdict on one row of analysis/paper, its printed value with its unit."""
    table = cell.table if cell.table.startswith("figure") else f"table {cell.table}"
    has_unit = cell.unit in ("GiB", "%") and cell.value != "OOM"
    value = f"{cell.value} {cell.unit}" if has_unit else cell.value
    return Verdict(
        table.capitalize(), what, value, measured, tolerance, verdict, reason, run_id=run_id
    )


def erratum(cell: Any) -> str:
    """What is wrong with the printed value itself, if it is known."""
    return cell.note.split("; ", 1)[1] if "erratum" in cell.note else ""


def failed(cell: Any, what: str, status: str, run_id: str) -> Verdict:
    """The verdict of a run that did not end well: divergence contradicts the paper, a device
    without room or time says nothing of its numbers."""
    text = status_text(status)
    out_of_memory = status in ("oom", "predicted_oom")
    if cell.value == "OOM" and out_of_memory:
        verdict = REPRODUCED
    else:
        same_machine = cell.table == "2" and out_of_memory
        verdict = DIFFERS if status == "diverged" or same_machine else NOT_COMPARABLE
    return verdict_on(cell, what, verdict, f"the run ended as {text}", text, run_id=run_id)


def judged(
    cell: Any,
    what: str,
    run_id: str,
    measured: float,
    tolerance: float,
    unit: str,
    places: int,
    notes: list[str],
    error: float | None = None,
) -> Verdict:
    """The verdict on a measured number, in the printed unit; tolerance and error in the same."""
    target = float(cell.value)
    difference = decimals(abs(measured - target), places)
    side = "above" if measured > target else "below"
    same = float(f"{measured:.{places}f}") == target
    reasons = ["equal in the printed digits" if same else f"{difference} {unit} {side}"]
    verdict = verdict_on(
        cell,
        what,
        judge(target, measured, tolerance),
        "; ".join([*reasons, *filter(None, notes)]),
        f"{decimals(measured, places)} {unit}",
        f"{decimals(tolerance, places)} {unit}",
        run_id,
    )
    return replace(verdict, error=error)
