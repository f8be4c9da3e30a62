"""The workspace of a study: memory, speed and accuracy as the tables' columns, and the curves."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any
from unicodedata import category

from wandb_workspaces import expr
from wandb_workspaces import workspaces as ws
from wandb_workspaces.reports import v2 as wr

from lomo.record.remote.naming import LONGEST

from ..records.collected import Collected
from .seen import (
    Column,
    accuracy_columns,
    colours,
    instruct_columns,
    measured_columns,
    out_of_sight,
    suite_columns,
)

METHOD = "names.method"  # in a run's config: as the tables call it
COLUMNS = ["accuracy", "peak_bytes", "tokens_per_s_per_device", "status", "wall_s"]


def workspace(collected: Collected, entity: str, project: str) -> ws.Workspace:
    """The workspace, the same for the same study: the runs that tables read, grouped by method."""
    study = collected.plan.study
    by_method: dict[Any, Any] = {**colours(collected)}
    made = ws.Workspace(
        entity=entity,
        project=project,
        name=_plain(study.title),
        sections=_sections(collected),
        settings=ws.WorkspaceSettings(max_runs=max(10, len(by_method))),
        runset_settings=ws.RunsetSettings(
            filters=expr.And(*filters(collected)),
            groupby=[expr.Config(METHOD)],
            group_colors=by_method,
            run_settings={i: ws.RunSettings(disabled=True) for i in out_of_sight(collected)},
            pinned_columns=[f"summary:{name}" for name in COLUMNS],
        ),
    )
    # The library draws them at random; a second call would make a second workspace.
    made._internal_name = f"nw-{stable_id('workspace', study.study)}-v"
    made._internal_runset_id = stable_id("runs", study.study)
    return made


def filters(collected: Collected) -> list[Any]:
    """The runs of a study, without the one that holds its artifacts."""
    return [
        expr.Metric("Group") == collected.plan.study.study[:LONGEST],
        expr.Metric("JobType") != "outcome",
    ]


def stable_id(*of: str) -> str:
    """An id as W&B has them, eleven letters and digits, always the same for the same words."""
    return hashlib.sha256("\n".join(of).encode()).hexdigest()[:11]


def task_curves(selection: str) -> dict[str, str]:
    """What is drawn over the steps of a training on a task -> its key in the runs."""
    return {
        "Training loss (nats a token)": "step/loss",
        f"Accuracy on {selection}, after each epoch": f"{selection}/value",
        "Gradient norm before clipping": "step/grad_norm",
    }


def instruct_curves(selection: str) -> dict[str, str]:
    """The same of a training on instructions."""
    return {
        "Training loss (nats a token)": "instruct/step/loss",
        f"Perplexity on {selection}, after each epoch": f"instruct/{selection}/value",
        "Gradient norm before clipping": "instruct/step/grad_norm",
    }


def curves(shown: Mapping[str, str], of: str) -> list[Any]:
    """A panel each of `shown`, title -> key, over steps: mean and range.

    of: what they are of, which tells them from other ones.
    """
    # Grouped as the runs are, and so in the methods' colours.
    plots = [
        wr.LinePlot(title=title, y=[key], groupby_aggfunc="mean", groupby_rangefunc="minmax")
        for title, key in shown.items()
    ]
    for plot, key in zip(plots, shown.values(), strict=True):
        plot._id = stable_id(of, key)
    return plots


def _sections(collected: Collected) -> list[ws.Section]:
    memory = measured_columns(collected, "memory", "peak_bytes")
    speed = measured_columns(collected, "throughput", "tokens_per_s_per_device")
    tuned = instruct_columns(collected)
    parts = {
        "Memory": _bars(memory, "Peak of a step", "bytes"),
        "Speed": _bars(speed, "Tokens", "tokens a second and device"),
        "Accuracy": _bars(accuracy_columns(collected), "Accuracy", "share of the test examples"),
        "Instruction tuning": _bars(tuned, "Perplexity", "of held-out answers"),
        "Suites": _bars(suite_columns(collected), "Score", "each suite's own metric"),
    }
    study = collected.plan.study
    if study.superglue:
        shown = task_curves(study.selection)
        parts["Curves, mean over tasks and seeds"] = curves(shown, study.study)
    if study.instruct:
        shown = instruct_curves(study.selection)
        parts["Curves of instruction tuning"] = curves(shown, study.study)
    return [
        ws.Section(name=name, panels=panels, is_open=True)
        for name, panels in parts.items()
        if panels
    ]


def _bars(columns: Sequence[Column], what: str, unit: str) -> list[Any]:
    bars = []
    for column in columns:
        bars.append(wr.BarPlot(title=f"{what}: {column.title}", metrics=[column.key], title_x=unit))
        bars[-1]._id = stable_id(column.key)
    return bars


def _plain(title: str) -> str:
    """A title without signs that W&B takes for emojis."""
    return "".join(c for c in title if not category(c).startswith(("So", "Sk", "Sm", "Sc", "Cs")))
