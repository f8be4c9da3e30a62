"""What `advise` refuses: one message with what, where and what is allowed, before any work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lomo.advise import question
from lomo.cli import main
from lomo.study.cards import Card
from lomo.study.machine import Machine
from tests.memory.predictions import small

GIB = 2**30
QUESTION = ["--model", "llama-7b", "--gpu", "24"]
WRONG = {
    "no card": (["--gpu", "RTX 4091"], "'RTX 4091' is no card", "did you mean RTX 4090"),
    "a card of nothing": (["--gpu", "0"], "a card of 0 GiB", "above 0"),
    "a card of two sizes": (["--gpu", "A100"], "--gpu", "A100 40GB or A100 80GB"),
    "no cards": (["--gpus", "0"], "--gpus: is 0", "at least 1"),
    "too many cards": (["--gpus", "5000"], "--gpus: 5000 cards can't share", "at most 4096"),
    "no tokens": (["--seq-len", "1"], "--seq-len: is 1", "at least 2"),
    "longer than the model": (["--seq-len", "4096"], "--seq-len: 4096 tokens", "at most 2048"),
    "no examples": (["--examples", "0"], "--examples: is 0", "at least 1"),
    "no epochs": (["--epochs", "-1"], "--epochs: is -1", "at least 1"),
    "mean above longest": (["--tokens", "2000"], "--tokens: a mean of 2000", "at most 1024"),
    "no method": (["--methods", "lomoo"], "unknown method 'lomoo'", "did you mean 'lomo'?"),
    "no model": (["--model", "lama-7b"], "unknown model", "did you mean 'llama-7b'?"),
    "a hub id": (["--model", "nobody/nothing"], "--model: the hub gives no config", "public"),
    "a known hub id": (["--model", "Qwen/Qwen3-8B"], "gives no config", "to mend: give qwen3-8b"),
    "no yaml": (["--write", "my.txt"], "--write my.txt", "such as my.yaml"),
    "no folder": (["--write", "none/my.yaml"], "there is no folder none", "--write"),
    "a folder": (["--write", "."], "--write .: is a folder", "my.yaml"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_asked_is_told(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    options, *expected = WRONG[name]
    assert main(["advise", *QUESTION, *options]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ") and said.err.count("error: ") == 1
    for part in expected:
        assert part in said.err


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, "no model folder (it has no config.json)"),
        ({"model_type": "t5"}, "encoder-decoder"),
        ({"model_type": "mamba"}, "attention"),
    ],
)
def test_a_folder_that_is_no_causal_model_is_told(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    config: dict[str, str] | None,
    expected: str,
) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["advise", "--model", str(tmp_path), "--gpu", "24"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and expected in said


def test_a_file_that_is_there_is_not_written_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("mine")
    assert main(["advise", *QUESTION, "--write", str(path)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert path.read_text() == "mine"


def test_an_encoder_as_it_is_published_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import BertConfig

    BertConfig(architectures=["BertForMaskedLM"]).save_pretrained(tmp_path)
    assert main(["advise", "--model", str(tmp_path), "--gpu", "24"]) == 2
    assert "is_decoder is false" in capsys.readouterr().err


def machine(name: str, gib: float, num: int) -> Machine:
    size = int(gib * GIB)
    return Machine(
        kind="cuda",
        name=name,
        num_devices=num,
        device_bytes=size,
        host_bytes=size,
        origin="found",
    )


def asked(monkeypatch: pytest.MonkeyPatch, *options: str) -> question.Question:
    import argparse

    parser = argparse.ArgumentParser()
    question.add_options(parser)
    monkeypatch.setattr(question, "_model", lambda _: (small("llama"), 64))
    return question.question_of(parser.parse_args(["--model", "small", *options]))


def test_without_a_card_this_machines_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    here = machine("NVIDIA GeForce RTX 4090", 23.5, 2)
    monkeypatch.setattr("lomo.study.machine.find_machine", lambda _: here)
    found = asked(monkeypatch)
    assert found.cards == [Card("NVIDIA GeForce RTX 4090", 23.5, 1008e9)]
    assert found.num_gpus == 2 and found.why_common is None
    assert asked(monkeypatch, "--gpus", "1").num_gpus == 1
    unknown = machine("NVIDIA RTX 9090", 60, 1)
    monkeypatch.setattr("lomo.study.machine.find_machine", lambda _: unknown)
    assert asked(monkeypatch).cards == [Card("NVIDIA RTX 9090", 60)]


def test_without_any_card_the_common_ones_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lomo.study.machine.has_gpu", lambda: False)
    found = asked(monkeypatch)
    assert [card.name for card in found.cards] == list(question.COMMON)
    assert found.why_common is not None and "No GPU is here" in found.why_common
    assert main(["advise", "--model", "llama-7b", "--write", "my.yaml"]) == 2
    assert "--write: needs to know the card" in capsys.readouterr().err


def test_the_question_is_asked_again_by_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    again = asked(monkeypatch, "--gpu", "RTX 4090", "--epochs", "3", "--tokens", "7").asked
    assert again == (
        "python -m lomo advise --model small --gpu 'RTX 4090' --seq-len 1024 --examples 1000 "
        "--epochs 3 --tokens 7"
    )
