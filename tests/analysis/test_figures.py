from __future__ import annotations

import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import synthetic
from matplotlib.figure import Figure
from matplotlib.text import Text

from analysis.cli import main
from analysis.figures.all import FIGURES, TRAINING_FIGURES, make_figure
from analysis.figures.gradients import gradient_curve
from analysis.figures.overview import figure_overview
from analysis.figures.tradeoff import figure_tradeoff
from analysis.records.collected import load
from analysis.records.costs import Costs, costs
from analysis.text.labels import spread
from analysis.text.names import METHODS
from analysis.text.style import FORMATS, method_colour, method_marker
from analysis.text.units import decimals

OF_THE_STUDY = FIGURES | TRAINING_FIGURES


def test_every_figure_comes_out_in_every_format(built: Path) -> None:
    names = {path.name for path in (built / "figures").iterdir()}
    assert names == {f"{name}.{suffix}" for name, _ in OF_THE_STUDY.values() for suffix in FORMATS}


@pytest.mark.parametrize("which", ["1", "overview"])
def test_two_drawings_are_byte_identical(which: str, built: Path, tmp_path: Path) -> None:
    again = tmp_path / "made-up"
    shutil.copytree(built, again, ignore=shutil.ignore_patterns("figures"))
    for path in make_figure(load(again), which):
        assert path.read_bytes() == (built / "figures" / path.name).read_bytes(), path.name


def test_a_section_that_was_not_run_leaves_a_placeholder(tmp_path: Path) -> None:
    study = synthetic.study_dict()
    for section in ("superglue", "lora_rank", "throughput"):
        study.pop(section)
    synthetic.write_results(tmp_path, synthetic.plan_of(study), lambda run_id, record: None)
    assert main(["all", "--results", str(tmp_path)]) == 0
    assert len(list((tmp_path / "figures").iterdir())) == len(FIGURES) * len(FORMATS)


def test_methods_have_colours_and_markers_of_their_own() -> None:
    assert len({method_colour(method) for method in METHODS}) == len(METHODS)
    assert len({method_marker(method) for method in METHODS}) == len(METHODS)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text)]


def test_a_page_tells_one_speed_of_a_method_and_its_setting(tmp_path: Path) -> None:
    """Memory is measured of all methods, at another size and in another dtype than speed."""
    study = synthetic.study_dict()
    study["throughput"] |= {"methods": ["adamw", "sgd", "lomo"], "dtype": "float32"}
    synthetic.write_results(tmp_path, synthetic.plan_of(study))
    assert main(["collect", "--results", str(tmp_path)]) == 0
    collected = load(tmp_path)
    found = costs(collected)
    assert isinstance(found, Costs)
    assert len(found.measured) == 6 and set(found.timed) == {"adamw", "sgd", "lomo"}
    of_table_2 = {row.method: row for row in collected.rows("throughput")}
    assert all(found.timed[m] == of_table_2[m] for m in found.timed)

    overview = texts(figure_overview(collected))
    speeds = [decimals(row.tokens_per_s_per_device, 0) for row in of_table_2.values()]
    assert set(speeds) <= set(overview)
    others = {decimals(row.tokens_per_s_per_device, 0) for row in found.measured.values()}
    assert not others & set(overview)
    assert overview.count("not measured") == 3
    assert "tokens/s per device\n1 x 256 tokens,\nfloat32, with checkpointing" in overview
    assert any(t.endswith("\n8 x 128 tokens,\nbfloat16, with checkpointing") for t in overview)

    tradeoff = texts(figure_tradeoff(collected))
    assert "LOMO\n20 ms" in tradeoff and "LoRA" in tradeoff
    assert any("1 x 256 tokens, float32" in text for text in tradeoff)


def test_costs_are_of_one_size(tmp_path: Path) -> None:
    """Of a section with two batch sizes those of the first alone are told, under its name."""
    study = synthetic.study_dict()
    study.pop("memory")
    study["throughput"] |= {"batch_size": [4, 1]}

    def change(run_id: str, record: dict) -> dict:
        lost = "/lora/256x1" in run_id or "/sgd/256x4" in run_id
        return synthetic.failed(record, "oom") if lost else record

    synthetic.write_results(tmp_path, synthetic.plan_of(study), change)
    assert main(["collect", "--results", str(tmp_path)]) == 0
    found = costs(load(tmp_path))
    assert isinstance(found, Costs) and found.setting.startswith("4 x 256 tokens")
    assert {row.batch_size for row in found.measured.values()} == {4}
    assert "lora" in found.measured and "sgd" not in found.measured


def test_costs_are_of_the_size_that_covers_most_whichever_run_failed(tmp_path: Path) -> None:
    study = synthetic.study_dict()
    study.pop("memory")
    study["throughput"] |= {"batch_size": [1, 4]}

    def change(run_id: str, record: dict) -> dict:
        lost = "/lora/256x1" in run_id or ("/lora/" not in run_id and "256x4" in run_id)
        return synthetic.failed(record, "oom") if lost and run_id[0] == "m" else record

    synthetic.write_results(tmp_path, synthetic.plan_of(study), change)
    assert main(["collect", "--results", str(tmp_path)]) == 0
    found = costs(load(tmp_path))
    assert isinstance(found, Costs) and found.setting.startswith("1 x 256 tokens")
    assert set(found.measured) == {"lora_lomo", "adamw", "sgd", "lomo", "adalomo"}


def test_a_gradient_curve_counts_births_and_ignores_other_events() -> None:
    def event(name: str, gradients: int, phase: str = "backward") -> dict:
        return {"event": name, "phase": phase, "gradients_bytes": gradients}

    events = [
        event("phase", 0, "forward"),
        event("gradient_created", 4),
        event("peak", 4),
        event("gradient_released", 0),
        event("gradient_created", 6),
        event("gradient_released", 0),
        event("gradient_created", 9, "step"),
    ]
    assert gradient_curve(events) == [(0, 0), (0, 4), (0.25, 0), (0.5, 6), (0.75, 0), (1.0, 0)]
    assert gradient_curve([event("phase", 0)]) == []


def test_labels_are_spread_apart_in_their_order() -> None:
    places = spread([1.0, 0.0, 1.1], 0.5)
    assert places == pytest.approx([0.8, 0.0, 1.3]) or places[1] < places[0] < places[2]
    ordered = sorted(places)
    assert all(b - a >= 0.5 - 1e-9 for a, b in zip(ordered, ordered[1:], strict=False))
    assert spread([0.0, 10.0], 0.5) == [0.0, 10.0]


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {"img": "src", "script": "src", "link": "href", "iframe": "src"}
        self.loaded += [value or "" for name, value in attrs if names.get(tag) == name]


def test_the_report_loads_nothing_from_elsewhere(built: Path) -> None:
    page = (built / "report" / "index.html").read_text()
    links = _Links()
    links.feed(page)
    pictures = [link for link in links.loaded if link != "data:,"]  # the page has no icon
    assert len(pictures) == len(FIGURES) + 3  # of all trainings those over steps
    assert all(link.startswith("data:image/svg+xml;base64,") for link in pictures)
    assert "A made-up study" in page
    assert "../tables/records.csv" in page
    assert "LOMO reaches" in page
