from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
import synthetic

from analysis.cli import main
from analysis.page.tables import TABLES, make_table
from analysis.records.accuracy import accuracy_cells, find
from analysis.records.collected import Collected, load
from analysis.tables.memory import table_memory
from analysis.tables.superglue import table_superglue, winners
from analysis.text.grid import Block, Cell
from analysis.text.render import FORMATS, tex_escape


def accuracy_study(**section: object) -> dict:
    study = synthetic.study_dict()
    for name in ("lora_rank", "memory", "throughput"):
        study.pop(name)
    study["superglue"] = study["superglue"] | {"tasks": ["rte"]} | section
    return study


def collected(folder: Path, study: dict, change: synthetic.Change | None = None) -> Collected:
    synthetic.write_results(folder, synthetic.plan_of(study), change)
    synthetic.collect_unquestioned(folder)
    return load(folder)


def scored(values: dict[str, tuple[float, float]]) -> synthetic.Change:
    """Sets (dev, test) of the runs whose id ends with a key."""

    def change(run_id: str, record: dict) -> dict:
        for end, (dev, test) in values.items():
            if run_id.endswith(end):
                result = record["result"] | {"value": test}
                others = [e | {"value": dev} for e in record["evaluations"][:-1]]
                return record | {"result": result, "evaluations": [*others, result]}
        return record

    return change


def test_every_table_comes_out_in_every_format(built: Path) -> None:
    names = {path.name for path in (built / "tables").iterdir()}
    for table in ("table1_memory", "table2_throughput", "table3_superglue", "verdicts"):
        assert {f"{table}.{suffix}" for suffix in FORMATS} <= names


def test_two_builds_of_the_same_records_are_byte_identical(built: Path, tmp_path: Path) -> None:
    again = tmp_path / "made-up"
    shutil.copytree(built, again, ignore=shutil.ignore_patterns("tables"))
    assert main(["collect", "--results", str(again)]) == 0
    assert main(["table", "--results", str(again)]) == 0
    for path in sorted((built / "tables").iterdir()):
        assert path.read_bytes() == (again / "tables" / path.name).read_bytes(), path.name


def test_the_csv_holds_bytes_and_run_ids(built: Path) -> None:
    data = pd.read_csv(built / "tables" / "table1_memory.csv", dtype={"value_bytes": "Int64"})
    row = data[
        (data["method"] == "lomo")
        & data["activation_checkpointing"]
        & (data["accounting"] == "sum_of_terms")
        & (data["part"] == "gradients")
    ].iloc[0]
    assert row["value_bytes"] == 2 * synthetic.sizes("mini")[1]
    assert row["run_id"] == "measure/mini/lomo/128x8-bfloat16-checkpointed"


@pytest.mark.parametrize("name", ["table1_memory", "table2_throughput", "table3_superglue"])
def test_every_row_of_a_csv_traces_to_runs(built: Path, name: str) -> None:
    runs = set(pd.read_csv(built / "tables" / "records.csv")["run_id"])
    for run_ids in pd.read_csv(built / "tables" / f"{name}.csv")["run_id"]:
        assert set(run_ids.split()) <= runs


def test_failures_are_shown_by_name_and_missing_runs_as_a_dash(paper_like: Path) -> None:
    tables = {path.stem: path.read_text() for path in (paper_like / "tables").glob("*.md")}
    assert "| AdamW | on | 1 | 1 | OOM |" in tables["table2_throughput"]
    assert "diverged" in tables["table3_superglue"]
    assert "| LoRA+LOMO | off | – |" in tables["table1_memory"]
    assert "An en dash marks a run that has no record yet." in tables["table1_memory"]


def test_small_bytes_are_shown_in_mib_and_large_ones_in_gib(built: Path, paper_like: Path) -> None:
    assert "(MiB)" in (built / "tables" / "table1_memory.md").read_text()
    large = (paper_like / "tables" / "table1_memory.md").read_text()
    assert "| AdamW | off | 12.55 [12.55] | 12.55 [12.55] | 75.31 [75.31] |" in large


def test_the_study_note_stands_under_table_3(built: Path) -> None:
    assert "- These numbers are made up." in (built / "tables" / "table3_superglue.md").read_text()


@pytest.mark.parametrize(("protocol", "trial", "value"), [("sound", 0, 0.70), ("paper", 1, 0.90)])
def test_the_protocol_picks_the_trial(
    protocol: str, trial: int, value: float, tmp_path: Path
) -> None:
    change = scored({"/lomo/rte/s42/t0": (0.9, 0.70), "/lomo/rte/s42/t1": (0.6, 0.90)})
    study = accuracy_study() | {"protocol": protocol}
    cells = accuracy_cells(collected(tmp_path, study, change), "superglue")
    lomo = find(cells, method="lomo", task="rte")
    assert lomo is not None
    assert (lomo.trial, lomo.accuracy) == (trial, value)
    assert lomo.run_ids == (f"train/mini/lomo/rte/s42/t{trial}",)


