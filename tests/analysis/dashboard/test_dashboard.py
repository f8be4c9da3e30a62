"""`python -m lomo dashboard`: a workspace and a report, each once, named as the tables are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import synthetic
import synthetic_instruct
import synthetic_suites

from analysis.cli import main
from analysis.dashboard import make
from analysis.dashboard.report import report
from analysis.dashboard.seen import colours, out_of_sight
from analysis.dashboard.workspace import workspace
from analysis.records.collected import Collected, load
from analysis.text.names import method_title
from analysis.text.style import method_colour
from lomo.record.remote.summary import summary_of
from lomo.record.schema import read_record
from tests.analysis.dashboard.recorded import draw
from tests.analysis.dashboard.recorded import workspace as workspace_of
from tests.analysis.dashboard.wandb_server import Server, lomo


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Collected:
    folder = tmp_path_factory.mktemp("collected") / "made-up"
    synthetic.write_results(folder, synthetic.plan_of(synthetic.study_dict()))
    assert main(["collect", "--results", str(folder)]) == 0
    return load(folder)


def sections(collected: Collected) -> dict[str, list[Any]]:
    made = workspace(collected, "", "")
    return {section.name: section.panels for section in made.sections}


def test_the_panels_are_the_columns_of_the_tables(collected: Collected) -> None:
    """A panel's key stands in the runs of its column, and in no other."""
    found = sections(collected)
    assert list(found) == ["Memory", "Speed", "Accuracy", "Curves, mean over tasks and seeds"]
    titles = [panel.title for panel in found["Accuracy"]]
    assert titles == [f"Accuracy: {t}, mini" for t in "RTE BoolQ WSC WiC MultiRC COPA".split()]
    assert [len(found[name]) for name in ("Memory", "Speed")] == [2, 1]
    summaries = {
        run_id: summary_of(read_record(collected.run_folder(run_id) / "record.json"))
        for run_id in collected.plan.runs
    }
    for name in ("Memory", "Speed", "Accuracy"):
        for panel in found[name]:
            (key,) = panel.metrics
            holders = [run_id for run_id, summary in summaries.items() if key in summary]
            assert holders
            last = key.rsplit("/", 1)[-1]
            assert all(f"/{last}" in run_id for run_id in holders)


def test_methods_have_the_names_and_colours_of_the_tables(collected: Collected) -> None:
    assert colours(collected)["LOMO"] == method_colour("lomo")
    assert list(colours(collected))[0] == "Zero-shot"
    text = workspace(collected, "", "")._to_model().spec.model_dump_json(by_alias=True)
    assert "names.value.method" in text and method_colour("adalomo") in text


def test_what_no_table_reads_is_out_of_sight(collected: Collected) -> None:
    hidden = out_of_sight(collected)
    trials = [identity for identity in hidden if "-lomo-rte-" in identity]
    assert len(trials) == 1, "of two trials one is reported"
    assert not any("measure" in identity or "sgd" in identity for identity in hidden)
    assert any("lora-r8" in identity for identity in hidden), "of another section"


def test_instructions_have_panels_of_their_own(tmp_path: Path) -> None:
    """Perplexity and loss, apart from the tasks' accuracy and loss; only the trial that is told."""
    items = tmp_path / "items.json"
    items.write_text(json.dumps([{"instruction": f"{i}", "output": "x"} for i in range(200)]))
    grids = {"grids": {"lomo": {"learning_rate": [0.1, 0.2]}}}
    study = synthetic_instruct.study_dict(str(items), protocol="sound", instruct=grids)
    synthetic_instruct.write_results(tmp_path / "made-up", synthetic.plan_of(study))
    assert main(["collect", "--results", str(tmp_path / "made-up")]) == 0
    made_up = load(tmp_path / "made-up")
    found = sections(made_up)
    assert list(found) == ["Instruction tuning", "Curves of instruction tuning"]
    assert [panel.metrics for panel in found["Instruction tuning"]] == [
        ["perplexity/mini/instruct"]
    ]
    keys = [key for panel in found["Curves of instruction tuning"] for key in panel.y]
    assert keys and all(key.startswith("instruct/") for key in keys)
    hidden = out_of_sight(made_up)
    assert len(hidden) == 3 and all("lomo" in identity for identity in hidden), "a trial of 3 seeds"
    told = report(made_up, "", "")._to_model().spec.model_dump_json(by_alias=True)
    assert "Curves: instruction tuning" in told


