"""What a study found, in a few lines: the paper's claims in plain words, made of its verdicts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from ..text.names import listed
from ..text.units import decimals
from ..verdicts.all import anchor, tested_text
from ..verdicts.verdict import (
    ACCURACY,
    MEASURED,
    MEASURED_ON,
    MEMORY,
    NEVER_RUN,
    SPEED,
    TESTED,
    VERDICTS,
    Verdict,
)

_NUMBER = re.compile(r"-?[\d,]+(?:\.\d+)?")


@dataclass(frozen=True)
class Claim:
    """One claim of the paper in plain words, which verdicts it is told by, and where they stand.

    link: an id of the page; None for the row of the claim's first verdict.
    """

    kind: str
    text: str
    of: Callable[[Verdict], bool]
    link: str | None = None


def _order(*starts: str) -> Callable[[Verdict], bool]:
    return lambda v: v.order and v.what.startswith(starts)


def _memory_order(verdict: Verdict) -> bool:
    what = verdict.what
    own = what.startswith("LOMO") and what.endswith(("parameter tensor", "no optimizer state"))
    return verdict.order and (what.startswith(("Memory w", "Order of memory")) or own)


def _printed(source: str, *parts: str) -> Callable[[Verdict], bool]:
    return lambda v: v.source == source and all(part in v.what for part in parts)


def _any(*of: Callable[[Verdict], bool]) -> Callable[[Verdict], bool]:
    return lambda v: any(each(v) for each in of)


CLAIMS = (
    Claim(
        MEMORY,
        "LOMO needs less memory than SGD, and SGD less than AdamW: it keeps no optimizer state, "
        "and no more gradients than one tensor's",
        _memory_order,
    ),
    Claim(
        MEMORY,
        "The GiB that Tables 1 and 2 print, and the cards that hold them",
        lambda v: v.source in ("Table 1", "Table 2") and v.kind == MEMORY,
        "paper_table1",
    ),
    Claim(
        MEMORY,
        "One card with LOMO takes a tenth of what eight take with AdamW, and 65B fits eight cards "
        "of 24 GB",
        _any(_printed("Claim", "7B memory"), _printed("Claim", "65B on 8 devices")),
    ),
    Claim(
        SPEED,
        "A device does more tokens a second with LOMO than with AdamW or SGD",
        _order("Tokens/s", "Order of speed"),
    ),
    Claim(
        SPEED,
        "About 11 times AdamW's speed per device at 7B, and 1,000 samples at 65B in 3.6 hours",
        _any(_printed("Claim", "throughput"), _printed("Claim", "time")),
        "paper_table2",
    ),
    Claim(
        ACCURACY,
        "LOMO is at least as accurate as LoRA",
        _any(_order("Mean accuracy, LOMO at least LoRA", "Order of accuracy"),
             _printed("Claim", "LOMO over LoRA")),
    ),
    Claim(
        ACCURACY,
        "LOMO lifts accuracy more than 20 points above the untuned model",
        _any(_order("Mean accuracy, LOMO at least 20"), _printed("Claim", "over zero-shot")),
    ),
    Claim(
        ACCURACY,
        "LoRA with LOMO is at least as accurate as LoRA, at each rank",
        _any(
            lambda v: v.order and "LoRA with LOMO at least LoRA" in v.what,
            _printed("Figure 3"),
        ),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """A line of the findings: the claim, (verdict, how many), what it stands on, the link, and the
    verdicts themselves: those that were put to the test, or all where none was."""

    kind: str
    text: str
    verdicts: list[tuple[str, int]]
    basis: str
    detail: str
    link: str
    of: list[Verdict]


def findings(verdicts: Sequence[Verdict]) -> list[Finding]:
    """A line for each of CLAIMS that the verdicts tell of."""
    found = []
    for claim in CLAIMS:
        of = [verdict for verdict in verdicts if claim.of(verdict)]
        tested = [verdict for verdict in of if verdict.verdict in TESTED]
        if not of:
            continue
        counts = Counter(verdict.verdict for verdict in tested or of)
        link = claim.link or anchor(verdicts, (tested or of)[0])
        shown = [(name, counts[name]) for name in VERDICTS if counts[name]]
        told = _basis(of), _detail(of), f"#{link}"
        found.append(Finding(claim.kind, claim.text, shown, *told, tested or of))
    return found


def _basis(of: Sequence[Verdict]) -> str:
    """What verdicts stand on, and whether printed numbers among them were never run."""
    bases = list(dict.fromkeys(v.basis for v in of if v.verdict in TESTED))
    models = dict.fromkeys(model for v in of if v.order for model in _models(v))
    texts = [
        f"{basis}, on {listed(models)}" if models and basis.startswith((MEASURED, MEASURED_ON))
        else basis
        for basis in bases
    ]  # fmt: skip
    untested = [v for v in of if v.verdict not in TESTED]
    if not texts:
        return NEVER_RUN
    if any(not v.order for v in untested):
        texts.append("at the paper's size never run")
    return "; ".join(texts)


def _models(verdict: Verdict) -> list[str]:
    """The model that an order was tested on, from its reason."""
    return re.findall(r"as an order, on ([^;]+)", verdict.reason)


def _detail(of: Sequence[Verdict]) -> str:
    """The numbers behind a finding: printed beside ours where there is a printed one."""
    tested = [v for v in of if v.verdict in TESTED]
    if not tested:
        return listed(dict.fromkeys(v.reason for v in of))
    sums = [v for v in tested if v.what.endswith((": total", ": peak of a device"))]
    off = [known for known in map(_off, sums) if known is not None]
    if off:
        middle, most = (decimals(100 * share, 1) for share in (median(off), max(off)))
        return f"{len(off)} totals and peaks: the median is {middle} % off, the furthest {most} %"
    orders = [v for v in tested if v.order and v.measured]
    if orders:
        told = tested_text(orders[0])
        return f"{orders[0].measured}{f'; {told}' if told else ''}"
    return "; ".join(f"{v.measured}, printed {v.printed}{_bound(v)}" for v in tested)


def _bound(verdict: Verdict) -> str:
    """How a printed value is meant that is a bound."""
    words = verdict.tolerance or ""
    return f" ({words})" if words.startswith("at ") else ""


def _off(verdict: Verdict) -> float | None:
    """How far a measured or predicted number is from the printed one, over it; None if unknown."""
    found = [_NUMBER.search(text or "") for text in (verdict.measured, verdict.printed)]
    if None in found:
        return None
    measured, target = (float(match.group().replace(",", "")) for match in found if match)
    return abs(measured / target - 1) if target else None