def test_one_trial_is_chosen_for_all_seeds(tmp_path: Path) -> None:
    change = scored(
        {
            "/lomo/rte/s1/t0": (0.80, 0.6),
            "/lomo/rte/s2/t0": (0.80, 0.7),
            "/lomo/rte/s1/t1": (0.95, 0.9),
            "/lomo/rte/s2/t1": (0.50, 0.9),
        }
    )
    study = accuracy_study(seeds=[1, 2])
    lomo = find(
        accuracy_cells(collected(tmp_path, study, change), "superglue"), method="lomo", task="rte"
    )
    assert lomo is not None
    assert lomo.trial == 0
    assert lomo.accuracy == pytest.approx(0.65)
    assert lomo.seeds is not None
    # Student's t with one degree of freedom: 12.706 standard errors of 0.05.
    assert lomo.seeds[1] - lomo.seeds[0] == pytest.approx(2 * 12.7062 * 0.05, abs=1e-4)


def test_a_failed_trial_is_passed_over_and_told(tmp_path: Path) -> None:
    def change(run_id: str, record: dict) -> dict:
        return (
            synthetic.failed(record, "diverged") if run_id.endswith("/lomo/rte/s42/t0") else record
        )

    found = collected(tmp_path, accuracy_study(), change)
    lomo = find(accuracy_cells(found, "superglue"), method="lomo", task="rte")
    assert lomo is not None
    assert (lomo.trial, lomo.status) == (1, "ok")
    assert any(
        "did not end well or have not run: 1, in 1 cell" in note
        for note in table_superglue(found).notes
    )


def test_a_mean_over_surviving_seeds_is_marked(tmp_path: Path) -> None:
    def change(run_id: str, record: dict) -> dict:
        return synthetic.failed(record, "oom") if "/sgd/rte/s2/" in run_id else record

    study = accuracy_study(methods=["zero_shot", "sgd", "adamw"], grids={}, seeds=[1, 2])
    make_table(collected(tmp_path, study, change), "3")
    lines = (tmp_path / "tables" / "table3_superglue.md").read_text().splitlines()
    first = {line.split(" | ")[1]: line for line in reversed(lines) if line.count(" | ") > 2}
    # The task and the average.
    assert first["SGD"].count("(1 of 2 seeds)") == 2
    assert "seeds)" not in first["AdamW"]
    assert "seeds)" not in first["Zero-shot"]
    assert any("Values are means over 1 to 2 seeds" in line for line in lines)
    for suffix in ("tex", "html"):
        text = (tmp_path / "tables" / f"table3_superglue.{suffix}").read_text()
        assert text.count("(1 of 2 seeds)") == 2


def test_the_error_of_the_test_sample_is_that_of_the_record(tmp_path: Path) -> None:
    def change(run_id: str, record: dict) -> dict:
        result = record["result"] | {"stderr": 0.0123, "missing": {}}
        others = record["evaluations"][:-1]
        return record | {"result": result, "evaluations": [*others, result]}

    cells = accuracy_cells(collected(tmp_path, accuracy_study(), change), "superglue")
    assert {cell.stderr for cell in cells} == {0.0123}


def test_skipped_steps_are_told_under_table_3(tmp_path: Path) -> None:
    def change(run_id: str, record: dict) -> dict:
        if "/sgd/" in run_id:
            return record | {"training": record["training"] | {"num_skipped_steps": 3}}
        return record

    found = collected(tmp_path, accuracy_study(), change)
    assert any("train/mini/sgd/rte/s42/t0 (3)." in note for note in table_superglue(found).notes)


def test_cut_examples_and_ties_are_told_under_table_3(tmp_path: Path) -> None:
    def change(run_id: str, record: dict) -> dict:
        few = {"num_examples": 200, "num_cut": 7 if "/boolq/" in run_id else 0}
        tied = {"num_ties": 150} if "/sgd/boolq/" in run_id else {}
        result = record["result"] | few | tied
        training = record["training"] and record["training"] | {
            "num_train_examples": 1000,
            "num_cut": 100 if "/boolq/" in run_id else 0,
            "num_test_seen": 3 if "/rte/" in run_id else 0,
        }
        others = record["evaluations"][:-1]
        return record | {
            "result": result,
            "evaluations": [*others, result],
            "training": training,
        }

    study = accuracy_study()
    study["superglue"]["tasks"] = ["rte", "boolq"]
    notes = table_superglue(collected(tmp_path, study, change)).notes
    warning, told = (note for note in notes if "cut" in note)
    assert warning.startswith("Warning: a tenth or more of the examples were cut in mini boolq.")
    assert told.endswith("passage: mini boolq, 7 of 200 test and 100 of 1000 training.")
    (seen,) = (note for note in notes if "trained on" in note)
    assert seen.endswith("too: mini rte (3 of 200).")
    (tie,) = (note for note in notes if "tie" in note)
    assert "train/mini/sgd/boolq/s42/t0 (150 of 200)" in tie and "/rte/" not in tie


