"""A Hugging Face folder of a GGUF file: dequantised, and not a value rounded beyond that."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lomo.errors import UserError
from lomo.model.gguf.source import Source, first_line
from lomo.model.gguf.tokenizer import read_tokenizer
from lomo.system.files import write_text

if TYPE_CHECKING:
    import torch

NOTE = "imported.json"
_LINK = "model.gguf"
_OTHER = "take the model's folder of safetensors"


def write_folder(
    source: Source, folder: Path, *, architecture: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Writes config, weights and tokenizer into `folder`, the note about them last; returns it.

    Weights are written in the narrowest of bfloat16, float16 and float32 that holds each value as
    it was dequantised. Raises UserError for what transformers can't read, or reads only in part;
    and where the file is not of the `architecture` that was told (Hugging Face config values).
    """
    # Saving a model makes transformers import deepspeed, which warns where it finds no GPU.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from lomo.model.weights import load_tokenizer, weights_sha256
    from lomo.tasks.tokens import text_encoder

    folder.mkdir(parents=True, exist_ok=True)
    # A folder with nothing beside the file: transformers reads what lies there, too.
    with tempfile.TemporaryDirectory(prefix="lomo-gguf-") as alone:
        Path(alone, _LINK).symlink_to(source.path.resolve())
        config = _read_config(Path(alone), source)
        _check_architecture(config, architecture, source)
        tokenizer = read_tokenizer(Path(alone), _LINK, source)
        _check_rows(tokenizer, config, source)
        dtype = _write_weights(Path(alone), config, source, folder)
    tokenizer.save_pretrained(folder)
    text_encoder(load_tokenizer(str(folder)), str(folder))  # both refuse what they can't use
    note = {
        "file": source.path.name,
        "sha256": source.sha256,
        "architecture": source.architecture,
        "num_parameters": source.num_parameters,
        "quantisation": {
            name: {"num_tensors": source.num_tensors[name], "num_values": source.num_values[name]}
            for name in source.num_values
        },
        "bits_per_value": round(source.bits_per_value, 3),
        "dtype": dtype,
        "precision": f"{source.in_words()}, as the file has it; dequantised to {dtype}, no value "
        "rounded again",
        "weights_sha256": weights_sha256(str(folder)),
    }
    write_text(folder / NOTE, json.dumps(note, indent=1) + "\n")
    return note


def _read_config(folder: Path, source: Source) -> Any:
    """The configuration that the file's metadata make, checked as a folder's is."""
    from transformers import AutoConfig

    from lomo.model.architecture import read_family, sound_config

    where = str(source.path)
    try:
        found = AutoConfig.from_pretrained(
            folder, gguf_file=_LINK, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # an architecture it does not know, a key that is missing
        raise UserError(
            f"transformers can't read it: {first_line(error)}",
            where=f"{where}: general.architecture: {source.architecture}",
            fix=_OTHER,
        ) from error
    values = {name: _shortest(value) for name, value in found.to_dict().items()}
    config_class, _ = read_family(values, where)
    return sound_config(values, config_class, where)


def _shortest(value: Any) -> Any:
    """A float32 as its shortest decimal: 1e-05, and not 9.999999747378752e-06."""
    if isinstance(value, dict):
        return {name: _shortest(inner) for name, inner in value.items()}
    if isinstance(value, float) and float(np.float32(value)) == value:
        return float(str(np.float32(value)))
    return value


def _check_architecture(config: Any, told: Mapping[str, Any] | None, source: Source) -> None:
    if told is None:
        return
    asked, found = type(config)(**told).to_dict(), config.to_dict()
    # Where a family keeps a value under another name, it is compared under that.
    keys = {"rope_parameters" if key.startswith("rope_") else key for key in told}
    for key in sorted(keys & asked.keys()):
        if asked[key] != found.get(key):
            raise UserError(
                f"{key} is {found.get(key)!r} in the file, not {asked[key]!r}",
                where=str(source.path),
                fix="correct `architecture` of the model's entry, by which it is predicted",
            )


def _check_rows(tokenizer: Any, config: Any, source: Source) -> None:
    rows = int(config.get_text_config().vocab_size)
    if len(tokenizer) > rows:
        raise UserError(
            f"its tokenizer has {len(tokenizer)} tokens, its model {rows} embeddings",
            where=str(source.path),
        )


def _write_weights(alone: Path, config: Any, source: Source, folder: Path) -> str:
    """Dequantises and writes; the dtype that it is written in."""
    import torch
    from transformers import AutoModelForCausalLM

    values = _dequantised(alone, config, source)
    dtype = _narrowest(values.values())
    # Not the model that was loaded: that one takes itself for quantised, and is not saved.
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    model.load_state_dict({name: value.to(dtype) for name, value in values.items()}, assign=True)
    model.tie_weights()
    model.save_pretrained(folder)
    return str(dtype).removeprefix("torch.")


def _dequantised(alone: Path, config: Any, source: Source) -> dict[str, torch.Tensor]:
    """All tensors of the model in float32, none of them left out or made up."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    where = str(source.path)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            alone,
            gguf_file=_LINK,
            config=config,
            dtype=torch.float32,
            # Else it would look for kernels on the hub, which work on packed weights.
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    except Exception as error:
        raise UserError(
            f"transformers can't load its weights: {first_line(error)}", where=where, fix=_OTHER
        ) from error
    model, info = loaded  # with output_loading_info
    lacking = sorted(info["missing_keys"])
    if lacking:
        raise UserError(f"lacks {', '.join(lacking[:4])}", where=where)
    taken = sum(parameter.numel() for parameter in model.parameters())
    if taken != source.num_parameters:
        raise UserError(
            f"holds {source.num_parameters} values, of which {taken} are read: a part of the model "
            "would be lost",
            where=where,
            fix=_OTHER,
        )
    return dict(model.state_dict())


def _narrowest(tensors: Iterable[torch.Tensor]) -> torch.dtype:
    """The narrowest dtype that holds all values exactly."""
    import torch

    tensors = list(tensors)
    for dtype in (torch.bfloat16, torch.float16):
        if all(torch.equal(tensor.to(dtype).to(tensor.dtype), tensor) for tensor in tensors):
            return dtype
    return torch.float32
