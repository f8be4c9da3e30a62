"""What a study file may say: typed, strict, and the source of config/README.md.

`load_study` turns a YAML file (and overrides from the command line) into a `Study`, or raises
UserError with the file, the key, what is allowed and what to do. No torch is imported here, so
that a plan costs milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from lomo.errors import UserError
from lomo.specs import (
    SELECTION,
    Attention,
    Batching,
    Dtype,
    Engine,
    HeadLoss,
    HyperValue,
    Protocol,
    Split,
    TaskName,
)
from lomo.study.measured import HEAD_LOSS, Ablation, Measure, Peers
from lomo.study.suites.section import Suites
from lomo.system.strict import Strict, parse, read_yaml

Grid = dict[str, list[HyperValue]]


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
    head_loss: HeadLoss = Field("model", description=HEAD_LOSS)
    batching: Batching = Field(
        "shuffled",
        description="shuffled: at random; by_length: of similar lengths, so that less is padded "
        "(docs/instruct.md)",
    )
    eval_batch_size: int = Field(32, ge=1, description="requests scored at once")
    engine: Engine = Field("single", description="how the model is spread over devices")
    num_devices: int = Field(1, ge=1, description="devices a run, one process each")
    timeout_s: float | None = Field(None, gt=0, description="time limit of one run, in seconds")
    checkpoint_interval_s: float | None = Field(
        600.0, gt=0, description="seconds between saves that a killed run goes on from; null: never"
    )


Range = Annotated[list[float], Field(min_length=2, max_length=2)]


class Search(Strict):
    """Trials at random in place of a grid: one budget for all methods that are trained.

    They lie evenly on a logarithmic scale, and the first ones do, too (Halton's sequence).
    """

    trials: int = Field(ge=2, description="points that each method tries")
    seed: int = Field(0, ge=0, description="shifts all points")
    ranges: dict[str, Annotated[dict[str, Range], Field(max_length=6)]] = Field(
        min_length=1, description="by method: each hyper-parameter with its least and its most"
    )


class InstructSettings(TrainSettings):
    """The same of instructions; `test` are those held out. Defaults are the AdaLomo code's."""

    epochs: int = Field(3, ge=1, description="passes over the training examples")
    batch_size: int = Field(128, ge=1, description="examples an optimizer step, over all devices")
    num_train: int = Field(50_000, ge=1, description="training examples, drawn from the file")
    num_test: int = Field(
        1000,
        ge=1,
        description="held-out examples that are reported: a fifth of the file at most, drawn first",
    )
    max_length: int = Field(2048, ge=8, description="longest prompt with answer, in tokens")
    batching: Batching = Field("by_length", description="as for an accuracy section")
    eval_batch_size: int = Field(32, ge=1, description="examples scored at once")


class Trained(Strict):
    """A matrix of models x methods x seeds x trials that is trained and scored."""

    models: list[str] = Field(min_length=1, description="names of config/models.yaml, or folders")
    methods: list[str] = Field(min_length=1, description="method ids")
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
    search: Search | None = Field(
        None, description="trials at random; `grids` then holds one value of what is not searched"
    )


class Accuracy(Trained):
    """Trainings on tasks: models x methods x tasks x seeds x trials."""

    tasks: list[TaskName] = Field(min_length=1, description="task ids, in the order of the columns")


class Instruct(Trained):
    """Trainings on instructions with their answers, scored by the perplexity of held-out ones."""

    data: str = Field(
        description="alpaca (the hub's tatsu-lab/alpaca), or a JSON or JSONL file in its layout"
    )
    settings: InstructSettings = Field(
        default_factory=lambda: InstructSettings(), description="how the runs train and are scored"
    )
    save: bool = Field(
        False,
        description="keep each trained model as a folder, results/<study>/tuned/<model>/<variant>/"
        "s<seed>/t<trial>, with adapters merged",
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


Section = Accuracy | Instruct | Measure | Peers | Ablation


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
    instruct: Instruct | None = Field(None, description="instruction tuning")
    suites: Suites | None = Field(None, description="benchmark suites, scored by lm-eval")
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
        if not self.sections() and self.suites is None:
            raise ValueError("no section: give at least one of " + ", ".join((*SECTIONS, "suites")))
        return self

    def sections(self) -> dict[str, Section]:
        """The sections that the study asks for, by name."""
        found = {name: getattr(self, name) for name in SECTIONS}
        return {name: section for name, section in found.items() if section is not None}

    @property
    def selection(self) -> Split:
        """The split that selects epoch and trial."""
        return SELECTION[self.protocol]

    def seeds_of(self, section: Trained | Suites) -> list[int]:
        """The seeds of a section, or those of the protocol."""
        return section.seeds or SEEDS[self.protocol]

    def models_of(self, section: Section | Suites) -> list[str]:
        """The models of a section, or those of the command line."""
        if self.models is None:
            return section.models
        return [self.models] if isinstance(self.models, str) else self.models


SEEDS: dict[Protocol, list[int]] = {"paper": [42], "sound": [42, 43, 44]}
SECTIONS = (
    *("superglue", "lora_rank", "memory", "throughput", "peers", "ablation", "rounding"),
    "instruct",
)


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
