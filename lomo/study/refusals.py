"""What a plan refuses of a section's settings, before any weight is loaded. Imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from lomo import engines, methods
from lomo.errors import UserError
from lomo.methods import support
from lomo.model.registry import ModelEntry
from lomo.specs import HyperValue, RunSpec
from lomo.study.config import SEEDS, Study, Trained, TrainSettings


def check_grids(section: Trained, where: str) -> None:
    """Refuses a grid, or ranks, that no method of the section would use."""
    for method in section.methods:
        methods.check_name(method, where=f"{where}.methods")
    for method, grid in section.grids.items():
        methods.check_name(method, where=f"{where}.grids")
        if method not in section.methods:
            raise UserError(
                f"{method} is not among the section's methods",
                where=f"{where}.grids",
                allowed=", ".join(section.methods),
                fix="add it to `methods`, or remove its grid",
            )
        for name, values in grid.items():
            if not values:
                raise UserError(
                    "no value to try",
                    where=f"{where}.grids.{method}.{name}",
                    fix="give at least one value, or leave the key out for the default",
                )
        if section.ranks and "rank" in grid:
            raise UserError(
                "is given beside `ranks`, which says the same",
                where=f"{where}.grids.{method}.rank",
                fix="leave one of them out",
            )
    check_search(section, where)
    adapted = [m for m in section.methods if "rank" in methods.describe(m).hyper.model_fields]
    if section.ranks and not adapted:
        raise UserError(
            "no method of the section has a rank",
            where=f"{where}.ranks",
            fix="add lora or lora_lomo to `methods`, or remove `ranks`",
        )
    settings = section.settings
    if settings.gradient_accumulation > settings.batch_size:
        raise UserError(
            f"{settings.gradient_accumulation} micro-batches of a batch of {settings.batch_size}",
            where=f"{where}.settings.gradient_accumulation",
            allowed=f"at most {settings.batch_size}, one example each",
        )


def check_search(section: Trained, where: str) -> None:
    """Refuses a search that leaves a method out, and ranges that can't be searched."""
    if section.search is None:
        return
    ranges, place = section.search.ranges, f"{where}.search.ranges"
    trained = [method for method in section.methods if methods.describe(method).trains]
    for method in ranges:
        if method not in trained:
            raise UserError(
                f"{method} is not among the methods that the section trains",
                where=place,
                allowed=", ".join(trained),
                fix="add it to `methods`, or remove its range",
            )
    lacking = [method for method in trained if not ranges.get(method)]
    if lacking:
        raise UserError(
            f"{', '.join(lacking)} would try one point, and the others {section.search.trials}",
            where=place,
            allowed="a range for each method that is trained: one budget for all",
            fix="add it, or take the method out of the section",
        )
    for method, names in ranges.items():
        for name, (least, most) in names.items():
            if not 0 < least < most:
                raise UserError(
                    f"[{least:g}, {most:g}] is no range",
                    where=f"{place}.{method}.{name}",
                    allowed="[least, most], both above 0: it is searched on a logarithmic scale",
                )
        for name, values in section.grids.get(method, {}).items():
            if name in names or len(values) > 1:
                raise UserError(
                    "is searched" if name in names else f"{len(values)} values beside a search",
                    where=f"{where}.grids.{method}.{name}",
                    allowed="one value of a hyper-parameter that is not searched",
                )


def check_protocol(
    study: Study,
    section: Trained,
    tried: Mapping[str, Sequence[tuple[str, int, object]]],
    where: str,
) -> None:
    """Refuses what the study's protocol forbids; `tried` has the trials of each method.

    `paper` forbids nothing: its own study has one seed, and one trial of LoRA beside six of LOMO.
    """
    if study.protocol != "sound":
        return
    seeds, least = sorted(set(study.seeds_of(section))), len(SEEDS["sound"])
    if len(seeds) < least:
        raise UserError(
            f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''} under protocol: sound",
            where=f"{where}.seeds",
            allowed=f"at least {least}: fewer can't tell a method from its luck",
            fix=f"write seeds: {SEEDS['sound']}, or leave the key out",
        )
    budgets = {
        method: max(Counter(variant for variant, *_ in trials).values())
        for method, trials in tried.items()
        if methods.describe(method).trains
    }
    if study.budget == "equal" and len(set(budgets.values())) > 1:
        told = ", ".join(f"{method} {number}" for method, number in budgets.items())
        raise UserError(
            f"unequal numbers of trials under protocol: sound ({told})",
            where=f"{where}.grids",
            allowed="as many trials for each method that is trained",
            fix="give each method as many values; or say that they differ, budget: unequal, also "
            "on the command line: --config budget=unequal",
        )


