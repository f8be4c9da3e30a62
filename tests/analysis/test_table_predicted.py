"""Tables 1 and 2 as predicted, from made-up predictions."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from analysis.cli import main
from analysis.paper.printed import difference
from lomo import methods
from lomo.specs import MeasureSpec

GIB = 2**30
# Table 1's terms of LOMO without checkpointing, as printed, in GiB.
TERMS = {"parameters": 12.55, "gradients": 0.24, "optimizer_state": 0.0, "activations": 45.61}


def prediction(
    section: str,
    method: str,
    *,
    terms: dict[str, float] | None = None,
    peak: float = 20.0,
    **more: Any,
) -> dict[str, Any]:
    """A file as `python -m lomo predictions` writes it, of LLaMA-7B in the paper's setting."""
    sequence, batch = (512, 8) if section == "memory" else (1024, 1)
    terms = TERMS | (terms or {})
    spec = MeasureSpec(
        study="made-up",
        run_id=f"measure/{method}",
        model="llama-7b",
        model_path="",
        method=method,
        hyper=methods.describe(method).hyper().model_dump(),
        device="cuda",
        dtype="bfloat16",
        attention=more.pop("attention", "eager"),
        activation_checkpointing=section == "throughput",
        batch_size=batch,
        sequence_length=more.pop("sequence_length", sequence),
        max_grad_norm=None,
        num_warmup_steps=1,
        num_timed_steps=2,
        timeout_s=None,
        num_threads=1,
        engine=more.pop("engine", "single"),
        num_devices=more.pop("num_devices", 1),
    )
    sizes = {f"{part}_bytes": round(GIB * gib) for part, gib in terms.items()}
    ledger = {
        "sum_of_terms": {**sizes, "total_bytes": sum(sizes.values())},
        "peak_bytes": round(GIB * peak),
    }
    made = {
        "fingerprint": "0" * 16,
        "section": section,
        "paper_model": "7B",
        "buffers": None,
        "packages": {"torch": "2.13.0", "transformers": "5.23.0"},
        "spec": spec.model_dump(mode="json"),
        "reason": None,
        "account": "simulated",
        "unsupported": None,
        "wall_s": 1.5,
        "ledger": ledger,
    }
    return made | more


def tables(
    folder: Path,
    predictions: Sequence[dict[str, Any]],
    then: Sequence[dict[str, Any]] = (),
) -> tuple[str, str]:
    """The Markdown of both tables; `then` are predictions with June 2023's code."""
    write(folder / "predictions", predictions)
    write(folder / "published", then)
    options = ["--results", str(folder), "--june-2023", str(folder / "published")]
    assert main(["predicted", *options]) == 0
    made = [(folder / "tables" / f"predicted_table{number}.md").read_text() for number in (1, 2)]
    return made[0], made[1]


def write(folder: Path, predictions: Sequence[dict[str, Any]]) -> None:
    folder.mkdir(exist_ok=True)
    for number, made in enumerate(predictions):
        (folder / f"{number}.json").write_text(json.dumps(made))
    names = [str(number) for number in range(len(predictions))]
    (folder / "index.json").write_text(json.dumps(names))


