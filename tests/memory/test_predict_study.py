"""The predictions of a study: which are asked for, what is written, and what is kept."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from analysis.paper.printed import printed
from lomo.cli import main
from lomo.memory.predicted.predict import predict
from lomo.memory.predicted.study import NUM_DEVICES, Asked, asked_by, predict_study
from lomo.model.architecture import entry_architecture
from lomo.model.registry import ModelEntry
from lomo.specs import MeasureSpec
from lomo.study.config import Study, load_study
from lomo.study.plan import Plan, make_plan
from lomo.system.files import write_text
from lomo.system.strict import parse
from tests.memory.predictions import CONFIGS, spec_of

FOLDER = "small"


pytestmark = pytest.mark.slow


def study_plan(**changes: Any) -> Plan:
    """A study of one small model, whose weights nobody has."""
    section = {"models": ["tiny-s"], "methods": ["lomo", "sgd"], "batch_size": 2}
    study = {
        "study": "unit",
        "title": "a study for a test",
        "data": "generated",
        "device": "cpu",
        "memory": {**section, "sequence_length": 16, **changes},
    }
    return make_plan(parse(Study, study, where="test"), source="test")


def read(folder: Path) -> dict[str, dict[str, Any]]:
    names = json.loads((folder / "index.json").read_text())
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in names}


def test_the_devices_are_those_of_the_printed_table() -> None:
    frame = printed("table2_throughput")
    rows = frame.loc[frame["column"] == "num_devices", ["row", "value"]].itertuples(index=False)
    assert {tuple(row.row.split("/")): int(row.value) for row in rows} == NUM_DEVICES


def test_what_the_paper_prints_is_asked_for_as_the_paper_ran_it() -> None:
    names = [
        asked.name
        for asked in asked_by(make_plan(load_study(Path("config/paper.yaml")), source=""))
    ]
    assert len(names) == len(set(names))
    setting = "1024x1-bfloat16-sdpa-checkpointed"
    for (size, method), num in NUM_DEVICES.items():
        row = f"throughput/llama-{size.lower()}/{method}/{setting}"
        assert f"{row}-zero3-{num}-authors" in names
        assert f"{row}-fsdp2-{num}" in names
    assert f"throughput/llama-65b/sgd/{setting}" in names  # the paper has no such row
    for method in ("adamw", "sgd", "lomo"):
        assert f"memory/llama-7b/{method}/512x8-bfloat16-eager-plain" in names
    assert "memory/llama-7b/adalomo/512x8-bfloat16-eager-plain" not in names


def test_a_study_of_another_model_is_predicted_as_it_stands() -> None:
    plan = study_plan()
    assert [asked.spec.run_id for asked in asked_by(plan)] == plan.sections["memory"]


def test_a_file_is_a_prediction_of_its_run(tmp_path: Path) -> None:
    plan = study_plan()
    said: list[str] = []
    predict_study(plan, tmp_path, said.append)
    assert len(said) == 2
    for done in read(tmp_path).values():
        spec = MeasureSpec.model_validate(done["spec"])
        assert spec == plan.runs[spec.run_id]
        ledger = asdict(
            predict(entry_architecture(plan.models["tiny-s"]), spec, device="cpu").ledger
        )
        del ledger["timeline"]
        assert done["ledger"] == ledger
        assert done["reason"] is None
        assert done["wall_s"] > 0


def test_what_stands_is_kept_and_what_changed_is_made_again(tmp_path: Path) -> None:
    said: list[str] = []
    predict_study(study_plan(), tmp_path, said.append)
    before = read(tmp_path)
    predict_study(study_plan(), tmp_path, said.append)
    assert len(said) == 2 and read(tmp_path) == before
    cut = tmp_path / f"{next(iter(before))}.json"
    write_text(cut, cut.read_text()[:100])
    predict_study(study_plan(), tmp_path, said.append)
    assert len(said) == 3
    predict_study(study_plan(max_grad_norm=1.0), tmp_path, said.append)
    assert len(said) == 5


def test_two_processes_write_what_one_writes(tmp_path: Path) -> None:
    results = tmp_path / "results"
    write_text(results / "plan.json", study_plan().model_dump_json())
    command = [sys.executable, "-m", "lomo", "predictions", "--results", str(results)]
    subprocess.run([*command, "--processes", "2"], check=True, timeout=300)
    predict_study(study_plan(), tmp_path / "one", lambda _: None)
    one, two = read(tmp_path / "one"), read(results / "predictions")
    assert {name: done["ledger"] for name, done in one.items()} == {
        name: done["ledger"] for name, done in two.items()
    }


def test_what_cannot_be_predicted_says_why(tmp_path: Path) -> None:
    plan = study_plan()
    unknown = ModelEntry(name="tiny-s", weights="hub", hub="nobody/nothing", revision="0" * 40)
    predict_study(plan.model_copy(update={"models": {"tiny-s": unknown}}), tmp_path, lambda _: None)
    for done in read(tmp_path).values():
        assert done["ledger"] is None
        assert "its architecture is on the hub only" in done["reason"]


def test_a_local_folder_is_known_by_its_config(tmp_path: Path) -> None:
    CONFIGS["llama"].save_pretrained(tmp_path / FOLDER)
    entry = ModelEntry(name=FOLDER, weights="local", path=str(tmp_path / FOLDER))
    assert entry_architecture(entry).config.hidden_size == CONFIGS["llama"].hidden_size


def test_names_tell_all_that_a_study_can_vary() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"attention": "sdpa"},
        {"dtype": "bfloat16"},
        {"activation_checkpointing": True},
        {"engine": "fsdp2", "num_devices": 2},
        {"engine": "zero3", "num_devices": 2},
    ]
    asked = [Asked("memory", spec_of("lomo", **change)) for change in changes]
    asked.append(Asked("memory", spec_of("lomo", engine="zero3", num_devices=2), "authors"))
    assert len({one.name for one in asked}) == len(asked)


def test_the_command_needs_a_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predictions", "--results", str(tmp_path)]) == 2
    assert "plan.json" in capsys.readouterr().err
