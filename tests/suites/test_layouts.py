"""The suites' own files, read into the documents that lm-eval asks for."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from lomo.errors import UserError
from lomo.suites.documents import lm_eval_dataset
from lomo.suites.known import BBH_SUBJECTS, MMLU_SUBJECTS, SUITES, find
from lomo.suites.layouts import documents, files_of, subjects_of
from lomo.tasks.miniature.suite import NUM_DEV, NUM_TEST, write_suite


def test_a_name_is_a_suite_or_one_of_its_subjects_or_neither() -> None:
    mmlu, subject = find("mmlu"), find("mmlu_anatomy")
    assert mmlu is not None and mmlu.subject is None
    assert subject is not None and (subject.name, subject.subject) == ("mmlu", "anatomy")
    bbh = find("bbh_cot_fewshot_navigate")
    assert bbh is not None and (bbh.name, bbh.subject) == ("bbh", "navigate")
    # lm-eval's groups and other suites whose names begin alike.
    assert [find(n) for n in ("mmlu_stem", "mmlu_pro", "bbh_zeroshot", "gsm8k_cot")] == [None] * 4


def test_subjects_are_those_of_the_installed_lm_eval() -> None:
    import lm_eval

    folder = Path(lm_eval.__file__).parent / "tasks"
    there = {path.stem for path in (folder / "mmlu/default").glob("mmlu_*.yaml")}
    assert there == {f"mmlu_{subject}" for subject in MMLU_SUBJECTS}
    there = {path.stem for path in (folder / "bbh/cot_fewshot").glob("[a-z]*.yaml")}
    assert there == BBH_SUBJECTS


def test_counts_of_the_plan_are_those_of_the_installed_lm_eval() -> None:
    import lm_eval
    from lm_eval.tasks._yaml_loader import load_yaml

    folder = Path(lm_eval.__file__).parent / "tasks"
    named = {
        "mmlu": "mmlu_anatomy",
        "bbh": "navigate",
        "gsm8k": "gsm8k",
        "truthfulqa_mc1": "truthfulqa_mc1",
        "truthfulqa_mc2": "truthfulqa_mc2",
    }
    for name, file in named.items():
        suite = SUITES[name]
        config = load_yaml(folder / suite.folder / f"{file}.yaml", resolve_func=False)
        assert (config.get("num_fewshot") or 0) == suite.num_fewshot, name
        generated = (config.get("generation_kwargs") or {}).get("max_gen_toks")
        assert generated in (None, suite.max_gen_toks), name
        assert suite.metric in [each["metric"] for each in config["metric_list"]]
        if "filter_list" in config:
            assert suite.filter in [each["name"] for each in config["filter_list"]]


def write_mmlu(folder: Path, subject: str, rows: list[list[str]]) -> None:
    for split in ("dev", "test"):
        path = folder / "mmlu" / split / f"{subject}_{split}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)


def test_mmlu_keeps_commas_line_ends_and_quotes(tmp_path: Path) -> None:
    write_mmlu(tmp_path, "anatomy", [['a, "b"\nc', "1", "2", "3", "4", "D"]])
    suite = SUITES["mmlu"]
    (document,) = documents(suite, tmp_path, "anatomy")["test"]
    assert document == {
        "question": 'a, "b"\nc',
        "subject": "anatomy",
        "choices": ["1", "2", "3", "4"],
        "answer": 3,
    }
    given = lm_eval_dataset(data=str(tmp_path), suite="mmlu", subject="anatomy")
    assert set(given) == {"dev", "test"} and given["test"][0] == document


def test_a_line_below_one_of_several_lines_has_its_own_number(tmp_path: Path) -> None:
    good = ["a\nb\nc", "1", "2", "3", "4", "A"]
    write_mmlu(tmp_path, "anatomy", [good, ["q", "1", "2", "3", "4", "F"]])
    with pytest.raises(UserError, match=r"anatomy_dev\.csv:4: the answer is 'F'"):
        documents(SUITES["mmlu"], tmp_path, "anatomy")


def test_truthfulqa_becomes_choices_and_labels(tmp_path: Path) -> None:
    (tmp_path / "truthfulqa").mkdir()
    item = {
        "question": "q",
        "mc1_targets": {"yes": 1, "no": 0},
        "mc2_targets": {"yes": 1, "also": 1, "no": 0},
    }
    (tmp_path / "truthfulqa/mc_task.json").write_text(json.dumps([item]))
    (found,) = documents(SUITES["truthfulqa_mc2"], tmp_path, "")["validation"]
    assert found["mc1_targets"] == {"choices": ["yes", "no"], "labels": [1, 0]}
    assert found["mc2_targets"] == {"choices": ["yes", "also", "no"], "labels": [1, 1, 0]}


@pytest.mark.parametrize(
    ("name", "num_subjects", "num_tests"),
    [("mmlu", 12, 132), ("bbh", 27, 189), ("gsm8k", 1, 200), ("humaneval", 1, 100)],
)
def test_real_files_are_read_whole(
    name: str, num_subjects: int, num_tests: int, test_data: Path
) -> None:
    data = test_data / "benchmarks"
    found = find(name)
    assert found is not None
    subjects = subjects_of(found, data)
    assert len(subjects) == num_subjects
    tests = [documents(found.suite, data, subject)["test"] for subject in subjects]
    assert sum(map(len, tests)) == num_tests
    assert all(path.is_file() for path in files_of(found, data))


def test_the_miniature_suite_is_balanced_and_says_nothing_twice(tmp_path: Path) -> None:
    subjects = write_suite(tmp_path / "miniature", seed=3)
    for subject in subjects:
        splits = documents(SUITES["miniature"], tmp_path, subject)
        assert (len(splits["dev"]), len(splits["test"])) == (NUM_DEV, NUM_TEST)
        both = [*splits["dev"], *splits["test"]]
        assert len({each["question"] for each in both}) == len(both)
        letters = [each["answer"] for each in splits["test"]]
        assert {letters.count(letter) for letter in range(4)} <= {9, 10, 11}
        kinds = [each["choices"][each["answer"]] for each in splits["test"]]
        assert {kinds.count(kind) for kind in set(kinds)} == {5}
        assert all(len(set(each["choices"])) == 4 for each in both)
    again = tmp_path / "again"
    write_suite(again, seed=3)
    for path in sorted((tmp_path / "miniature").rglob("*.csv")):
        own = again / path.relative_to(tmp_path / "miniature")
        assert own.read_bytes() == path.read_bytes()
