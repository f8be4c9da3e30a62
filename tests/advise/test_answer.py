"""The command as a person sees it: its tables, its JSON, its study file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lomo.advise import answer
from lomo.advise.rows import KINDS
from lomo.cli import main
from lomo.study.config import load_study
from lomo.study.plan import make_plan
from tests.memory.predictions import CONFIGS

METHODS = ["lomo", "adamw_8bit", "qlora"]


@pytest.fixture(autouse=True)
def in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer, "MOST_PROCESSES", 1)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    CONFIGS["llama"].save_pretrained(tmp_path / "little")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOMO_CHECKOUT", str(Path(__file__).parents[2]))
    return tmp_path


def advise(*options: str, model: str = "little", methods: list[str] = METHODS) -> int:
    return main(["advise", "--model", model, "--seq-len", "16", *options, "--methods", *methods])


def test_a_study_is_written_that_can_be_planned(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert advise("--gpu", "1.001", "--examples", "50", "--write", "My Run.yaml") == 0
    text = capsys.readouterr().out
    assert all(len(line) <= 100 for line in text.splitlines() if not line.startswith("  python"))
    row = next(line for line in text.splitlines() if line.startswith("LOMO"))
    assert row.split()[1] == "yes"
    assert "not covered" in text and "see PEFT" in text
    assert "* by bitsandbytes' documented bytes" in text
    assert text.endswith("  snakemake --cores all --configfile 'My Run.yaml'\n")
    assert "Advice: LOMO with" in text and "one switch flipped" in text
    assert "Speed: not known of a card of 1.001 GiB" in text

    study = load_study(Path("My Run.yaml"))
    assert study.study == "my-run" and study.weights == "random" and study.device == "cuda"
    plan = make_plan(study, source="My Run.yaml")
    largest = int(row.split()[2].replace(",", ""))
    batches = {run.batch_size for run in plan.runs.values()}
    assert batches == {1, largest}
    settings = {(run.method, run.head_loss, run.attention) for run in plan.runs.values()}
    assert settings == {("lomo", "fused", "sdpa")}
    # A folder without weights is no model of a study, so one was made of its config.
    (model,) = plan.models.values()
    assert model.weights == "random" and (folder / "My Run-little/config.json").is_file()


def test_json_has_all_of_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert advise("--gpu", "RTX 4090", "--json", "--epochs", "2") == 0
    told = json.loads(capsys.readouterr().out)
    rows: dict[str, Any] = {row["name"]: row for row in told["rows"]}
    (card,) = rows["lomo"]["cards"]
    tokens = 2 * 1000 * 16
    assert card["seconds"] == pytest.approx(tokens / card["speed"]["tokens_per_s"])
    assert card["batch_size"] == 1000 and card["missing_bytes"] == 0
    assert rows["qlora"]["cards"] == [] and rows["qlora"]["why"]
    assert "bitsandbytes" in rows["adamw_8bit"]["state_by"]
    assert told["advised"] == "lomo" and len(told["switches"]) == 5
    assert told["walls"]["longest_sequence"] == 64  # all that the model has
    assert told["setting"]["head_loss"] == "fused"
    assert told["command"].endswith("snakemake --cores all --configfile my.yaml")


def test_where_nothing_fits_no_study_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert advise("--gpu", "1.0001", methods=["lomo"]) == 3
    assert "Advice: nothing fits" in capsys.readouterr().out
    assert advise("--gpu", "1.0001", "--write", "my.yaml", methods=["lomo"]) == 2
    said = capsys.readouterr()
    assert "lacks 0.1 GiB" in said.out
    assert "Advice: nothing fits" in said.out and "T4" not in said.out.splitlines()[0]
    assert "--write my.yaml: is not written: nothing fits" in said.err
    assert not Path("my.yaml").exists()


def test_without_a_card_a_column_is_a_common_one(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lomo.study.machine.has_gpu", lambda: False)
    assert advise(methods=["lomo"]) == 0
    text = capsys.readouterr().out
    assert "No GPU is here" in text and "RTX 4090" in text and "H200" in text
    assert "name your card" in text
    assert all(len(line) <= 100 for line in text.splitlines() if not line.startswith("  python"))


@pytest.mark.slow
def test_a_model_of_the_registry_is_named_in_the_study(folder: Path) -> None:
    assert (
        advise("--gpu", "24", "--write", "my.yaml", model="tiny-s", methods=["lomo", "lora"]) == 0
    )
    study = load_study(Path("my.yaml"))
    assert study.memory is not None and study.memory.models == ["tiny-s"]
    assert set(study.memory.methods) == {"lomo", "lora"}
    assert make_plan(study, source="my.yaml").runs
    assert study.throughput is not None and study.throughput.methods == ["lomo"]


def test_the_first_that_fits_in_the_order_is_advised() -> None:
    from lomo.advise.answer import _advised
    from lomo.advise.rows import Fit, Row

    yes, no = Fit(1, 1, 0, 2, 1), Fit(0, 1, 1, None, 1)
    rows = [Row(KINDS[name], [no if name == "adamw" else yes]) for name in KINDS]
    assert _advised(rows) is KINDS["lomo"]
    assert _advised([Row(KINDS["adamw_16bit"], [yes])]) is None
    assert _advised([Row(KINDS["lora"], [yes]), Row(KINDS["adamw"], [yes])]) is KINDS["adamw"]
