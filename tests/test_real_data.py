"""A real LLaMA and real SuperGLUE lines, from local folders, through every method, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lomo.record.clock import Clock
from lomo.run.execute import execute
from lomo.study.config import Study
from lomo.study.plan import make_plan
from lomo.system.strict import parse, read_yaml

ROOT = Path(__file__).parent.parent
METHODS = ("sgd", "adamw", "lora", "lora_lomo", "lomo", "adalomo")

pytestmark = pytest.mark.slow


def specs(test_data: Path, **settings: Any) -> dict[tuple[str, str], Any]:
    data = read_yaml(ROOT / "config/local.yaml") | {
        "data": str(test_data / "superglue"),
        "models": str(test_data / "weights/tinystories-656k"),
        "device": "cpu",
        "wandb": "off",
    }
    data["superglue"]["settings"] |= settings
    plan = make_plan(parse(Study, data, where="local.yaml"), source="local.yaml")
    runs = [spec for spec in plan.runs.values() if spec.kind == "train"]
    return {(spec.method, spec.task): spec for spec in runs}


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_falls(test_data: Path, method: str, tmp_path: Path) -> None:
    spec = specs(test_data, num_train=32, num_test=8, epochs=2)[method, "copa"]
    training = execute(spec, tmp_path, Clock()).training
    assert training is not None and training.first_epoch_loss is not None
    assert training.last_epoch_loss is not None
    assert training.last_epoch_loss < training.first_epoch_loss


@pytest.mark.parametrize("task", ["rte", "boolq", "wsc", "wic", "multirc", "copa"])
def test_every_task_is_scored(test_data: Path, task: str, tmp_path: Path) -> None:
    spec = specs(test_data, num_test=12)["zero_shot", task]
    record = execute(spec, tmp_path, Clock())
    assert record.status == "ok" and record.result is not None
    assert record.result.num_examples == 12
    assert 0 <= record.result.value <= 1
