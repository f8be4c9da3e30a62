"""What a checkpoint is of: one of anything else would go on as another training."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from lomo.record.provenance import fingerprint_of
from lomo.specs import TrainSpec
from lomo.tasks.batches import Example

# Of other versions the next step would be another one.
_COMPUTING = ("torch", "transformers", "peft", "accelerate", "deepspeed", "lm-eval", "numpy")
# Of the spec: says when is saved, and nothing of what is found.
_ABOUT_SAVING = {"checkpoint_interval_s"}


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
