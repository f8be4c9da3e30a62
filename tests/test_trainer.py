"""Lomo and AdaLomo in the Hugging Face Trainer, and in a plain accelerate loop."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainerCallback, TrainingArguments

from lomo.optim import AdaLomo, Lomo
from lomo.trainer import FusedBackwardCallback
from tests.numerics.models import assert_bit_equal, llama, loss_of, max_difference, weights

ROOT = Path(__file__).parent.parent
NUM_STEPS = 5
Make = Callable[[Any], Optimizer]


# Each trains with the Trainer for a while: a minute in all.
pytestmark = pytest.mark.slow


def sgd(params: Any) -> Optimizer:
    return SGD(params, lr=0.1, foreach=False)


def lomo(params: Any) -> Optimizer:
    return Lomo(params, lr=0.1)


def clipping_lomo(params: Any) -> Optimizer:
    return Lomo(params, lr=0.1, max_grad_norm=1.0)


def clipping_adalomo(params: Any) -> Optimizer:
    return AdaLomo(params, lr=0.01, max_grad_norm=1.0)


def examples(num: int = 16) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(0, 64, (num, 16), generator=generator)
    return [{"input_ids": row, "labels": row} for row in tokens]


def make_trainer(
    folder: Path,
    make: Make,
    *,
    model: nn.Module | None = None,
    callback: bool | None = None,
    decay: Callable[[int], float] | None = None,
    **options: Any,
) -> Trainer:
    """A Trainer of a tiny LLaMA; with our callback where the optimizer is ours, unless told."""
    defaults: dict[str, Any] = {
        "max_grad_norm": 0.0,  # the Trainer's own default is 1.0
        "max_steps": NUM_STEPS,
        "per_device_train_batch_size": 4,
        "save_strategy": "no",
    }
    args = TrainingArguments(
        output_dir=str(folder),
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        logging_steps=1,
        dataloader_pin_memory=False,
        **{**defaults, **options},
    )
    model = llama() if model is None else model
    optimizer = make([p for p in model.parameters() if p.requires_grad])
    scheduler = None if decay is None else LambdaLR(optimizer, decay)
    trainer = Trainer(model, args, train_dataset=examples(), optimizers=(optimizer, scheduler))
    if callback is None:
        callback = not isinstance(optimizer, SGD)
    if callback:
        trainer.add_callback(FusedBackwardCallback(trainer))
    return trainer


def train(folder: Path, make: Make, **options: Any) -> Trainer:
    trainer = make_trainer(folder, make, **options)
    trainer.train()
    return trainer


def logged(trainer: Trainer, key: str) -> list[float]:
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def refused(folder: Path, message: str, make: Make = lomo, **options: Any) -> None:
    """Training must raise before a step."""
    trainer = make_trainer(folder, make, **options)
    before = weights(trainer.model)
    with pytest.raises(ValueError, match=re.escape(message)):
        trainer.train()
    assert trainer.state.global_step == 0
    assert_bit_equal(weights(trainer.model), before)


# The same as SGD


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "cosine": {"lr_scheduler_type": "cosine", "warmup_steps": 2},
    "bf16": {"bf16": True},
    "checkpointing": {"activation_checkpointing": True},
    "reentrant": {
        "activation_checkpointing": True,
        "activation_checkpointing_kwargs": {"use_reentrant": True},
    },
    "label_smoothing": {"label_smoothing_factor": 0.1},
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_without_clipping_the_bits_of_sgd(tmp_path: Path, setting: str) -> None:
    expected = train(tmp_path, sgd, **SETTINGS[setting])
    actual = train(tmp_path, lomo, **SETTINGS[setting])
    assert_bit_equal(weights(actual.model), weights(expected.model))
    for key in ("loss", "learning_rate"):
        assert logged(actual, key) == logged(expected, key)
        assert len(logged(actual, key)) == NUM_STEPS


def test_a_scheduler_of_the_users_own(tmp_path: Path) -> None:
    def decay(step: int) -> float:
        return 1.0 / (1 + step)

    expected = train(tmp_path, sgd, decay=decay)
    actual = train(tmp_path, lomo, decay=decay)
    assert_bit_equal(weights(actual.model), weights(expected.model))
    assert logged(actual, "learning_rate") == [0.1 * decay(step) for step in range(NUM_STEPS)]


def test_a_scale_of_the_loss_changes_no_bit_and_is_not_in_the_norm(tmp_path: Path) -> None:
    expected = train(tmp_path, sgd)
    actual = train(tmp_path, lambda params: Lomo(params, lr=0.1, loss_scale=1024.0))
    assert_bit_equal(weights(actual.model), weights(expected.model))
    assert logged(actual, "grad_norm") == pytest.approx(logged(expected, "grad_norm"), rel=1e-6)


@pytest.mark.parametrize("setting", ["plain", "bf16", "checkpointing", "reentrant"])
def test_clipping_and_the_logged_norm_are_the_trainers(tmp_path: Path, setting: str) -> None:
    options = {"max_grad_norm": 1.0, **SETTINGS[setting]}
    expected = train(tmp_path, sgd, **options)
    actual = train(tmp_path, clipping_lomo, **options)
    unclipped = train(tmp_path, sgd, **SETTINGS[setting])
    # torch rounds the clipped gradient before it multiplies by lr; Lomo rounds once.
    assert max_difference(weights(actual.model), weights(expected.model)) < 1e-6
    assert max_difference(weights(actual.model), weights(unclipped.model)) > 1e-3
    norms = logged(actual, "grad_norm")
    assert norms == pytest.approx(logged(expected, "grad_norm"), rel=1e-5)
    assert len(norms) == NUM_STEPS and min(norms) > 1.0


def test_the_optimizers_limit_alone_is_enough(tmp_path: Path) -> None:
    both = train(tmp_path, clipping_lomo, max_grad_norm=1.0)
    alone = train(tmp_path, clipping_lomo, max_grad_norm=0.0)
    assert_bit_equal(weights(alone.model), weights(both.model))
    assert logged(alone, "grad_norm") == logged(both, "grad_norm")


def test_adalomo_is_its_own_plain_loop(tmp_path: Path) -> None:
    """One example a step, so that the Trainer's order and its loss are those of the loop."""
    options = {"per_device_train_batch_size": 1, "train_sampling_strategy": "sequential"}
    trainer = train(tmp_path, clipping_adalomo, max_grad_norm=1.0, **options)
    model = llama()
    optimizer: Any = clipping_adalomo(model.parameters())
    norms = []
    for step, example in enumerate(examples()[:NUM_STEPS]):
        optimizer.param_groups[0]["lr"] = 0.01 * (1.0 - step / NUM_STEPS)
        batch = {key: value[None] for key, value in example.items()}
        optimizer.backward(model(**batch, num_items_in_batch=15).loss)
        optimizer.step()
        norms.append(optimizer.grad_norm)
    assert_bit_equal(weights(trainer.model), weights(model))
    assert logged(trainer, "grad_norm") == pytest.approx(norms, rel=1e-6)


