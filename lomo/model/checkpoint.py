"""The files of a model's folder: which of them are read, and whether they are whole. No torch.

What transformers would read beyond them (adapters, files elsewhere, quantised weights) is refused,
so that the weights that are hashed are the weights that are loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError, safe_open

from lomo.errors import UserError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
LAYOUT = "a folder with config.json, tokenizer.json and *.safetensors"
_READ_BESIDE = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model", "vocab.txt", "merges.txt")
_POINTER = b"version https://git-lfs"
_HEADER_LIMIT = 100_000_000  # bytes; safetensors' own
_QUANTISED = ("quantization_config", "compression_config")


@dataclass(frozen=True)
class Stored:
    """One tensor of a safetensors file, as its header tells it: dtype such as BF16, and shape."""

    dtype: str
    shape: tuple[int, ...]


def read_config(path: Path) -> dict[str, Any]:
    """The object in a config.json; Infinity and NaN, which are no JSON, as transformers reads them.

    Raises UserError where it is none.
    """
    _check_file(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", where=str(path)) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"is not JSON: {error}", where=str(path)) from error
    if not isinstance(data, dict):
        raise UserError("is not a JSON object", where=str(path))
    return data


def check_unquantised(config: Mapping[str, Any], *, where: str) -> None:
    """Raises UserError for weights that are packed, which none of the methods can train."""
    nested = config.get("text_config")
    for part in (config, nested if isinstance(nested, dict) else {}):
        for key in _QUANTISED:
            found = part.get(key)
            if found:
                method = found.get("quant_method") if isinstance(found, dict) else None
                raise UserError(
                    f"{key} asks for quantised weights ({method or 'of no named method'}), which "
                    "are neither trained nor predicted here",
                    where=where,
                    allowed="weights in bfloat16, float16 or float32",
                    fix=f"give the model without quantisation; without {key}, a prediction tells "
                    "of 16-bit weights",
                )


def check_folder(folder: Path, config: Mapping[str, Any], *, where: str) -> None:
    """Raises UserError unless the files that a run reads are there, whole, and all that is read."""
    check_present(folder, config, where=where)
    tensors_in(weight_files(folder, where=where))
    _check_tokenizer(folder, where)


def check_present(folder: Path, config: Mapping[str, Any], *, where: str) -> None:
    """Raises UserError for a file that is no true one, and for what would add other weights."""
    for pattern in _READ_BESIDE:
        for path in sorted(folder.glob(pattern)):
            _check_file(path)
    if (folder / "generation_config.json").exists():
        read_config(folder / "generation_config.json")
    if (folder / "adapter_config.json").exists():
        raise UserError(
            "holds an adapter (adapter_config.json), which would be loaded on top of the weights",
            where=where,
            allowed=LAYOUT,
            fix="merge it (peft's merge_and_unload, then save_pretrained(FOLDER)), or remove the "
            "file",
        )
    if config.get("transformers_weights") is not None:
        raise UserError(
            f"names its weights itself (transformers_weights: {config['transformers_weights']})",
            where=f"{folder}/config.json",
            allowed=f"{SINGLE}, or shards with {INDEX}",
            fix="remove the key, and give the file that name",
        )
    check_unquantised(config, where=f"{folder}/config.json")


def weight_files(folder: Path, *, where: str) -> list[Path]:
    """The safetensors files that a run loads: one, or the shards that the index names.

    Raises UserError where there are none, or one is missing or elsewhere.
    """
    single, index = folder / SINGLE, folder / INDEX
    if single.exists() or single.is_symlink():
        return [single]
    if not index.exists():
        _refuse_other_names(folder, where)
    names = _shards(index)
    files = [folder / name for name in names]
    for path in files:
        _check_file(path)
        if not path.is_file():
            raise UserError(f"lacks the shard {path.name}", where=where, fix=f"{index} names it")
    return files


def _shards(index: Path) -> list[str]:
    weight_map = read_config(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError("has no weight_map", where=str(index), allowed="tensor -> file")
    for tensor, name in weight_map.items():
        inside = isinstance(name, str) and not PurePosixPath(name).is_absolute()
        if not inside or ".." in PurePosixPath(name).parts or not name.endswith(".safetensors"):
            raise UserError(
                f"{tensor} is in {name!r}, which is no safetensors file of this folder",
                where=str(index),
                allowed="names of *.safetensors files in the folder",
                fix="copy the file into the folder, and name it so",
            )
    return sorted(set(weight_map.values()))


def _refuse_other_names(folder: Path, where: str) -> None:
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    if others:
        raise UserError(
            f"no {SINGLE}, and no {INDEX} that names {', '.join(others[:3])}",
            where=where,
            allowed=f"{SINGLE}, or shards with {INDEX}",
            fix="fetch the index too, or write both with save_pretrained(FOLDER)",
        )
    pickles = sorted(path.name for path in [*folder.glob("*.bin"), *folder.glob("*.pt*")])
    raise UserError(
        "no safetensors" + (f", only {', '.join(pickles)}" if pickles else ""),
        where=where,
        allowed="*.safetensors (a pickle can run code when it is read)",
        fix="load it where you trust it, and save_pretrained(FOLDER) writes safetensors",
    )


def tensors_in(files: list[Path]) -> dict[str, Stored]:
    """Name -> what the headers tell of each tensor; no weight is read.

    Raises UserError for a file that is cut, and for a tensor that stands in two files.
    """
    found: dict[str, Stored] = {}
    place: dict[str, str] = {}
    for path in files:
        for name, stored in _header(path).items():
            if name in found:
                raise UserError(
                    f"{name} stands in two files",
                    where=str(path),
                    allowed="each tensor once",
                    fix=f"remove it here or in {place[name]}",
                )
            found[name], place[name] = stored, path.name
    return found


def _header(path: Path) -> dict[str, Stored]:
    _check_file(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_HEADER_LIMIT, size - 8):
                raise ValueError("its header has no length")
            entries = json.loads(file.read(length))
        entries.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        stored = {
            name: Stored(entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()
        }
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", where=str(path)) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            "is no safetensors file, or was cut", where=str(path), fix="fetch or copy it again"
        ) from error
    if 8 + length + end != size:
        raise UserError(
            f"has {size} bytes, its header tells of {8 + length + end}: it was cut, or has more",
            where=str(path),
            fix="fetch or copy it again",
        )
    try:
        with safe_open(path, framework="np"):  # checks types, shapes and places of all tensors
            return stored
    except SafetensorError as error:
        raise UserError(
            f"is no sound safetensors file: {error}", where=str(path), fix="fetch or copy it again"
        ) from error


def _check_file(path: Path) -> None:
    """Raises UserError for a link to nothing, and for a pointer of Git LFS."""
    if path.is_symlink() and not path.exists():
        raise UserError(
            f"is a broken link to {path.readlink()}",
            where=str(path),
            fix="fetch the model again, or copy the folder with `cp -rL`, which follows links",
        )
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(len(_POINTER))
        if start == _POINTER:
            raise UserError(
                "is a Git LFS pointer, not the file",
                where=str(path),
                fix="git lfs pull, in the folder that was cloned",
            )


def _check_tokenizer(folder: Path, where: str) -> None:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UserError(
            "no tokenizer.json",
            where=where,
            allowed=LAYOUT,
            fix="write it there with AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER)",
        )
    with path.open("rb") as file:  # it may be large, and this is asked at every start
        file.seek(max(0, path.stat().st_size - 64))
        whole = file.read().rstrip().endswith(b"}")
    if not whole:
        raise UserError(
            "the tokenizer can't be read: it is no JSON object, or was cut",
            where=str(path),
            fix="fetch it again, or write it with AutoTokenizer's save_pretrained(FOLDER)",
        )