def test_busy_neighbours_are_told_under_tables_1_and_2(built: Path, tmp_path: Path) -> None:
    def change(run_id: str, record: dict) -> dict:
        if not run_id.startswith("measure/mini/sgd/"):
            return record
        device = record["provenance"]["device"] | {"co_tenants": ["python3.11", "cc1plus"]}
        return record | {"provenance": record["provenance"] | {"device": device}}

    found = collected(tmp_path, synthetic.study_dict(), change)
    assert {row.co_tenants for row in found.rows("memory") if row.method == "sgd"} == {
        "python3.11, cc1plus"
    }
    for which, name in (("1", "table1_memory"), ("2", "table2_throughput")):
        make_table(found, which)
        text = (tmp_path / "tables" / f"{name}.md").read_text()
        told = "Other processes were busy when these runs started"
        assert f"{told}: cc1plus and python3.11 (mini SGD)." in text
        assert told not in (built / "tables" / f"{name}.md").read_text()


def test_what_table_3_says_of_its_examples_its_budgets_and_the_other_score(tmp_path: Path) -> None:
    def change(run_id: str, record: dict) -> dict:
        if "/lomo/copa/" in run_id:
            means = {"other_metrics": {"acc_token_mean": record["result"]["value"] - 0.1}}
            record = record | {"result": record["result"] | means}
        if record["training"] is not None:
            few = {"num_train_examples": 250} if "/copa/" in run_id else {"num_dev_shared": 4}
            record = record | {"training": record["training"] | few}
        return record

    study = accuracy_study(grids={"lomo": {"learning_rate": [0.1, 0.2]}})
    study["superglue"]["tasks"] = ["rte", "copa"]
    found = collected(tmp_path / "some", study, change)
    notes = table_superglue(found).notes
    lomo = find(accuracy_cells(found, "superglue"), method="lomo", task="copa")
    assert lomo is not None and lomo.accuracy is not None

    def told(start: str) -> str:
        (note,) = (note for note in notes if note.startswith(start))
        return note.removeprefix(start)

    words = " by their mean (the paper's words) "
    assert told("Fewer examples").endswith("all of them used: copa (250 of 300 for training).")
    assert told("Examples of the split that selects").endswith("test, too: rte (4).")
    assert "LOMO 2" in told("Unequal budgets") and "SGD 1" in told("Unequal budgets")
    by_mean = 100 * (lomo.accuracy - 0.1)
    assert told("Candidates are ranked").endswith(f"are others: mini copa: LOMO {by_mean:.1f}.")
    same = collected(tmp_path / "same", accuracy_study(grids={}))
    notes = table_superglue(same).notes
    assert told("Candidates are ranked").endswith(f"{words}all values are the same.".lstrip())
    starts = ("Fewer", "Examples of the split", "Unequal")
    assert not [note for note in notes if note.startswith(starts)]


def test_table_3_tells_what_the_protocol_of_the_paper_was_given_otherwise(tmp_path: Path) -> None:
    settings = {"settings": {"num_train": 1000, "num_test": 1000, "epochs": 10, "batch_size": 16}}
    study = accuracy_study() | {"protocol": "paper"}
    study["superglue"] |= {"seeds": [42]} | settings
    start = "Under protocol paper, and yet otherwise than the paper: "
    as_printed = collected(tmp_path / "same", study)
    assert not [note for note in table_superglue(as_printed).notes if note.startswith(start)]
    study["superglue"] |= {"seeds": [1, 2]}
    study["superglue"]["settings"] |= {"epochs": 3}
    for protocol, notes in (
        ("paper", [f"{start}epochs 3 (the paper: 10); seeds 1, 2 (the paper: 42)."]),
        ("sound", []),
    ):
        found = table_superglue(collected(tmp_path / protocol, study | {"protocol": protocol}))
        assert [note for note in found.notes if note.startswith(start)] == notes


