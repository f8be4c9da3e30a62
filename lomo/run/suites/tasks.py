"""The lm-eval tasks of a suite: lm-eval's own prompts, on local documents or the hub's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lm_eval
import yaml
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager

from lomo.errors import UserError
from lomo.specs import SuiteSpec
from lomo.suites.documents import lm_eval_dataset
from lomo.suites.known import MINIATURE, Found, find
from lomo.suites.layouts import subjects_of

HUB = "hub"
# lm-eval's command line draws few-shot examples by this seed.
_FEWSHOT_SEED = 1234


class Unsupported(Exception):
    """The suite can't be had here; says what to do."""


def load_tasks(spec: SuiteSpec) -> dict[str, Task]:
    """The tasks by their names, with few-shot count and generation as the spec has them.

    Raises Unsupported where they need the hub and it can't be reached, and UserError for broken
    files, and for a few-shot count that a task does not take.
    """
    found = find(spec.task)
    if spec.data_path == HUB:
        tasks = _from_hub(spec.task, found)
    else:
        assert found is not None, "the plan has it from the hub"
        tasks = _from_files(found, Path(spec.data_path))
    for name, task in tasks.items():
        _settle(task, name, spec)
    return tasks


def _settle(task: Task, name: str, spec: SuiteSpec) -> None:
    """What lm-eval's command line sets by --num_fewshot and --gen_kwargs."""
    if getattr(task, "UNSAFE_CODE", False):
        raise UserError(
            f"{name} runs code that a model has written, and can't be contained here",
            where="task",
            allowed="of such suites: humaneval",
        )
    own = task.get_config("num_fewshot")
    if spec.num_fewshot is not None and own == 0 != spec.num_fewshot:
        raise UserError(
            f"{spec.num_fewshot} solved examples, and {name} takes none: its prompt is fixed",
            where="num_fewshot",
            allowed="0, or leave it out",
        )
    number = spec.num_fewshot if spec.num_fewshot is not None else own or 0
    task.set_config(key="num_fewshot", value=number)
    if spec.max_gen_toks is not None and task.get_config("output_type") == "generate_until":
        gen = {"max_gen_toks": spec.max_gen_toks}
        task.set_config(key="generation_kwargs", value=gen, update=True)
    task.set_fewshot_seed(seed=_FEWSHOT_SEED)


def _yamls(found: Found | None) -> TaskManager:
    """lm-eval's tasks; of a known suite those in its folder alone: to index all takes seconds."""
    if found is None:
        return TaskManager()
    folder = Path(lm_eval.__file__).parent / "tasks" / found.suite.folder
    return TaskManager(include_defaults=False, include_path=str(folder))


def _from_hub(name: str, found: Found | None) -> dict[str, Task]:
    manager = _yamls(found)
    try:
        return dict(manager.load([name])["tasks"])
    except OSError as error:  # datasets' own for no network, and for a data set that is not there
        first = (str(error).splitlines() or [type(error).__name__])[0]
        local = ", or give `data` a folder with its own files (docs/suites.md)" if found else ""
        raise Unsupported(
            f"{name} comes from the hub, which can't be reached ({first}): delete this run's "
            f"folder and start again with the network{local}; or take it out of `tasks`"
        ) from error


def _from_files(found: Found, data: Path) -> dict[str, Task]:
    suite = found.suite
    members = []
    for subject in subjects_of(found, data):
        own = {"data": data.as_posix(), "suite": found.name, "subject": subject}
        member = {
            "task": suite.leaves.format(subject),
            "custom_dataset": lm_eval_dataset,
            "dataset_kwargs": own,
        }
        members.append({**_miniature(), **member} if suite.layout == "miniature" else member)
    if suite.layout == "miniature":
        manager = TaskManager(include_defaults=False)
        return dict(manager.load(members)["tasks"])
    group: dict[str, Any] = {"group": "suite", "task": members}
    return dict(_yamls(found).load([group])["tasks"])


def _miniature() -> dict[str, Any]:
    return dict(yaml.safe_load(MINIATURE.read_text(encoding="utf-8")))


def tokens_of(tasks: Mapping[str, Task]) -> int | None:
    """How many tokens the longest answer may take; None where none is generated."""
    generating = [t for t in tasks.values() if t.get_config("output_type") == "generate_until"]
    asked = (task.get_config("generation_kwargs") or {} for task in generating)
    return max((int(options.get("max_gen_toks", 256)) for options in asked), default=None)