def test_the_untuned_model_of_suites_has_its_colour(tmp_path: Path) -> None:
    made_up = synthetic_suites.collected(tmp_path / "made-up", synthetic_suites.spec_of("mmlu"))
    assert colours(made_up)["base"] == method_colour("zero_shot")


def test_the_same_study_makes_the_same(collected: Collected) -> None:
    def text(make_one: Any) -> str:
        return str(make_one(collected, "", "")._to_model().spec.model_dump_json(by_alias=True))

    told = text(report)
    assert (told, text(workspace)) == (text(report), text(workspace))
    for part in ("Findings", "reproduced", "Table 3", "Verdicts", "Curves: RTE", "Origin"):
        assert part in told, part


def test_without_the_package_it_says_how_to_get_it(
    collected: Collected, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb_workspaces", None)
    assert main(["dashboard", "--results", str(collected.folder)]) == 2
    assert "lomo-repro[wandb]" in capsys.readouterr().err
    assert make.INSTALL


@pytest.mark.slow
def test_a_second_call_changes_what_the_first_made(
    written: Path, server: Server, tmp_path: Path
) -> None:
    env = server.environment(tmp_path)
    views = []
    for _ in range(2):
        done = lomo("dashboard", str(written), env=env, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        views.append({key: dict(view) for key, view in server.views.items()})
    first, second = views
    assert sorted(view["type"] for view in first.values()) == ["project-view", "runs"]
    assert first.keys() == second.keys()
    assert [v["spec"] for v in first.values()] == [v["spec"] for v in second.values()]
    assert server.count("CreateProject") == 1 and server.count("UpsertView2") == 2
    assert f"{server.url}/somebody/lomo-repro" in done.stdout
    assert "4 runs are not there yet" in done.stdout
    assert "secret-home" not in server.told() and "k" * 40 not in server.told()


@pytest.mark.slow
def test_every_panel_finds_what_was_sent(results: Path, server: Server, tmp_path: Path) -> None:
    """The recorded workspace, on the recorded runs: each panel has values, each group a colour."""
    env = server.environment(tmp_path)
    for command in ("wandb-sync", "dashboard"):
        assert lomo(command, str(results), env=env, cwd=tmp_path).returncode == 0
    shown = workspace_of(server)
    assert (shown.num_runs, shown.num_hidden) == (4, 0), "not the run that holds the tables"
    found = {panel.title: panel for panel in shown.panels}
    assert {panel.section for panel in shown.panels} > {"Memory", "Speed", "Accuracy"}
    for title, panel in found.items():
        assert panel.groups and panel.groups.keys() <= shown.colours.keys(), title
    accuracy = found["Accuracy: RTE, mini"].groups
    for method in ("zero_shot", "lomo"):
        (record,) = (results / "runs" / "train" / "mini" / method).glob("**/record.json")
        told = json.loads(record.read_text())["result"]["value"]
        assert accuracy[method_title(method)] == {0: [told]}
    assert len(found["Training loss (nats a token)"].groups["LOMO"]) > 1
    draw(shown, tmp_path / "workspace.png")
    assert (tmp_path / "workspace.png").stat().st_size > 10_000


@pytest.mark.slow
def test_without_a_key_it_writes_what_it_would_make(
    written: Path, server: Server, tmp_path: Path
) -> None:
    env = server.environment(tmp_path)
    del env["WANDB_API_KEY"]
    done = lomo("dashboard", str(written), env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "wandb login" in done.stdout and "python -m lomo wandb-sync" in done.stdout
    made = json.loads((written / "dashboard" / "workspace.json").read_text())
    assert made["spec"]["section"]["panelBankConfig"]["sections"] and not server.requests
