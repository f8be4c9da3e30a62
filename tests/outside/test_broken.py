"""What is wrong with a package's task or method is told with its entry point, before any run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lomo.errors import UserError
from lomo.study.config import Study
from lomo.study.inputs import task_files
from lomo.study.plan import make_plan
from lomo.tasks import registry, superglue
from lomo.tasks.entry import TaskFiles
from tests.outside.package import METHOD, PROMPT, TASK

TASK_POINT = "[lomo.tasks]\nsst2 = somebody.sst2\n"
METHOD_POINT = "[lomo.methods]\nmine = somebody.mine\n"

Install = Callable[..., Path]


def planned(study: dict[str, Any], data: str, *, task: str = "rte", method: str = "sgd") -> None:
    accuracy = study["superglue"] | {"methods": [method], "tasks": [task]}
    make_plan(
        Study.model_validate(study | {"data": data, "superglue": accuracy, "memory": None}),
        source="unit.yaml",
    )


def prompt(old: str, new: str) -> dict[str, str]:
    assert old in PROMPT
    return {"prompt": PROMPT.replace(old, new)}


BROKEN_TASKS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no-yaml": ({"prompt": None}, ["somebody/sst2.yaml: no such file"]),
    "yaml-syntax": (prompt("task: somebody_sst2", "task: ["), ["sst2.yaml:", "is not YAML"]),
    "no-prompt": (
        prompt('doc_to_text: "{{sentence}}\\nIs that kind? Yes or No?\\nAnswer:"\n', ""),
        ["sst2.yaml: doc_to_text: is no text", "{{fields}}"],
    ),
    "prompt-without-a-field": (prompt("{{sentence}}", "sentence"), ["names no field"]),
    "prompt-with-an-unknown-field": (
        prompt("{{sentence}}", "{{phrase}}"),
        ["doc_to_text: names the field 'phrase'", "allowed: sentence"],
    ),
    "prompt-that-tells-the-answer": (
        prompt("{{sentence}}", "{{sentence}} {{label}}"),
        ["names the field 'label', which is the answer"],
    ),
    "prompt-no-template": (prompt("{{sentence}}", "{{sentence"), ["is no template"]),
    "metric-that-scores-do-not-tell": (
        prompt("metric: acc\n", "metric: f1\n"),
        ["metric_list: 'f1' can't be told from the scores", "allowed: acc, acc_norm"],
    ),
    "metric-without-acc": (prompt("metric: acc\n", "metric: acc_norm\n"), ["lacks acc"]),
    "metric-by-another-mean": (prompt("aggregation: mean", "aggregation: median"), ["'median'"]),
    "function-of-another-module": (
        prompt("lomo.tasks.superglue.lm_eval_dataset", "somebody.data.load"),
        ["custom_dataset: is 'somebody.data.load'", "!function lomo.tasks.superglue"],
    ),
    "function-in-the-prompt": (
        prompt('target_delimiter: " "', "target_delimiter: !function somebody.x"),
        ["target_delimiter: is 'somebody.x'"],
    ),
    "function-as-text": (prompt("!function lomo", "lomo"), ["custom_dataset: is 'lomo."]),
    "dataset-that-is-fetched": (
        prompt("test_split", "dataset_path: glue\ntest_split"),
        ["dataset_path: fetches a data set"],
    ),
    "includes-another-file": (
        prompt("test_split", "include: a.yaml\ntest_split"),
        ["is not honoured here"],
    ),
    "other-code": (prompt("test_split", "process_docs: x\ntest_split"), ["process_docs: is not"]),
    "name-of-another-task": (
        prompt("task: sst2", "task: rte"),
        ["dataset_kwargs: is {'task': 'rte'}"],
    ),
    "generates": (
        prompt("multiple_choice", "generate_until"),
        ["output_type: is 'generate_until'"],
    ),
    "one-choice-too-few": (prompt('["No", "Yes"]', '["No"]'), ["doc_to_choice", "2 texts"]),
    "bare-yes": (prompt('["No", "Yes"]', "[No, Yes]"), ["doc_to_choice", "bare Yes"]),
    "target-of-its-own": (
        prompt("doc_to_target: label", "doc_to_target: 1"),
        ["doc_to_target: is 1"],
    ),
    "passage-that-is-no-field": (
        {"task": TASK.replace("title=", 'passage="text", title=')},
        ["passage is 'text'", "allowed: sentence"],
    ),
    "passage-that-does-not-come-first": (
        {
            **prompt("{{sentence}}", "Read: {{sentence}}"),
            "task": TASK.replace("title=", 'passage="sentence", title='),
        },
        ["doc_to_text: begins with something else than the passage"],
    ),
    "no-entry": ({"task": "X = 1\n"}, ["somebody.sst2 has no entry TASK", "TaskFiles("]),
    "entry-of-another-kind": ({"task": "TASK = {}\n"}, ["has no entry TASK"]),
    "module-that-fails": (
        {"task": "import nothing_of_that_name\n"},
        ["can't be imported: ModuleNotFoundError: No module named 'nothing_of_that_name'"],
    ),
    "module-that-is-not-there": (
        {"points": "[lomo.tasks]\nsst2 = somebody.sst3\n"},
        ["= somebody.sst3: somebody.sst3 can't be imported"],
    ),
    "folder-above": ({"task": TASK.replace("SST-2", "../x")}, ["'../x' is no folder's name"]),
    "fields-as-a-text": ({"task": TASK.replace('("sentence",)', '"sentence"')}, ["text_fields"]),
    "labels-with-a-gap": ({"task": TASK.replace('"positive": 1', '"positive": 2')}, ["labels is"]),
}


@pytest.mark.parametrize("name", BROKEN_TASKS)
def test_a_broken_task_is_refused(
    name: str, study_dict: dict[str, Any], data: Path, install: Install
) -> None:
    changes, expected = BROKEN_TASKS[name]
    install(**{"points": TASK_POINT, **changes})
    with pytest.raises(UserError) as refused:
        planned(study_dict, str(data), task="sst2")
    message = str(refused.value)
    for words in expected:
        assert words in message
    if "yaml" not in message.split(": ")[0]:
        assert message.startswith("entry point of somebody: [lomo.tasks] sst2 = somebody.sst")
    # Who does not ask for it is not concerned.
    planned(study_dict, str(data), task="rte")


BROKEN_METHODS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no-method": ({"method": "X = 1\n"}, ["somebody.mine has no METHOD"]),
    "no-prepare": (
        {"method": METHOD.replace("def prepare", "def prepares")},
        ["somebody.mine has no prepare(model, spec, spread)"],
    ),
    "unknown-option": (
        {"method": METHOD.replace("ORDINARY, notes", 'ORDINARY | {"nesterov"}, notes')},
        ["honours nesterov, which is no option"],
    ),
    "module-that-fails": ({"method": "1 / 0\n"}, ["can't be imported: ZeroDivisionError"]),
}


@pytest.mark.parametrize("name", BROKEN_METHODS)
def test_a_broken_method_is_refused(
    name: str, study_dict: dict[str, Any], data: Path, install: Install
) -> None:
    changes, expected = BROKEN_METHODS[name]
    install(**{"points": METHOD_POINT, **changes})
    with pytest.raises(UserError) as refused:
        planned(study_dict, str(data), method="mine")
    message = str(refused.value)
    assert message.startswith("entry point of somebody: [lomo.methods] mine = somebody.mine: ")
    for words in expected:
        assert words in message
    planned(study_dict, str(data), method="sgd")


@pytest.mark.parametrize(
    ("group", "own", "module"), [("tasks", "rte", "sst2"), ("methods", "sgd", "mine")]
)
def test_a_name_of_ours_is_not_taken_by_another_package(
    group: str, own: str, module: str, study_dict: dict[str, Any], data: Path, install: Install
) -> None:
    install(points=f"[lomo.{group}]\n{own} = somebody.{module}\n")
    words = rf"\[lomo.{group}\] {own} = somebody.{module}: {own} is a {group[:-1]} of this repo"
    with pytest.raises(UserError, match=words):
        planned(study_dict, str(data))


@pytest.mark.parametrize(("group", "name"), [("tasks", "sst2"), ("methods", "mine")])
def test_two_packages_of_one_name_are_refused(
    group: str, name: str, study_dict: dict[str, Any], data: Path, install: Install
) -> None:
    install()
    install(name="other", points=f"[lomo.{group}]\n{name} = other.{name}\n")
    with pytest.raises(UserError, match="another package has a .* of that name"):
        planned(study_dict, str(data), **{group[:-1]: name})


def test_the_name_of_the_column_behind_the_tasks_is_taken(
    study_dict: dict[str, Any], data: Path, install: Install
) -> None:
    install(points="[lomo.tasks]\naverage = somebody.sst2\n")
    with pytest.raises(UserError, match="'average' will not do as the name of a task"):
        planned(study_dict, str(data), task="average")


@pytest.mark.parametrize("source", ["generated", "superglue"])
def test_only_a_folder_holds_a_task_from_outside(
    source: str, study_dict: dict[str, Any], install: Install
) -> None:
    install()
    with pytest.raises(UserError, match="unit.yaml: data: .* has no sst2") as refused:
        planned(study_dict, source, task="sst2")
    assert "SST-2/train.jsonl and SST-2/val.jsonl" in str(refused.value)


def test_a_folder_without_its_lines_is_refused(
    study_dict: dict[str, Any], data_folder: Path, install: Install
) -> None:
    install()
    with pytest.raises(UserError, match="no such file: .*SST-2/train.jsonl"):
        planned(study_dict, str(data_folder), task="sst2")


def test_a_good_package_is_planned(
    study_dict: dict[str, Any], data: Path, install: Install
) -> None:
    install()
    planned(study_dict, str(data), task="sst2", method="mine")


def test_a_task_of_this_repository_is_one_yaml_and_one_entry(
    study_dict: dict[str, Any], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As CONTRIBUTING has it, and nothing else: no list of names has to know it."""
    entry = TaskFiles("SST-2", ("sentence",), {"negative": 0, "positive": 1})
    monkeypatch.setitem(superglue.TASKS, "sst2", entry)
    folder = shutil.copytree(registry.FOLDER, tmp_path / "tasks")
    (folder / "sst2.yaml").write_text(PROMPT)
    monkeypatch.setattr(registry, "FOLDER", folder)
    registry._check.cache_clear()
    planned(study_dict, str(data), task="sst2")
    assert registry.title_of("sst2") == "SST-2"
    assert not [file for file in task_files() if "SST-2" in file], "it is neither made nor fetched"
    with pytest.raises(UserError, match="the generated data has no sst2"):
        planned(study_dict, "generated", task="sst2")
