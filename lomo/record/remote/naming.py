"""What W&B is told of a run, and what never: names that it takes, and no place of this machine."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

from lomo import methods
from lomo.errors import UserError
from lomo.tasks import registry

PROJECT = "lomo-repro"
LONGEST = 128  # of W&B's ids and names
_LONGEST_TAG = 64

# An absolute path, one from the home folder, or one that climbs out of the working folder.
_IN_A_NAME = r"[^\s/'\"`,;:|()<>\[\]{}]+"
_PLACE = re.compile(
    rf"(?<![\w.~:/\\-])(?:file://)?(?:/(?=[^\s/]+/)|~/|(?:\.\./)+)(?:{_IN_A_NAME}/)*({_IN_A_NAME})/?"
)


def wandb_id(study: str, run_id: str, digest: str = "") -> str:
    """The id of a run: what W&B refuses in it becomes a hyphen.

    With `digest` (of a record) the same record has the same id, and another one another: W&B would
    write over a run of the same id that was sent before.
    """
    name = f"{study}-{run_id}"
    plain = re.sub(r"[^A-Za-z0-9_.-]", "-", name)
    told_apart = plain != name.replace("/", "-") or len(plain) > LONGEST
    if not digest and not told_apart:
        return plain
    ending = "-" + hashlib.sha256(f"{name}\n{digest}".encode()).hexdigest()[:8]
    return plain[: LONGEST - len(ending)] + ending


def settle_names() -> None:
    """Makes of WANDB_PROJECT (or ours) and WANDB_TAGS what W&B takes; a changed project is told."""
    asked = os.environ.get("WANDB_PROJECT", "").strip() or PROJECT
    name = re.sub(r"[/\\#?%:]", "-", asked)[:LONGEST]
    if name != asked:
        print(f"W&B refuses the project name {asked!r}: {name!r} is written", file=sys.stderr)
    os.environ["WANDB_PROJECT"] = name
    given = [tag.strip()[:_LONGEST_TAG] for tag in os.environ.pop("WANDB_TAGS", "").split(",")]
    if tags := list(dict.fromkeys(filter(None, given))):
        os.environ["WANDB_TAGS"] = ",".join(tags)


def without_places(value: Any) -> Any:
    """JSON data, or a text, with the last name in place of each path of this machine.

    Paths below the working folder stay: a study has the same ones on every machine.
    """
    if isinstance(value, str):
        return _PLACE.sub(r"\1", value)
    if isinstance(value, Mapping):
        return {key: _of_key(key, of) for key, of in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(of) for of in value]
    return value


def _of_key(key: str, value: Any) -> Any:
    """A value that is known to be a path, and may have spaces in it, goes whole."""
    if key.endswith("path") and isinstance(value, str) and value.startswith(("/", "~", "..")):
        return PurePath(value).name
    return without_places(value)


def config_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A run's config: its spec without places, and `names`, as tables write them, to group by."""
    titles = {"method": lambda name: methods.describe(name).title, "task": registry.title_of}
    names = {key: _title(spec[key], of) for key, of in titles.items() if key in spec}
    return {**without_places(spec), "names": names}


def _title(name: str, of: Callable[[str], str]) -> str:
    try:
        return of(name)
    except UserError:  # of a package that is not installed here
        return name


def key_of(quantity: str, model: str, cell: str) -> str:
    """What a quantity is called in a run's summary: one key a column of a table, so that a panel
    never takes the mean of two of them. cell: the task, or a measured run's setting.

    W&B reads a dot in a key as a step into it.
    """
    return re.sub(r"[^A-Za-z0-9_/-]", "-", f"{quantity}/{model}/{cell}")


def cell_of(run_id: str) -> str:
    """The task of a training, the setting of a measured run; of instructions there is one table."""
    if run_id.startswith("instruct/"):
        return "instruct"
    return run_id.split("/")[3] if run_id.count("/") >= 3 else run_id