def test_two_kinds_of_cpu_instructions_in_one_table_are_told(tmp_path: Path) -> None:
    def change(run_id: str, record: dict) -> dict:
        if not run_id.endswith("/boolq/s42/t0"):
            return record
        device = record["provenance"]["device"] | {"cpu_capability": "DEFAULT"}
        return record | {"provenance": record["provenance"] | {"device": device}}

    study = accuracy_study()
    study["superglue"]["tasks"] = ["rte", "boolq"]
    found = collected(tmp_path / "two", study, change)
    num = sum(row.cpu_capability == "DEFAULT" for row in found.rows("superglue"))
    (told,) = (note for note in table_superglue(found).notes if "instructions" in note)
    rest = len(found.rows("superglue")) - num
    assert f"instructions of a CPU: AVX2 ({rest} runs) and DEFAULT ({num} runs)." in told
    alike = collected(tmp_path / "one", study)
    assert not [note for note in table_superglue(alike).notes if "instructions" in note]


def test_neighbours_of_all_runs_that_ended_well_are_those_of_all_runs(tmp_path: Path) -> None:
    def change(run_id: str, record: dict) -> dict:
        if run_id.startswith("measure/mini/sgd/"):
            return synthetic.failed(record, "oom")
        device = record["provenance"]["device"] | {"co_tenants": ["cc1plus"]}
        return record | {"provenance": record["provenance"] | {"device": device}}

    found = collected(tmp_path, synthetic.study_dict(), change)
    (told,) = (note for note in table_memory(found).notes if "busy" in note)
    assert told.endswith("started: cc1plus (all runs).")


def test_a_trial_that_lost_a_seed_does_not_win(tmp_path: Path) -> None:
    def change(run_id: str, record: dict) -> dict:
        if run_id.endswith("/lomo/rte/s2/t1"):
            return synthetic.failed(record, "diverged")
        return scored({"/t0": (0.5, 0.6), "/t1": (0.9, 0.8)})(run_id, record)

    found = collected(tmp_path, accuracy_study(seeds=[1, 2]), change)
    cells = accuracy_cells(found, "superglue")
    lomo, lora = (find(cells, method=method, task="rte") for method in ("lomo", "lora"))
    assert lomo is not None and (lomo.trial, lomo.num_usable_trials) == (0, 1)
    assert lora is not None and (lora.trial, lora.num_usable_trials) == (1, 2)


def test_blanks_and_dashes_of_table_4_are_explained(built: Path) -> None:
    text = (built / "tables" / "table4_hyperparameters.md").read_text()
    assert "Blank: one value, nothing to select." in text


@pytest.mark.parametrize(
    ("seconds", "seeds", "bold"),
    [
        ((0.94, 0.93, 0.94), [1, 2, 3], False),
        ((0.60, 0.61, 0.60), [1, 2, 3], True),
        # Its own interval is far below, and one seed of three is not.
        ((0.50, 0.50, 0.94), [1, 2, 3], False),
        # What another seed would give is not known.
        ((0.60,), [1], False),
    ],
)
def test_bold_is_what_a_test_decides(
    seconds: tuple[float, ...], seeds: list[int], bold: bool, tmp_path: Path
) -> None:
    values = {f"/lomo/rte/s{seed}/t0": (0.9, 0.95) for seed in seeds}
    values |= {f"/sgd/rte/s{seed}/t0": (0.9, v) for seed, v in zip(seeds, seconds, strict=True)}
    study = accuracy_study(methods=["sgd", "lomo"], grids={}, seeds=seeds)
    found = collected(tmp_path, study, scored(values))
    assert (("mini", "lomo", "rte") in winners(found)) is bold
    make_table(found, "3")
    text = (tmp_path / "tables" / "table3_superglue.md").read_text()
    assert ("**95.0**" in text) is bold


def test_a_study_without_a_section_says_so(tmp_path: Path) -> None:
    found = collected(tmp_path, accuracy_study())
    for which in TABLES:
        make_table(found, which)
    text = (tmp_path / "tables" / "table1_memory.md").read_text()
    assert "Not run: the study has no memory section." in text


def test_a_repeated_key_is_blank_only_below_its_own() -> None:
    rows = [["a", "x", "1"], ["a", "y", "2"], ["b", "y", "3"]]
    shown = [[cell.shown for cell in row] for row in Block(["m", "n", "v"], rows, 2).cells()]
    assert shown == [["a", "x", "1"], ["", "y", "2"], ["b", "y", "3"]]


def test_the_last_key_of_a_row_is_never_blank() -> None:
    rows = [["a", "x", "1"], ["a", "x", "2"], ["a", "x", "3"]]
    shown = [[cell.shown for cell in row] for row in Block(["m", "n", "v"], rows, 2).cells()]
    assert shown == [["a", "x", "1"], ["", "x", "2"], ["", "x", "3"]]


def test_latex_signs_are_escaped() -> None:
    assert tex_escape("5 % of x_1 & –") == r"5 \% of x\_1 \& --"
    assert Cell("x").error is None
