"""What a run is told: all of it, in one typed object that its record keeps. Imports no torch."""

from __future__ import annotations

from typing import Literal

from lomo.config import Attention, Compile, Dtype, Engine, HeadLoss, HyperValue, Strict, TaskName


class RunSpec(Strict):
    """What every run is told. It is stored whole in the record, and enough to repeat the run."""

    study: str
    run_id: str
    model: str
    model_path: str
    method: str
    hyper: dict[str, HyperValue]
    device: Literal["auto", "cpu", "cuda"]
    dtype: Dtype
    attention: Attention
    activation_checkpointing: bool
    head_loss: HeadLoss = "model"
    batch_size: int
    max_grad_norm: float | None
    weight_decay: float = 0.0
    gradient_accumulation: int = 1
    engine: Engine = "single"
    num_devices: int = 1
    timeout_s: float | None
    num_threads: int


class TrainSpec(RunSpec):
    """A run that trains on one task and is scored on it."""

    kind: Literal["train"] = "train"
    data_path: str
    task: TaskName
    seed: int
    trial: int
    epochs: int
    num_train: int
    num_dev: int
    num_test: int
    sample_seed: int
    max_length: int
    schedule: Literal["linear", "constant"]
    eval_batch_size: int
    selection: Literal["dev", "test"]


class MeasureSpec(RunSpec):
    """A run that measures memory and throughput of the training step on random tokens."""

    kind: Literal["measure"] = "measure"
    sequence_length: int
    compile: Compile = "none"
    num_warmup_steps: int
    num_timed_steps: int


class PeerSpec(MeasureSpec):
    """A measured run of the `peers` section: one variant, in one round."""

    variant: str
    round: int
    head_loss: Literal["model"] = "model"  # all variants get the LOMO authors'
    compile: Literal["none"] = "none"


class AblationSpec(MeasureSpec):
    """A measured run of the `ablation` section; several of its cells may be this one run."""

    cell: str
