"""Instruction tuning: perplexity of held-out answers, and what the training took."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ..records.collected import Collected
from ..records.comparable import computed_notes
from ..statistics.intervals import Interval
from ..text.grid import Block, Cell, Table
from ..text.names import NOT_RUN, listed, method_title, status_text
from ..text.units import EN_DASH, decimals, percent
from .tuned import SECTION, Tuned, of_model, tuned

HEADS = (
    *("method", "perplexity", "95 % over examples", "95 % over seeds", "over zero-shot"),
    *("loss", "tokens/s", "padding", "seeds"),
)
COLUMNS = (
    *("model", "method", "rank", "status", "trial", "perplexity", "perplexity_low"),
    *("perplexity_high", "seeds_low", "seeds_high", "over_zero_shot", "over_zero_shot_low"),
    *("over_zero_shot_high", "num_seeds", "num_test_examples"),
    *("num_test_tokens", "last_epoch_loss", "tokens_per_s_per_device", "padding_share"),
    *("num_train_examples", "num_cut_train", "num_cut_test", "num_left_out", "num_repeated"),
)


def table_instruct(collected: Collected) -> Table:
    """The instruct section of the study."""
    found = tuned(collected)
    return Table(
        name="table_instruct",
        title="Instruction tuning: perplexity of held-out answers",
        caption=_caption(collected),
        blocks=_blocks(found),
        notes=_notes(collected, found) if found else [],
        data=pd.DataFrame([_data(each) for each in found], columns=list(COLUMNS)),
    )


def _caption(collected: Collected) -> str:
    reason = collected.why_empty(SECTION)
    if reason:
        return f"Not run: {reason}."
    picked = {
        "sound": "on a part of the training examples that is not trained on (protocol sound)",
        "paper": "on the held-out examples themselves (protocol paper): read these as lower bounds",
    }
    return (
        "Perplexity of held-out answers, by token, end tokens among them: exp of the mean loss in "
        "nats. Over zero-shot: divided by the untrained model's, with its 95 % interval, each "
        "example compared with itself. Epoch and trial are the best "
        f"{picked[collected.plan.study.protocol]}. Loss: of training, in its last epoch, in nats "
        "a token. Padding: share of all tokens in batches, in %."
    )


def _blocks(found: Sequence[Tuned]) -> list[Block]:
    models = list(dict.fromkeys(each.model for each in found))
    return [
        Block(
            HEADS,
            [_row(each, of_model(found, model)) for each in of_model(found, model)],
            1,
            heading=model if len(models) > 1 else None,
        )
        for model in models
    ]


def _row(each: Tuned, others: Sequence[Tuned]) -> list[Cell | str]:
    ranks = {other.rank for other in others if other.method == each.method}
    runs = each.run_ids if each.status != NOT_RUN else ()
    known = each.perplexity is not None
    texts = [
        decimals(each.perplexity, 3) if known else status_text(each.status),
        _ends(each.examples),
        _ends(each.seeds),
        EN_DASH
        if each.change is None
        else f"{decimals(each.change[0], 3)} ({_ends(each.change[1])})",
        decimals(each.loss, 3),
        decimals(each.tokens_per_s, 0),
        percent(each.padding),
        f"{len(each.runs) if known else 0} of {each.num_planned_seeds}",
    ]
    title = method_title(each.method, each.rank if len(ranks) > 1 else None)
    return [title, *(Cell(text, runs=runs) for text in texts)]


def _changed(each: Tuned) -> str:
    if each.change is None:
        return EN_DASH
    ratio, interval = each.change
    return f"{decimals(ratio, 3)} ({_ends(interval)})"


def _ends(interval: Interval | None) -> str:
    if interval is None:
        return EN_DASH
    return f"{decimals(interval[0], 3)} to {decimals(interval[1], 3)}"


def _notes(collected: Collected, found: Sequence[Tuned]) -> list[str]:
    study = collected.plan.study
    notes = [study.note] if study.note else []
    notes += _of_data(collected, found)
    notes.append(
        "Over examples: the tokens of one answer go together. All methods are put to the same "
        "examples: intervals of perplexities that overlap do not say that two are alike. Tokens/s "
        "are of trainings, beside which others may have run; padding is not among the tokens."
    )
    return notes + computed_notes(collected.rows(SECTION))


def _of_data(collected: Collected, found: Sequence[Tuned]) -> list[str]:
    """What was cut, left out or repeated, by model: of all methods alike."""
    section = collected.plan.study.instruct
    assert section is not None
    notes = []
    for model in dict.fromkeys(each.model for each in found):
        rows = [row for each in of_model(found, model) for row in each.runs if row.status == "ok"]
        trained = [row for row in rows if row.num_train_examples is not None]
        parts = []
        if rows:
            parts.append(
                f"{rows[0].num_test_examples:,} examples held out, {rows[0].num_test_tokens:,} "
                f"tokens in their answers, {rows[0].num_cut_test:,} of which lost their end"
            )
        if trained:
            row = trained[0]
            parts.append(
                f"{row.num_train_examples:,} trained on, {row.num_cut_train:,} answers of which "
                f"lost their end; {row.num_left_out:,} left out, whose prompt has no room for an "
                f"answer in max_length ({section.settings.max_length:,} tokens), and "
                f"{row.num_repeated:,} whose prompt is held out or selects"
            )
        if parts:
            notes.append(f"{model}: {'; '.join(parts)}.")
    failed = [each for each in found if each.status not in ("ok", NOT_RUN)]
    if failed:
        told = listed(
            f"{e.model} {method_title(e.method)} ({status_text(e.status)})" for e in failed
        )
        notes.append(f"Without a value: {told}.")
    return notes


def _data(each: Tuned) -> dict[str, object]:
    low, high = each.examples or (None, None)
    seeds_low, seeds_high = each.seeds or (None, None)
    change, (change_low, change_high) = each.change or (None, (None, None))
    first = each.runs[0]
    taken = (
        *("num_test_examples", "num_test_tokens", "num_train_examples", "num_cut_train"),
        *("num_cut_test", "num_left_out", "num_repeated"),
    )
    return {
        **{"model": each.model, "method": each.method, "rank": each.rank},
        **{"status": each.status, "trial": each.trial, "perplexity": each.perplexity},
        **{"perplexity_low": low, "perplexity_high": high},
        **{"seeds_low": seeds_low, "seeds_high": seeds_high},
        **{"over_zero_shot": change, "over_zero_shot_low": change_low},
        "over_zero_shot_high": change_high,
        "num_seeds": len(each.runs) if each.perplexity is not None else 0,
        **{"last_epoch_loss": each.loss, "tokens_per_s_per_device": each.tokens_per_s},
        "padding_share": each.padding,
        **{name: getattr(first, name) for name in taken},
    }
