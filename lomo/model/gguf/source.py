"""A GGUF file as it is: checked before any weight is read, with its quantisation counted."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lomo.errors import UserError

if TYPE_CHECKING:
    from gguf import GGUFReader

MAGIC = b"GGUF"
INSTALL = "pip install 'gguf>=0.19,<0.20', or lomo-repro[gguf]"
# What transformers' reader passes over and the model's numbers depend on.
_SCALING = ".rope.scaling."
_WHOLE = "copy or fetch it again"


@dataclass(frozen=True)
class Source:
    """What a GGUF file tells of itself.

    num_values: of each quantisation such as Q4_1, how many values are stored so.
    num_tensors: the same in tensors.
    """

    path: Path
    sha256: str
    architecture: str
    num_values: dict[str, int]
    num_tensors: dict[str, int]
    tensor_bytes: int
    # Of the tokenizer: the kind of its model, and how texts are split before it; None if not told.
    tokenizer: str | None
    splitting: str | None

    @property
    def num_parameters(self) -> int:
        """Values of all tensors."""
        return sum(self.num_values.values())

    @property
    def bits_per_value(self) -> float:
        """Bits that a value takes in the file, on average, scales of blocks included."""
        return 8 * self.tensor_bytes / self.num_parameters

    def in_words(self) -> str:
        """The quantisations with their share of the values, largest first."""
        shares = sorted(self.num_values.items(), key=lambda item: -item[1])
        return ", ".join(f"{name} {num / self.num_parameters:.1%}" for name, num in shares)


def read_source(path: Path, *, sha256: str | None = None) -> Source:
    """The file at `path`. Raises UserError where it is none, cut, another than `sha256` (hex), or
    of what nobody reads; and where the package gguf is missing."""
    where = str(path)
    _check_magic(path)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 is not None and found != sha256.lower():
        raise UserError(
            f"its sha256 is {found}", where=where, allowed=sha256, fix=f"{_WHOLE}: it is another"
        )
    reader = _reader(path)
    _check_kind(reader, where)
    _check_tensors(reader, where, path.stat().st_size)
    values: Counter[str] = Counter()
    for tensor in reader.tensors:
        values[tensor.tensor_type.name] += int(tensor.n_elements)
    return Source(
        path=path,
        sha256=found,
        architecture=str(_told(reader, "general.architecture")),
        num_values=dict(values),
        num_tensors=dict(Counter(tensor.tensor_type.name for tensor in reader.tensors)),
        tensor_bytes=sum(int(tensor.n_bytes) for tensor in reader.tensors),
        tokenizer=_told(reader, "tokenizer.ggml.model"),
        splitting=_told(reader, "tokenizer.ggml.pre"),
    )


def _check_magic(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(len(MAGIC))
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", where=str(path)) from error
    if start != MAGIC:
        raise UserError(
            "is no GGUF file",
            where=str(path),
            allowed="a file that begins with GGUF",
            fix="a folder in Hugging Face layout needs no import: give it as the model",
        )


def need_reader(where: str) -> None:
    """Raises UserError where the package gguf is not installed."""
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise UserError(
            "the package gguf is not installed, which reads it", where=where, fix=INSTALL
        ) from error


def _reader(path: Path) -> GGUFReader:
    need_reader(str(path))
    from gguf import GGUFReader

    try:
        return GGUFReader(path)
    except Exception as error:  # a cut file raises whatever its reader stumbles over
        raise UserError(
            f"is no sound GGUF file, or was cut: {first_line(error)}", where=str(path), fix=_WHOLE
        ) from error


def _told(reader: GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()


def _check_kind(reader: GGUFReader, where: str) -> None:
    if _told(reader, "general.architecture") is None:
        raise UserError("does not tell its architecture (general.architecture)", where=where)
    kind = _told(reader, "general.type") or "model"
    if kind != "model":
        raise UserError(f"holds no model, but a part of one (general.type: {kind})", where=where)
    parts = _told(reader, "split.count") or 1
    if parts > 1:
        raise UserError(
            f"is one of {parts} parts of a model",
            where=where,
            fix="make one file of them: llama-gguf-split --merge FIRST-PART OUT",
        )
    for key in reader.fields:
        value = _told(reader, key) if _SCALING in key else None
        if key.endswith(f"{_SCALING}type") and value != "none":
            raise UserError(
                f"its positions are scaled ({key}: {value}), which transformers does not read from "
                "GGUF: the model would be another",
                where=where,
                fix="take the model's folder of safetensors",
            )


def _check_tensors(reader: GGUFReader, where: str, size: int) -> None:
    from gguf import dequantize

    end = max((int(one.data_offset) + int(one.n_bytes) for one in reader.tensors), default=0)
    if not reader.tensors or end > size:
        raise UserError(
            f"has {size} bytes, its tensors end at {end}: it was cut" if end else "has no tensors",
            where=where,
            fix=_WHOLE,
        )
    for name, tensor in {tensor.tensor_type.name: tensor for tensor in reader.tensors}.items():
        try:
            dequantize(tensor.data.reshape(-1, tensor.data.shape[-1])[:1], tensor.tensor_type)
        except NotImplementedError as error:
            raise UserError(
                f"{tensor.name} is {name}, which gguf can't dequantise",
                where=where,
                fix="take a file of another quantisation, such as Q8_0 or F16",
            ) from error


def first_line(error: Exception) -> str:
    """The first line of what an error says, or its kind."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
