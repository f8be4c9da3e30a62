"""An export: each value is the study's own, leads to its records, and is of the format's form."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import synthetic
import travelling
import yaml
from huggingface_hub import eval_result_entries_to_yaml, parse_eval_result_entries

from analysis.cli import main
from analysis.export.write import export
from analysis.records.accuracy import accuracy_cells, find
from analysis.records.collected import load
from lomo.errors import UserError
from lomo.study.config import Generated

FROM_EEE = "every_eval_ever"
SEEDS = ("42", "43", "44")


def exported(tmp_path: Path, given: dict[str, Any], change: Any = None) -> tuple[Path, Path]:
    results = travelling.written(tmp_path / "made-up", given, change)
    export(results, tmp_path / "out")
    return results, tmp_path / "out"


def left_out(out: Path) -> list[dict[str, str]]:
    with (out / "left_out.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Results and export of a study on generated data."""
    return exported(tmp_path_factory.mktemp("whole"), travelling.study())


@pytest.fixture(scope="module")
def of_superglue(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same on SuperGLUE, whose lines are not at hand."""
    folder = tmp_path_factory.mktemp("glue")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # where no resources/superglue is
        return exported(folder, travelling.study(data="superglue"))


def logs(out: Path) -> dict[str, dict[str, Any]]:
    """model_info.id -> log."""
    found = [json.loads(p.read_text()) for p in (out / FROM_EEE).rglob("*.json")]
    return {log["model_info"]["id"]: log for log in found}


def lines_of(out: Path, log: dict[str, Any]) -> list[dict[str, Any]]:
    path = out / FROM_EEE / log["detailed_evaluation_results"]["file_path"]
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_each_value_is_that_of_the_table_and_leads_to_its_records(
    whole: tuple[Path, Path],
) -> None:
    results, out = whole
    cells = accuracy_cells(load(results), "superglue")
    found = logs(out)
    assert set(found) == {"lomo-repro/mini-lomo", "lomo-repro/mini-zero_shot"}
    for log in found.values():
        details = log["model_info"]["additional_details"]
        for result in log["evaluation_results"]:
            task, score = result["evaluation_result_id"], result["score_details"]
            cell = find(cells, variant=details["variant"], task=task)
            assert cell is not None
            assert score["score"] == cell.accuracy
            assert score["uncertainty"]["standard_error"]["value"] == cell.stderr
            assert score["uncertainty"]["num_samples"] == 200
            told = score["details"]
            assert (told["protocol"], told["selected_on"]) == ("sound", "dev")
            assert result["source_data"]["additional_details"]["split"] == "val"
            records = [
                json.loads((out / "study" / "runs" / run_id / "record.json").read_text())
                for run_id in told["source_records"].split()
            ]
            assert [r["result"]["value"] for r in records] == list(
                json.loads(told["value_by_seed"]).values()
            )
            weights = json.loads(told["base_weights_sha256_by_seed"])
            assert [r["model"]["weights_sha256"] for r in records] == list(weights.values())
            assert tuple(weights) == (SEEDS if details["method"] == "lomo" else SEEDS[:1])


def test_the_examples_tell_the_same_value_and_what_was_asked(whole: tuple[Path, Path]) -> None:
    _, out = whole
    for log in logs(out).values():
        lines = lines_of(out, log)
        told = log["detailed_evaluation_results"]
        data = (out / FROM_EEE / told["file_path"]).read_bytes()
        assert told["checksum"] == hashlib.sha256(data).hexdigest()
        assert told["total_rows"] == len(lines)
        assert len({line["sample_id"] for line in lines}) == len(lines)
        for result in log["evaluation_results"]:
            task = result["evaluation_result_id"]
            own = [line for line in lines if line["evaluation_result_id"] == task]
            mean = sum(line["evaluation"]["is_correct"] for line in own) / len(own)
            assert mean == pytest.approx(result["score_details"]["score"], abs=1e-12)
        for line in lines:
            assert (line["output"]["raw"] == line["input"]["reference"]) == line["evaluation"][
                "is_correct"
            ]
            assert set(line["input"]["reference"]) <= set(line["input"]["choices"])
            assert line["evaluation_id"] == log["evaluation_id"]


def test_the_names_are_the_datastores_and_stay_the_same(
    whole: tuple[Path, Path], tmp_path: Path
) -> None:
    results, out = whole
    export(results, tmp_path / "again")

    def names(folder: Path) -> set[str]:
        found = (path for path in (folder / FROM_EEE).rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix() for path in found}

    assert names(out) == names(tmp_path / "again")
    assert all(
        name.startswith(f"{FROM_EEE}/data/superglue-miniature/lomo-repro/mini-")
        for name in names(out)
    )


def test_every_eval_ever_accepts_logs_and_examples(
    whole: tuple[Path, Path], of_superglue: tuple[Path, Path]
) -> None:
    of_log, of_line = (
        jsonschema.Draft7Validator(travelling.schema(name))
        for name in ("eval", "instance_level_eval")
    )
    assert of_log.schema["version"] == "0.3.0"
    for _, out in (whole, of_superglue):
        for log in logs(out).values():
            assert list(of_log.iter_errors(log)) == []
    for log in logs(whole[1]).values():
        assert [list(of_line.iter_errors(line)) for line in lines_of(whole[1], log)[:50]] == [
            []
        ] * 50


def test_details_are_text_and_numbers_are_within_their_bounds(whole: tuple[Path, Path]) -> None:
    def details(value: Any) -> None:
        if isinstance(value, dict):
            for key, one in value.items():
                if key in ("additional_details", "details", "metadata"):
                    assert all(isinstance(text, str) for text in one.values()), one
                details(one)
        elif isinstance(value, list):
            for one in value:
                details(one)

    for log in logs(whole[1]).values():
        details(log)
        for result in log["evaluation_results"]:
            metric, score = result["metric_config"], result["score_details"]["score"]
            assert metric["min_score"] <= score <= metric["max_score"]
            assert metric["lower_is_better"] is False


def test_the_hub_reads_its_files_back_whole(of_superglue: tuple[Path, Path]) -> None:
    _, out = of_superglue
    files = sorted((out / "hub").glob("*/.eval_results/*.yaml"))
    assert [path.parts[-3] for path in files] == ["mini-lomo", "mini-zero_shot"]
    for path in files:
        listed = yaml.safe_load(path.read_text(encoding="utf-8"))
        # What it does not know would be lost on the way.
        assert eval_result_entries_to_yaml(parse_eval_result_entries(listed)) == listed
        assert [one["dataset"]["task_id"] for one in listed] == ["rte", "copa"]
        for one in listed:
            assert "n: 200" in one["notes"]
            assert "protocol: sound" in one["notes"]
            assert "train/mini/" in one["notes"]


def test_a_value_of_the_hub_is_that_of_the_log(of_superglue: tuple[Path, Path]) -> None:
    _, out = of_superglue
    listed = yaml.safe_load((out / "hub/mini-lomo/.eval_results/superglue.yaml").read_text())
    log = logs(out)["lomo-repro/mini-lomo"]
    scores = [result["score_details"]["score"] for result in log["evaluation_results"]]
    assert [one["value"] for one in listed] == scores


def test_generated_data_is_no_data_set_of_the_hub(whole: tuple[Path, Path]) -> None:
    _, out = whole
    assert not (out / "hub").exists()
    left = [row for row in left_out(out) if row["format"] == "Hugging Face .eval_results"]
    assert {row["what"] for row in left} == {"mini lomo", "mini zero_shot"}
    assert all("generated data" in row["reason"] for row in left)


def test_what_did_not_end_well_is_left_out_and_told(tmp_path: Path) -> None:
    def change(run_id: str, record: dict[str, Any]) -> dict[str, Any]:
        return synthetic.failed(record, "diverged") if "/lomo/rte/" in run_id else record

    _, out = exported(tmp_path, travelling.study(), change)
    told = {row["what"]: row["reason"] for row in left_out(out)}
    assert told["mini lomo rte"] == "no run of it ended well: diverged"
    log = logs(out)["lomo-repro/mini-lomo"]
    assert [result["evaluation_result_id"] for result in log["evaluation_results"]] == ["copa"]


@pytest.mark.parametrize("way", ["gone", "other labels", "other setting"])
def test_examples_are_told_only_from_the_data_that_was_scored(way: str, tmp_path: Path) -> None:
    results = travelling.written(tmp_path / "made-up", travelling.study())
    folder = results / "data" / "superglue"
    if way == "gone":
        folder.rename(tmp_path / "elsewhere")
    elif way == "other labels":
        lines = (folder / "RTE" / "val.jsonl").read_text().splitlines(keepends=True)
        (folder / "RTE" / "val.jsonl").write_text("".join([lines[1], lines[0], *lines[2:]]))
    else:
        note = folder / ".made.json"
        note.write_text(note.read_text().replace('"seed": 0', '"seed": 1'))
    export(results, tmp_path / "out")
    reasons = {
        "gone": "not at hand",
        "other labels": "other examples than those that were scored",
        "other setting": "generated by another setting",
    }
    left = [row for row in left_out(tmp_path / "out") if row["format"].endswith("examples")]
    assert len(left) == 2
    assert all(reasons[way] in row["reason"] for row in left)
    assert not list((tmp_path / "out").rglob("*_samples.jsonl"))
    assert len(logs(tmp_path / "out")) == 2


def test_no_file_names_a_folder_of_the_machine(tmp_path: Path) -> None:
    place = (tmp_path / "of a user").as_posix()
    travelling.write_data(Path(place), Generated())
    results, out = exported(tmp_path, travelling.study(data=place))
    assert place in (results / "plan.json").read_text()
    texts = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert texts
    assert not [path for path, data in texts.items() if place.encode() in data]
    assert not [path for path, data in texts.items() if tmp_path.as_posix().encode() in data]
    told = {row["what"] for row in left_out(out) if row["format"] == "RO-Crate"}
    assert "plan.json" in told
    assert "runs/train/mini/lomo/rte/s42/t0/record.json" in told


def test_a_folder_that_is_there_is_left_as_it_is(
    whole: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    arguments = ["export", "--results", str(whole[0]), "--out", str(tmp_path)]
    assert main(arguments) == 2
    assert "is there already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_study_without_records_has_nothing_to_export(tmp_path: Path) -> None:
    results = travelling.written(tmp_path / "made-up", travelling.study(), lambda *_: None)
    with pytest.raises(UserError, match="no run has a record yet"):
        export(results, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_study_that_only_measures_travels_with_its_records(tmp_path: Path) -> None:
    given = synthetic.study_dict()
    for section in ("superglue", "lora_rank"):
        given.pop(section)
    results, out = exported(tmp_path, given)
    assert not (out / FROM_EEE).exists()
    num = len(list((results / "runs").rglob("record.json")))
    assert len(list((out / "study" / "runs").rglob("record.json"))) == num
    assert left_out(out) == []


def test_the_command_says_what_is_left_out(
    whole: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export", "--results", str(whole[0]), "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    told = capsys.readouterr().err
    assert "left out of Hugging Face .eval_results: 2 (" in told
    assert "left_out.csv" in told
