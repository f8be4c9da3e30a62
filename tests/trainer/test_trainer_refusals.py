"""What the Trainer would drop or do otherwise is refused before a step, with the reason."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType
from torch.optim import Optimizer

from lomo.optim import Lomo
from lomo.trainer import FusedBackwardCallback
from tests.trainer.training import clipping_lomo, logged, lomo, make_trainer, refused, sgd, train

ROOT = Path(__file__).parents[2]

# Each trains with the Trainer for a while.
pytestmark = pytest.mark.slow

REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "clipping": ("max_grad_norm=1.0 in the arguments", {"max_grad_norm": 1.0}),
    "accumulation": ("gradient_accumulation_steps=2", {"gradient_accumulation_steps": 2}),
    "fp16": ("GradScaler", {"fp16": True}),
    "batch_size": ("auto_find_batch_size=True", {"auto_find_batch_size": True}),
    "optim": ("another package's optimizer", {"optim": "lomo"}),
    "decay": ("weight_decay=0.1 in the arguments", {"weight_decay": 0.1}),
    "limit": ("but 1.0 of norm_scope='global'", {"max_grad_norm": 2.0, "make": clipping_lomo}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_dropped_is_refused_before_a_step(tmp_path: Path, case: str) -> None:
    message, options = REFUSED[case]
    refused(tmp_path, message, **options)


@pytest.mark.parametrize("scope", ["parameter", "previous_step"])
def test_another_scope_is_not_the_trainers_clipping(tmp_path: Path, scope: Any) -> None:
    def make(params: Any) -> Optimizer:
        return Lomo(params, lr=0.1, max_grad_norm=1.0, norm_scope=scope)

    refused(tmp_path, f"norm_scope={scope!r}", make, max_grad_norm=1.0)
    assert min(logged(train(tmp_path, make), "grad_norm")) > 0.0


def test_all_reasons_are_told_at_once(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, lomo, max_grad_norm=1.0, gradient_accumulation_steps=2)
    with pytest.raises(ValueError, match="(?s)gradient_accumulation_steps=2.*max_grad_norm=1.0"):
        trainer.train()


def test_a_gradient_scaler_is_refused(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, lomo)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu")
    with pytest.raises(ValueError, match="GradScaler"):
        trainer.train()


def test_parameters_of_no_optimizer_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, "1 parameters require gradients", lambda params: Lomo(params[1:], lr=0.1))


def test_an_optimizer_made_before_the_embeddings_were_replaced(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, lomo)
    assert trainer.model is not None
    trainer.model.resize_token_embeddings(70, mean_resizing=False)
    with pytest.raises(ValueError, match=r"(?s)made before .*resize_token_embeddings.*afterwards"):
        trainer.train()


@pytest.mark.parametrize("kind", ["MULTI_GPU", "FSDP", "DEEPSPEED"])
def test_other_kinds_of_processes_are_refused(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(tmp_path, lomo)
    callback = next(
        c for c in trainer.callback_handler.callbacks if isinstance(c, FusedBackwardCallback)
    )
    fake = SimpleNamespace(scaler=None, distributed_type=DistributedType(kind))
    monkeypatch.setattr(trainer, "accelerator", fake)
    with pytest.raises(ValueError, match=f"{kind}: .* one process on one device"):
        callback.on_train_begin(trainer.args, trainer.state, trainer.control)


def test_several_devices_are_refused(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, lomo)
    callback = FusedBackwardCallback(trainer)
    trainer.args._n_gpu = 2
    with pytest.raises(ValueError, match="DataParallel"):
        callback.on_train_begin(trainer.args, trainer.state, trainer.control)


@pytest.mark.parametrize("scope", ["global", "previous_step"])
def test_liger_kernels_with_two_passes_are_refused(tmp_path: Path, scope: Any) -> None:
    def make(params: Any) -> Optimizer:
        return Lomo(params, lr=0.1, max_grad_norm=1.0, norm_scope=scope)

    trainer = make_trainer(tmp_path, make)
    callback = FusedBackwardCallback(trainer)
    trainer.args.use_liger_kernel = True  # train() itself would ask for the package first
    with pytest.raises(ValueError, match="use_liger_kernel=True with clipping"):
        callback.on_train_begin(trainer.args, trainer.state, trainer.control)


def test_another_optimizer_is_refused(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, sgd, callback=True)
    with pytest.raises(TypeError, match="is a SGD, not a FusedBackward"):
        trainer.train()


def test_a_callback_of_another_trainer_is_refused(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, lomo, callback=False)
    trainer.add_callback(FusedBackwardCallback(make_trainer(tmp_path, lomo)))
    with pytest.raises(ValueError, match="another Trainer"):
        trainer.train()


def test_two_processes_are_refused(tmp_path: Path) -> None:
    """DDP in earnest, refused before a step; without the callback at the first gradient."""
    script = tmp_path / "two.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.trainer.training import lomo, refused\n"
        "refused(Path(sys.argv[1]), 'MULTI_CPU', lomo)\n"
    )
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*run, str(script), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
