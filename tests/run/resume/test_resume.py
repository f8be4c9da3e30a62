"""A training that was killed and started again is the training that was not, bit for bit."""

from __future__ import annotations

import random
import signal
from pathlib import Path
from typing import Any

import pytest
from sittings import assert_same, at_step, brisk, finish, often, saved, signalled, sit

from lomo import methods

KILLED = -signal.SIGKILL
NUM_STEPS = 8
METHODS = [name for name in methods.MODULES if methods.describe(name).trains]
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "in-gemm": ("lomo", {"hyper": {"update": "gemm"}}),
    "unclipped": ("lomo", {"max_grad_norm": None}),
    "norm of the step before": (
        "lomo",
        {"hyper": {"norm_scope": "previous_step"}, "max_grad_norm": 0.5},
    ),
    "norm of a tensor": ("lomo", {"hyper": {"norm_scope": "parameter"}}),
    "loss scale": ("lomo", {"dtype": "float16"}),
    "stochastic rounding": ("lomo", {"dtype": "bfloat16", "hyper": {"rounding": "stochastic"}}),
    "adalomo with a loss scale": ("adalomo", {"dtype": "float16"}),
    "master copies": ("adamw", {"dtype": "bfloat16"}),
    "masters of sgd": ("sgd", {"dtype": "bfloat16"}),
    "16-bit base": ("lora_lomo", {"dtype": "bfloat16"}),
    "accumulation, decay": ("adamw", {"gradient_accumulation": 2, "weight_decay": 0.1}),
    "constant rate": ("lora", {"schedule": "constant"}),
    "best on test": ("lomo", {"protocol": "paper", "num_dev": 0}),
}


def killed_at(step: int) -> Any:
    return at_step(step, signalled(signal.SIGKILL))


@pytest.mark.parametrize("method", ["lora_lomo"])
def test_a_killed_run_goes_on_as_if_it_had_not_been(
    study_dict: dict[str, Any], method: str, tmp_path: Path
) -> None:
    """Killed in epoch 2, then again, then not any more: three processes, one training."""
    spec = brisk(study_dict, method)
    whole = finish(spec, tmp_path / "whole")
    assert whole.resumed_at_steps == [] and whole.checkpoints_refused == []
    folder = tmp_path / "killed"
    assert sit(spec, folder, often(), killed_at(6)) == KILLED
    assert saved(folder) == ["step-00000004-scored", "step-00000005"]
    assert sit(spec, folder, often(), killed_at(2)) == KILLED
    record = finish(spec, folder, often())
    assert record.resumed_at_steps == [5, 6]
    assert_same(folder, tmp_path / "whole")


def test_so_does_one_on_instructions(instruct_dict: dict[str, Any], tmp_path: Path) -> None:
    """Its batches are sorted by length, and its weights of the best epoch are kept and saved."""
    instruct_dict["instruct"]["save"] = True
    spec = brisk(instruct_dict, "lora_lomo", tuned_path=str(tmp_path / "tuned"))
    whole = finish(spec, tmp_path / "whole")
    assert whole.training is not None and whole.training.num_steps == NUM_STEPS
    tuned = (tmp_path / "tuned" / "model.safetensors").read_bytes()
    folder = tmp_path / "killed"
    assert sit(spec, folder, often(), killed_at(6)) == KILLED
    assert saved(folder) == ["step-00000004-scored", "step-00000005"]
    (tmp_path / "tuned" / "model.safetensors").unlink()
    record = finish(spec, folder, often())
    assert record.resumed_at_steps == [5]
    assert_same(folder, tmp_path / "whole")
    assert (tmp_path / "tuned" / "model.safetensors").read_bytes() == tuned


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_ten_kills_at_random_steps(study_dict: dict[str, Any], method: str, tmp_path: Path) -> None:
    spec = brisk(study_dict, method)
    finish(spec, tmp_path / "whole")
    draw = random.Random(method)
    for number in range(10):
        folder = tmp_path / str(number)
        hooks = often(draw.randint(1, 3)), killed_at(draw.randint(2, NUM_STEPS))
        assert sit(spec, folder, *hooks) == KILLED
        finish(spec, folder)
        assert_same(folder, tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_goes_on(study_dict: dict[str, Any], name: str, tmp_path: Path) -> None:
    method, changes = VARIANTS[name]
    spec = brisk(study_dict, method, **changes)
    finish(spec, tmp_path / "whole")
    for step in (3, 6):
        folder = tmp_path / str(step)
        assert sit(spec, folder, often(), killed_at(step)) == KILLED
        record = finish(spec, folder)
        assert record.resumed_at_steps == [step - 1]
        assert_same(folder, tmp_path / "whole")
