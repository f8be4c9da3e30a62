"""The rows of an advice: each way to fine-tune, and how many sequences of it fit a card."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from lomo import methods
from lomo.advise import known
from lomo.errors import UserError
from lomo.memory.asked.cells import Switches
from lomo.specs import MeasureSpec
from lomo.study.config import Attention, Dtype, Engine, HeadLoss
from lomo.study.machine import budget_bytes

if TYPE_CHECKING:
    from lomo.model.architecture import Architecture


@dataclass(frozen=True)
class RowKind:
    """One way to fine-tune. method: whose step is simulated, None where none is, and `look` says
    where to look instead.

    eight_bit: whether its state is bitsandbytes', in place of the simulated one.
    trains_all: whether all weights are trained. runs: whether a study can name it.
    """

    name: str
    title: str
    method: str | None
    hyper: Mapping[str, Any] = field(default_factory=dict)
    eight_bit: bool = False
    trains_all: bool = True
    runs: bool = True
    look: str | None = None


KINDS = {
    kind.name: kind
    for kind in (
        RowKind("lomo", "LOMO", "lomo"),
        RowKind("adalomo", "AdaLomo", "adalomo"),
        RowKind("lora", "LoRA", "lora", trains_all=False),
        RowKind("lora_lomo", "LoRA + LOMO", "lora_lomo"),
        RowKind("sgd", "SGD, fp32 master", "sgd"),
        RowKind("adamw", "AdamW, fp32 master", "adamw"),
        RowKind(
            "adamw_16bit",
            "AdamW, 16-bit only",
            "torch_adamw",
            {"implementation": "fused"},
            runs=False,
        ),
        RowKind(
            "adamw_8bit",
            "AdamW, 8-bit states",
            "torch_adamw",
            {"implementation": "fused"},
            eight_bit=True,
            runs=False,
        ),
        RowKind(
            "qlora",
            "QLoRA",
            None,
            runs=False,
            look="see PEFT, Unsloth",
        ),
        RowKind(
            "cpu_offload",
            "AdamW, CPU offload",
            None,
            runs=False,
            look="see DeepSpeed, LLMQ",
        ),
    )
}


@dataclass(frozen=True)
class Setting:
    """The switches that all rows are asked with: the cheapest that the model can have."""

    sequence_length: int
    num_gpus: int = 1
    dtype: Dtype = "bfloat16"
    attention: Attention = "sdpa"
    head_loss: HeadLoss = "fused"
    checkpointing: bool = True
    max_grad_norm: float | None = None

    @property
    def engine(self) -> Engine:
        """One process, or each weight split over the cards."""
        return "single" if self.num_gpus == 1 else "fsdp2"

    @property
    def switches(self) -> Switches:
        """Those that `predict` and `fits` know as well."""
        return Switches(
            self.dtype, self.attention, self.head_loss, self.checkpointing, self.max_grad_norm
        )

    def spec(self, kind: RowKind, model: str, batch_size: int = 1) -> MeasureSpec:
        """The step, as a run would be told it."""
        assert kind.method is not None
        hyper = methods.describe(kind.method).hyper.model_validate(kind.hyper)
        return self.switches.spec(
            "advise",
            model=model,
            method=kind.method,
            hyper=hyper.model_dump(),
            batch_size=batch_size,
            sequence_length=self.sequence_length,
            engine=self.engine,
            num_devices=self.num_gpus,
        )


def cheapest(architecture: Architecture, sequence_length: int, num_gpus: int) -> Setting:
    """The switches that take least memory and that this model has."""
    from transformers import AutoModelForCausalLM

    from lomo.model.causal_lm import attention_of
    from lomo.model.registry import check_head_loss

    model_class: Any = AutoModelForCausalLM._model_mapping[type(architecture.config)]
    setting = Setting(
        sequence_length,
        num_gpus,
        attention="eager" if attention_of(architecture.config) == "eager" else "sdpa",
        checkpointing=bool(model_class.supports_gradient_checkpointing),
    )
    try:
        check_head_loss(setting.head_loss, setting.engine, architecture.config.to_dict(), "")
    except UserError:
        return Setting(**{**vars(setting), "head_loss": "model"})
    return setting


@dataclass(frozen=True)
class Fit:
    """How a row fits one card. batch_size: sequences a device, 0 where not even one fits.

    peak_bytes: at that batch, or at 1; missing_bytes: of it beyond the card, then.
    next_bytes: at one sequence more. one_bytes: at one sequence, by the line through 2 and 3 where
    more fit: a step of one may differ from it by hundredths of a GiB.
    """

    batch_size: int
    peak_bytes: int
    missing_bytes: int
    next_bytes: int | None
    one_bytes: int


@dataclass(frozen=True)
class Row:
    """A row and how it fits each card; `fits` is empty where nothing could be predicted (`why`).

    account: "simulated", or "closed_form" for models whose step can't be.
    """

    kind: RowKind
    fits: Sequence[Fit] = ()
    account: str | None = None
    why: str | None = None

    def fit(self, place: int) -> Fit | None:
        """How it fits the card at `place`, None where not even one sequence does."""
        fit = self.fits[place] if self.fits else None
        return fit if fit is not None and fit.batch_size else None


def rows_of(
    kinds: Sequence[RowKind],
    architecture: Architecture,
    setting: Setting,
    gibs: Sequence[float],
    num_parameters: int,
    most: int,
) -> list[Row]:
    """How ways to fine-tune that take the same step fit cards of these sizes.

    The peaks are simulated once for all of them. most: a larger batch is not asked for.
    """
    from lomo.memory.predicted.peaks import PeakByBatch

    try:
        step = PeakByBatch(architecture, setting.spec(kinds[0], architecture.name))
        simulated = cache(step)
        found = []
        for kind in kinds:
            peak = _with_state(simulated, kind, num_parameters // setting.num_gpus)
            # What weights, gradients and state take already tells most cards from the others.
            least = _at_least(kind, num_parameters // setting.num_gpus)
            fits = [_fit(peak, budget_bytes(gib), least, most) for gib in gibs]
            found.append(Row(kind, fits, step.account))
    except UserError as error:
        return [Row(kind, why=error.what) for kind in kinds]
    return found


def _with_state(
    simulated: Callable[[int], int], kind: RowKind, num_parameters: int
) -> Callable[[int], int]:
    """The peak by batch, with bitsandbytes' state in place of two 16-bit moments."""
    if not kind.eight_bit:
        return simulated
    less = int((4 - known.state_bytes()[0]) * num_parameters)
    return lambda batch_size: simulated(batch_size) - less


def _at_least(kind: RowKind, num_parameters: int) -> float:
    """Bytes of weights, gradients and state, from below."""
    a_parameter = {"sgd": 8.0, "adamw": 16.0, "torch_adamw": 6.0 if kind.eight_bit else 8.0}
    return a_parameter.get(kind.method or "", 2.0) * num_parameters


def _fit(peak: Callable[[int], int], budget: int, least: float, most: int) -> Fit:
    """The largest batch within the budget. Where some may fit, 2 is looked at before 1: it takes
    part in every answer above (lomo/memory/predicted/peaks.py), and what holds 2 holds 1."""
    from lomo.memory.asked.fitting import largest_batch

    batch_size = 0
    if least < budget and peak(2) <= budget:
        batch_size = min(largest_batch(lambda batch: peak(max(batch, 2)), budget), most)
        one_bytes = 2 * peak(2) - peak(3)
    else:
        one_bytes = peak(1)
        batch_size = 1 if one_bytes <= budget else 0
    peak_bytes = peak(batch_size) if batch_size else one_bytes
    next_bytes = peak(batch_size + 1) if batch_size else None
    return Fit(batch_size, peak_bytes, max(peak_bytes - budget, 0), next_bytes, one_bytes)
