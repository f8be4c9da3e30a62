"""What 16-bit weights lose of their steps: each method under each treatment of its weights."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from lomo.record.applied import APPLIED_GROUPS

from ..records.collected import Collected
from ..records.comparable import computed_notes
from ..text.grid import Block, Cell, Notes, Table
from ..text.names import NOT_RUN, listed, method_title, status_text, task_title
from ..text.units import EN_DASH, decimals, percent
from .treated import SECTION, TITLES, Treated, tasks, treated

COLUMNS = (
    *("model", "method", "rank", "treatment", "status", "accuracy", "accuracy_low"),
    *("accuracy_high", "num_seeds", "last_epoch_loss", "grad_norm", "intended", "applied_share"),
    *(f"{what}_{group}" for what in ("share", "moved") for group in APPLIED_GROUPS),
    "reason",
)


def table_rounding(collected: Collected) -> Table:
    """The rounding section of the study."""
    found = treated(collected)
    notes = Notes()
    blocks = _blocks(found, notes) if found else []
    return Table(
        name="table_rounding",
        title="Rounding: what 16-bit weights take of their steps",
        caption=_caption(collected),
        blocks=blocks,
        notes=[*notes.texts(), *_notes(collected, found)] if found else [],
        data=pd.DataFrame([_data(each) for each in found], columns=list(COLUMNS)),
    )


def _caption(collected: Collected) -> str:
    reason = collected.why_empty(SECTION)
    if reason:
        return f"Not run: {reason}."
    return (
        f"The same trainings on {listed(map(task_title, tasks(collected)))} with weights held in "
        "several ways. Loss: of the last epoch, in nats a token. Norm: of the gradient, at the "
        "last steps. Accuracy in %, behind it half the wider 95 % interval. Share applied: how "
        "much of the intended step the weights took, its projection on what was intended; of all "
        "weights, and by group with the percentage of weights that moved."
    )


def _blocks(found: Sequence[Treated], notes: Notes) -> list[Block]:
    groups = [g for g in APPLIED_GROUPS if any(g in (each.shares or {}) for each in found)]
    heads = ["method", "weights", "loss", "norm", "accuracy", "share applied", *groups]
    models = list(dict.fromkeys(each.model for each in found))
    return [
        Block(
            heads,
            [_row(each, groups, notes) for each in found if each.model == model],
            2,
            heading=model if len(models) > 1 else None,
        )
        for model in models
    ]


def _row(each: Treated, groups: Sequence[str], notes: Notes) -> list[Cell | str]:
    keys: list[Cell | str] = [method_title(each.method, each.rank), TITLES[each.treatment]]
    cell = each.cell
    if cell is None:
        mark = notes.mark([each.reason or "it is not in the plan"])
        return [*keys, Cell(EN_DASH, remark=mark), *[EN_DASH] * (3 + len(groups))]
    runs = cell.run_ids if cell.status != NOT_RUN else ()
    if cell.accuracy is None:
        accuracy = Cell(status_text(cell.status), runs=runs)
    else:
        half = max(((high - low) / 2 for low, high in cell.intervals), default=None)
        accuracy = Cell(percent(cell.accuracy), percent(half), runs=runs)
    numbers = [decimals(each.loss, 4), decimals(each.grad_norm, 2)]
    return [
        *keys,
        *(Cell(text, runs=runs) for text in numbers),
        accuracy,
        Cell(decimals(each.share, 3), runs=runs),
        *(_of_group(each, group, runs) for group in groups),
    ]


def _of_group(each: Treated, group: str, runs: tuple[str, ...]) -> Cell:
    share, moved = (each.shares or {}).get(group), (each.moved or {}).get(group)
    remark = None if moved is None else f"{percent(moved)} %"
    return Cell(decimals(share, 3), remark=remark, runs=runs)


def _notes(collected: Collected, found: Sequence[Treated]) -> list[str]:
    study = collected.plan.study
    notes = [study.note] if study.note else []
    if any(each.intended == "master_copy" for each in found):
        titles = listed(
            dict.fromkeys(method_title(e.method) for e in found if e.intended == "master_copy")
        )
        notes.append(
            f"{titles}: 16-bit weights follow an fp32 copy, and what they do not take at once it "
            "keeps; the share compares them with the change of the copy."
        )
    notes.append(
        "A share is of some elements at some steps (docs/measurement.md); above 1 by chance of the "
        "draw or of the rounding. An en dash: nothing of the kind is known."
    )
    return notes + computed_notes(collected.rows(SECTION))


def _data(each: Treated) -> dict[str, object]:
    cell = each.cell
    low, high = (cell.widest if cell else None) or (None, None)
    return {
        **{"model": each.model, "method": each.method, "rank": each.rank},
        **{"treatment": each.treatment, "status": cell.status if cell else None},
        **{"accuracy": cell.accuracy if cell else None, "accuracy_low": low},
        **{"accuracy_high": high, "num_seeds": len(cell.by_seed) if cell else None},
        **{"last_epoch_loss": each.loss, "grad_norm": each.grad_norm},
        **{"intended": each.intended, "applied_share": each.share, "reason": each.reason},
        **{f"share_{group}": value for group, value in (each.shares or {}).items()},
        **{f"moved_{group}": value for group, value in (each.moved or {}).items()},
    }