def check_method(method: str, settings: TrainSettings | RunSpec, where: str) -> None:
    """Refuses an option that the method would have to drop; `where` is its place up to its name."""
    described = methods.describe(method)
    if not described.trains:
        engines.check(settings.engine, settings.num_devices, method, where=where)
        return
    engines.check(settings.engine, settings.num_devices, method, where=where)
    keys = {"max_grad_norm": "max_grad_norm"} if settings.max_grad_norm is not None else {}
    if getattr(settings, "weight_decay", 0.0) > 0:
        keys["weight_decay"] = "weight_decay"
    if getattr(settings, "gradient_accumulation", 1) > 1:
        keys["gradient_accumulation"] = "gradient_accumulation"
    if settings.dtype == "float16":
        keys["float16"] = "dtype"
    support.check(method, keys, settings.engine, where=where)


def check_hyper(
    method: str,
    hyper: dict[str, HyperValue],
    settings: TrainSettings | RunSpec,
    where: str,
) -> None:
    """Refuses hyper-parameters that the other settings contradict."""
    scope = hyper.get("norm_scope", "global")
    if scope != "global" and settings.max_grad_norm is None:
        raise UserError(
            f"{scope} says which norm is clipped, and max_grad_norm is null",
            where=f"{where}.norm_scope",
            fix="give max_grad_norm, or leave norm_scope out",
        )
    asked = {
        option: option
        for option, neutral in support.NEUTRAL.items()
        if hyper.get(option, neutral) != neutral
    }
    support.check(method, asked, settings.engine, where=f"{where}.")


def check_length(entry: ModelEntry, length: int, where: str) -> None:
    """Refuses more tokens than the model has positions."""
    positions = entry.num_positions
    if positions is not None and length > positions:
        raise UserError(
            f"{length} tokens are more than {entry.name} has positions",
            where=where,
            allowed=f"at most {positions}",
        )


def check_saved(settings: TrainSettings | RunSpec, where: str) -> None:
    """Refuses to save a model whose weights no process holds whole."""
    if settings.engine != "single":
        raise UserError(
            f"with engine: {settings.engine} no process holds the trained weights whole",
            where=where,
            allowed="false; with engine: single also true",
            fix="leave the models unsaved, or train in one process",
        )


def check_compile(spec: RunSpec, where: str) -> None:
    """Refuses compiled layers where an engine or a method can't do with them."""
    if getattr(spec, "compile", "none") == "none":
        return
    why = None
    takes_two = "gradient_accumulation" not in methods.describe(spec.method).honours  # it is fused
    by_all = spec.max_grad_norm is not None and spec.hyper.get("norm_scope", "global") == "global"
    if spec.engine == "zero3":
        why = "ZeRO-3 gathers a layer's parameters by hooks inside what would be compiled"
    elif spec.hyper.get("update") == "gemm":
        why = "a compiled layer hands out its gradients: its products can't update weights"
    elif takes_two and by_all:
        why = "clipping by the global norm takes two backward passes, and a compiled one runs once"
    if why is not None:
        raise UserError(why, where=where, allowed="none", fix="leave compile at `none`")


def untrainable(name: str) -> str:
    """What is wrong with a model of random weights in a run that trains."""
    return f"{name} has random weights and no tokenizer: there is nothing to train or to score"


TRAINABLE = {
    "allowed": "a model with weights: pretrain, hub or local",
    "fix": "random weights are for memory and speed: name the model in a measured section",
}
