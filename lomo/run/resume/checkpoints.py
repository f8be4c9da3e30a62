"""The checkpoints of one run: written whole, the last two kept, and only good ones gone on from.

They lie in `checkpoints` below the run's folder, where the pipeline removes nothing, and are gone
once the run has its record.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lomo.engines.single import Single
from lomo.errors import UserError
from lomo.record.provenance import fingerprint_of
from lomo.run.resume.state import Progress
from lomo.run.resume.tensors import TensorFile, Unkept, settle_folder, why_broken, write_tensors
from lomo.specs import TrainSpec
from lomo.system.files import cannot_write, whole, write_text
from lomo.tasks.batches import Example

FOLDER = "checkpoints"  # below the run's
# Between two saves there is at least so often the time that the last one took: 2 % at most.
LEAST_WORK_PER_SAVE = 50
# Of other versions the next step would be another one.
_COMPUTING = ("torch", "transformers", "peft", "accelerate", "deepspeed", "lm-eval", "numpy")
# Of the spec: says when is saved, and nothing of what is found.
_ABOUT_SAVING = {"checkpoint_interval_s"}
Content = dict[str, Any]


@dataclass(frozen=True)
class Kept:
    """A checkpoint that a training can go on from: this rank's part of it."""

    name: str
    content: Content
    tensors: TensorFile


