"""What a study file may say: typed, strict, and the source of config/README.md.

`load_study` turns a YAML file (and overrides from the command line) into a `Study`, or raises
UserError with the file, the key, what is allowed and what to do. No torch is imported here, so
that a plan costs milliseconds.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lomo.errors import UserError, nearest

Dtype = Literal["float32", "bfloat16", "float16"]
Attention = Literal["eager", "sdpa"]
Engine = Literal["single", "fsdp2", "zero3"]
TaskName = Literal["rte", "boolq", "wsc", "wic", "multirc", "copa"]
HyperValue = int | float | Annotated[str, Field(pattern=r"^[a-z_]+$")]
Grid = dict[str, list[HyperValue]]


class Strict(BaseModel):
    """Unknown keys and silent conversions are errors, and so are nan and inf."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


Spec = TypeVar("Spec", bound=Strict)


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
    eval_batch_size: int = Field(32, ge=1, description="requests scored at once")
    engine: Engine = Field("single", description="how the model is spread over devices")
    num_devices: int = Field(1, ge=1, description="devices a run, one process each")
    timeout_s: float | None = Field(None, gt=0, description="time limit of one run, in seconds")


class Accuracy(Strict):
    """A matrix of models x methods x tasks x seeds x trials that is trained and scored."""

    models: list[str] = Field(min_length=1, description="names of config/models.yaml, or folders")
    methods: list[str] = Field(min_length=1, description="method ids")
    tasks: list[TaskName] = Field(min_length=1, description="tasks")
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field(
        [42], min_length=1, description="seeds of data order and adapters"
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


PositiveInt = Annotated[int, Field(ge=1)]
OneOrMore = PositiveInt | Annotated[list[PositiveInt], Field(min_length=1)]


class Measure(Strict):
    """A matrix of models x methods x batch sizes x checkpointing whose step is measured."""

    models: list[str] = Field(min_length=1, description="names of config/models.yaml, or folders")
    methods: list[str] = Field(min_length=1, description="method ids")
    batch_size: OneOrMore = Field(description="sequences a device; a list is run through")
    sequence_length: int = Field(ge=2, description="tokens a sequence")
    activation_checkpointing: list[bool] = Field([True], min_length=1, description="off and on")
    dtype: Dtype = Field("bfloat16", description="of the weights")
    attention: Attention = Field("sdpa", description="attention kernel")
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

    title: str | None = Field(None, description="in words, for table and figure; null for its name")
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


Section = Accuracy | Measure | Peers


class Study(Strict):
    """One study: all that `snakemake` makes under results/<study>/."""

    study: str = Field(
        pattern=r"^[a-z0-9][a-z0-9-]*$",
        description="its name, and its folder: small letters, digits and hyphens",
    )
    title: str = Field(description="one line for tables and pages")
    data: str = Field(
        description="generated, superglue (the hub's), or a folder in SuperGLUE's JSONL layout"
    )
    generated: Generated = Field(
        default_factory=lambda: Generated(), description="only for data: generated"
    )
    selection: Literal["dev", "test"] = Field(
        "dev",
        description="what picks epoch and trial: dev (a split of train), or test (the paper's way)",
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
    models: str | list[str] | None = Field(
        None, description="given on the command line, replaces `models` of every section"
    )

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

    def models_of(self, section: Section) -> list[str]:
        """The models of a section, or those of the command line."""
        if self.models is None:
            return section.models
        return [self.models] if isinstance(self.models, str) else self.models


SECTIONS = ("superglue", "lora_rank", "memory", "throughput", "peers")

_NUMBER_AS_TEXT = re.compile(r"^[+-]?\d+(\.\d*)?[eE][+-]?\d+$")


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises UserError where it is missing, broken or no mapping."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise UserError("is not UTF-8 text", where=str(path)) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise UserError(
            f"is not YAML: {getattr(error, 'problem', None) or error}",
            where=f"{path}:{mark.line + 1}" if mark else str(path),
        ) from error
    if not isinstance(data, dict):
        raise UserError(
            "holds no mapping of keys to values",
            where=str(path),
            allowed="lines such as `study: my-study`",
        )
    return data


def load_study(path: Path) -> Study:
    """The study in the YAML file `path`. Raises UserError."""
    return parse(Study, read_yaml(path), where=str(path))


def parse(model: type[Spec], data: Any, *, where: str) -> Spec:
    """`data` as a `model`. Raises UserError that names the key in `where` and how to mend it."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _explained(model, data, error, where) from error


def _explained(model: type[BaseModel], data: Any, error: ValidationError, where: str) -> UserError:
    # An unknown key often causes a missing one beside it: speak of the cause.
    first = min(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
    key = _path(data, first["loc"], first["type"] == "missing")
    # `where` may itself end in a key of the file.
    place = f"{where}{'.' if ': ' in where else ': '}{key}" if key else where
    value = first.get("input")
    if first["type"] == "extra_forbidden":
        known = _keys_at(model, first["loc"][:-1])
        close = nearest(str(first["loc"][-1]), known)
        return UserError(
            "unknown key",
            where=place,
            allowed=", ".join(sorted(known)),
            fix=f"did you mean {close!r}?" if close else "remove it",
        )
    if isinstance(value, str) and _NUMBER_AS_TEXT.match(value):
        return UserError(
            f"{value!r} is text, not a number: YAML reads {value} as text",
            where=place,
            allowed="a number",
            fix=f"write {float(value)!r}" if "e" not in repr(float(value)) else _dotted(value),
        )
    if first["type"] == "missing":
        return UserError("is missing", where=place, fix=_description(model, first["loc"]))
    if first["type"] == "literal_error":
        return _not_among(re.findall(r"'([^']*)'", first["ctx"]["expected"]), value, place)
    if first["type"] == "string_pattern_mismatch":
        return UserError(
            f"{value!r} will not do", where=place, allowed=_description(model, first["loc"])
        )
    message = first["msg"].removeprefix("Value error, ")
    got = "" if first["type"] == "value_error" else f" (it is {value!r})"
    single = first["type"] == "list_type" and isinstance(value, str | int | float)
    return UserError(message + got, where=place, fix=f"write [{value}]" if single else None)


def _not_among(options: list[str], value: Any, place: str) -> UserError:
    close = nearest(value, options) if isinstance(value, str) else None
    fix = f"did you mean {close!r}?" if close else None
    if isinstance(value, bool) and {"on", "off"} & set(options):
        word = "on" if value else "off"
        fix = f'write "{word}" in quotes: YAML reads the bare word as {value}'
    return UserError(
        f"{value!r} is not one of its values", where=place, allowed=", ".join(options), fix=fix
    )


def _path(data: Any, location: tuple[int | str, ...], missing: bool) -> str:
    """The place in the file, without the names that pydantic gives to the members of a union."""
    parts = []
    for number, part in enumerate(location, start=1):
        if isinstance(data, dict) and part in data:
            data = data[part]
        elif isinstance(data, list) and isinstance(part, int):
            data = data[part]
        elif not (missing and number == len(location)):
            continue
        parts.append(str(part))
    return ".".join(parts)


def _dotted(number: str) -> str:
    mantissa, exponent = re.split("[eE]", number)
    sign = exponent if exponent[0] in "+-" else "+" + exponent
    return f"write {mantissa if '.' in mantissa else mantissa + '.0'}e{sign}"


def _keys_at(model: type[BaseModel], location: tuple[int | str, ...]) -> set[str]:
    """The keys allowed at a place inside a model."""
    found = _model_at(model, location)
    return set(found.model_fields) if found else set()


def _description(model: type[BaseModel], location: tuple[int | str, ...]) -> str | None:
    """What a field of a model is, in words."""
    found = _model_at(model, location[:-1])
    field = found.model_fields.get(str(location[-1])) if found else None
    return field.description if field else None


def _model_at(model: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel] | None:
    current: Any = model
    of_mapping = False
    for part in location:
        if of_mapping:  # the key of an entry, not of a model
            of_mapping = False
            continue
        if not (isinstance(part, str) and _is_model(current) and part in current.model_fields):
            return None
        options = [current.model_fields[part].annotation]
        of_mapping = getattr(options[0], "__origin__", None) is dict
        options += getattr(options[0], "__args__", ())
        current = next((option for option in options if _is_model(option)), None)
    return current if _is_model(current) else None


def _is_model(candidate: Any) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, BaseModel)
