"""The command `advise`, and the study file that its `--write` leaves."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lomo.advise.question import add_options, question_of
from lomo.errors import UserError
from lomo.model.registry import RANDOM_WEIGHTS, registry
from lomo.study.config import Study, parse
from lomo.study.plan import make_plan
from lomo.system.command import NO, QUIET, Command, waiting
from lomo.system.files import write_text
from lomo.system.processes import quieten

if TYPE_CHECKING:
    from lomo.advise.answer import Advice


def run(options: argparse.Namespace) -> int:
    """Prints the advice, and writes the study file where one is asked for; gives the exit code.

    Raises UserError for what cannot be asked, or written.
    """
    quieten()
    progress = not QUIET
    with waiting("loading torch and the model's code", shown=progress):
        question = question_of(options)
        from lomo.advise.answer import advice_of
        from lomo.advise.text import as_json, as_text
        from lomo.memory.predicted import peaks  # noqa: F401 (else each process imports it)

    advice = advice_of(question, progress=progress)
    told = as_json if options.json else as_text
    print(told(advice, options.write))
    if options.write is not None:
        write_study(advice, options.model, options.write)
    fits = any(fit.batch_size for row in advice.rows for fit in row.fits)
    return 0 if fits else NO


COMMANDS = {"advise": Command(add_options, run)}


HEAD = """\
# Made by: {asked}
# It measures memory and speed of the advised step on the card, with random weights: no download.
#   snakemake --cores all --configfile {path}
# To train on examples of your own, see docs/in-your-loop.md, or add a `superglue` section
# (config/README.md).
"""


class _Plain(yaml.SafeDumper):
    """Writes a list that stands twice twice, as a person would."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def write_study(advice: Advice, model: str, path: Path) -> None:
    """Writes the study file, and beside it a folder for a model that no study can name.

    model: as it was asked for. Raises UserError where nothing fits that a study can run.
    """
    if advice.advised is None:
        raise UserError(
            "is not written: nothing fits that a study could measure",
            where=f"--write {path}",
            fix="ask for a larger card, more cards or shorter sequences",
        )
    named = _named(advice, model, path)
    data = _data(advice, named, path)
    make_plan(parse(Study, data, where=str(path)), source=str(path))
    head = HEAD.format(asked=advice.question.asked, path=path)
    text = yaml.dump(data, Dumper=_Plain, sort_keys=False, default_flow_style=None, width=100)
    write_text(path, head + text)


def _data(advice: Advice, model: str, path: Path) -> dict[str, Any]:
    setting, advised = advice.setting, advice.advised
    assert advised is not None
    fit = advice.fit(advised)
    assert fit is not None
    fitting = [row.kind.name for row in advice.rows if row.kind.runs and row.fit(0)]
    shared = {
        "models": [model],
        "sequence_length": setting.sequence_length,
        "activation_checkpointing": [setting.checkpointing],
        "dtype": setting.dtype,
        "attention": setting.attention,
        "head_loss": setting.head_loss,
    }
    if setting.num_gpus > 1:
        shared |= {"engine": "fsdp2", "num_devices": setting.num_gpus}
    name = re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-") or "advised"
    return {
        "study": name,
        "title": f"{advice.model.name} on {advice.question.cards[0].name}, as advised",
        "data": "generated",
        "device": "cuda",
        "weights": "random",
        "wandb": "off",
        "memory": {"methods": fitting, "batch_size": 1, **shared},
        "throughput": {
            "methods": [advised.name],
            "batch_size": sorted({1, fit.batch_size}),
            **shared,
        },
    }


def _named(advice: Advice, model: str, path: Path) -> str:
    """What a study calls the model: a name of the registry, or a folder, made where there is none
    that a study takes (a hub's model, a folder without weights)."""
    entry = registry().get(model)
    if entry is not None and entry.architecture is not None:
        return model
    if next(Path(model).glob("*.safetensors"), None) is not None:
        return model
    folder = path.with_name(f"{path.stem}-{advice.model.name.lower()}")
    folder.mkdir(exist_ok=True)
    values = {**advice.question.architecture.config.to_dict(), RANDOM_WEIGHTS: 0}
    write_text(folder / "config.json", json.dumps(values, indent=1) + "\n")
    return str(folder)
