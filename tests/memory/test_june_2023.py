"""Predictions with the modelling code of June 2023: against a real step, and against the paper."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from analysis.paper.predictions import Predicted, read_predictions
from analysis.paper.printed import difference, printed_number, printed_term
from lomo.errors import UserError
from lomo.memory.predicted.study import NUM_DEVICES, TABLE_1, asked_of_june_2023
from lomo.model import architecture, june_2023
from lomo.study.config import Study, load_study
from lomo.study.plan import Plan, make_plan
from tests.memory.predictions import spec_of

ROOT = Path(__file__).parent.parent.parent
PUBLISHED = ROOT / "results" / "published" / "modelling-2023-06"


def paper_plan(**sections: Any) -> Plan:
    """The plan of config/paper.yaml with other `memory` or `throughput` than its own."""
    study = load_study(ROOT / "config" / "paper.yaml").model_dump(exclude_unset=True)
    for section, changes in sections.items():
        study[section] |= changes
    return make_plan(Study.model_validate(study), source="config/paper.yaml")


@pytest.fixture(scope="module")
def overlay() -> Path:
    """The folder of transformers 4.30.2, or a skip that says how to get it."""
    folder = ROOT / "resources" / "modelling-2023-06"
    if not folder.is_dir():
        pytest.skip("no modelling code of June 2023: snakemake --cores all predict_june_2023")
    return folder


def test_a_folder_without_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no transformers 4\.30\.2(.|\n)*predict_june_2023"):
        june_2023.use(tmp_path)


def test_it_does_not_come_after_another(tmp_path: Path) -> None:
    (tmp_path / "transformers-4.30.2.dist-info").mkdir()
    with pytest.raises(RuntimeError, match="another transformers"):
        june_2023.use(tmp_path)
    assert str(tmp_path) not in sys.path


def test_every_printed_row_is_asked_for() -> None:
    names = [asked.name for asked in asked_of_june_2023(paper_plan())]
    memory = [
        f"memory/llama-7b/{method}/512x8-float16-eager-{checkpointing}"
        for method in TABLE_1
        for checkpointing in ("plain", "checkpointed")
    ]
    setting = "1024x1-float16-eager-checkpointed"
    ranks = [
        f"throughput/llama-{size.lower()}/{method}/{setting}-zero3-{num}-authors"
        for (size, method), num in NUM_DEVICES.items()
    ]
    assert sorted(names) == sorted([*memory, *ranks, f"throughput/llama-7b/lomo/{setting}"])
    assert sorted(names) == sorted(json.loads((PUBLISHED / "index.json").read_text()))


def test_a_study_of_another_model_asks_for_none_of_it() -> None:
    plan = make_plan(load_study(ROOT / "config" / "tiny.yaml"), source="config/tiny.yaml")
    assert asked_of_june_2023(plan) == []


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("method", TABLE_1)
def test_a_prediction_is_what_a_step_takes(method: str, checkpointing: bool, overlay: Path) -> None:
    spec = spec_of(method, activation_checkpointing=checkpointing).model_dump_json()
    command = [sys.executable, "-m", "tests.memory.june_2023_run", str(overlay), spec]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    predicted, measured = json.loads(done.stdout)
    # A constant of 4 bytes in each of the 3 layers is no operator's result: a run takes it for
    # other, a simulation for an activation. All else is equal to the byte, at every moment.
    held = [ledger["sum_of_terms"].pop("activations_bytes") for ledger in (predicted, measured)]
    assert 0 <= held[0] - held[1] <= 3 * 4
    for ledger in (predicted, measured):
        del ledger["sum_of_terms"]["total_bytes"]
        at_peak = ledger["at_peak"]
        at_peak["activations_bytes"] += at_peak.pop("other_bytes")
        for event in ledger["timeline"]:
            del event["activations_bytes"]
    assert predicted == measured


@pytest.mark.slow
def test_what_is_published_can_be_made_again(overlay: Path, tmp_path: Path) -> None:
    changes = {"models": ["llama-7b"], "methods": ["lomo"]}
    plan = paper_plan(memory=changes, throughput={**changes, "methods": ["lomo", "sgd"]})
    (tmp_path / "plan.json").write_text(plan.model_dump_json())
    command = [sys.executable, "-m", "lomo", "predictions", "--results", str(tmp_path)]
    subprocess.run([*command, "--modelling", str(overlay)], cwd=ROOT, check=True, timeout=400)
    made = tmp_path / "predictions-2023-06"
    new = read_predictions(made)
    assert len(new) == 5
    old = read_predictions(PUBLISHED)
    for row in new:
        same = [other for other in old if (other.spec, other.buffers) == (row.spec, row.buffers)]
        assert [(row.ledger, row.account)] == [(other.ledger, other.account) for other in same]


@cache
def published() -> dict[tuple[str, str, str, bool, str], Predicted]:
    """By section, model, method, checkpointing and engine."""
    return {
        (
            row.section,
            str(row.paper_model),
            row.spec.method,
            row.spec.activation_checkpointing,
            row.spec.engine,
        ): row
        for row in read_predictions(PUBLISHED)
    }


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("method", TABLE_1)
def test_table_1_as_the_code_of_then_has_it(method: str, checkpointing: bool) -> None:
    row = published()["memory", "7B", method, checkpointing, "single"]
    for part in ("parameters", "gradients", "optimizer_state"):
        assert round((row.term(part) or 0) / 2**30, 2) == printed_term(row, part)
    off = difference(row.term("total"), printed_term(row, "total"))
    assert off is not None and abs(off) < (0.01 if checkpointing else 0.02)
    if not checkpointing:  # the printed totals are 1.00 above the sum of their columns
        off = difference(row.term("activations"), printed_term(row, "activations"))
        assert off is not None and abs(off) < 0.005


@pytest.mark.parametrize(
    ("model", "method", "engine", "tolerance"),
    [
        ("7B", "lomo", "single", 0.01),
        ("7B", "lomo", "zero3", 0.03),
        ("65B", "lomo", "zero3", 0.03),
        ("7B", "adamw", "zero3", 0.01),
        ("7B", "sgd", "zero3", 0.01),
        ("13B", "sgd", "zero3", 0.01),
        ("13B", "lomo", "zero3", 0.10),
        ("30B", "lomo", "zero3", 0.08),
    ],
)
def test_table_2_as_the_code_of_then_has_it(
    model: str, method: str, engine: str, tolerance: float
) -> None:
    row = published()["throughput", model, method, True, engine]
    off = difference(row.peak_bytes, printed_number(row))
    assert off is not None and abs(off) < tolerance


class _OfThen:
    """A config class as transformers 4.30 wrote them: its fields are arguments alone."""

    model_type = "llama"

    def __init__(
        self,
        vocab_size: int = 32,
        hidden_size: int = 16,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 2,
        **more: Any,
    ) -> None: ...


def test_a_config_class_of_then_has_attention_heads() -> None:
    sizes = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    values = {"model_type": "llama", **sizes}
    architecture._check_sizes(values, _OfThen, "config.json")
    with pytest.raises(UserError, match="do not divide"):
        architecture._check_sizes(values | {"num_attention_heads": 3}, _OfThen, "config.json")
