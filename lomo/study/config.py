"""What a study file may say: typed, strict, and the source of config/README.md.

`load_study` turns a YAML file (and overrides from the command line) into a `Study`, or raises
UserError with the file, the key, what is allowed and what to do. No torch is imported here, so
that a plan costs milliseconds.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from lomo.errors import UserError
from lomo.specs import (
    SELECTION,
    Attention,
    Compile,
    Dtype,
    Engine,
    HeadLoss,
    HyperValue,
    Protocol,
    Split,
    TaskName,
)
from lomo.system.strict import Strict, parse, read_yaml

Grid = dict[str, list[HyperValue]]
_HEAD_LOSS = (
    "the model's own cross entropy, or one that never holds all logits (docs/measurement.md)"
)


class Generated(Strict):
    """The generated miniature of SuperGLUE and the text that the base models are pretrained on."""

    seed: int = Field(0, description="seed of the world, the text and the tasks")
    num_sentences: int = Field(20_000, ge=100, description="sentences of pretraining text")
    num_train: int = Field(500, ge=10, description="training items a task")
    num_val: int = Field(200, ge=10, description="validation items a task")


class TrainSettings(Strict):
    """How the runs of an accuracy section train and are scored. Defaults are the paper's."""

    epochs: int = Field(10, ge=1, description="passes over the training examples")
    batch_size: int = Field(16, ge=1, description="examples an optimizer step, over all devices")
    num_train: int = Field(1000, ge=1, description="training examples, drawn from train")
    num_dev: int = Field(
        200,
        ge=1,
        description="examples drawn from train, a fifth at most, to select epoch and trial",
    )
    num_test: int = Field(1000, ge=1, description="examples of val that are reported")
    sample_seed: int = Field(0, ge=0, description="seed that draws these examples")
    max_length: int = Field(1024, ge=8, description="longest prompt with answer, in tokens")
    schedule: Literal["linear", "constant"] = Field("linear", description="after the warm-up")
    max_grad_norm: float | None = Field(1.0, gt=0, description="global norm; null for no clipping")
    weight_decay: float = Field(0.0, ge=0, description="decoupled for AdamW, coupled for SGD")
    gradient_accumulation: int = Field(1, ge=1, description="micro-batches an optimizer step")
    dtype: Dtype = Field("bfloat16", description="of the weights")
    attention: Attention = Field("sdpa", description="attention kernel")
    activation_checkpointing: bool = Field(True, description="recompute each layer in backward")
    head_loss: HeadLoss = Field("model", description=_HEAD_LOSS)
    eval_batch_size: int = Field(32, ge=1, description="requests scored at once")
    engine: Engine = Field("single", description="how the model is spread over devices")
    num_devices: int = Field(1, ge=1, description="devices a run, one process each")
    timeout_s: float | None = Field(None, gt=0, description="time limit of one run, in seconds")
    checkpoint_interval_s: float | None = Field(
        600.0, gt=0, description="seconds between saves that a killed run goes on from; null: never"
    )


class Accuracy(Strict):
    """A matrix of models x methods x tasks x seeds x trials that is trained and scored."""

    models: list[str] = Field(min_length=1, description="names of config/models.yaml, or folders")
    methods: list[str] = Field(min_length=1, description="method ids")
    tasks: list[TaskName] = Field(min_length=1, description="task ids, in the order of the columns")
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] | None = Field(
        None,
        min_length=1,
        description="seeds of data order and adapters, and of a base model that is made here; null "
        "for the protocol's: 42, or 42, 43 and 44",
    )
    ranks: list[Annotated[int, Field(ge=1)]] | None = Field(
        None,
        min_length=1,
        description="LoRA ranks to compare (Figure 3); null for the method's own",
    )
    settings: TrainSettings = Field(
        default_factory=lambda: TrainSettings(), description="how the runs train and are scored"
    )
    grids: dict[str, Grid] = Field(
        default_factory=dict,
        description="trials by method: each hyper-parameter with its values; their product is run",
    )


# How weights are held, and how a step is written into them; float16 with a scaled loss.
Treatment = Literal["float32", "bfloat16", "bfloat16_stochastic", "float16"]


