"""What methods, tasks, parts of memory and failures are called, and the order they stand in."""

from __future__ import annotations

from collections.abc import Iterable

from lomo import methods
from lomo.errors import UserError
from lomo.tasks import registry

# Order of rows in every table and figure: no training, adapters, full parameters.
METHODS = ("zero_shot", "lora", "lora_lomo", "adamw", "sgd", "lomo", "adalomo")

# The tasks of the paper's Table 3, which its averages are over. A study's own are in its plan.
PAPER_TASKS = ("rte", "boolq", "wsc", "wic", "multirc", "copa")

PARTS = {
    "parameters": "parameters",
    "gradients": "gradients",
    "optimizer_state": "optimizer state",
    "activations": "activations",
    "other": "other",
    "residual": "residual",
}
# The columns of the paper's Table 1.
SUMMED_PARTS = ("parameters", "gradients", "optimizer_state", "activations")

NOT_RUN = "not_run"
STATUSES = {
    "oom": "OOM",
    "predicted_oom": "OOM (predicted)",
    "diverged": "diverged",
    "timeout": "timeout",
    "unsupported": "unsupported",
    NOT_RUN: "\N{EN DASH}",
}


def method_title(method: str, rank: int | None = None) -> str:
    """The method's name for readers, with its rank if one is given."""
    try:
        title = methods.describe(method).title
    except UserError:  # of a package that is not installed where the tables are made
        title = method
    return title if rank is None else f"{title}, rank {rank}"


def task_title(task: str) -> str:
    """The task's name for readers; of an average, or of a package that is not here, its id."""
    try:
        return registry.title_of(task)
    except UserError:
        return task


def method_order(method: str) -> tuple[int, str]:
    """Sort key of a method: ours in their order, others behind them by name."""
    return (METHODS.index(method) if method in METHODS else len(METHODS), method)


def status_text(status: str) -> str:
    """What a table shows in place of a number."""
    return STATUSES.get(status, status)


def worst_status(statuses: Iterable[str]) -> str:
    """The status that speaks for several runs of which none is ok."""
    found = set(statuses)
    return next((status for status in STATUSES if status in found), NOT_RUN)


def listed(words: Iterable[str]) -> str:
    """`a, b and c`."""
    items = list(words)
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else "".join(items)
