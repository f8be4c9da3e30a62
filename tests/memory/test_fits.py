"""`python -m lomo fits`: the answer is the largest batch that fits, by prediction."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from lomo.cli import main
from lomo.memory.architecture import Architecture
from lomo.memory.fits import (
    RESERVE_GIB,
    card_counts,
    largest_batch,
    largest_fit,
    peak_from_few,
    whole_peak,
)
from lomo.plan import MeasureSpec
from tests.memory.predictions import CONFIGS, small, spec_of

DEEP = Architecture(
    "deep",
    LlamaConfig(
        vocab_size=120,
        hidden_size=32,
        intermediate_size=80,
        num_hidden_layers=9,
        num_attention_heads=4,
        max_position_embeddings=64,
        tie_word_embeddings=False,
    ),
)


def asked(method: str, num_gpus: int = 1, batch_size: int = 1) -> MeasureSpec:
    return spec_of(
        method,
        dtype="bfloat16",
        attention="sdpa",
        activation_checkpointing=True,
        batch_size=batch_size,
        engine="single" if num_gpus == 1 else "fsdp2",
        num_devices=num_gpus,
    )


PEAKS: dict[str, Callable[[int], int]] = {
    "a line": lambda batch: 1000 + 37 * batch,
    "rounded": lambda batch: 1000 + 512 * -(-37 * batch // 512),
    "a bend": lambda batch: max(2000 + batch, 500 + 40 * batch),
    "flat, then a line": lambda batch: max(2500, 500 + 40 * batch),
    "three lines": lambda batch: max(1000 + batch, 900 + 10 * batch, 90 * batch),
}


@pytest.mark.parametrize("name", PEAKS)
def test_the_search_finds_what_trying_all_finds(name: str) -> None:
    peak = PEAKS[name]
    for budget in (0, peak(1) - 1, peak(1), peak(2), 2499, 2500, 2501, 3000, 7777, 40_000):
        tried: list[int] = []

        def once(batch: int, tried: list[int] = tried) -> int:
            tried.append(batch)
            return peak(batch)

        found = largest_batch(once, budget)
        assert found == sum(peak(batch) <= budget for batch in range(1, 40_001))
        assert found + 1 in tried, "one more was not looked at"
        assert len(tried) <= 20


def test_the_answer_is_the_largest_of_all_batches() -> None:
    model, spec = small("llama"), asked("lomo")
    peaks = [whole_peak(model, asked("lomo", batch_size=batch)) for batch in range(1, 4)]
    assert largest_fit(model, spec, peaks[0] - 1) == (0, peaks[0])
    for budget in (peaks[1], peaks[2] - 1):
        fitting = sum(peak <= budget for peak in peaks)
        assert largest_fit(model, spec, budget) == (fitting, peaks[fitting - 1])


@pytest.mark.slow
def test_more_cards_hold_no_less() -> None:
    budget = whole_peak(small("llama"), asked("adamw", batch_size=2))
    found = [largest_fit(small("llama"), asked("adamw", n), budget)[0] for n in (1, 2, 4)]
    assert found[0] == 2
    assert found == sorted(found)


@pytest.mark.parametrize(("method", "num_gpus"), [("lomo", 1), ("sgd", 1), ("lomo", 2)])
def test_few_layers_tell_the_peak_of_all(method: str, num_gpus: int) -> None:
    spec = asked(method, num_gpus, batch_size=2)
    assert peak_from_few(DEEP, spec) == whole_peak(DEEP, spec)


@pytest.mark.slow
@pytest.mark.parametrize("num_gpus", [1, 2])
@pytest.mark.parametrize("method", ["lomo"])  # the others take minutes
def test_a_search_on_few_layers_finds_what_trying_all_finds(method: str, num_gpus: int) -> None:
    peaks = [whole_peak(DEEP, asked(method, num_gpus, batch)) for batch in range(1, 6)]
    for budget in (peaks[0] - 1, peaks[0], peaks[3]):
        fitting = sum(peak <= budget for peak in peaks)
        assert largest_fit(DEEP, asked(method, num_gpus), budget)[0] == fitting


def test_an_answer_of_few_layers_that_is_too_large_is_mended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lomo.memory.fits.whole_peak", lambda _, spec: 150 * spec.batch_size)
    monkeypatch.setattr("lomo.memory.fits.peak_from_few", lambda _, spec: 100 * spec.batch_size)
    assert largest_fit(DEEP, asked("lomo"), 1000) == (6, 900)


def test_the_cards_that_are_counted() -> None:
    assert [card_counts(n) for n in (1, 2, 3, 8)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4, 8]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    CONFIGS["llama"].save_pretrained(tmp_path)
    return tmp_path


def answer(capsys: pytest.CaptureFixture[str], folder: Path, *options: str) -> dict[str, Any]:
    question = ["fits", "--models", str(folder), "--sequence", "16", "--json", *options]
    assert main(question) == 0
    facts: dict[str, Any] = json.loads(capsys.readouterr().out)
    return facts


def test_a_larger_card_holds_more(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for gib in (RESERVE_GIB, RESERVE_GIB + 0.001, RESERVE_GIB + 0.002):
        facts = answer(capsys, folder, "--methods", "lomo", "--gpu", str(gib))
        (cell,) = facts["cells"]
        assert cell["peak_bytes"] - cell["missing_bytes"] <= (gib - RESERVE_GIB) * 2**30
        assert (cell["batch_size"] == 0) == (cell["missing_bytes"] > 0)
        found.append(cell["batch_size"])
    assert found[0] == 0 < found[1] < found[2]


def test_the_table_says_what_fits_and_what_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    CONFIGS["gpt2"].save_pretrained(tmp_path)
    question = ["fits", "--models", str(tmp_path), "--methods", "lora", "lomo"]
    assert main([*question, "--sequence", "16", "--gpu", "0.5"]) == 0
    text = capsys.readouterr().out
    assert "-0.5 GiB" in text
    assert "has no q_proj and v_proj" in text
    assert "1 is kept for the CUDA context" in text


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--gpu", "0"], "a card of 0 GiB"),
        (["--gpu", "-24"], "a card of -24 GiB"),
        (["--gpu", "nan"], "a card of nan GiB"),
        (["--gpu", "24", "--gpus", "0"], "0 cards"),
        (["--gpu", "24", "--sequence", "0"], "0 tokens"),
        (["--gpu", "24", "--models", "llama-7"], "did you mean 'llama-7b'?"),
        (["--gpu", "24", "--methods", "lommo"], "did you mean 'lomo'?"),
        (["--gpu", "24", "--methods", "zero_shot"], "takes no training step"),
        (["--gpu", "24", "--sequence", "2049"], "2049 tokens are more than llama-7b has positions"),
    ],
)
def test_a_question_without_an_answer(
    options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fits", *options]) == 2
    text = capsys.readouterr().err
    assert text.count("error:") == 1
    assert told in text
