"""The config: its reference is in step with the code, and every study of config/ makes a plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from lomo import methods
from lomo.errors import UserError, nearest
from lomo.model.registry import ModelEntry, Pretraining, registry
from lomo.study import reference
from lomo.study.config import (
    SECTIONS,
    Accuracy,
    Generated,
    Search,
    Study,
    TrainSettings,
    load_study,
)
from lomo.study.measured import Measure
from lomo.study.plan import make_plan, plan_from_config
from lomo.system.strict import parse, read_yaml

ROOT = Path(__file__).parents[2]
STUDIES = sorted(path for path in (ROOT / "config").glob("*.yaml") if path.stem != "models")
BLOCKS = [Study, Accuracy, Search, TrainSettings, Measure, Generated, ModelEntry, Pretraining]
HYPER = [methods.describe(name).hyper for name in methods.MODULES]

by_stem = pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    ("file", "generate"),
    [
        (reference.README, reference.readme),
        (reference.SCHEMA, reference.schema),
        (reference.FOOTGUNS, reference.footguns),
    ],
    ids=["README.md", "study.schema.json", "footguns.md"],
)
def test_the_generated_reference_is_in_step(file: Path, generate: Any) -> None:
    written = file.read_text(encoding="utf-8")
    assert written == generate(), f"{file} is out of step: run `python -m lomo reference`"


@pytest.mark.parametrize("block", [*BLOCKS, *HYPER], ids=lambda block: block.__module__)
def test_every_key_says_what_it_is(block: type[BaseModel]) -> None:
    assert [name for name, field in block.model_fields.items() if not field.description] == []


@by_stem
def test_the_readme_names_every_study(path: Path) -> None:
    assert f"`{path.name}`" in reference.README.read_text(encoding="utf-8")


@by_stem
def test_every_study_makes_a_plan(
    path: Path, model_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    data = read_yaml(path)
    if path.stem.startswith("suites"):  # its files are the user's
        items = [{"instruction": f"Say {n}.", "output": f"{n}."} for n in range(1000)]
        (tmp_path / "items.json").write_text(json.dumps(items))
        data["instruct"]["data"] = str(tmp_path / "items.json")
        data["suites"] |= {"data": "hub", "tasks": {"mmlu": data["suites"]["tasks"]["mmlu"]}}
    if path.stem == "local":
        data |= {"data": str(data_folder), "models": str(model_folder)}
        data["superglue"]["settings"]["max_length"] = 200  # the fixture has 256 positions
    plan = make_plan(parse(Study, data, where=str(path)), source=str(path))
    assert plan.study.study == path.stem, "a study is named after its file"
    assert plan.runs and set(plan.sections) == set(SECTIONS) & set(data)


def test_the_local_study_says_what_it_wants_from_the_command_line() -> None:
    study = load_study(ROOT / "config" / "local.yaml")
    with pytest.raises(UserError, match="unknown model 'given-on-the-command-line'"):
        make_plan(study, source="config/local.yaml")


def test_hub_models_are_pinned_and_stand_for_the_papers_sizes() -> None:
    hub = [entry for entry in registry().values() if entry.weights == "hub"]
    assert {entry.paper for entry in hub} - {None} == {"7B", "13B", "30B", "65B"}
    assert len({entry.revision for entry in hub}) == len(hub)


def test_models_of_the_command_line_replace_those_of_every_section(
    study_dict: dict[str, Any],
) -> None:
    study = parse(Study, {**study_dict, "models": "tiny-s"}, where="unit.yaml")
    assert {spec.model for spec in make_plan(study, source="unit.yaml").runs.values()} == {"tiny-s"}


def test_the_same_file_may_plan_its_folder_again_and_another_may_not(
    study_dict: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study_dict = study_dict | {"models": None}
    monkeypatch.chdir(tmp_path)
    Path("config").symlink_to(ROOT / "config")
    plan = plan_from_config(study_dict, source="one.yaml")
    standing = Path("results/unit/plan.json")
    standing.parent.mkdir(parents=True)
    standing.write_text(plan.model_dump_json(), encoding="utf-8")
    assert plan_from_config(study_dict, source="one.yaml") == plan
    with pytest.raises(UserError, match="belongs to the study file one.yaml"):
        plan_from_config(study_dict, source="two.yaml")
    standing.write_text(plan.model_dump_json()[:100], encoding="utf-8")
    with pytest.raises(UserError, match=f"{standing}: is no plan; it was cut"):
        plan_from_config(study_dict, source="one.yaml")


def test_what_is_like_nothing_known_gets_no_suggestion() -> None:
    assert nearest("lommo", methods.MODULES) == "lomo"
    assert nearest("xyz", methods.MODULES) is None


@pytest.mark.parametrize(
    ("name", "known", "near"),
    [
        ("lion", ["lora", "lomo"], None),
        ("muon", ["lomo"], None),
        ("adamax", ["adamw"], None),
        ("adam", ["adamw"], "adamw"),
        ("sdg", ["sgd"], "sgd"),
        ("LoRA", ["lora"], "lora"),
        ("zeroshot", ["zero_shot"], "zero_shot"),
        ("fsdp", ["fsdp2", "single"], "fsdp2"),
        ("sequence_len", ["sequence_length"], "sequence_length"),
        ("llama-70b", ["llama-7b", "llama-13b"], None),
        ("lama-7b", ["llama-7b", "llama-13b"], "llama-7b"),
        ("adafactor", ["adalomo", "adamw"], None),
    ],
)
def test_only_a_slip_is_suggested(name: str, known: list[str], near: str | None) -> None:
    assert nearest(name, known) == near


def test_a_flag_can_be_written_as_on_a_command_line(study_dict: dict[str, Any]) -> None:
    for word, value in (("true", True), ("false", False), (True, True)):
        study = parse(Study, {**study_dict, "launch_anyway": word}, where="unit.yaml")
        assert study.launch_anyway is value
    with pytest.raises(UserError, match="launch_anyway"):
        parse(Study, {**study_dict, "launch_anyway": "yes please"}, where="unit.yaml")


def test_a_study_takes_other_values_as_a_command_line_gives_them(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        "study: a\ntitle: t\ndata: d\n"
        "memory: {models: [m], methods: [lomo], batch_size: 1, sequence_length: 8}\n"
    )
    entries = ["protocol=paper", "num_threads=2", "data=007", "launch_anyway=true", "models=[a, b]"]
    study = load_study(path, entries)
    assert (study.protocol, study.num_threads, study.launch_anyway) == ("paper", 2, True)
    assert (study.data, study.models) == ("007", ["a", "b"])
    with pytest.raises(UserError, match="'protocol' is no key with a value"):
        load_study(path, ["protocol"])
    with pytest.raises(UserError, match="unknown key"):
        load_study(path, ["portocol=paper"])
