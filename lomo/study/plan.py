"""From a study to the list of its runs: every run resolved, named and checked before it starts.

A plan is what Snakemake builds its jobs from, and what the tables use to know which runs belong
to which section. It imports no torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from lomo import methods
from lomo.errors import UserError
from lomo.model.registry import (
    ModelEntry,
    check_head_loss,
    local_entry,
    resolve_model,
    with_random_weights,
)
from lomo.specs import (
    AblationSpec,
    InstructSpec,
    MeasureSpec,
    PeerSpec,
    Spec,
    SuiteSpec,
    TaskSpec,
    TrainSpec,
    class_of,
)
from lomo.study.ablation import plan_ablation
from lomo.study.config import Accuracy, Instruct, Rounding, Study, Trained
from lomo.study.inputs import check_data, check_instructions, model_folder
from lomo.study.measured import Ablation, Measure, Peers
from lomo.study.native_dtype import in_native_dtype
from lomo.study.refusals import (
    TRAINABLE,
    check_compile,
    check_hyper,
    check_length,
    check_method,
    check_saved,
    untrainable,
)
from lomo.study.suites.plan import BASE, plan_suites
from lomo.study.trials import instruct_specs, resolved_hyper, rounding_specs, task_specs
from lomo.system.files import read_json, read_text
from lomo.system.strict import Strict, parse
from lomo.tasks import registry as tasks


class Plan(Strict):
    """All runs of a study, and which section asked for which."""

    study: Study
    source: str
    models: dict[str, ModelEntry]
    runs: dict[str, Spec]
    sections: dict[str, list[str]] = Field(description="section -> run ids")
    suites: dict[str, SuiteSpec] = Field(
        default_factory=dict, description="what is scored on a suite, by run id"
    )

    def bases(self) -> dict[str, tuple[str, int]]:
        """Folder -> (model, seed) of each base model that the pipeline trains for these runs."""
        runs: list[TrainSpec | SuiteSpec] = [
            *(run for run in self.runs.values() if isinstance(run, TrainSpec)),
            *(run for run in self.suites.values() if run.method == BASE),
        ]
        return {
            run.model_path: (run.model, run.seed)
            for run in runs
            if run.seed is not None and self.models[run.model].weights == "pretrain"
        }


def make_plan(study: Study, *, source: str) -> Plan:
    """The plan of a study read from `source`. Raises UserError for what can't be honoured."""
    runs: dict[str, Spec] = {}
    sections: dict[str, list[str]] = {}
    entries: dict[str, ModelEntry] = {}
    study = in_native_dtype(study)
    if study.data != "generated" and "generated" in study.model_fields_set:
        raise UserError(
            "says how data is generated, but the study's data is not",
            where=f"{source}: generated",
            fix="remove it, or write data: generated",
        )
    for name, section in study.sections().items():
        where = f"{source}: {name}"
        chosen: list[ModelEntry] = []
        for model in study.models_of(section):
            entry = _entry(study, model, where)
            chosen.append(entry)
            if entry.weights == "random" and isinstance(section, Trained):
                raise UserError(untrainable(entry.name), where=f"{where}.models", **TRAINABLE)
            _add(entry, entries, where)
        if isinstance(section, Accuracy):
            for number, task in enumerate(section.tasks):
                tasks.check_name(task, where=f"{where}.tasks.{number}")
            check_data(study, set(section.tasks), where=source)
        specs: Sequence[Spec]
        if isinstance(section, Rounding):
            specs = rounding_specs(study, section, chosen, where)
        elif isinstance(section, Accuracy):
            specs = task_specs(study, section, chosen, where)
        elif isinstance(section, Instruct):
            check_instructions(section, study.protocol, where=where)
            specs = instruct_specs(study, section, chosen, where)
        elif isinstance(section, Peers):
            specs = _peer_specs(study, section, where)
        elif isinstance(section, Ablation):
            specs, _ = plan_ablation(study, section, chosen, where)
        else:
            specs = _measure_specs(study, section, where)
        for spec in specs:
            if runs.setdefault(spec.run_id, spec) != spec:
                raise UserError(
                    f"run {spec.run_id} is asked for twice, with different settings",
                    where=where,
                    fix="give both sections the same settings, or put one into a study of its own",
                )
        sections[name] = list(dict.fromkeys(spec.run_id for spec in specs))
    suites: dict[str, SuiteSpec] = {}
    if study.suites is not None:
        where = f"{source}: suites"
        asked = [_entry(study, model, where) for model in study.models_of(study.suites)]
        for entry in asked:
            _add(entry, entries, where)
        trained = [spec for spec in runs.values() if isinstance(spec, InstructSpec)]
        suites = plan_suites(study, study.suites, asked, trained, where)
    return Plan(
        study=study, source=source, models=entries, runs=runs, sections=sections, suites=suites
    )