class Rounding(Accuracy):
    """The same trainings with weights held in each of several ways. `settings` has no dtype."""

    treatments: list[Treatment] = Field(
        ["float32", "bfloat16", "bfloat16_stochastic", "float16"],
        min_length=1,
        description="how weights are held; a method that can't honour one has no runs of it",
    )


PositiveInt = Annotated[int, Field(ge=1)]
OneOrMore = PositiveInt | Annotated[list[PositiveInt], Field(min_length=1)]


class Measure(Strict):
    """A matrix of models x methods x batch sizes x checkpointing whose step is measured."""

    models: list[str] = Field(min_length=1, description="names of config/models.yaml, or folders")
    methods: list[str] = Field(min_length=1, description="method ids")
    batch_size: OneOrMore = Field(description="sequences a device; a list is run through")
    sequence_length: int = Field(ge=2, description="tokens a sequence")
    activation_checkpointing: list[bool] = Field([True], min_length=1, description="off and on")
    dtype: Dtype | Literal["auto"] = Field(
        "bfloat16",
        description="of the weights; auto: bfloat16, or float32 where the machine has no bfloat16",
    )
    attention: Attention = Field("sdpa", description="attention kernel")
    head_loss: HeadLoss = Field("model", description=_HEAD_LOSS)
    max_grad_norm: float | None = Field(None, gt=0, description="global norm; null for no clipping")
    engine: Engine = Field("single", description="how the model is spread over devices")
    num_devices: OneOrMore = Field(
        1, description="devices a run, one process each; a list is run through"
    )
    num_warmup_steps: int = Field(2, ge=1, description="steps before the clock starts")
    num_timed_steps: int = Field(10, ge=2, description="steps on the clock")
    timeout_s: float | None = Field(None, gt=0, description="time limit of one run, in seconds")

    def settings(self) -> list[dict[str, Any]]:
        """Batch size, devices and checkpointing of each run of a model and a method."""
        several: dict[str, Sequence[int | bool]] = {
            "batch_size": _listed(self.batch_size),
            "num_devices": _listed(self.num_devices),
            "activation_checkpointing": self.activation_checkpointing,
        }
        return [
            dict(zip(several, values, strict=True))
            for values in itertools.product(*several.values())
        ]


def _listed(value: int | list[int]) -> list[int]:
    return value if isinstance(value, list) else [value]


class Target(Strict):
    """What a variant should cost at most, beside the floor."""

    over_floor_bytes: int = Field(description="peak less the floor's, at most; -1: below the floor")
    time_ratio: float = Field(gt=0, description="time of a step over the floor's, at most")


class Variant(Strict):
    """One way to take a step, beside others."""

    title: str | None = Field(
        None, max_length=200, description="in words, for table and figure; null for its name"
    )
    method: str = Field(description="id of a method or of a peer")
    hyper: dict[str, HyperValue] = Field(
        default_factory=dict, description="hyper-parameters that are not the method's defaults"
    )
    max_grad_norm: float | None = Field(None, gt=0, description="norm; null for no clipping")
    target: Target | None = Field(None, description="what it should cost at most")


class Peers(Strict):
    """Ways to take one step, measured in turn on the same batches, as ratios to the floor."""

    models: list[str] = Field(min_length=1, description="names of config/models.yaml, or folders")
    variants: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")], Variant] = Field(
        min_length=2, description="name -> what is run; one of them has method: floor"
    )
    rounds: int = Field(3, ge=1, description="processes a variant; a round runs every variant once")
    batch_size: int = Field(ge=1, description="sequences a device")
    sequence_length: int = Field(ge=2, description="tokens a sequence")
    activation_checkpointing: list[bool] = Field([False], min_length=1, description="off and on")
    dtype: Literal["float32", "bfloat16"] = Field("bfloat16", description="of the weights")
    attention: Attention = Field("sdpa", description="attention kernel")
    num_warmup_steps: int = Field(2, ge=1, description="steps before the clock starts")
    num_timed_steps: int = Field(10, ge=2, description="steps on the clock")
    timeout_s: float | None = Field(None, gt=0, description="time limit of one run, in seconds")