def test_without_clipping_no_norm_is_logged(tmp_path: Path) -> None:
    """It is not measured; 0.0, which the Trainer would log, would be false."""
    trainer = train(tmp_path, lomo)
    assert logged(trainer, "grad_norm") == []
    assert len(logged(trainer, "loss")) == NUM_STEPS


def test_lora_with_lomo(tmp_path: Path) -> None:
    def adapted() -> nn.Module:
        model = llama()
        config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        return get_peft_model(model, config)

    expected = train(tmp_path, sgd, model=adapted())
    actual = train(tmp_path, lomo, model=adapted())
    assert_bit_equal(weights(actual.model), weights(expected.model))


def test_the_trainer_may_make_the_optimizer(tmp_path: Path) -> None:
    """optimizer_cls_and_kwargs= brings the Trainer's groups, with and without weight decay."""

    def run(cls: type[Optimizer], **kwargs: Any) -> dict[str, Tensor]:
        args = make_trainer(tmp_path, lomo, weight_decay=0.1).args
        made = (cls, {"lr": 0.1, **kwargs})
        trainer = Trainer(llama(), args, train_dataset=examples(), optimizer_cls_and_kwargs=made)
        if cls is Lomo:
            trainer.add_callback(FusedBackwardCallback(trainer))
        trainer.train()
        return weights(trainer.model)

    assert_bit_equal(run(Lomo), run(SGD, foreach=False))


# Save and resume


def scaled_lomo_of_the_step_before(params: Any) -> Optimizer:
    return Lomo(params, lr=0.1, max_grad_norm=1.0, norm_scope="previous_step", loss_scale="dynamic")


@pytest.mark.parametrize("make", [clipping_lomo, clipping_adalomo, scaled_lomo_of_the_step_before])
def test_a_resumed_run_is_the_same_run(tmp_path: Path, make: Make) -> None:
    options = {"save_strategy": "steps", "save_steps": 2}
    whole = train(tmp_path / "whole", make, **options)
    part = make_trainer(tmp_path / "part", make, **options)
    part.add_callback(_StopAt(2))
    part.train()
    assert part.state.global_step == 2
    resumed = make_trainer(tmp_path / "part", make, **options)
    resumed.train(resume_from_checkpoint=True)
    assert_bit_equal(weights(resumed.model), weights(whole.model))
    for key in ("loss", "learning_rate", "grad_norm"):
        assert logged(resumed, key) == logged(whole, key)


class _StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


def test_a_trainer_may_train_twice_and_gets_its_accelerator_back(tmp_path: Path) -> None:
    trainer = train(tmp_path, clipping_lomo)
    assert "backward" not in vars(trainer.accelerator)
    assert "clip_grad_norm_" not in vars(trainer.accelerator)
    trainer.train()
    assert trainer.state.global_step == NUM_STEPS
    assert "backward" not in vars(trainer.accelerator)


