"""The registry of models: an architecture and where its weights come from.

Names stand in config/models.yaml; a local Hugging Face folder is a model too, named after the
folder. Weights are safetensors only and no code of a model is ever executed.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from lomo.config import Strict, parse, read_yaml
from lomo.errors import UserError, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

REGISTRY = Path("config/models.yaml")


class Pretraining(Strict):
    """How a base model of the miniature is made from the generated text (AdamW, fp32)."""

    num_steps: int = Field(ge=1, description="optimizer steps")
    batch_size: int = Field(ge=1, description="sequences a step")
    sequence_length: int = Field(ge=8, description="tokens a sequence")
    learning_rate: float = Field(gt=0, description="peak of a linear warm-up and cosine decay")
    seed: int = Field(0, description="seed of weights and data order")


class ModelEntry(Strict):
    """One model."""

    name: str = Field("", description="filled in from the key or the folder")
    weights: Literal["pretrain", "hub", "local", "random"] = Field(description="where from")
    architecture: dict[str, str | int | float | bool] | None = Field(
        None, description="Hugging Face config values, `model_type` among them"
    )
    hub: str | None = Field(None, description="repository on the hub")
    revision: str | None = Field(
        None, pattern=r"^[0-9a-f]{40}$", description="commit on the hub, 40 hex digits"
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
            "local": ("path",),
            "random": ("architecture",),
        }[self.weights]
        lacking = [name for name in needs if getattr(self, name) is None]
        if lacking:
            raise ValueError(f"weights: {self.weights} needs {', '.join(lacking)}")
        return self

    @property
    def num_positions(self) -> int | None:
        """Longest sequence, or None where only the downloaded config will tell."""
        positions = (self.architecture or {}).get("max_position_embeddings")
        return int(positions) if positions is not None else None


@cache
def registry(path: Path = REGISTRY) -> dict[str, ModelEntry]:
    """All named models. Raises UserError for a bad entry."""
    entries = {}
    for name, data in read_yaml(path).items():
        where = f"{path}: {name}"
        entry = parse(
            ModelEntry, {**data, "name": name} if isinstance(data, dict) else data, where=where
        )
        if entry.path is not None:
            entry = local_entry(Path(entry.path), where=where).model_copy(update={"name": name})
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
        fix=f"did you mean {close!r}?" if close else None,
    )


def local_entry(folder: Path, *, where: str) -> ModelEntry:
    """The model in a local Hugging Face folder. Raises UserError if it is not usable as it is."""
    place = f"{where}: {folder}"
    config = folder / "config.json"
    if not config.is_file():
        raise UserError(
            "no model folder (it has no config.json)",
            where=place,
            allowed="a folder with config.json, tokenizer.json and *.safetensors",
            fix=None if folder.is_dir() else f"give the folder, or a name of {REGISTRY}",
        )
    try:
        # Infinity and NaN are no JSON, yet some configs hold them; they concern no key used here.
        data = json.loads(config.read_text(encoding="utf-8"), parse_constant=str)
    except ValueError as error:
        raise UserError(f"is not JSON: {error}", where=str(config)) from error
    if not isinstance(data, dict):
        raise UserError("is not a JSON object", where=str(config))
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(path.name for path in [*folder.glob("*.bin"), *folder.glob("*.pt*")])
        raise UserError(
            "no safetensors" + (f", only {', '.join(pickles)}" if pickles else ""),
            where=place,
            allowed="*.safetensors (a pickle can run code when it is read)",
            fix="load it where you trust it, and save_pretrained(FOLDER) writes safetensors",
        )
    if not (folder / "tokenizer.json").is_file():
        raise UserError(
            "no tokenizer.json",
            where=place,
            allowed="a folder with config.json, tokenizer.json and *.safetensors",
            fix="write it there with AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER)",
        )
    simple = {key: value for key, value in data.items() if isinstance(value, str | int | float)}
    return ModelEntry(
        name=folder.resolve().name.lower(), weights="local", path=str(folder), architecture=simple
    )


def load_model(folder: str, *, dtype: str, attention: str, device: str) -> PreTrainedModel:
    """The causal LM in `folder`, weights in `dtype`, on `device`. Never executes a model's code."""
    import torch
    from transformers import AutoModelForCausalLM

    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=getattr(torch, dtype),
        attn_implementation=attention,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
    )
    model.config.use_cache = False
    return model.to(torch.device(device))  # type: ignore[arg-type]


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Makes each layer's activations be recomputed in the backward pass."""
    # transformers 5.23 renamed it; 5.17 knows only the old name.
    name = "activation_checkpointing_enable"
    enable = getattr(model, name if hasattr(model, name) else "gradient_checkpointing_enable")
    enable({"use_reentrant": False})


def load_tokenizer(folder: str) -> PreTrainedTokenizerBase:
    """The tokenizer in `folder`. Raises UserError if it has no end-of-sequence token."""
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        folder, trust_remote_code=False, local_files_only=True
    )
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no end-of-sequence token", where=folder)
    return tokenizer


def weights_sha256(folder: str) -> str:
    """One hash over the safetensors files of a folder, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(Path(folder).glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
