"""From a plan and a machine to what each run will take: memory of its step, time and disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM

from lomo import methods
from lomo.forecast.duration import Sizes, base_seconds, run_seconds, speed_of
from lomo.forecast.estimates import Estimate, Estimates, fit_of, held_bytes
from lomo.memory.predicted.closed_form import BYTES
from lomo.memory.predicted.steps import predict_steps, step_of
from lomo.methods import lora
from lomo.model.architecture import (
    Architecture,
    count_parameters,
    entry_architecture,
    without_bytes,
)
from lomo.model.weights import check_weights
from lomo.specs import InstructSpec, MeasureSpec, TrainSpec
from lomo.study.machine import GIB, Machine, Speed
from lomo.study.plan import Plan

# Python with torch, transformers and lm-eval, and what a run keeps of its data.
PROCESS_BYTES = int(1.2 * GIB)
NO_FLOPS = "the operations of its model can't be told"


def make_estimates(
    plan: Plan,
    machine: Machine,
    predictions: Path,
    say: Callable[[str], None],
    *,
    num_processes: int = 1,
) -> Estimates:
    """The estimates of a plan; the steps' predictions are kept as files below `predictions`."""
    models = {name: entry_architecture(entry) for name, entry in plan.models.items()}
    _check_models(plan, models)
    asked = {run_id: step_of(run, machine.kind) for run_id, run in plan.runs.items()}
    steps = {step.name: step for step in asked.values() if step is not None}
    answers = predict_steps(steps.values(), plan, predictions, say, num_processes=num_processes)
    # Only now: a product on several threads, and then a fork, would leave the forked ones waiting.
    speed = speed_of(machine, plan.study.num_threads)
    counts = {name: count_parameters(architecture) for name, architecture in models.items()}
    runs = {}
    for run_id, run in plan.runs.items():
        step = asked[run_id]
        answer = answers[step.name] if step is not None else None
        config = _sizes_in(models[run.model].config)
        drawn = plan.models[run.model].weights == "random"
        trained = _num_trained(run, config, counts[run.model])
        sizes = Sizes(config, counts[run.model], trained, drawn)
        runs[run_id] = _estimate(run, sizes, answer, machine, speed)
    bases = {}
    for folder, (name, _) in plan.bases().items():
        sizes = Sizes(_sizes_in(models[name].config), counts[name], counts[name])
        bases[folder] = base_seconds(plan.models[name], sizes, machine, speed)
    download = _download_bytes(plan, counts)
    return Estimates(machine=machine, speed=speed, download_bytes=download, runs=runs, bases=bases)


def _check_models(plan: Plan, models: Mapping[str, Architecture]) -> None:
    """Raises UserError for weights that are not their config's, and adapters without a place."""
    for name, entry in plan.models.items():
        if entry.weights == "local":
            config = models[name].config
            check_weights(
                str(entry.path), config, AutoModelForCausalLM._model_mapping[type(config)]
            )
    adapted = {
        run.model
        for run in plan.runs.values()
        if "rank" in methods.describe(run.method).hyper.model_fields
    }
    for name in sorted(adapted):
        lora.target_modules(without_bytes(models[name]))


def _estimate(
    run: TrainSpec | MeasureSpec,
    sizes: Sizes,
    answer: Mapping[str, Any] | None,
    machine: Machine,
    speed: Speed,
) -> Estimate:
    weights = sizes.num_parameters * BYTES[run.dtype]
    scoring = weights // run.num_devices + _scoring_bytes(run, sizes.config)
    peak: int | None = scoring
    account, reason = "closed_form", None
    if answer is not None:
        account, reason, step = answer["account"], answer["reason"], answer["peak_bytes"]
        peak = None if step is None else max(step, scoring)
    fit = fit_of(held_bytes(peak, run, machine.kind), machine.device_bytes)
    cards = machine.num_devices if machine.kind == "cuda" and machine.origin != "unknown" else None
    if cards is not None and run.num_devices > cards:
        fit, reason = "too few devices", f"{run.num_devices} devices are asked for"
    seconds = run_seconds(run, sizes, machine, speed)
    # Rank 0 alone reads weights, before they go to the devices; drawn ones begin there.
    loaded = 0 if sizes.drawn and machine.kind == "cuda" else weights
    held = held_bytes(peak, run, "cpu") if machine.kind == "cpu" else loaded
    return Estimate(
        peak_bytes=peak,
        account=account if peak is not None else None,
        fit=fit,
        host_bytes=PROCESS_BYTES * run.num_devices + (held or loaded),
        seconds=seconds,
        kept_bytes=_kept_bytes(run, sizes, answer, seconds),
        saved_bytes=weights if _is_saved(run) else 0,
        reason=reason or (None if seconds is not None else speed.why_unknown or NO_FLOPS),
    )


def _sizes_in(config: Any) -> dict[str, Any]:
    """The config's values, with the usual names for what families call otherwise."""
    text = config.get_text_config()
    names = ("num_hidden_layers", "hidden_size", "vocab_size")
    values: dict[str, Any] = text.to_dict()
    return values | {name: getattr(text, name) for name in names}


def _scoring_bytes(run: TrainSpec | MeasureSpec, config: Mapping[str, Any]) -> int:
    """What scoring the longest batch holds beside the weights: logits and their log-softmax."""
    if not isinstance(run, TrainSpec):
        return 0
    tokens = run.eval_batch_size * run.max_length
    return 2 * tokens * int(config["vocab_size"]) * BYTES[run.dtype]


def _is_saved(run: TrainSpec | MeasureSpec) -> bool:
    saves = isinstance(run, InstructSpec) and run.tuned_path is not None
    return saves and methods.describe(run.method).trains


def _kept_bytes(
    run: TrainSpec | MeasureSpec,
    sizes: Sizes,
    answer: Mapping[str, Any] | None,
    seconds: float | None,
) -> int:
    """Weights of the best epoch, where a later one may be worse; and checkpoints, of long runs.

    Those are two, of weights and optimizer state, and may refer to two best epochs.
    """
    if not isinstance(run, TrainSpec) or not methods.describe(run.method).trains:
        return 0
    weights = sizes.num_trainable_parameters * BYTES[run.dtype]
    best = weights if run.selection == "dev" and run.epochs > 1 else 0
    interval_s = run.checkpoint_interval_s
    if interval_s is None or (seconds is not None and seconds < interval_s):
        return best
    terms = (answer or {}).get("sum_of_terms") or {}
    state = terms.get("optimizer_state_bytes", 0) * run.num_devices
    return 2 * (weights + state + best)


def _download_bytes(plan: Plan, counts: Mapping[str, int]) -> int:
    """Weights that are fetched, as they then lie here: the hub's in 16 bits, dequantised in 32."""
    bytes_each = {"hub": 2, "package": 4}
    return sum(
        bytes_each.get(model.weights, 0) * counts[name] for name, model in plan.models.items()
    )


def _num_trained(
    run: TrainSpec | MeasureSpec, config: Mapping[str, Any], num_parameters: int
) -> int:
    """Parameters that the method trains; of adapters alone, two a layer, as if all were square."""
    described = methods.describe(run.method)
    if not described.trains:
        return 0
    if run.method != "lora":
        return num_parameters
    return 4 * int(run.hyper["rank"]) * int(config["num_hidden_layers"] * config["hidden_size"])
