"""Makes a study's dashboard: always as files, and on W&B where there is a key.

A second call changes what the first made: the workspace has its name from the study's, the report
is known by its description.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lomo.errors import UserError
from lomo.record.remote.sending import Account, account, unsent
from lomo.system.command import say
from lomo.system.files import write_text

from ..records.collected import load

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import Report
    from wandb_workspaces.workspaces import Workspace

INSTALL = "pip install 'lomo-repro[wandb]', or the lock: requirements.lock has it"


def make_dashboard(results: Path) -> None:
    """Writes dashboard/workspace.json and report.json; with a key of W&B makes both there, too.

    Raises UserError where wandb-workspaces is not installed, the study is not collected, or W&B
    refuses.
    """
    try:
        import wandb_workspaces  # noqa: F401
    except ImportError as error:
        raise UserError("wandb-workspaces is not installed", where="dashboard", fix=INSTALL) from (
            error
        )
    from .report import report
    from .workspace import workspace

    collected = load(results)
    to = account()
    owner = (to.entity, to.project) if to else ("", "")
    made, told = workspace(collected, *owner), report(collected, *owner)
    specs = {"workspace": made._to_model().spec, "report": told._to_model().spec}
    for name, spec in specs.items():
        # As W&B takes it: by alias, without what is not set.
        data = spec.model_dump(mode="json", by_alias=True, exclude_none=True)
        text = json.dumps({"title": collected.plan.study.title, "spec": data}, indent=1)
        write_text(results / "dashboard" / f"{name}.json", text + "\n")
    say(f"{results / 'dashboard'}: workspace.json and report.json, as W&B takes them")
    if to is None:
        say("no key of W&B is found, nothing is sent; with one (`wandb login`, WANDB_API_KEY):")
        say(f"  python -m lomo wandb-sync {results}   # the runs")
        say(f"  python -m lomo dashboard {results}    # workspace and report")
        return
    for link in _save(made, told, to):
        say(link)
    if missing := unsent(results, to):
        say(f"{len(missing)} runs are not there yet: python -m lomo wandb-sync {results}")


def _save(made: Workspace, told: Report, to: Account) -> list[str]:
    """Makes or changes both on W&B; gives their links."""
    import wandb
    from wandb_workspaces.workspaces import internal

    try:
        api: Any = wandb.Api()
        if to.project not in [project.name for project in api.projects(to.entity)]:
            api.create_project(to.project, to.entity)
        for other in api.reports(f"{to.entity}/{to.project}"):
            if other.description == told.description:
                told.id = other.id
        told.save()
        try:
            found = internal.get_view_dict(to.entity, to.project, made._internal_name[3:-2])
            made._internal_id = found["id"]
        except ValueError:  # there is none yet
            pass
        made.save()
    except Exception as error:  # wandb's own kinds
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"W&B does not take it ({type(error).__name__}: {lines[0]})",
            where=to.place,
            fix="see that the key may write to that project, and start again",
        ) from error
    return [f"workspace {made.url}", f"report {told.url}"]
