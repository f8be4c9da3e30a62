"""What a run is told: all of it, in one typed object that its record keeps. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from lomo.system.strict import Strict

Dtype = Literal["float32", "bfloat16", "float16"]
Attention = Literal["eager", "sdpa"]
HeadLoss = Literal["model", "fused"]
Batching = Literal["shuffled", "by_length"]
Compile = Literal["none", "layers"]
Engine = Literal["single", "fsdp2", "zero3"]
# How epoch and trial are selected, and what a study must have for it (docs/protocol.md).
Protocol = Literal["paper", "sound"]
Split = Literal["dev", "test"]
SELECTION: dict[Protocol, Split] = {"paper": "test", "sound": "dev"}
TaskName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]
# As lm-eval has them.
SuiteName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")]
HyperValue = int | float | Annotated[str, Field(pattern=r"^[a-z_]+$")]


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
    batch_size: int = Field(ge=1)
    max_grad_norm: float | None = Field(gt=0)
    weight_decay: float = Field(0.0, ge=0)
    gradient_accumulation: int = Field(1, ge=1)
    engine: Engine = "single"
    num_devices: int = Field(1, ge=1)
    timeout_s: float | None = Field(gt=0)
    num_threads: int = Field(ge=1)


class TrainSpec(RunSpec):
    """A run that trains on some examples and is scored on others: of a task, or of instructions."""

    kind: Literal["train", "instruct"]
    data_path: str
    seed: int = Field(ge=0, lt=2**32)
    trial: int
    epochs: int = Field(ge=1)
    num_train: int = Field(ge=1)
    num_dev: int = Field(ge=0)
    num_test: int = Field(ge=1)
    sample_seed: int = Field(ge=0)
    max_length: int = Field(ge=8)
    schedule: Literal["linear", "constant"]
    batching: Batching
    eval_batch_size: int = Field(ge=1)
    protocol: Protocol
    checkpoint_interval_s: float | None = Field(600.0, gt=0)

    @property
    def selection(self) -> Split:
        """The split that selects the epoch."""
        return SELECTION[self.protocol]


class TaskSpec(TrainSpec):
    """A run that trains on one task and is scored on it."""

    kind: Literal["train"] = "train"
    batching: Batching = "shuffled"
    task: TaskName


class InstructSpec(TrainSpec):
    """A run that trains on instructions with their answers; `test` are those held out.

    tuned_path: the folder that the trained model is saved in, None where it is not saved.
    """

    kind: Literal["instruct"] = "instruct"
    batching: Batching = "by_length"
    tuned_path: str | None = None


class MeasureSpec(RunSpec):
    """A run that measures memory and throughput of the training step on random tokens."""

    kind: Literal["measure"] = "measure"
    sequence_length: int = Field(ge=1)
    compile: Compile = "none"
    num_warmup_steps: int = Field(ge=0)
    num_timed_steps: int = Field(ge=1)


class PeerSpec(MeasureSpec):
    """A measured run of the `peers` section: one variant, in one round."""

    variant: str
    round: int
    head_loss: Literal["model"] = "model"  # all variants get the LOMO authors'
    compile: Literal["none"] = "none"


class AblationSpec(MeasureSpec):
    """A measured run of the `ablation` section; several of its cells may be this one run."""

    cell: str


class SuiteSpec(Strict):
    """A run that scores a model folder on one suite; it trains nothing.

    method: what has tuned the model, `base` for nothing. data_path: folder with the suites' own
    files, or `hub`. A null is the suite's own.
    """

    kind: Literal["suite"] = "suite"
    study: str
    run_id: str
    model: str
    model_path: str
    method: str = "base"
    seed: int | None = Field(ge=0, lt=2**32)
    task: SuiteName
    data_path: str
    num_fewshot: int | None = Field(ge=0)
    limit: int | None = Field(ge=1)
    max_gen_toks: int | None = Field(ge=1)
    batch_size: int = Field(ge=1)
    device: Literal["auto", "cpu", "cuda"]
    dtype: Dtype
    attention: Attention
    num_threads: int = Field(ge=1)

    @property
    def num_devices(self) -> int:
        """A suite is scored on one."""
        return 1


_CLASSES = (TaskSpec, InstructSpec, MeasureSpec, PeerSpec, AblationSpec)


def class_of(given: Any) -> type[TrainSpec] | type[MeasureSpec] | None:
    """Which of the specs above a spec is, or its JSON; None if none of them."""
    if not isinstance(given, dict):
        return next((own for own in _CLASSES if type(given) is own), None)
    if given.get("kind") in ("train", "instruct"):
        return TaskSpec if given["kind"] == "train" else InstructSpec
    if given.get("kind") != "measure":
        return None
    return PeerSpec if "variant" in given else AblationSpec if "cell" in given else MeasureSpec


def _tag_of(given: Any) -> str | None:
    own = class_of(given)
    return own.__name__ if own else None


# Told apart first: to try one after the other takes six times as long, which many runs feel.
Spec = Annotated[
    Annotated[TaskSpec, Tag("TaskSpec")]
    | Annotated[InstructSpec, Tag("InstructSpec")]
    | Annotated[MeasureSpec, Tag("MeasureSpec")]
    | Annotated[PeerSpec, Tag("PeerSpec")]
    | Annotated[AblationSpec, Tag("AblationSpec")],
    Discriminator(_tag_of),
]
