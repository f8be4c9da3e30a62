"""The sections of a study whose step is measured: memory, throughput, peers, ablation.

No torch is imported here.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from lomo.specs import Attention, Compile, Dtype, Engine, HeadLoss, HyperValue
from lomo.system.strict import Strict

HEAD_LOSS = (
    "the model's own cross entropy, or one that never holds all logits (docs/measurement.md)"
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
    head_loss: HeadLoss = Field("model", description=HEAD_LOSS)
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
    head_loss: HeadLoss = Field("model", description=HEAD_LOSS)
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
    head_loss: HeadLoss | None = Field(None, description=HEAD_LOSS)
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