# A bad step


class _InfiniteAt(nn.Module):
    """Wraps a model; its loss is multiplied by inf in one forward."""

    def __init__(self, model: nn.Module, call: int) -> None:
        super().__init__()
        self.model, self.call, self.calls = model, call, 0

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        loss = self.model(input_ids=input_ids, labels=labels).loss
        self.calls += 1
        return {"loss": loss * math.inf if self.calls == self.call else loss}


def test_a_norm_that_is_not_finite_skips_the_step_and_is_logged(tmp_path: Path) -> None:
    model = _InfiniteAt(llama(), call=1)
    before = weights(model)
    trainer = make_trainer(tmp_path, clipping_lomo, model=model, max_steps=1)
    trainer.train()
    assert_bit_equal(weights(model), before)
    assert not math.isfinite(logged(trainer, "grad_norm")[0])


# What is refused


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


def test_clipping_in_a_compiled_model_is_refused(tmp_path: Path) -> None:
    options = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    refused(tmp_path, "torch_compile=True with clipping", clipping_lomo, **options)


def test_a_model_compiled_as_a_whole_trains_with_a_warning(tmp_path: Path) -> None:
    options = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    expected = train(tmp_path, sgd, **options)
    with pytest.warns(UserWarning, match="compiled as a whole"):
        actual = train(tmp_path, lomo, **options)
    assert_bit_equal(weights(actual.model), weights(expected.model))


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
        "from tests.test_trainer import lomo, refused\n"
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


# Without the callback


def test_without_the_callback_plain_training_is_sgd_but_the_logged_norm_is_false(
    tmp_path: Path,
) -> None:
    expected = train(tmp_path, sgd)
    actual = train(tmp_path, lomo, callback=False)
    assert_bit_equal(weights(actual.model), weights(expected.model))
    assert logged(actual, "grad_norm") == [0.0] * NUM_STEPS


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lomo, {"gradient_accumulation_steps": 2}, "can't be accumulated"),
        (clipping_lomo, {}, "needs optimizer.backward"),
        (clipping_adalomo, {}, "needs optimizer.backward"),
        (lambda p: Lomo(p, lr=0.1, loss_scale=8.0), {}, "needs optimizer.backward"),
    ],
)
def test_without_the_callback_the_optimizer_itself_refuses(
    tmp_path: Path, make: Make, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RuntimeError, match=message):
        train(tmp_path, make, callback=False, **options)


def test_without_the_callback_a_scaler_multiplies_the_first_update(tmp_path: Path) -> None:
    """Why fp16 is refused: the weights have moved by the scale before step() fails."""
    trainer = make_trainer(tmp_path, lomo, callback=False)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    before = weights(trainer.model)
    with pytest.raises(AssertionError, match="No inf checks"):
        trainer.train()
    once = train(tmp_path, sgd, max_steps=1)
    moved = max_difference(weights(trainer.model), before)
    assert moved == pytest.approx(1024.0 * max_difference(weights(once.model), before), rel=1e-3)


# accelerate without a Trainer


def accelerate_loop(make: Make, backward: str = "accelerator") -> nn.Module:
    model = llama()
    own: Any = make(model.parameters())
    accelerator = Accelerator(cpu=True)
    scheduler = LambdaLR(own, lambda step: 1.0 / (1 + step))
    model, optimizer, scheduler = accelerator.prepare(model, own, scheduler)
    for step in range(NUM_STEPS):
        loss = loss_of(model, step)
        if backward == "accelerator":
            accelerator.backward(loss)
        else:
            own.backward(loss)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    return model


def test_accelerate_trains_as_sgd() -> None:
    assert_bit_equal(weights(accelerate_loop(lomo)), weights(accelerate_loop(sgd)))


@pytest.mark.parametrize("make", [clipping_lomo, clipping_adalomo])
def test_accelerate_with_clipping_needs_the_optimizers_own_backward(make: Make) -> None:
    with pytest.raises(RuntimeError, match="needs optimizer.backward"):
        accelerate_loop(make)
    clipped = accelerate_loop(make, backward="optimizer")
    assert max_difference(weights(clipped), weights(llama())) > 1e-3


def test_accelerates_accumulation_is_refused_by_the_optimizer() -> None:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = llama()
    model, optimizer = accelerator.prepare(model, Lomo(model.parameters(), lr=0.1))
    with pytest.raises(RuntimeError, match="can't be accumulated"):
        for step in range(2):
            with accelerator.accumulate(model):
                accelerator.backward(loss_of(model, step))
                optimizer.step()
                optimizer.zero_grad()


# The guide


def test_the_example_of_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "trainer.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        names = {"model": llama(), "examples": examples(), "loss_of": loss_of}
        exec(compile(block, "docs/trainer.md", "exec"), names)
