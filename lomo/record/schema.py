"""The record: all that a run was told, did and measured, and the only thing that tables read.

Bytes and seconds throughout. A value that could not be had is null, and `missing` of the same
block says why. Readers refuse another `schema_version`; records of another `protocol_version`
are never put in one table.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from lomo.errors import UserError
from lomo.system.files import read_json, write_text

SCHEMA_VERSION = 4
# Raised when a definition of docs/measurement.md or docs/protocol.md changes its meaning.
PROTOCOL_VERSION = "2.0"

# Between the metered step and the timed ones, as a share of the latter.
MAX_PEAK_DIFFERENCE = 0.01

# What is counted in bytes, seconds or pieces is never negative; only a ledger's residual may be.
Whole = Annotated[int, Field(ge=0)]
Real = Annotated[float, Field(ge=0)]

# The metric of held-out answers: the only one of which less is better.
PERPLEXITY = "perplexity"

Status = Literal["ok", "oom", "diverged", "timeout", "unsupported", "predicted_oom"]


# Of a field that came later than the record: it may be left out, and is then null.
OLDER = "not taken when this record was made"


class Block(BaseModel):
    """A part of a record: a null field needs its reason in `missing`, and only then."""

    # JSON knows no NaN and no infinity, and no value here may be one.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    missing: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _null_has_a_reason(self) -> Block:
        # Not by getattr: this is a tenth of the time in which many records are read.
        null = {name for name, value in self.__dict__.items() if value is None}
        for name in null - self.missing.keys() - self.model_fields_set:
            self.missing[name] = OLDER
        if null != self.missing.keys():
            unexplained, stray = sorted(null - set(self.missing)), sorted(set(self.missing) - null)
            raise ValueError(
                f"null without a reason: {unexplained}; reason without a null: {stray}"
            )
        return self


class Evidence(Block):
    """What is known of a run that did not end well."""

    message: str
    step: Whole | None
    peak_before_bytes: Whole | None


class Device(Block):
    """The device of the measurement and who else was on it."""

    kind: Literal["cpu", "cuda"]
    name: str
    num_devices: Whole
    memory_bytes: Whole | None
    num_threads: Whole
    driver: str | None
    # The instructions that PyTorch's own kernels use, such as AVX2: results turn round with them.
    cpu_capability: str | None
    # Processes of others that used the device (CUDA) or a core's worth of CPU at the start.
    co_tenants: list[str] | None


def _with_zone(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("a time without a zone")
    return text


class Provenance(Block):
    """Where a record comes from."""

    fingerprint: str
    git_commit: str | None
    git_dirty: bool | None
    python: str
    platform: str
    packages: dict[str, str]
    device: Device
    started_at: Annotated[str, AfterValidator(_with_zone)]


class Clock(Block):
    """Wall seconds of each phase; together with `other_s` they are the wall time."""

    load_s: Real
    compile_s: Real
    train_s: Real
    evaluate_s: Real
    save_s: Real
    other_s: Real
    wall_s: Real


class ModelFacts(Block):
    """The model that the run used, after the method has prepared it."""

    name: str
    architecture: str
    num_parameters: Whole
    num_trainable_parameters: Whole
    parameters_bytes: Whole
    largest_parameter_bytes: Whole
    tied_embeddings: bool
    dtype: str
    weights_sha256: str | None
    # What the folder's own notes tell of just these weights: hub and revision, package, or GGUF
    # file with its quantisation; empty where it has none.
    weights_from: dict[str, Any] = Field(default_factory=dict)


class Evaluation(Block):
    """One evaluation of one split: by lm-eval, or the perplexity of held-out answers."""

    split: Literal["dev", "test"]
    step: Whole
    epoch: Whole
    metric: str
    value: Real
    stderr: Real | None
    num_examples: Whole
    num_cut: Whole  # of these, to fit `max_length`
    num_ties: Whole  # of these, with several best candidates: the first of them counts
    other_metrics: dict[str, float]

    @property
    def goodness(self) -> float:
        """Of two evaluations the better one's is more."""
        return -self.value if self.metric == PERPLEXITY else self.value


class Training(Block):
    """What the training loop did."""

    num_steps: Whole
    # Steps that LOMO or AdaLomo skipped whole, because the gradient's norm was not finite.
    num_skipped_steps: Whole
    num_epochs: Whole
    num_train_examples: Whole
    num_cut: Whole  # of these, to fit `max_length`
    num_test_seen: Whole  # examples of test that are among them, whatever their label
    num_dev_shared: Whole  # examples of dev whose passage is that of an example of test
    num_tokens: Whole
    first_loss: float | None
    last_loss: float | None
    # Mean loss of the first and of the last epoch's steps: single steps are noise.
    first_epoch_loss: float | None
    last_epoch_loss: float | None
    selected_epoch: Whole | None


class InstructTraining(Training):
    """The same of a training on instructions, and what came of its file."""

    num_padding_tokens: Whole  # beside `num_tokens`, over all steps
    num_answer_tokens: Whole  # of an epoch: what the loss is on, end tokens among them
    num_left_out: Whole  # items whose prompt has no room for an answer in `max_length`
    num_repeated: Whole  # items left out since their prompt stands in dev or test
    # What is told of the saved model; empty where none was asked for.
    saved: dict[str, Any] = Field(default_factory=dict)


class Throughput(Block):
    """Speed of timed optimizer steps, warm-up dropped, evaluation and saving not in it."""

    tokens_per_s_per_device: Real
    tokens_per_s_per_device_p10: Real
    tokens_per_s_per_device_p90: Real
    step_s_median: Real
    num_warmup_steps: Whole
    num_timed_steps: Whole
    num_tokens_timed: Whole
    padding_fraction: Real
    world_size: Whole


