"""The report of a study on W&B: its findings, verdicts and tables in words, and its curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wandb_workspaces import expr
from wandb_workspaces.reports import v2 as wr

from lomo.record.remote.naming import without_places

from ..page.findings import Finding, findings
from ..page.report import origin, summary
from ..page.tables import tables_of
from ..records.collected import Collected
from ..text.grid import Table
from ..text.names import task_title
from ..text.render import environment, md_escape
from ..verdicts.all import all_verdicts
from ..verdicts.verdict import VERDICTS, Verdict, counts_by_kind
from .seen import colours, out_of_sight, tasks
from .workspace import METHOD, curves, filters, instruct_curves, stable_id, task_curves


def report(collected: Collected, entity: str, project: str) -> wr.Report:
    """The report, the same for the same study."""
    study = collected.plan.study
    verdicts = all_verdicts(collected)
    tables = [build(collected) for build in tables_of(collected).values()]
    blocks = [
        wr.P(without_places(summary(collected))),
        wr.H2("Findings"),
        *_findings(findings(verdicts)),
        _markdown(_counts(verdicts)),
        *(block for table in tables for block in _table(table)),
        *(block for task in tasks(collected) for block in _task(collected, task)),
        *(_instructions(collected) if study.instruct else []),
        wr.H2("Origin"),
        _markdown(_pairs(["what", "values"], origin(collected))),
    ]
    return wr.Report(
        project=project,
        entity=entity,
        title=study.title[:128],
        description=description(study.study),
        blocks=blocks,
        width="fluid",
    )


def description(study: str) -> str:
    """What stands below a report's title, by which it is found again."""
    return f"Study {study}, made by `python -m lomo dashboard`: what is changed here is lost."


def _findings(found: list[Finding]) -> list[Any]:
    lines: list[Any] = []
    for finding in found:
        counts = ", ".join(f"{num} {name}" for name, num in finding.verdicts)
        detail = finding.detail[:1].upper() + finding.detail[1:]
        text = f"{finding.text}: {counts} ({finding.basis}). {detail}."
        lines.append(without_places(text))
    return [wr.UnorderedList(items=lines)] if lines else []


def _markdown(text: str) -> wr.MarkdownBlock:
    """Text for W&B, without the paths of this machine."""
    return wr.MarkdownBlock(without_places(text.strip()))


def _counts(verdicts: list[Verdict]) -> str:
    kinds = counts_by_kind(verdicts)
    rows = [[kind, *(of[name] for name in VERDICTS)] for kind, of in kinds.items()]
    return _pairs(["verdicts", *VERDICTS], rows)


def _pairs(columns: list[str], rows: Any) -> str:
    lines = [columns, [":---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(md_escape(str(cell)) for cell in line)} |" for line in lines)


def _table(table: Table) -> list[Any]:
    text = environment().get_template("table.md.jinja").render(table=table)
    return [wr.H2(table.title), _markdown(text.split("\n", 1)[1])]


def _task(collected: Collected, task: str) -> list[Any]:
    shown = task_curves(collected.plan.study.selection)
    of_task = expr.Config("task") == task
    return [wr.H2(f"Curves: {task_title(task)}"), _grid(collected, task, of_task, shown)]


def _instructions(collected: Collected) -> list[Any]:
    shown = instruct_curves(collected.plan.study.selection)
    of_kind = expr.Metric("JobType") == "instruct"
    title = "Curves: instruction tuning"
    return [wr.H2(title), _grid(collected, "instructions", of_kind, shown)]


def _grid(collected: Collected, of: str, chosen: Any, shown: Mapping[str, str]) -> wr.PanelGrid:
    """The panels of `shown`, of the study's runs that are `chosen`."""
    name = f"{of} of {collected.plan.study.study}"
    runs = wr.Runset(
        name=name,
        filters=expr.And(*filters(collected), chosen),
        groupby=[f"config.{METHOD}"],
        run_settings={i: wr.RunSettings(disabled=True) for i in out_of_sight(collected)},
    )
    runs._id = stable_id("runs", name)
    panels = curves(shown, name)
    for place, panel in enumerate(panels):
        panel.layout = wr.Layout(x=8 * place, y=0, w=8, h=8)
    by_method: dict[Any, Any] = {
        wr.RunsetGroup(name, (wr.RunsetGroupKey(wr.Config(METHOD), title),)): colour
        for title, colour in colours(collected).items()
    }
    return wr.PanelGrid(runsets=[runs], panels=panels, custom_run_colors=by_method)
