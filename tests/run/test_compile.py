"""Compiled layers: the same steps, compiled on a clock of their own, and where they are refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lomo.engines.ranks import decoder_layers
from lomo.errors import UserError
from lomo.model.weights import compile_layers, load_model
from lomo.record.schema import Record, read_record
from lomo.study.config import Study
from lomo.study.plan import make_plan
from tests.memory.predictions import spec_of

ROOT = Path(__file__).parents[2]
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="torch.compile needs a C++ compiler on a CPU",
)


def study(*changes: dict[str, Any], **base: Any) -> Study:
    section = {
        **{"models": ["llama-33m"], "batch_size": 1, "sequence_length": 16},
        "base": {"method": "lomo", **base},
        "changes": {f"change{n}": change for n, change in enumerate(changes)},
    }
    given = {"study": "unit", "title": "t", "data": "generated", "device": "cpu"}
    return Study.model_validate({**given, "ablation": section})


def run(model_path: Path, folder: Path, **options: Any) -> tuple[Record, list[float]]:
    """The record of a measured step, and the losses of its steps."""
    spec = spec_of("lomo", model_path=str(model_path), **options)
    done = subprocess.run(
        [sys.executable, "-m", "lomo", "measure", "--spec", spec.model_dump_json()]
        + ["--out", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = (folder / "history.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    losses = [event["loss"] for event in events if event["event"] == "step"]
    return read_record(folder / "record.json"), losses


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("spread", [{}, {"engine": "fsdp2", "num_devices": 2}], ids=["one", "two"])
def test_compiled_layers_take_the_same_steps(
    spread: dict[str, Any], model_folder: Path, tmp_path: Path
) -> None:
    options = {"activation_checkpointing": True, **spread}
    eager, expected = run(model_folder, tmp_path / "eager", **options)
    compiled, losses = run(model_folder, tmp_path / "compiled", compile="layers", **options)
    assert losses == pytest.approx(expected, rel=1e-5)
    assert losses[0] != losses[-1]
    assert eager.clock.compile_s == 0 and compiled.clock.compile_s > 0
    assert eager.memory and compiled.memory  # the metered step is not compiled
    assert compiled.memory.sum_of_terms == eager.memory.sum_of_terms


def test_each_layer_is_compiled_and_nothing_around_it(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, *_, **__: function)
    model = load_model(str(model_folder), dtype="float32", attention="sdpa", device="cpu")
    compile_layers(model)
    compiled = [m for m in model.modules() if m._compiled_call_impl is not None]
    assert compiled == list(decoder_layers(model))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"engine": "zero3", "num_devices": 2}, "ZeRO-3"),
        ({"hyper": {"update": "gemm"}}, "hands out its gradients"),
        ({"max_grad_norm": 1.0}, "two backward passes"),
        ({"method": "adalomo", "max_grad_norm": 1.0}, "two backward passes"),
    ],
)
def test_what_a_compiled_layer_cannot_do_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        make_plan(study({"compile": "layers", **change}), source="test")


@pytest.mark.parametrize(
    "change",
    [
        {"max_grad_norm": 1.0, "hyper": {"norm_scope": "parameter"}},
        {"max_grad_norm": 1.0, "method": "adamw"},
        {"engine": "fsdp2", "num_devices": 2},
    ],
)
def test_what_it_can_do_is_planned(change: dict[str, Any]) -> None:
    plan = make_plan(study({"compile": "layers", **change}), source="test")
    assert {getattr(spec, "compile", None) for spec in plan.runs.values()} == {"none", "layers"}
