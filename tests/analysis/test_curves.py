"""Training curves against small ones worked out by hand, and what is drawn of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import synthetic
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from analysis.figures.all import TRAINING_FIGURES
from analysis.figures.curves import figure_accuracy, figure_loss, figure_training
from analysis.page.report import _beside
from analysis.records.accuracy import accuracy_cells, find
from analysis.records.collected import Collected, load
from analysis.records.histories import MOST_POINTS, Curve, curve, untrained
from analysis.text.style import method_colour, style
from lomo.system.files import write_text

LOMO_RTE = {"method": "lomo", "task": "rte"}


def study(folder: Path, *, seeds: tuple[int, ...] = (1, 2), **changes: Any) -> Collected:
    """Two tasks under zero-shot, LoRA and LOMO; `diverged`: run ids that ended so."""
    diverged = changes.pop("diverged", ())
    made = synthetic.study_dict(**changes)
    made = {k: v for k, v in made.items() if k not in ("lora_rank", "memory", "throughput")}
    made["superglue"] = made["superglue"] | {
        **{"methods": ["zero_shot", "lora", "lomo"], "tasks": ["rte", "boolq"], "grids": {}},
        "seeds": list(seeds),
    }

    def change(run_id: str, record: dict) -> dict:
        return synthetic.failed(record, "diverged") if run_id in diverged else record

    synthetic.write_results(folder, synthetic.plan_of(made), change)
    synthetic.collect_unquestioned(folder)
    return load(folder)


def tell(collected: Collected, seed: int, events: list[dict[str, Any]]) -> None:
    """Puts events into the history of LOMO on RTE."""
    path = collected.run_folder(f"train/mini/lomo/rte/s{seed}/t0") / "history.jsonl"
    assert path.is_file()
    write_text(path, "".join(json.dumps(event) + "\n" for event in events))


def steps(loss: list[float], *, seconds: float, tokens: int) -> list[dict[str, Any]]:
    return [
        {"event": "step", "step": number, "loss": value, "grad_norm": None}
        | {"num_tokens": tokens, "step_s": seconds}
        for number, value in enumerate(loss, start=1)
    ]


def evaluation(split: str, step: int, value: float) -> dict[str, Any]:
    return {"event": "evaluation", "split": split, "step": step, "value": value}


def of_lomo(collected: Collected, *asked: Any, **options: Any) -> Curve | None:
    cell = find(accuracy_cells(collected, "superglue"), **LOMO_RTE)
    assert cell is not None
    return curve(collected, cell, *asked, **options)


def test_a_curve_is_the_mean_over_seeds_with_the_least_and_the_most(tmp_path: Path) -> None:
    collected = study(tmp_path)
    tell(collected, 1, steps([4.0, 2.0, 1.0], seconds=1.0, tokens=10))
    tell(collected, 2, steps([2.0, 2.0, 3.0], seconds=3.0, tokens=30))
    found = of_lomo(collected, "loss", "steps", smooth=False)
    assert found == Curve(
        "lomo", [1, 2, 3], [3.0, 2.0, 2.0], [2.0, 2.0, 1.0], [4.0, 2.0, 3.0], 2, whole=True
    )
    over = {name: of_lomo(collected, "loss", name, smooth=False) for name in ("tokens", "seconds")}
    assert {name: c.x for name, c in over.items() if c} == {
        "tokens": [20, 40, 60],
        "seconds": [2, 4, 6],
    }
    assert of_lomo(collected, "grad_norm", "steps") is None  # a norm that was never taken


def test_a_running_mean_is_of_each_seed(tmp_path: Path) -> None:
    """Of five steps around: at the ends of those that are there."""
    collected = study(tmp_path)
    tell(collected, 1, steps([5.0, 4.0, 3.0, 2.0, 1.0, 0.0], seconds=1.0, tokens=1))
    tell(collected, 2, steps([6.0] * 6, seconds=1.0, tokens=1))
    found = of_lomo(collected, "loss", "steps")
    assert found is not None
    assert found.least == pytest.approx([4.0, 3.5, 3.0, 2.0, 1.5, 1.0])
    assert found.mean == pytest.approx([5.0, 4.75, 4.5, 4.0, 3.75, 3.5])
    assert found.most == pytest.approx([6.0] * 6)


def test_a_long_training_is_shown_by_few_points_from_its_first_step_to_its_last(
    tmp_path: Path,
) -> None:
    collected = study(tmp_path, seeds=(1,))
    tell(collected, 1, steps([float(n) for n in range(1, 1001)], seconds=0.5, tokens=7))
    found = of_lomo(collected, "loss", "seconds")
    assert found is not None and len(found.x) == MOST_POINTS
    assert (found.x[0], found.x[-1]) == (0.5, 500.0)
    # A running mean of a straight line is that line, but at its ends.
    middle = list(zip(found.x, found.mean, strict=True))[5:-5]
    assert all(2 * x == pytest.approx(mean) for x, mean in middle)
    assert len(of_lomo(collected, "loss", "steps", smooth=False).x) == 1000


@pytest.mark.parametrize("split", ["dev", "test"])
def test_accuracy_is_of_the_split_that_selects_and_costs_no_training_time(
    split: str, tmp_path: Path
) -> None:
    protocol = {"dev": "sound", "test": "paper"}[split]
    collected = study(tmp_path, seeds=(1,), protocol=protocol)
    first, second = steps([1.0, 1.0], seconds=2.0, tokens=5)
    events = [first, evaluation("dev", 1, 0.5), second, evaluation("test", 2, 0.25)]
    tell(collected, 1, [*events, evaluation("dev", 2, 0.75), evaluation("test", 1, 0.5)])
    found = of_lomo(collected, "accuracy", "seconds")
    assert found is not None
    assert (found.x, found.mean) == ([2, 4], [50.0, 75.0] if split == "dev" else [50.0, 25.0])
    cells = accuracy_cells(collected, "superglue")
    assert untrained(collected, cells, "rte") == pytest.approx(
        100
        * collected.runs.query("method == 'zero_shot' and task == 'rte'")["test_accuracy"].mean()
    )


def test_a_training_that_stopped_is_shown_to_where_it_came(tmp_path: Path) -> None:
    lost = [f"train/mini/lomo/rte/s{seed}/t0" for seed in (1, 2)]
    collected = study(tmp_path, diverged=lost)
    tell(collected, 1, steps([1.0, 2.0], seconds=9.0, tokens=1))
    tell(collected, 2, steps([1.0, 2.0, 9.0], seconds=1.0, tokens=1))
    found = of_lomo(collected, "loss", "seconds", smooth=False)
    assert found is not None and not found.whole
    assert (found.x, found.mean) == ([5, 10, 11], [1.0, 2.0, 9.0])
    with style():
        panel = figure_training(collected, "loss", "steps").axes[0]
    crosses = [line for line in panel.lines if line.get_marker() == "x"]
    assert [to_hex(line.get_color()) for line in crosses] == [method_colour("lomo").lower()]


def test_a_seed_that_diverged_is_not_in_the_mean_of_those_that_ended(tmp_path: Path) -> None:
    collected = study(tmp_path, diverged=["train/mini/lomo/rte/s2/t0"])
    tell(collected, 1, steps([1.0, 1.0], seconds=1.0, tokens=1))
    tell(collected, 2, steps([9.0, 9.0], seconds=1.0, tokens=1))
    found = of_lomo(collected, "loss", "steps")
    assert found is not None and (found.num_seeds, found.most, found.whole) == (1, [1, 1], True)


def bands(figure: Figure) -> int:
    return sum(isinstance(c, PolyCollection) for axes in figure.axes for c in axes.collections)


@pytest.mark.parametrize("seeds", [(1,), (1, 2, 3)])
def test_a_panel_a_task_a_line_a_method_a_band_where_there_are_seeds(
    seeds: tuple[int, ...], tmp_path: Path
) -> None:
    collected = study(tmp_path, seeds=seeds)
    with style():
        figure = figure_training(collected, "grad_norm", "tokens")
        pair = [figure_loss(collected), figure_accuracy(collected)]
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["RTE", "BoolQ"]
    for axes in figure.axes:
        assert [to_hex(line.get_color()) for line in axes.lines] == [
            method_colour(method).lower() for method in ("lora", "lomo")
        ]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["LoRA", "LOMO"]
    several = len(seeds) > 1
    assert (bands(figure), [bands(one) for one in pair]) == (4 * several, [2 * several] * 2)
    # Thin single steps behind the loss of a lone seed.
    assert len(pair[0].axes[0].lines) == (2 if several else 4)


def test_the_page_names_the_files_of_the_same_over_something_else(built: Path) -> None:
    page = (built / "report" / "index.html").read_text()
    named = [file for which in TRAINING_FIGURES for _, file in _beside(which)]
    assert len(named) == 6 and all(f'href="{file}"' in page for file in named)
    assert all((built / "report" / file).is_file() for file in named)
