"""The trained model as a folder that any tool reads: safetensors, config and tokenizer.

`saved.json` tells what it is, and stands alone where nothing was saved.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from lomo.model.checkpoint import read_config
from lomo.model.weights import weights_sha256
from lomo.record.schema import Record
from lomo.specs import InstructSpec
from lomo.system.files import read_json, whole, write_text

NOTE = "saved.json"


def save_tuned(
    model: Any, spec: InstructSpec, tokenizer: PreTrainedTokenizerBase, device: str
) -> dict[str, Any]:
    """Saves the model in the spec's `tuned_path`, whole or not at all; what is told of it.

    Adapters are added to the weights that they adapt, in the weights' dtype: `model` is another
    afterwards. Raises UserError where the disk is full.
    """
    assert spec.tuned_path is not None
    if device == "cpu":
        # Saving makes transformers import deepspeed, which warns where it finds no GPU.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    told: dict[str, Any] = {"saved": True, "tuned_from": spec.model, "by": spec.run_id}
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
        told["merged"] = f"adapters are added to the weights, in {spec.dtype}"
    own = read_config(Path(spec.model_path) / "config.json")
    model.config.use_cache = own.get("use_cache", True)  # a training needs no cache
    with whole(Path(spec.tuned_path)) as new:
        model.save_pretrained(new)
        tokenizer.save_pretrained(new)
        told["weights_sha256"] = weights_sha256(str(new))
        write_text(new / NOTE, json.dumps(told, indent=1) + "\n")
    return told


def tell_unsaved(spec: InstructSpec, record: Record) -> None:
    """Where a run was to save its model and has none: a folder with the reason alone."""
    if spec.tuned_path is None or (record.status == "ok" and record.training is not None):
        return
    why = "nothing is trained" if record.status == "ok" else f"the run's status is {record.status}"
    told = {"saved": False, "tuned_from": spec.model, "by": spec.run_id, "reason": why}
    with whole(Path(spec.tuned_path)) as new:
        write_text(new / NOTE, json.dumps(told, indent=1) + "\n")


def why_not_saved(folder: Path) -> str | None:
    """The reason that a training left in place of its model; None where there is a model."""
    note = folder / NOTE
    told = read_json(note) if note.is_file() else {}
    return None if told.get("saved", True) else f"{told['by']} saved no model: {told['reason']}"