def _add(entry: ModelEntry, entries: dict[str, ModelEntry], where: str) -> None:
    """Takes a section's model to those of the study."""
    if entries.setdefault(entry.name, entry) != entry:
        raise UserError(
            f"two models are named {entry.name}",
            where=f"{where}.models",
            fix="rename the folder of one, or give it a name in config/models.yaml: runs "
            "and tables tell models by their name",
        )


def _measure_specs(study: Study, section: Measure, where: str) -> list[MeasureSpec]:
    specs = []
    common = section.model_dump(exclude={"models", "methods"})
    for model, method, setting in itertools.product(
        study.models_of(section), section.methods, section.settings()
    ):
        entry = _entry(study, model, where)
        methods.check_name(method, where=f"{where}.methods")
        if not methods.describe(method).trains:
            raise UserError(
                f"{method} takes no training step to measure",
                where=f"{where}.methods",
                fix=f"take {method} out of this section",
            )
        check_length(entry, section.sequence_length, f"{where}.sequence_length")
        spec = MeasureSpec(
            study=study.study,
            run_id=f"measure/{entry.name}/{method}/{_setting(**common | setting)}",
            model=entry.name,
            model_path=model_folder(entry, study.study),
            method=method,
            hyper=resolved_hyper(method, {}, where),
            device=study.device,
            num_threads=study.num_threads,
            **common | setting,
        )
        check_method(method, spec, f"{where}.")
        check_head_loss(spec.head_loss, spec.engine, entry.architecture, f"{where}.head_loss")
        specs.append(spec)
    return specs


def _entry(study: Study, model: str, where: str) -> ModelEntry:
    """The model of a section, with random weights where the study wants no others."""
    entry = resolve_model(model, where=f"{where}.models")
    if study.weights is None:
        return entry
    return with_random_weights(entry, where=f"{where}.models")


def _peer_specs(study: Study, section: Peers, where: str) -> list[PeerSpec]:
    """The runs round by round: all variants of one before any of the next."""
    floors = [name for name, asked in section.variants.items() if asked.method == "floor"]
    if len(floors) != 1:
        raise UserError(
            f"{len(floors)} of the variants have method: floor",
            where=f"{where}.variants",
            allowed="one: all others are told as ratios to it",
            fix="add one, such as `floor: {method: floor}`" if not floors else "remove the others",
        )
    settings = section.model_dump(exclude={"models", "variants", "rounds"})
    specs = []
    for number, model, checkpointing, (name, asked) in itertools.product(
        range(1, section.rounds + 1),
        study.models_of(section),
        section.activation_checkpointing,
        section.variants.items(),
    ):
        place = f"{where}.variants.{name}"
        entry = _entry(study, model, where)
        check_length(entry, section.sequence_length, f"{where}.sequence_length")
        methods.check_name(asked.method, where=f"{place}.method", peers_too=True)
        setting = _setting(**settings | {"activation_checkpointing": checkpointing})
        spec = PeerSpec(
            study=study.study,
            run_id=f"measure/{entry.name}/{name}/{setting}/round{number}",
            model=entry.name,
            model_path=model_folder(entry, study.study),
            method=asked.method,
            hyper=resolved_hyper(asked.method, asked.hyper, f"{place}.hyper"),
            max_grad_norm=asked.max_grad_norm,
            device=study.device,
            num_threads=study.num_threads,
            variant=name,
            round=number,
            **{**settings, "activation_checkpointing": checkpointing},
        )
        check_method(asked.method, spec, f"{place}.")
        check_hyper(asked.method, spec.hyper, spec, f"{place}.hyper")
        specs.append(spec)
    return specs


def _setting(
    *,
    sequence_length: int,
    batch_size: int,
    dtype: str,
    activation_checkpointing: bool,
    head_loss: str = "model",
    engine: str = "single",
    num_devices: int = 1,
    **_: object,
) -> str:
    """What a run id tells of a measured run's setting."""
    checkpointing = "checkpointed" if activation_checkpointing else "plain"
    head = "" if head_loss == "model" else f"-{head_loss}_head"
    spread = "" if engine == "single" else f"-{engine}-{num_devices}"
    return f"{sequence_length}x{batch_size}-{dtype}-{checkpointing}{head}{spread}"