class Setting(Strict):
    """How a step is taken: what an ablation starts from."""

    method: str = Field("adamw", description="id of a method or of a peer")
    hyper: dict[str, HyperValue] = Field(
        default_factory=dict, description="hyper-parameters that are not the method's defaults"
    )
    dtype: Dtype = Field("float32", description="of the weights")
    attention: Attention = Field("eager", description="attention kernel")
    activation_checkpointing: bool = Field(False, description="recompute each layer in backward")
    head_loss: HeadLoss = Field("model", description=_HEAD_LOSS)
    compile: Compile = Field("none", description="what torch.compile is given: each decoder layer")
    max_grad_norm: float | None = Field(None, gt=0, description="global norm; null for no clipping")
    engine: Engine = Field("single", description="how the model is spread over devices")
    num_devices: int = Field(1, ge=1, description="devices a run, one process each")


class Change(Strict):
    """One change of an ablation. A key that is left out stays as it was."""

    title: str | None = Field(
        None, max_length=200, description="in words, for table and figure; null for its name"
    )
    needs: list[str] = Field(
        default_factory=list, description="earlier changes without which it can't be"
    )
    replaces: list[str] = Field(
        default_factory=list, description="earlier changes that leave the stack when it comes"
    )
    method: str | None = Field(None, description="id of a method or of a peer; resets `hyper`")
    hyper: dict[str, HyperValue] | None = Field(None, description="hyper-parameters to set")
    dtype: Dtype | None = Field(None, description="of the weights")
    attention: Attention | None = Field(None, description="attention kernel")
    activation_checkpointing: bool | None = Field(None, description="recompute in backward")
    head_loss: HeadLoss | None = Field(None, description=_HEAD_LOSS)
    compile: Compile | None = Field(None, description="what torch.compile is given")
    max_grad_norm: float | None = Field(None, gt=0, description="global norm")
    engine: Engine | None = Field(None, description="how the model is spread over devices")
    num_devices: int | None = Field(None, ge=1, description="devices a run, one process each")


class Ablation(Strict):
    """What saves how much: each change alone, stacked on those before it, and left out of all."""

    models: list[str] = Field(min_length=1, description="names of config/models.yaml, or folders")
    batch_size: int = Field(ge=1, description="sequences a device")
    sequence_length: int = Field(ge=2, description="tokens a sequence")
    base: Setting = Field(default_factory=lambda: Setting(), description="what is changed")
    changes: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")], Change] = Field(
        min_length=1, description="name -> change, in the order of the stack"
    )
    left_out_of: str | None = Field(
        None, description="the stack that changes are left out of: up to this one; null for all"
    )
    num_warmup_steps: int = Field(2, ge=1, description="steps before the clock starts")
    num_timed_steps: int = Field(10, ge=2, description="steps on the clock")
    timeout_s: float | None = Field(None, gt=0, description="time limit of one run, in seconds")


Section = Accuracy | Measure | Peers | Ablation


