"""Scores that were made once: the same weights, asked the same by the same code, wait here.

The key is made of what the score hangs on, so that nothing has to be thrown away by hand. A suite
of the hub has no files to tell it by, and is always scored.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any, NamedTuple

from lomo.record.made import digest
from lomo.record.made import read as read_made
from lomo.record.provenance import fingerprint_of
from lomo.record.schema import ModelFacts, Provenance
from lomo.record.suite import Score, unlike
from lomo.specs import SuiteSpec
from lomo.system.files import write_text

FOLDER = Path("resources/scores")
_PACKAGES = ("torch", "transformers", "tokenizers", "lm-eval")
# Beside the weights: what turns text into tokens, and says how long it may be.
_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


class Kept(NamedTuple):
    """What is kept of a score: whose run made it, the model's facts, the score, its examples."""

    run: str
    model: ModelFacts
    score: Score
    samples: list[dict[str, Any]]


def key_of(spec: SuiteSpec, weights_sha256: str, data_sha256: str, provenance: Provenance) -> str:
    """What names a score: the same for the same weights, questions, setting, code and machine."""
    whose = {"study", "run_id", "model", "model_path", "method", "seed", "data_path", "device"}
    device = provenance.device
    facts = {
        "spec": spec.model_dump(mode="json", exclude=whose),
        "weights": weights_sha256,
        "model": digest(Path(spec.model_path) / name for name in _FILES),
        "data": data_sha256,
        "code": fingerprint_of(spec),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "device": [device.kind, device.name, device.cpu_capability],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def take(folder: Path, key: str) -> Kept | None:
    """The score of that key; None where there is none, or what is there is broken."""
    data = read_made(folder / f"{key}.json")
    try:
        model, score = (
            ModelFacts.model_validate(data["model"]),
            Score.model_validate(data["score"]),
        )
        found = Kept(data["run"], model, score, data["samples"])
        return None if any(unlike(score, found.samples)) else found
    except (KeyError, TypeError, ValueError):  # pydantic's own is a ValueError
        return None


def keep(folder: Path, key: str, kept: Kept) -> None:
    """Writes a score down for others."""
    data = {
        "run": kept.run,
        "model": kept.model.model_dump(mode="json"),
        "score": kept.score.model_dump(mode="json"),
        "samples": kept.samples,
    }
    write_text(folder / f"{key}.json", json.dumps(data) + "\n")
