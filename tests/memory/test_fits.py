"""`python -m lomo fits`: the answer is the largest batch that fits, by prediction."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import BloomConfig, DeepseekV3Config

from lomo.cli import main
from lomo.memory.asked.cells import Cell, Hint
from lomo.memory.asked.fits import as_text, shown_models
from lomo.memory.asked.fitting import (
    Answer,
    asked,
    card_counts,
    find,
    largest_batch,
)
from lomo.memory.predicted.predict import predict
from lomo.model.registry import registry
from lomo.study.machine import RESERVE_GIB
from tests.memory.predictions import CONFIGS, SIZES, small

GIB = 2**30

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


@pytest.mark.slow
def test_each_cell_is_the_largest_of_all_batches() -> None:
    spec = asked("llama", "lomo", 1, 16)
    peaks = [
        predict(small("llama"), spec.model_copy(update={"batch_size": batch})).ledger.peak_bytes
        for batch in range(1, 6)
    ]
    budgets = [peaks[0] - 1, peaks[0], peaks[1], peaks[3] - 1, peaks[4] - 1]
    found = find(
        [small("llama")],
        ["lomo"],
        gpus_gib=[RESERVE_GIB + budget / GIB for budget in budgets],
        counts=[1],
        sequence_length=16,
        num_processes=1,
        progress=False,
    )
    for cell, budget in zip(found.cells, budgets, strict=True):
        fitting = sum(peak <= budget for peak in peaks)
        assert cell.batch_size == fitting
        assert cell.peak_bytes == peaks[max(fitting, 1) - 1]
        assert cell.missing_bytes == max(peaks[0] - budget, 0)
        assert (cell.account, cell.refused) == ("simulated", None)


@pytest.mark.slow
def test_more_cards_hold_more_where_state_is_shared() -> None:
    # Not so of LOMO on a model as small as this: what FSDP2 gathers outweighs what it shares.
    found = find(
        [small("llama")],
        ["adamw"],
        gpus_gib=[RESERVE_GIB + 0.001],
        counts=[1, 2, 4],
        sequence_length=16,
        num_processes=1,
        progress=False,
    )
    sizes = [cell.batch_size for cell in found.cells]
    assert len(sizes) == 3
    assert 0 < sizes[0] < sizes[1] < sizes[2]


def test_the_cards_that_are_counted() -> None:
    assert [card_counts(n) for n in (1, 2, 3, 8)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4, 8]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    CONFIGS["llama"].save_pretrained(tmp_path)
    return tmp_path


def answer(capsys: pytest.CaptureFixture[str], folder: Path, *options: str) -> dict[str, Any]:
    question = ["fits", "--models", str(folder), "--seq-len", "16", "--json", *options]
    question += [] if "--processes" in options else ["--processes", "1"]
    assert main(question) == 0
    facts: dict[str, Any] = json.loads(capsys.readouterr().out)
    return facts


def test_a_larger_card_holds_more(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = [RESERVE_GIB, RESERVE_GIB + 0.001, RESERVE_GIB + 0.002]
    facts = answer(capsys, folder, "--methods", "lomo", "--gpu", *map(str, sizes))
    assert [cell["gpu_gib"] for cell in facts["cells"]] == sizes
    for cell in facts["cells"]:
        assert cell["peak_bytes"] - cell["missing_bytes"] <= (cell["gpu_gib"] - RESERVE_GIB) * GIB
        assert (cell["batch_size"] == 0) == (cell["missing_bytes"] > 0)
    found = [cell["batch_size"] for cell in facts["cells"]]
    assert found[0] == 0 < found[1] < found[2]


@pytest.mark.slow
def test_the_file_holds_every_cell_and_its_origin(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "what_fits.json"
    question = ["--methods", "lomo", "lora", "--gpus", "2", "--gpu", "24", "16", "--out", str(out)]
    facts = answer(capsys, folder, *question, "--processes", "2")
    written = json.loads(out.read_text())
    assert written == facts
    places = [(c["gpu_gib"], c["num_gpus"], c["method"]) for c in written["cells"]]
    assert places == list(itertools.product([16, 24], [1, 2], ["lomo", "lora"]))
    assert written["reserve_gib"] == RESERVE_GIB
    assert len(written["provenance"]["fingerprint"]) == 16
    assert written["provenance"]["packages"]["torch"]


@pytest.fixture(scope="module")
def in_words(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The answer in words on two sizes of card, one of them smaller than what is kept."""
    folder = tmp_path_factory.mktemp("deepseek")
    # It makes values out of a latent of its own: no module that lora knows.
    latent = {"q_lora_rank": 8, "kv_lora_rank": 8, "v_head_dim": 8}
    heads = {"qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "num_key_value_heads": 4}
    DeepseekV3Config(
        **SIZES, **latent, **heads, intermediate_size=80, first_k_dense_replace=3
    ).save_pretrained(folder)
    question = ["--models", str(folder), "--methods", "lora", "lomo", "--seq-len", "16"]
    with contextlib.redirect_stdout(io.StringIO()) as text:
        assert main(["fits", *question, "--processes", "1", "--gpu", "24", "0.5"]) == 0
    return text.getvalue()


def test_each_size_of_card_has_its_table(in_words: str) -> None:
    assert [line for line in in_words.splitlines() if line.startswith("Cards")] == [
        "Cards of 0.5 GiB",
        "Cards of 24 GiB",
    ]


def test_the_table_shows_large_models_alone() -> None:
    shown = shown_models()
    assert {"llama-7b", "llama-13b", "llama-30b", "llama-65b"} <= set(shown)
    assert not {"tiny-s", "llama-33m"} & set(shown)
    assert all(registry()[name].weights in ("hub", "random") for name in shown)


def test_the_table_says_what_fits_and_what_is_refused(in_words: str) -> None:
    assert "-0.6 GiB" in in_words  # 0.5 and a little: rounded up
    assert "has no q_proj and v_proj" in in_words
    assert "1 GiB is kept for the CUDA context" in in_words


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--gpu", "0"], "a card of 0 GiB"),
        (["--gpu", "-24"], "a card of -24 GiB"),
        (["--gpu", "nan"], "a card of nan GiB"),
        (["--gpu", "24", "0"], "a card of 0 GiB"),
        (["--gpu", "inf"], "a card of inf GiB"),
        (["--gpu", "RTX 4091"], "is no card of the table"),
        (["--gpu", "24", "--rank", "4", "--methods", "lomo"], "that is asked for has adapters"),
        (["--gpu", "24", "--gpus", "0"], "0 cards"),
        (["--gpu", "24", "--gpus", "-8"], "-8 cards"),
        (["--gpu", "24", "--processes", "0"], "0 processes"),
        (["--gpu", "24", "--seq-len", "0"], "0 tokens"),
        (["--gpu", "24", "--models", "llama-7"], "did you mean 'llama-7b'?"),
        (["--gpu", "24", "--methods", "lommo"], "did you mean 'lomo'?"),
        (["--gpu", "24", "--methods", "zero_shot"], "takes no training step"),
        (["--gpu", "24", "--seq-len", "2049"], "2049 tokens are more than llama-7b has positions"),
    ],
)
def test_a_question_without_an_answer(
    options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fits", *options]) == 2
    text = capsys.readouterr().err
    assert text.count("error:") == 1
    assert told in text


@pytest.mark.slow
def test_the_switches_are_those_of_predict(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All at once: a cell's peak is what `predict` tells of its batch."""
    switches = [
        *("--no-checkpointing", "--attention", "eager", "--head-loss", "fused"),
        *("--dtype", "float32", "--rank", "4", "--max-grad-norm", "1"),
    ]
    cell = answer(capsys, folder, "--methods", "lora", "--gpu", "1.001", *switches)["cells"][0]
    assert cell["batch_size"] > 1
    batch = ["--batch-size", str(cell["batch_size"])]
    question = ["predict", "--model", str(folder), "--method", "lora", "--seq-len", "16", *batch]
    assert main([*question, *switches, "--gpu", "1.001", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["peak_bytes"] == cell["peak_bytes"]


@pytest.mark.slow
def test_the_switch_that_would_fit_more_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    question = ["--methods", "adamw", "lomo", "--gpu", "1.0008"]
    hinted = answer(capsys, folder, *question, "--no-checkpointing")
    assert {hint["switch"] for hint in hinted["hints"]} >= {"--head-loss fused"}
    for hint in hinted["hints"]:
        assert hint["cell"]["method"] == "lomo"  # which fits more
        taken = hint["switch"].split()
        cell = answer(capsys, folder, *question, "--no-checkpointing", *taken)["cells"][1]
        assert cell["batch_size"] == hint["batch_size"] > hint["cell"]["batch_size"]


def test_a_hint_and_a_card_in_words() -> None:
    cell = Cell("llama-7b", "lomo", 2, 23.64, 0, 2**34, 2**20)
    hints = [Hint(cell, "--head-loss fused", 4)]
    text = as_text(
        Answer([cell], ["llama-7b"], ["lomo"], 1024, 0.0, hints=hints), {23.64: "RTX 4090"}
    )
    told = "=> --head-loss fused: 4 instead of none (llama-7b, lomo, 2 cards of 23.64 GiB)"
    assert told in text
    assert "Of 23.64 GiB (RTX 4090) a card, 1 GiB is kept" in text


def test_the_exit_code_says_that_nothing_fits(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    question = ["fits", "--models", str(folder), "--methods", "lomo", "--processes", "1"]
    assert main([*question, "--sequence", "16", "--gpu", "1"]) == 3  # the option's earlier name
    assert "16 tokens" in capsys.readouterr().out


def test_where_all_is_refused_it_is_one_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    BloomConfig(vocab_size=120, hidden_size=32, n_layer=2, n_head=4).save_pretrained(tmp_path)
    question = ["fits", "--models", str(tmp_path), "--methods", "lomo", "--processes", "1"]
    question += ["--seq-len", "16", "--gpu", "24"]
    assert main([*question, "--attention", "sdpa"]) == 2
    told = capsys.readouterr().err
    assert told.count("error:") == 1 and "has no sdpa attention" in told
    assert main(question) == 0  # not asked for: what the model has


@pytest.mark.slow
def test_more_cards_than_rows_is_a_refusal_of_the_cell(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = answer(capsys, folder, "--methods", "lomo", "--gpu", "24", "--gpus", "64")
    refused = {cell["num_gpus"]: cell["refused"] for cell in facts["cells"]}
    assert "64 devices can't share the 32 rows" in refused[64]
    assert refused[32] is None


def test_a_file_that_cannot_be_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "what_fits.json"
    question = ["--models", str(folder), "--methods", "lomo", "--seq-len", "16", "--gpu", "24"]
    assert main(["fits", *question, "--out", str(out)]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_the_printed_answer_in_the_docs_is_that_of_the_published_file() -> None:
    root = Path(__file__).parents[2]
    published = root / "results" / "published" / "what-fits" / "what_fits.json"
    facts = json.loads(published.read_text())
    paper = [name for name in facts["models"] if registry()[name].paper]  # what the command asks
    asked = [c for c in facts["cells"] if c["gpu_gib"] == 24 and c["model"] in paper]
    cells = [Cell(**cell) for cell in asked]
    answered = Answer(cells, paper, facts["methods"], facts["sequence_length"], 0.0)
    table = as_text(answered).split("\nSequences a device")[0]
    assert len(table.splitlines()) == 20
    assert table in (root / "docs" / "prediction.md").read_text()