class Efficiency(Block):
    """Speed as a share of what the device can do at most, and energy. Of a measured run's steps."""

    # By the formula named in `formula`; what MFU counts.
    model_flops_per_token: Real | None
    # What a step executes on all devices: recomputing and a second backward are in it.
    hardware_flops_per_step: Real | None
    formula: str
    # Of one device in the run's dtype, and the table that it stands in.
    peak_flops_per_s: Real | None
    peak_table: str
    mfu: Real | None
    hfu: Real | None
    # Of one device over the timed steps, by its own counter; tokens are that device's share.
    energy_j_per_step: Real | None
    energy_j_per_token: Real | None


class AppliedShare(Block):
    """What a group of weights took of its intended steps, on a sample of its elements."""

    # <applied, intended> / <intended, intended>, over the watched elements and steps.
    share: float | None
    # Of the elements with an intended step, those that moved at all, as a share.
    moved: Real | None
    # Elements with an intended step, over the watched steps; watched ones a step; all of them.
    num_asked: Whole
    num_watched: Whole
    num_parameters: Whole


class Applied(Block):
    """What 16-bit weights took of the steps that were intended. Definitions: docs/measurement.md.

    intended: by the optimizer's rule, in fp32; or the change of the fp32 master copy.
    """

    intended: Literal["rule", "master_copy"]
    num_steps: Whole  # that were watched, and moved something
    # Of all groups together, each weighted by its parameters.
    share: float | None
    groups: dict[str, AppliedShare]


class LedgerParts(Block):
    """Bytes by category. With `residual_bytes` they add up to the counter's peak."""

    parameters_bytes: Whole
    gradients_bytes: Whole
    optimizer_state_bytes: Whole
    activations_bytes: Whole
    other_bytes: Whole
    residual_bytes: int


class SumOfTerms(Block):
    """The paper's own accounting (Table 1): terms that need not be alive at the same time."""

    parameters_bytes: Whole
    gradients_bytes: Whole
    optimizer_state_bytes: Whole
    activations_bytes: Whole
    total_bytes: Whole


class AllocatorPeaks(Block):
    """What CUDA's caching allocator counted since a reset, and the driver at its reading."""

    requested_peak_bytes: Whole
    allocated_peak_bytes: Whole
    active_peak_bytes: Whole
    reserved_peak_bytes: Whole
    num_alloc_retries: Whole
    num_ooms: Whole
    # In use on the whole device now: contexts, kernels and other processes too.
    driver_used_bytes: Whole


class CudaMemory(Block):
    """The allocator's peaks of the metered step, and of the timed ones, which no meter watched."""

    metered: AllocatorPeaks
    timed: AllocatorPeaks
    allocator_settings: str

    @property
    def peaks_agree(self) -> bool:
        """Whether the ledger speaks of the timed steps too: a meter could change what is held."""
        metered, timed = self.metered.allocated_peak_bytes, self.timed.allocated_peak_bytes
        return abs(metered - timed) <= MAX_PEAK_DIFFERENCE * timed


class Memory(Block):
    """The measured ledger of one step. Definitions: docs/measurement.md."""

    counter: Literal["storage_meter", "max_memory_allocated"]
    peak_bytes: Whole
    peak_phase: Literal["forward", "backward", "step"]
    at_peak: LedgerParts
    sum_of_terms: SumOfTerms
    gradients_peak_bytes: Whole
    host_peak_rss_bytes: Whole | None
    cuda: CudaMemory | None
    # File beside the record: one line an event of the step (phase ends, gradients born and dead).
    timeline_file: str | None


class Record(Block):
    """One run."""

    schema_version: int = SCHEMA_VERSION
    protocol_version: str = PROTOCOL_VERSION
    study: str
    run_id: str
    kind: Literal["train", "instruct", "measure"]
    status: Status
    evidence: Evidence | None
    spec: dict[str, Any]
    provenance: Provenance
    clock: Clock
    model: ModelFacts | None
    training: InstructTraining | Training | None
    # Steps after which another process went on with the training, from what an earlier one saved;
    # and what was saved and could not be gone on from, each with the reason.
    resumed_at_steps: list[Whole] = Field(default_factory=list)
    checkpoints_refused: list[str] = Field(default_factory=list)
    evaluations: list[Evaluation]
    # The evaluation that the protocol reports (an element of `evaluations`).
    result: Evaluation | None
    throughput: Throughput | None
    efficiency: Efficiency | None
    memory: Memory | None
    applied: Applied | None = None


def write_record(path: Path, record: Record) -> None:
    """Writes the record as indented JSON, whole or not at all."""
    write_text(path, record.model_dump_json(indent=1) + "\n")


def read_record(path: Path) -> Record:
    """The record at `path`. Raises UserError for a cut, foreign or other-version file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", where=str(path)) from error
    try:
        # Strict: a number that was written as text, or a flag as a number, is no record of ours.
        record = Record.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise _no_record(error, path) from error
    if record.schema_version != SCHEMA_VERSION:
        raise _other_schema(record.schema_version, path)
    return record


def _no_record(error: ValidationError, path: Path) -> UserError:
    """Why the file at `path` is no record of this version. Raises it where it is not even JSON."""
    fix = "delete its folder and run the pipeline again: only that run is repeated"
    parsed = read_json(path, fix=fix)
    version = parsed.get("schema_version") if isinstance(parsed, dict) else None
    if version != SCHEMA_VERSION:
        return _other_schema(version, path)
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "record"
    return UserError(f"{key}: {first['msg']}", where=str(path), fix=fix)


def _other_schema(version: object, path: Path) -> UserError:
    return UserError(
        f"schema_version is {version!r}",
        where=str(path),
        allowed=str(SCHEMA_VERSION),
        fix="delete its folder and run again, or read it with the version that wrote it",
    )