class Study(Strict):
    """One study: all that `snakemake` makes under results/<study>/."""

    study: str = Field(
        pattern=r"^[a-z0-9][a-z0-9-]*$",
        max_length=200,
        description="its name, and its folder: small letters, digits and hyphens",
    )
    title: str = Field(max_length=200, description="one line for tables and pages")
    data: str = Field(
        description="generated, superglue (the hub's), or a folder in SuperGLUE's JSONL layout"
    )
    generated: Generated = Field(
        default_factory=lambda: Generated(), description="only for data: generated"
    )
    protocol: Protocol = Field(
        "sound",
        description="what picks epoch and trial: a split of train (sound), or the reported "
        "examples (paper); see docs/protocol.md",
    )
    budget: Literal["equal", "unequal"] = Field(
        "equal",
        description="unequal: `sound` may have another number of trials for each method, and "
        "Table 3 says so",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto: CUDA where there is one"
    )
    num_threads: int = Field(1, ge=1, description="CPU threads of each run: part of its setting")
    wandb: Literal["off", "offline", "online"] = Field(
        "offline", description="each run as a W&B run; offline sends nothing"
    )
    launch_anyway: bool = Field(
        False, description="launch also what is predicted not to fit the device"
    )
    note: str | None = Field(
        None, description="a sentence that stands under the accuracy and the peers table"
    )
    superglue: Accuracy | None = Field(None, description="Tables 3 and 4, Figures 4 and 5")
    lora_rank: Accuracy | None = Field(None, description="Figure 3")
    memory: Measure | None = Field(None, description="Table 1, Figures 1 and 2")
    throughput: Measure | None = Field(None, description="Table 2")
    peers: Peers | None = Field(None, description="ways to take a step, beside each other")
    weights: Literal["random"] | None = Field(
        None,
        description="random: of each model only the architecture, enough for memory and speed",
    )
    ablation: Ablation | None = Field(None, description="what saves how much, one by one")
    rounding: Rounding | None = Field(None, description="what 16-bit weights lose of their steps")
    models: str | list[str] | None = Field(
        None, description="given on the command line, replaces `models` of every section"
    )

    @model_validator(mode="before")
    @classmethod
    def _names_its_protocol(cls, data: Any) -> Any:
        if isinstance(data, dict) and "selection" in data:
            raise ValueError(
                "`selection` is now a protocol: write `protocol: sound` for selection: dev, "
                "`protocol: paper` for selection: test"
            )
        return data

    @field_validator("launch_anyway", mode="before")
    @classmethod
    def _as_on_a_command_line(cls, value: object) -> object:
        # `--config launch_anyway=true`: Snakemake takes only True and False for more than words.
        return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _measures_memory_in_one_setting(self) -> Study:
        memory = self.memory
        for name in ("batch_size", "num_devices") if memory else ():
            value = getattr(memory, name)
            if isinstance(value, list) and len(value) > 1:
                raise ValueError(
                    f"memory.{name} has several values, and Table 1 has one setting: "
                    "put the others into `throughput`, which measures memory as well"
                )
        return self

    @model_validator(mode="after")
    def _asks_for_something(self) -> Study:
        if not self.sections():
            raise ValueError("no section: give at least one of " + ", ".join(SECTIONS))
        return self

    def sections(self) -> dict[str, Section]:
        """The sections that the study asks for, by name."""
        found = {name: getattr(self, name) for name in SECTIONS}
        return {name: section for name, section in found.items() if section is not None}

    @property
    def selection(self) -> Split:
        """The split that selects epoch and trial."""
        return SELECTION[self.protocol]

    def seeds_of(self, section: Accuracy) -> list[int]:
        """The seeds of a section, or those of the protocol."""
        return section.seeds or SEEDS[self.protocol]

    def models_of(self, section: Section) -> list[str]:
        """The models of a section, or those of the command line."""
        if self.models is None:
            return section.models
        return [self.models] if isinstance(self.models, str) else self.models


SEEDS: dict[Protocol, list[int]] = {"paper": [42], "sound": [42, 43, 44]}
SECTIONS = ("superglue", "lora_rank", "memory", "throughput", "peers", "ablation", "rounding")


def load_study(path: Path, entries: Sequence[str] = ()) -> Study:
    """The study in the YAML file `path`, with `entries` (key=value) in place of its own.

    Raises UserError.
    """
    data = read_yaml(path)
    for entry in entries:
        key, sign, value = entry.partition("=")
        if not sign:
            raise UserError(
                f"{entry!r} is no key with a value", where="--config", allowed="KEY=VALUE"
            )
        try:
            data[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            data[key] = value
    return parse(Study, as_typed(data, entries), where=str(path))


_TEXT = ("study", "title", "data", "note", "models")


def as_typed(config: dict[str, Any], entries: Iterable[str] | None) -> dict[str, Any]:
    """`config`, with the text of `entries` (key=value) where the study wants text.

    A list of models, [a, b], and a value in quotes are read as YAML.
    """
    typed = dict(config)
    for entry in entries or ():
        key, _, value = entry.partition("=")
        value = value.strip()
        if key not in _TEXT or not value:
            continue
        is_list = key == "models" and isinstance(config.get(key), list)
        is_quoted = value[0] in "\"'" and value[-1] == value[0] and len(value) > 1
        if not (is_list or is_quoted):
            typed[key] = value
    return typed
