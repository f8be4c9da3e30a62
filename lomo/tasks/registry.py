"""The registry of tasks: those of this repository, and those of installed packages behind them.

A task's prompt is checked before anything is run. lm-eval takes many more keys than are honoured
here; those that would fetch data, run other code or change what is scored without a word are
refused. Nothing here imports torch or lm-eval: a plan asks whether a task can be used before any
weight is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import yaml
from jinja2 import meta

from lomo.errors import UserError, nearest
from lomo.system.outside import check_point
from lomo.system.strict import read_yaml
from lomo.tasks.entry import TaskFiles, outside, points
from lomo.tasks.lines import READ_IN_PARTS
from lomo.tasks.superglue import TASKS, files_of

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The ids of all tasks, those of other packages behind our own."""
    return list(dict.fromkeys([*TASKS, *points()]))


def check_name(task: str, *, where: str) -> None:
    """Raises UserError unless there is a task of that name whose entry and prompt can be used."""
    if task not in names():
        close = nearest(task, names())
        raise UserError(
            f"{task!r} is not one of its values",
            where=where,
            allowed=", ".join(names()),
            fix=f"did you mean {close!r}?"
            if close
            else "a task of your own is one YAML and one entry, see CONTRIBUTING.md",
        )
    _check(task)


@cache
def _check(task: str) -> None:
    if task in points():
        check_point(points()[task], own=TASKS, what="task")
    files = files_of(task)
    fields = None if task in READ_IN_PARTS else set(files.text_fields)
    check_prompt(prompt_of(task), task, files, fields)


def prompt_of(task: str) -> Path:
    """The YAML with a task's prompt."""
    return FOLDER / f"{task}.yaml" if task in TASKS else outside(task).prompt


def title_of(task: str) -> str:
    """What a task is called at the head of its columns. Raises UserError for an unknown one."""
    if task not in names():
        raise UserError(f"there is no task {task!r}", where="tasks", allowed=", ".join(names()))
    files = files_of(task)
    return files.title or files.folder


READER = "lomo.tasks.superglue.lm_eval_dataset"
# What is told again from the scores of single examples (samples.jsonl); the first is reported.
METRICS = ("acc", "acc_norm")
TEXTS = ("doc_to_text", "target_delimiter")
KEYS = (
    *("task", "custom_dataset", "dataset_kwargs", "test_split", "output_type", *TEXTS),
    *("doc_to_choice", "doc_to_target", "metric_list", "metadata"),
)


class _Function(str):
    """The name behind `!function`; nothing is imported."""


class _Loader(yaml.SafeLoader):
    """YAML as lm-eval writes it, without its functions."""


_Loader.add_constructor("!function", lambda _, node: _Function(node.value))


def check_prompt(path: Path, task: str, files: TaskFiles, fields: set[str] | None) -> None:
    """Raises UserError, with file and key, for a prompt that can't be honoured as it stands.

    fields: those of a document, without its label; None where only its reader knows them.
    """
    if not path.is_file():
        raise UserError(
            "no such file", where=str(path), fix=f"write the prompt of {task} there (CONTRIBUTING)"
        )
    data = read_yaml(path, loader=_Loader)
    for key in data:
        if key not in KEYS:
            raise UserError(
                "fetches a data set: data comes from the study's folder alone"
                if str(key).startswith("dataset_")
                else "is not honoured here",
                where=f"{path}: {key}",
                allowed=", ".join(KEYS),
                fix="remove it",
            )
    wanted = {
        "custom_dataset": (_Function(READER), f"!function {READER}"),
        "dataset_kwargs": ({"task": task}, f"task: {task}"),
        "test_split": ("test", "test"),
        "output_type": ("multiple_choice", "multiple_choice"),
        "doc_to_target": ("label", "label"),
    }
    for key, (value, words) in wanted.items():
        if (type(data.get(key)), data.get(key)) != (type(value), value):
            raise UserError(
                f"is {data.get(key)!r}" if key in data else "is missing",
                where=f"{path}: {key}",
                allowed=words,
            )
    _check_metrics(data.get("metric_list"), f"{path}: metric_list")
    _check_choices(data.get("doc_to_choice"), files, f"{path}: doc_to_choice")
    _check_texts(data, path, fields)
    passage = files.passage
    if passage is not None and not re.match(rf"{{{{\s*{passage}\s*}}}}", data["doc_to_text"]):
        raise UserError(
            f"begins with something else than the passage, which is {passage!r}",
            where=f"{path}: doc_to_text",
            fix=f"begin with {{{{{passage}}}}}, or name another passage in its entry, or none",
        )


def _check_metrics(listed: Any, where: str) -> None:
    entries = listed if isinstance(listed, list) else []
    names = [entry.get("metric") if isinstance(entry, dict) else entry for entry in entries]
    unknown = [name for name in names if name not in METRICS]
    if unknown or METRICS[0] not in names:
        raise UserError(
            f"{unknown[0]!r} can't be told from the scores of the candidates"
            if unknown
            else f"lacks {METRICS[0]}, which is what tables show",
            where=where,
            allowed=", ".join(METRICS),
        )
    for entry in entries:
        if isinstance(entry, dict) and entry.get("aggregation", "mean") != "mean":
            raise UserError(
                f"{entry['metric']} by {entry['aggregation']!r}", where=where, allowed="mean"
            )


def _check_choices(choices: Any, files: TaskFiles, where: str) -> None:
    if isinstance(choices, str) and "{{" in choices:
        return
    needed = max(files.labels.values()) + 1
    texts = isinstance(choices, list) and all(isinstance(c, str) and c for c in choices)
    if not texts or len(choices) != needed:
        raise UserError(
            f"is {choices!r}",
            where=where,
            allowed=f"{needed} texts, one for each label, or a template that gives them",
            fix='YAML reads a bare Yes or No as a truth: write "Yes", "No"',
        )


def _check_texts(data: dict[str, Any], path: Path, fields: set[str] | None) -> None:
    for key in (*TEXTS, "doc_to_choice"):
        text = data.get(key, "")
        if key == "doc_to_text" and (not isinstance(text, str) or not text.strip()):
            raise UserError("is no text", where=f"{path}: {key}", allowed="one with {{fields}}")
        if isinstance(text, list):
            continue
        if not isinstance(text, str) or isinstance(text, _Function):
            raise UserError(f"is {text!r}", where=f"{path}: {key}", allowed="a text")
        used = set(_fields_of(text, f"{path}: {key}"))
        if key == "doc_to_text" and not used:
            raise UserError(
                "names no field, so that all examples would read alike",
                where=f"{path}: {key}",
                allowed="a text with {{field}}, or with several",
            )
        # A field that is not there would be rendered as nothing, in training and in scoring.
        unknown = sorted(used - (fields if fields is not None else used) - {"label"})
        if unknown or (used and "label" in used):
            raise UserError(
                f"names the field {(unknown or ['label'])[0]!r}"
                + ("" if unknown else ", which is the answer"),
                where=f"{path}: {key}",
                allowed=", ".join(sorted(fields or ())) or "the fields of its documents",
            )


def _fields_of(text: str, where: str) -> Iterator[str]:
    try:
        yield from meta.find_undeclared_variables(jinja2.Environment().parse(text))
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"is no template: {error.message}", where=where) from error
