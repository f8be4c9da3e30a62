"""What a method tries in a section that trains: numbered points of hyper-parameters, the treatments
of the `rounding` section, and the runs that come of them. Imports no torch."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from lomo import methods
from lomo.errors import UserError
from lomo.methods import support
from lomo.model.registry import ModelEntry, check_head_loss
from lomo.specs import Dtype, HyperValue, InstructSpec, TaskSpec
from lomo.study.config import (
    Accuracy,
    Instruct,
    Rounding,
    Search,
    Study,
    Trained,
    Treatment,
)
from lomo.study.inputs import data_folder, instruct_file, model_folder
from lomo.study.refusals import (
    check_grids,
    check_hyper,
    check_length,
    check_method,
    check_protocol,
    check_saved,
)
from lomo.system.strict import parse

Hyper = dict[str, HyperValue]
# (path name of the variant, trial number, hyper-parameters)
Trial = tuple[str, int, Hyper]
# How weights are held and written -> their dtype.
DTYPES: dict[Treatment, Dtype] = {
    "float32": "float32",
    "bfloat16": "bfloat16",
    "bfloat16_stochastic": "bfloat16",
    "float16": "float16",
}
# Options of lomo/methods/support.py that a treatment asks for.
_ASKED: dict[Treatment, str] = {"bfloat16_stochastic": "rounding", "float16": "float16"}

# Each range has a base of its own; beyond a few, the first points of a sequence lie on lines.
_BASES = (2, 3, 5, 7, 11, 13)
_DIGITS = 4  # of a value that is searched: it stands in tables


def task_specs(
    study: Study, section: Accuracy, models: Sequence[ModelEntry], where: str
) -> list[TaskSpec]:
    """The runs of an accuracy section. Raises UserError for what can't be honoured."""
    settings = _settings(study, section)
    specs = []
    for entry, method, trials, seeds in _points(study, section, models, where):
        for (variant, trial, hyper), task, seed in itertools.product(trials, section.tasks, seeds):
            specs.append(
                TaskSpec(
                    study=study.study,
                    run_id=f"train/{entry.name}/{variant}/{task}/s{seed}/t{trial}",
                    model=entry.name,
                    model_path=model_folder(entry, study.study, seed),
                    data_path=data_folder(study),
                    method=method,
                    hyper=hyper,
                    task=task,
                    seed=seed,
                    trial=trial,
                    **settings,
                )
            )
    return specs


def instruct_specs(
    study: Study, section: Instruct, models: Sequence[ModelEntry], where: str
) -> list[InstructSpec]:
    """The runs of an `instruct` section. Raises UserError for what can't be honoured."""
    if section.save:
        check_saved(section.settings, f"{where}.save")
    settings = _settings(study, section)
    specs = []
    for entry, method, trials, seeds in _points(study, section, models, where):
        for (variant, trial, hyper), seed in itertools.product(trials, seeds):
            name = f"{entry.name}/{variant}/s{seed}/t{trial}"
            specs.append(
                InstructSpec(
                    study=study.study,
                    run_id=f"instruct/{name}",
                    model=entry.name,
                    model_path=model_folder(entry, study.study, seed),
                    data_path=instruct_file(section),
                    method=method,
                    hyper=hyper,
                    seed=seed,
                    trial=trial,
                    tuned_path=f"results/{study.study}/tuned/{name}" if section.save else None,
                    **settings,
                )
            )
    return specs


def _settings(study: Study, section: Trained) -> dict[str, Any]:
    """What all runs of a section are told."""
    told = section.settings.model_dump()
    if study.protocol == "paper":
        told["num_dev"] = 0  # nothing is selected on it, so nothing is held back
    names = ("device", "protocol", "num_threads")
    return told | {name: getattr(study, name) for name in names}


def _points(
    study: Study, section: Trained, models: Sequence[ModelEntry], where: str
) -> Iterator[tuple[ModelEntry, str, list[Trial], list[int]]]:
    """Each model and method of a section with its trials and seeds, checked."""
    check_grids(section, where)
    tried = {method: trials_of(method, section, where) for method in section.methods}
    check_protocol(study, section, tried, where)
    settings = section.settings
    for entry, method in itertools.product(models, section.methods):
        check_method(method, settings, f"{where}.settings.")
        check_length(entry, settings.max_length, f"{where}.settings.max_length")
        place = f"{where}.settings.head_loss"
        check_head_loss(settings.head_loss, settings.engine, entry.architecture, place)
        # What trains nothing is the same for each seed, unless its base model is another.
        seeded = methods.describe(method).trains or entry.weights == "pretrain"
        seeds = study.seeds_of(section) if seeded else study.seeds_of(section)[:1]
        yield entry, method, tried[method], seeds