def plan_from_config(config: dict[str, Any], *, source: str) -> Plan:
    """The plan of a study's config as Snakemake holds it. Raises UserError.

    Two study files must not write into one folder: the plan that stands there names its file.
    """
    study = parse(Study, config, where=source)
    asked = [*study.sections().values(), *([study.suites] if study.suites else [])]
    named = [model for section in asked for model in study.models_of(section)]
    others = [section.data for section in (study.instruct, study.suites) if section]
    _check_braces({"data": [study.data, *others], "models": named}, source)
    plan = make_plan(study, source=source)
    _check_braces({"models": [entry.path or "" for entry in plan.models.values()]}, source)
    standing = Path(f"results/{plan.study.study}/plan.json")
    if standing.is_file():
        # Snakemake takes a file that is there for done.
        fix = "delete it: the pipeline makes it again, and repeats no run for that"
        try:
            other = read_json(standing).get("source")
        except (UserError, AttributeError) as error:
            what = "is no plan; it was cut or edited"
            raise UserError(what, where=str(standing), fix=fix) from error
        if other not in (None, source):
            raise UserError(
                f"results/{plan.study.study}/ belongs to the study file {other}",
                where=f"{source}: study",
                fix="give this study another name, or remove that folder",
            )
    return plan


def _check_braces(places: dict[str, list[str]], source: str) -> None:
    """Snakemake takes a brace in a path for a wildcard, and knows no way to write it otherwise."""
    for key, path in ((key, path) for key, paths in places.items() for path in paths):
        if "{" in path or "}" in path:
            raise UserError(
                f"a brace in {path!r}, which Snakemake takes for a wildcard",
                where=f"{source}: {key}",
                fix="rename it, or give a link to it: ln -s",
            )


def read_spec(data: dict[str, Any], *, where: str) -> TrainSpec | MeasureSpec:
    """A run's spec from JSON data: a spec, or a whole record, of which the spec is taken."""
    given = data.get("spec", data)
    own = class_of(given)
    if own is None:
        raise UserError("is no run's spec", where=where, allowed="kind: train, instruct, measure")
    spec = parse(own, given, where=where)
    # A plan has checked all this; a spec may also have been written by hand.
    peers_too = isinstance(spec, PeerSpec | AblationSpec)
    methods.check_name(spec.method, where=f"{where}: method", peers_too=peers_too)
    check_method(spec.method, spec, f"{where}: ")
    resolved_hyper(spec.method, spec.hyper, f"{where}: hyper")
    check_hyper(spec.method, spec.hyper, spec, f"{where}: hyper")
    check_compile(spec, f"{where}: compile")
    if isinstance(spec, TaskSpec):
        tasks.check_name(spec.task, where=f"{where}: task")
    if isinstance(spec, InstructSpec) and spec.tuned_path is not None:
        check_saved(spec, f"{where}: tuned_path")
    return spec


def check_model(spec: TrainSpec | MeasureSpec, *, where: str) -> None:
    """Raises UserError unless the spec's model folder can be used as it is, before it is loaded."""
    entry = local_entry(Path(spec.model_path), where=f"{where}: model_path")
    if entry.weights == "random" and isinstance(spec, TrainSpec):
        raise UserError(untrainable(entry.name), where=f"{where}: model_path", **TRAINABLE)
    key = "max_length" if isinstance(spec, TrainSpec) else "sequence_length"
    check_length(entry, getattr(spec, key), f"{where}: {key}")
    check_head_loss(spec.head_loss, spec.engine, entry.architecture, f"{where}: head_loss")


def read_plan(results: Path) -> Plan:
    """The plan of a results folder. Raises UserError if it is missing, cut or of other code."""
    path = results / "plan.json"
    fix = "delete it and run the pipeline again, which writes it first"
    if not path.exists():
        begun = "give the folder of a study, results/<study>, that the pipeline has begun"
        raise UserError("cannot be read (No such file or directory)", where=str(path), fix=begun)
    text = read_text(path, fix=fix)
    try:
        return Plan.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(f"is no plan: {key} {first['msg']}", where=str(path), fix=fix) from error