def rows_of(folder: Path, number: int) -> list[dict[str, str]]:
    with (folder / "tables" / f"predicted_table{number}.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_row_has_printed_predicted_difference_and_peak(tmp_path: Path) -> None:
    text, _ = tables(tmp_path, [prediction("memory", "lomo", peak=60.25)])
    assert "| 59.40 | 58.40 | \N{MINUS SIGN}1.7 | 60.25 |" in text
    assert "45.61 [45.61]" in text
    total = next(row for row in rows_of(tmp_path, 1) if row["part"] == "total")
    assert float(total["difference"]) == pytest.approx(58.40 / 59.40 - 1, abs=1e-6)
    assert total["note"].startswith("the printed total is 1.00 GiB above the sum")
    assert total["modelling"] == "today"


@pytest.mark.parametrize(
    ("attention", "told"), [("eager", "today's modelling code"), ("sdpa", "sdpa keeps none")]
)
def test_activations_that_are_off_say_why(attention: str, told: str, tmp_path: Path) -> None:
    made = prediction("memory", "lomo", terms={"activations": 30.0}, attention=attention)
    text, _ = tables(tmp_path, [made])
    assert f"a: {'the' if attention == 'sdpa' else 'today'}" in text
    assert told in text
    assert "b: the printed total is 1.00 GiB above" in text
    assert "| a b |" in text


def test_a_term_that_nobody_explains_is_named(tmp_path: Path) -> None:
    text, _ = tables(tmp_path, [prediction("memory", "lomo", terms={"gradients": 12.0})])
    assert "not explained: terms that differ are gradients" in text


def test_a_rank_stands_beside_the_printed_peak(tmp_path: Path) -> None:
    zero3 = {"engine": "zero3", "num_devices": 8, "buffers": "authors"}
    fsdp2 = {"engine": "fsdp2", "num_devices": 8}
    made = [
        prediction("throughput", "adamw", peak=14.60, **zero3),
        prediction("throughput", "adamw", peak=15.76, **fsdp2),
        prediction("throughput", "lomo", peak=13.5),
        prediction("throughput", "lomo", peak=3.4, **fsdp2),
    ]
    _, text = tables(tmp_path, made)
    lines = text.splitlines()
    assert any("authors' settings | 15.76" in line and "7.4 | a |" in line for line in lines)
    assert any("FSDP2 | 15.76" in line and "| 0.0 |" in line for line in lines)
    assert "without communication (NCCL)" in text
    peaks = [row["printed_peak"] for row in rows_of(tmp_path, 2)]
    assert peaks == ["15.76", "15.76", "13.61", ""]  # the paper has no LOMO on eight devices


def test_out_of_memory_is_no_number(tmp_path: Path) -> None:
    made = prediction("throughput", "adamw", paper_model="13B", engine="fsdp2", num_devices=8)
    _, text = tables(tmp_path, [made])
    assert "| OOM |" in text
    assert "ran out of 24 GB" in text


def test_another_setting_has_no_printed_value(tmp_path: Path) -> None:
    text, _ = tables(tmp_path, [prediction("memory", "lomo", sequence_length=256)])
    assert "59.40" not in text
    assert "58.40" in text


def test_what_was_not_predicted_stands_with_its_reason(tmp_path: Path) -> None:
    text, _ = tables(
        tmp_path,
        [
            prediction("memory", "lomo", ledger=None, account=None, reason="no such thing\nfix: x"),
            prediction("memory", "sgd", account="closed_form", unsupported="aten.x"),
        ],
    )
    assert "not predicted" in text
    assert "a: no such thing; fix: x." in text
    assert "b: no simulation (aten.x)" in text


def test_a_study_without_the_sections_gets_empty_tables(tmp_path: Path) -> None:
    for text in tables(tmp_path, []):
        assert "Nothing to predict" in text
    assert rows_of(tmp_path, 1) == []


@pytest.mark.parametrize("content", ["", "{", "{}", '{"fingerprint": "", "spec": {}}'])
def test_a_broken_file_is_named(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables(tmp_path, [prediction("memory", "lomo")])
    (tmp_path / "predictions" / "0.json").write_text(content)
    assert main(["predicted", "--results", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "0.json" in told and "python -m lomo predictions --results" in told


JUNE: dict[str, Any] = {"packages": {"torch": "2.13.0", "transformers": "4.30.2"}}


def test_june_2023_stands_beside_today(tmp_path: Path) -> None:
    text, _ = tables(
        tmp_path,
        [
            prediction("memory", "lomo", attention="sdpa", terms={"activations": 23.0}),
            prediction("memory", "lomo", terms={"activations": 35.0}),
            prediction("memory", "sgd"),
        ],
        [
            prediction("memory", "lomo", terms={"activations": 45.4}, peak=58.5, **JUNE),
            prediction("memory", "adamw", **JUNE),
        ],
    )
    totals = [row for row in rows_of(tmp_path, 1) if row["part"] == "total"]
    assert [(row["method"], row["modelling"]) for row in totals] == [
        ("lomo", "today"),
        ("lomo", "today"),
        ("lomo", "June 2023"),
        ("sgd", "today"),
    ]
    assert "| June 2023 | eager | 59.40 | 58.19 | \N{MINUS SIGN}2.0 | 58.50 |" in text
    assert "transformers 4.30.2, bfloat16 weights, eager attention" in text


def test_june_2023_that_is_off_is_not_explained_by_today(tmp_path: Path) -> None:
    made = prediction("memory", "lomo", terms={"activations": 30.0}, **JUNE)
    text, _ = tables(tmp_path, [prediction("memory", "lomo")], [made])
    assert "not explained: terms that differ are activations" in text
    assert "today's modelling code" not in text


def test_other_ranks_of_june_2023_are_left_out(tmp_path: Path) -> None:
    zero3 = {"engine": "zero3", "num_devices": 8, "buffers": "authors"}
    mine = [prediction("throughput", "adamw", **zero3)]
    then = [
        prediction("throughput", "adamw", peak=15.69, **zero3, **JUNE),
        prediction("throughput", "adamw", **{**zero3, "num_devices": 4}, **JUNE),
    ]
    _, text = tables(tmp_path, mine, then)
    peaks = [row["true_peak_bytes"] for row in rows_of(tmp_path, 2)]
    assert peaks == [str(20 * GIB), str(round(15.69 * GIB))]
    assert "| June 2023 | 8 | ZeRO-3, authors' settings | 15.76 |" in text


def test_without_june_2023_there_is_only_today(tmp_path: Path) -> None:
    write(tmp_path / "predictions", [prediction("memory", "lomo")])
    assert main(["predicted", "--results", str(tmp_path)]) == 0
    text = (tmp_path / "tables" / "predicted_table1.md").read_text()
    assert "| today |" in text and "transformers 4.30.2" not in text


def test_a_broken_published_file_is_to_be_checked_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "predictions", [])
    write(tmp_path / "published", [prediction("memory", "lomo", **JUNE)])
    (tmp_path / "published" / "0.json").write_text("{")
    options = ["--results", str(tmp_path), "--june-2023", str(tmp_path / "published")]
    assert main(["predicted", *options]) == 2
    assert "git checkout" in capsys.readouterr().err


def test_difference_is_over_the_printed_value() -> None:
    assert difference(GIB, 2.0) == -0.5
    assert difference(None, 2.0) is None
    assert difference(GIB, None) is None


def test_the_tables_need_no_torch(loaded: set[str]) -> None:
    assert "analysis.tables.predicted" in loaded and "torch" not in loaded
