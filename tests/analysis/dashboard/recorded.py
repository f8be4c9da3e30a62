"""What the workspace that the stand-in was sent shows of the runs that it was sent.

    python tests/analysis/dashboard/recorded.py results/tiny --out workspace.png

sends a study and its dashboard to the stand-in and draws the recorded panels: no picture of W&B's,
but W&B's own rules of which runs, groups, values and colours a panel has.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.analysis.dashboard.wandb_server import Server, lomo, serving


@dataclass
class Panel:
    """One panel: for each group, step -> the values of its runs; a bar has them at step 0."""

    section: str
    title: str
    kind: str
    unit: str
    groups: dict[str, dict[int, list[float]]] = field(default_factory=dict)


@dataclass
class Workspace:
    """The recorded workspace: its panels, and the colour of each group."""

    title: str
    panels: list[Panel]
    colours: dict[str, str]
    num_runs: int
    num_hidden: int


def workspace(server: Server) -> Workspace:
    """The one workspace that the server has, with the values of the runs that it has."""
    (view,) = [view for view in server.views.values() if view["type"] == "project-view"]
    section = json.loads(view["spec"])["section"]
    (run_set,) = section["runSets"]
    runs = [run for run in server.runs.values() if _passes(run, run_set["filters"]["filters"])]
    # The root is the eye of all runs, and the tree names those for which it is the other way.
    assert run_set["selections"]["root"] == 1
    hidden = set(run_set["selections"]["tree"])
    (grouping,) = run_set["grouping"]
    by_group: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        if run["name"] not in hidden:
            by_group.setdefault(_config(run, grouping["name"]), []).append(run)
    panels = [
        _panel(server, part["name"], panel, by_group)
        for part in section["panelBankConfig"]["sections"]
        for panel in part["panels"]
    ]
    named = {run["name"] for run in runs}
    colours = dict(_colours(section["customRunColors"]))
    return Workspace(view["displayName"], panels, colours, len(runs), len(hidden & named))


def _passes(run: dict[str, Any], filters: list[dict[str, Any]]) -> bool:
    keys = {"group": "groupName", "jobType": "jobType"}
    for one in filters:
        equal = run.get(keys[one["key"]["name"]]) == one["value"]
        if equal != {"=": True, "!=": False}[one["op"]]:
            return False
    return True


def _config(run: dict[str, Any], path: str) -> str:
    """W&B writes {"a": {"value": {"b": 1}}}, and calls it a.value.b."""
    found = json.loads(run["config"])
    for name in path.split("."):
        found = found[name]
    return str(found)


def _panel(
    server: Server, section: str, told: dict[str, Any], runs: dict[str, list[dict[str, Any]]]
) -> Panel:
    config = told["config"]
    panel = Panel(section, config["chartTitle"], told["viewType"], config.get("xAxisTitle", ""))
    (key,) = config["metrics"]
    for group, members in runs.items():
        for run in members:
            for step, value in _values(server, run["name"], key, told["viewType"]):
                panel.groups.setdefault(group, {}).setdefault(step, []).append(value)
    return panel


def _values(server: Server, run: str, key: str, kind: str) -> Iterator[tuple[int, float]]:
    if kind == "Bar Chart":
        summary = json.loads(server.files.get(f"/run/{run}/wandb-summary.json", b"{}"))
        if key in summary:
            yield 0, summary[key]
        return
    for line in server.history.get(run, []):
        if line.get(key) is not None:
            yield line["_step"], line[key]


def _colours(told: dict[str, str]) -> Iterator[tuple[str, str]]:
    for name, colour in told.items():
        if name.startswith("run-color-group:"):
            (key,) = json.loads(unquote(name.split(":", 2)[2]))
            yield key["value"], colour


def draw(shown: Workspace, out: Path) -> None:
    """The panels, three in a row, by section."""
    import matplotlib.pyplot as plt

    rows: list[list[Panel]] = []
    for panel in shown.panels:
        if not rows or len(rows[-1]) == 3 or rows[-1][0].section != panel.section:
            rows.append([])
        rows[-1].append(panel)
    figure, grid = plt.subplots(
        len(rows), 3, figsize=(14, 2.9 * len(rows) + 1), squeeze=False, layout="constrained"
    )
    told = f"{shown.num_runs} runs, {shown.num_hidden} of them with a closed eye"
    figure.suptitle(f"{shown.title}\n{told}; drawn from what the stand-in of W&B was sent")
    for axes_of_row, row in zip(grid, rows, strict=True):
        for axes, panel in zip(axes_of_row, row, strict=False):
            _draw_panel(axes, panel, shown.colours)
        for axes in axes_of_row[len(row) :]:
            axes.axis("off")
        if row[0].kind != "Bar Chart":
            beside = {"loc": "upper left", "bbox_to_anchor": (1, 1), "frameon": False}
            # Of all panels of the row: an untrained model has no loss, and one accuracy.
            named = {
                label: handle
                for axes in axes_of_row[: len(row)]
                for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
            }
            axes_of_row[len(row) - 1].legend(named.values(), named, fontsize=8, **beside)
    figure.savefig(out, dpi=80)
    plt.close(figure)


def _draw_panel(axes: Any, panel: Panel, colours: dict[str, str]) -> None:
    from matplotlib.ticker import EngFormatter

    axes.set_title(f"{panel.section}\n{panel.title}", fontsize=9, loc="left")
    # Of groups in the order of their colours, as the tables have them.
    order = [name for name in colours if name in panel.groups]
    assert set(order) == set(panel.groups), f"{set(panel.groups) - set(order)}: no colour"
    for place, name in enumerate(order):
        steps = panel.groups[name]
        means = [statistics.fmean(values) for _, values in sorted(steps.items())]
        if panel.kind == "Bar Chart":
            axes.barh(place, means[0], color=colours[name])
        else:
            low = [min(values) for _, values in sorted(steps.items())]
            high = [max(values) for _, values in sorted(steps.items())]
            marker = "o" if len(steps) < 10 else None
            axes.plot(sorted(steps), means, color=colours[name], label=name, marker=marker, ms=3)
            axes.fill_between(sorted(steps), low, high, color=colours[name], alpha=0.15, lw=0)
    if panel.kind == "Bar Chart":
        axes.set_yticks(range(len(order)), order, fontsize=8)
        axes.set_ylim(max(len(order), 6) - 0.4, -0.6)  # bars of one thickness
        if panel.unit == "bytes":
            axes.xaxis.set_major_formatter(EngFormatter())
    axes.set_xlabel(panel.unit or "step", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> int:
    """Sends the study to a stand-in of its own and draws; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, prog="recorded.py")
    parser.add_argument("results", type=Path, help="a study that is complete: results/<study>")
    parser.add_argument("--out", type=Path, required=True, help="file for the picture")
    options = parser.parse_args()
    with serving() as server, tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        # A copy: what was sent is noted beside the runs.
        results = home / "results" / options.results.name
        for name in ("plan.json", "runs", "tables", "figures", "wandb", "predictions"):
            if (here := options.results / name).is_dir():
                shutil.copytree(here, results / name, symlinks=True)
            elif here.is_file():
                results.mkdir(parents=True, exist_ok=True)
                shutil.copy(here, results / name)
        for command in ("wandb-sync", "dashboard"):
            done = lomo(command, str(results), env=server.environment(home), cwd=home)
            print(done.stdout + done.stderr, end="")
            if done.returncode:
                return done.returncode
        draw(workspace(server), options.out)
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