def rounding_specs(
    study: Study, section: Rounding, models: Sequence[ModelEntry], where: str
) -> list[TaskSpec]:
    """The runs of an accuracy section for each treatment, which is part of the variant's name."""
    specs = []
    for treatment, part in by_treatment(section, where):
        for spec in task_specs(study, part, models, where):
            kind, model, variant, rest = spec.run_id.split("/", 3)
            run_id = f"{kind}/{model}/{variant}-{treatment}/{rest}"
            specs.append(spec.model_copy(update={"run_id": run_id}))
    return specs


def trials_of(method: str, section: Trained, where: str) -> list[Trial]:
    """Each point of the method's grid or search; of one with a rank, the ranks are variants."""
    grid = section.grids.get(method, {})
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    if section.search is not None and methods.describe(method).trains:
        points = [points[0] | found for found in searched(method, section.search)]
    has_rank = "rank" in methods.describe(method).hyper.model_fields
    if section.ranks and has_rank:
        points = [{**point, "rank": rank} for rank in section.ranks for point in points]
    resolved = [resolved_hyper(method, point, f"{where}.grids.{method}") for point in points]
    for hyper in resolved:
        check_hyper(method, hyper, section.settings, f"{where}.grids.{method}")
    numbers: Counter[str] = Counter()
    numbered = []
    for hyper in resolved:
        variant = f"{method}-r{hyper['rank']}" if has_rank else method
        numbered.append((variant, numbers[variant], hyper))
        numbers[variant] += 1
    return numbered


def resolved_hyper(method: str, point: Hyper, where: str) -> Hyper:
    """All hyper-parameters of a method, those that `point` leaves out by default."""
    return parse(methods.describe(method).hyper, point, where=where).model_dump()


def why_not_treated(method: str, treatment: Treatment) -> str | None:
    """Why a method has no run of a treatment; None if it has."""
    option = _ASKED.get(treatment)
    if option is None:
        return None
    found = support.cell(method, option, "single")
    return found.note if found.verdict == "refused" else None


def by_treatment(section: Rounding, where: str) -> Iterator[tuple[Treatment, Accuracy]]:
    """Each treatment as an accuracy section: its dtype, and those methods that honour it.

    Raises UserError for a dtype beside the treatments, and for a treatment of no method.
    """
    if "dtype" in section.settings.model_fields_set:
        raise UserError(
            "the treatments say it",
            where=f"{where}.settings.dtype",
            fix="leave it out, and give the dtypes in `treatments`",
        )
    for method in section.methods:
        methods.check_name(method, where=f"{where}.methods")
    for treatment in section.treatments:
        reasons = {method: why_not_treated(method, treatment) for method in section.methods}
        honouring = [method for method, reason in reasons.items() if reason is None]
        if not honouring:
            raise UserError(
                f"no method of the section honours {treatment}: {next(iter(reasons.values()))}",
                where=f"{where}.treatments",
                fix="take it out, or add a method such as lomo",
            )
        grids = {m: dict(grid) for m, grid in section.grids.items() if m in honouring}
        if treatment == "bfloat16_stochastic":
            grids = {m: grids.get(m, {}) | {"rounding": ["stochastic"]} for m in honouring}
        settings = section.settings.model_copy(update={"dtype": DTYPES[treatment]})
        search = section.search
        if search is not None:
            ranges = {m: of for m, of in search.ranges.items() if m in honouring}
            search = search.model_copy(update={"ranges": ranges})
        given = section.model_dump(include={"models", "tasks", "seeds", "ranks"})
        own = {"methods": honouring, "settings": settings, "grids": grids, "search": search}
        yield treatment, Accuracy.model_validate(given | own)


def searched(method: str, search: Search) -> list[Hyper]:
    """The points of a method's search: a trial lies at the same shares of the ranges of all.

    More trials go on where fewer end, so that a larger budget repeats none.
    """
    draw = random.Random(search.seed)
    shifts = [draw.random() for _ in _BASES]
    points = []
    for index in range(1, search.trials + 1):
        point: Hyper = {}
        axes = zip(search.ranges[method].items(), _BASES, shifts, strict=False)
        for (name, (least, most)), base, shift in axes:
            share = (radical_inverse(index, base) + shift) % 1
            point[name] = float(f"{least * (most / least) ** share:.{_DIGITS}g}")
        points.append(point)
    return points


def radical_inverse(index: int, base: int) -> float:
    """The digits of `index` in `base`, mirrored at the point: of 6 = 110 in base 2, 0.011 = 3/8."""
    found, weight = 0.0, 1.0
    while index:
        index, digit = divmod(index, base)
        weight /= base
        found += digit * weight
    return found