class Checkpoints:
    """Saves and finds the checkpoints of a run; all ranks call the same together.

    origin: what they are of, key by key: one of another origin is refused.
    interval_s: seconds of work between two.
    """

    def __init__(
        self, folder: Path, engine: Single, origin: Mapping[str, str], interval_s: float
    ) -> None:
        self.folder, self.engine = folder, engine
        self._origin, self._interval_s = dict(origin), interval_s
        self._newest: str | None = None  # of those that are whole
        self._best: dict[str, str | None] = {}  # checkpoint -> the file of weights it refers to
        self._begun, self._cost_s = time.perf_counter(), 0.0
        self.refused: list[str] = []

    @property
    def is_due(self) -> bool:
        """Whether it is time to save, on this rank's clock."""
        pause = max(self._interval_s, LEAST_WORK_PER_SAVE * self._cost_s)
        return time.perf_counter() - self._begun >= pause

    def save(
        self, progress: Progress, gather: Callable[[], tuple[Content, dict[str, Tensor]]]
    ) -> str | None:
        """Writes a checkpoint, whole or not at all; None, or why there is none.

        A full disk or a state that is not kept is told, and the last good one stays.
        """
        if self._newest == progress.name:
            return None
        started = time.perf_counter()
        target = self.folder / progress.name
        partial = self.folder / f".{target.name}.tmp"
        problem = self._attempt(lambda: self._make_room(partial) if self._is_first else None)
        problem = problem or self._attempt(lambda: self._write(partial, gather))
        if problem is None:
            problem = self._attempt(lambda: self._publish(partial, target))
        if problem is None:
            self._newest = target.name
            self._best[target.name] = progress.best.file if progress.best else None
        elif self._is_first:
            shutil.rmtree(partial, ignore_errors=True)
            print(f"no checkpoint after step {progress.num_steps}: {problem}", file=sys.stderr)
        self._begun = time.perf_counter()
        self._cost_s = self._begun - started
        return problem

    def latest(self) -> Kept | None:
        """The newest checkpoint that is good, None if there is none; the others are told."""
        for path in sorted(self.folder.glob("step-*"), reverse=True):
            reason, content = self._read(path)
            if self.engine.agreed(reason is not None):
                reason = reason or "it is refused on another rank"
                self.refused.append(f"{path.name}: {reason}")
                if self._is_first:
                    print(f"checkpoint {path.name} is refused: {reason}", file=sys.stderr)
                continue
            assert content is not None
            self._newest = path.name
            best = content["progress"]["best"]
            self._best[path.name] = best["file"] if best else None
            return Kept(path.name, content, TensorFile(path / self._file("safetensors")))
        return None

    def keep_best(self, epoch: int, parts: Mapping[str, Tensor]) -> tuple[str, str]:
        """Writes this rank's weights of the best epoch so far; name of the file, and its sha256.

        Those of another epoch stay while a checkpoint refers to them. Raises UserError where the
        disk is full.
        """
        path = self.folder / f"best-{epoch}.{self._file('safetensors')}"
        with whole(path) as temporary:
            digest = write_tensors(temporary, parts, nan=True)
        wanted = {path.name, *self._best.values()}
        for old in self.folder.glob(f"best-*.{self._file('safetensors')}"):
            if old.name not in wanted:
                old.unlink(missing_ok=True)
        return path.name, digest

    def best_weights(self, name: str) -> TensorFile:
        """This rank's weights that `keep_best` has written."""
        return TensorFile(self.folder / name)

    @property
    def _is_first(self) -> bool:
        return self.engine.rank == 0

    def _file(self, ending: str) -> str:
        return f"rank{self.engine.rank}.{ending}"

    def _attempt(self, what: Callable[[], None]) -> str | None:
        """Does it; why not, if it failed on some rank. All ranks wait here for each other."""
        problem = None
        try:
            what()
        except Unkept as error:
            problem = str(error)
        except UserError as error:
            problem = error.what
        except OSError as error:
            told = cannot_write(self.folder, error)
            problem = told.what if told else str(error)
        if self.engine.agreed(problem is not None):
            return problem or "another rank could not write it"
        return None

    def _make_room(self, partial: Path) -> None:
        """Only the newest whole one stays beside the one that is to be written."""
        for old in (*self.folder.glob("step-*"), *self.folder.glob(".step-*.tmp")):
            if old.name != self._newest:
                shutil.rmtree(old, ignore_errors=True)
                self._best.pop(old.name, None)
        partial.mkdir(parents=True)

    def _write(
        self, partial: Path, gather: Callable[[], tuple[Content, dict[str, Tensor]]]
    ) -> None:
        content, tensors = gather()
        digest = write_tensors(partial / self._file("safetensors"), tensors)
        content = {**content, "origin": self._origin, "sha256": digest}
        text = json.dumps(content)
        write_text(partial / self._file("json"), f"{_sha256(text)}\n{text}\n")

    def _publish(self, partial: Path, target: Path) -> None:
        if self._is_first:
            settle_folder(partial)
            partial.rename(target)
            settle_folder(self.folder)

    def _read(self, path: Path) -> tuple[str | None, Content | None]:
        """Why this rank refuses a checkpoint, or else what it holds."""
        try:
            digest, _, text = (path / self._file("json")).read_text().partition("\n")
        except (OSError, ValueError) as error:
            return f"{self._file('json')} cannot be read ({error})", None
        if digest != _sha256(text.removesuffix("\n")):
            return f"{self._file('json')} is not what was written: it was cut or changed", None
        content: Content = json.loads(text)
        for key, own in self._origin.items():
            if content.get("origin", {}).get(key) != own:
                return f"it is of another {key}", None
        reason = why_broken(path / self._file("safetensors"), content["sha256"])
        best = content["progress"]["best"]
        if reason is None and best and best["file"]:
            reason = why_broken(self.folder / best["file"], best["sha256"])
        return reason, content


def forget(folder: Path) -> None:
    """Removes the checkpoints of the run in `folder`: it has its record."""
    with suppress(OSError):
        shutil.rmtree(folder / FOLDER, ignore_errors=True)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def origin_of(
    spec: TrainSpec,
    device: str,
    weights_sha256: str | None,
    documents: Mapping[str, Sequence[Any]],
    examples: Iterable[Example],
) -> dict[str, str]:
    """Code, spec, weights, data, packages and device of a training, each as a text.

    documents: by split; examples: what is trained on, as tokens.
    """
    data = hashlib.sha256(json.dumps(documents, sort_keys=True, default=str).encode())
    for example in examples:
        data.update(repr(example.tokens).encode())
    return {
        "fingerprint": fingerprint_of(spec),
        "spec": spec.model_dump_json(exclude=_ABOUT_SAVING),
        "weights_sha256": str(weights_sha256),
        "data": data.hexdigest(),
        "packages": " ".join(f"{name}={_version(name)}" for name in _COMPUTING),
        "device": _device(device),
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def _device(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
