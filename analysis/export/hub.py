"""Hugging Face's `.eval_results/*.yaml`: what a model's repository on the Hub tells of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from lomo.study.config import Study
from lomo.system.files import write_text

from ..text.units import decimals
from .examples import SUPERGLUE_HUB
from .reported import LeftOut, Reported, Variant

FORMAT = "Hugging Face .eval_results"


def entries(study: Study, variants: list[Variant]) -> tuple[dict[str, list[Any]], list[LeftOut]]:
    """Path below the folder of the export -> what the YAML there lists; and what is left out.

    A result names a data set of the Hub, so there is none of generated data or of a user's own.
    """
    if study.data != "superglue":
        kind = "generated data" if study.data == "generated" else "the user's own data"
        why = f"a result there names a data set of the Hub, and this is of {kind}"
        return {}, [LeftOut(FORMAT, f"{each.model} {each.variant}", why) for each in variants]
    return {
        f"{variant.name}/.eval_results/superglue.yaml": [
            _entry(reported.cell.task, reported) for reported in variant.accuracies
        ]
        for variant in variants
    }, []


def _entry(task: str, reported: Reported) -> dict[str, Any]:
    return {
        "dataset": {"id": SUPERGLUE_HUB, "task_id": task},
        "value": reported.cell.accuracy,
        "date": reported.started_at,
        "notes": _notes(reported),
    }


def _notes(reported: Reported) -> str:
    cell, facts = reported.cell, reported.facts()
    stderr = "unknown" if cell.stderr is None else decimals(cell.stderr, 4)
    told = {
        "split": "validation",
        "n": facts["num_examples"],
        "stderr": stderr,
        **{name: facts[name] for name in ("seeds", "value_by_seed", "protocol")},
        **{name: facts[name] for name in ("protocol_version", "selected_on", "lm_eval")},
        **{name: facts[name] for name in ("base_weights_sha256_by_seed", "source_records")},
    }
    return "accuracy as a fraction; " + "; ".join(f"{name}: {text}" for name, text in told.items())


def write_entries(found: dict[str, list[Any]], folder: Path) -> None:
    """Writes the YAML files into `folder`."""
    for name, listed in found.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(listed, sort_keys=False, allow_unicode=True, width=1000)
        write_text(folder / name, text)
