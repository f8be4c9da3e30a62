"""The runs of section `suites`, each checked before a model is loaded. Imports no torch.

Every line of local files is read: what is wrong in the last of them is told before the first run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lomo import methods
from lomo.contained.probe import require
from lomo.errors import UserError
from lomo.model.registry import ModelEntry, looked_from
from lomo.specs import InstructSpec, SuiteSpec
from lomo.study.config import Study
from lomo.study.inputs import model_folder
from lomo.study.suites.names import check_name
from lomo.study.suites.section import Suites, SuiteTask
from lomo.suites.known import Found, find
from lomo.suites.layouts import documents, files_of, subjects_of
from lomo.suites.room import check_room

HUB, GENERATED = "hub", "generated"
BASE = "base"  # what nothing has tuned
# What the pipeline makes below a study's data/suites.
MINIATURE_FILES = tuple(
    f"miniature/{split}/{subject}_{split}.csv"
    for subject in ("names", "pairs", "habits", "senses")
    for split in ("dev", "test")
)


def plan_suites(
    study: Study,
    section: Suites,
    entries: Iterable[ModelEntry],
    trained: Iterable[InstructSpec],
    where: str,
) -> dict[str, SuiteSpec]:
    """The section's runs by their ids. Raises UserError for what can't be honoured.

    trained: trainings on instructions; those that save a model of `entries` are scored as well.
    """
    entries = list(entries)
    names = {entry.name for entry in entries}
    tuned = [spec for spec in trained if spec.model in names and _is_kept(spec)]
    _check_trials(tuned, where)
    paths = {}
    for name, task in section.tasks.items():
        place = f"{where}.tasks.{name}"
        found = find(name)
        paths[name] = _data_path(study.study, section, name, found, where)
        if found is None:
            check_name(name, where=f"{where}.tasks")
        else:
            _check_counts(task, found, place)
            if found.suite.runs_code:
                require(f"{where}.{name}")
            if section.data not in (HUB, GENERATED):
                _check_files(found, task, Path(section.data), place)
        for entry in entries:
            _check_model(entry, task, found, place)
    return {
        spec.run_id: spec
        for entry in entries
        for name, task in section.tasks.items()
        for folder in (*_as_they_are(study, section, entry), *_tuned(tuned, entry))
        for spec in [_spec(study, section, folder, name, task, paths[name])]
    }


@dataclass(frozen=True)
class _Folder:
    """A model that is scored: as a method left it (`base`: as it was), of a seed or of none."""

    model: str
    path: str
    method: str
    variant: str
    seed: int | None


def _as_they_are(study: Study, section: Suites, entry: ModelEntry) -> Iterable[_Folder]:
    seeds: list[int | None] = [None]
    if entry.weights == "pretrain":
        seeds = [*study.seeds_of(section)]
    for seed in seeds:
        path = model_folder(entry, study.study, seed)
        yield _Folder(entry.name, path, BASE, BASE, seed)


def _tuned(tuned: Iterable[InstructSpec], entry: ModelEntry) -> Iterable[_Folder]:
    for spec in tuned:
        if spec.model == entry.name:
            _, _, variant, *_ = spec.run_id.split("/")
            yield _Folder(spec.model, str(spec.tuned_path), spec.method, variant, spec.seed)


def _is_kept(spec: InstructSpec) -> bool:
    return spec.tuned_path is not None and methods.describe(spec.method).trains


def _check_trials(tuned: Iterable[InstructSpec], where: str) -> None:
    """A row of the table is one way to tune; which of several trials it were, nobody has said."""
    trials: dict[str, set[str]] = {}
    for spec in tuned:
        _, _, variant, _, trial = spec.run_id.split("/")
        trials.setdefault(spec.method, set()).add(f"{variant}/{trial}")
    for method, found in trials.items():
        if len(found) > 1:
            raise UserError(
                f"instruct trains and saves {len(found)} models of {method} for each seed",
                where=where,
                allowed="one trial a method where the tuned models are scored, too",
                fix="choose one in `instruct`: grids with one value each; or leave out its save",
            )


def _spec(
    study: Study, section: Suites, folder: _Folder, name: str, task: SuiteTask, data: str
) -> SuiteSpec:
    made = "" if folder.seed is None else f"/s{folder.seed}"
    return SuiteSpec(
        study=study.study,
        run_id=f"suite/{folder.model}/{folder.variant}/{name}{made}",
        model=folder.model,
        model_path=folder.path,
        method=folder.method,
        seed=folder.seed,
        task=name,
        data_path=data,
        batch_size=section.batch_size,
        device=study.device,
        dtype=section.dtype,
        attention=section.attention,
        num_threads=study.num_threads,
        **task.model_dump(),
    )


def _data_path(study: str, section: Suites, name: str, found: Found | None, where: str) -> str:
    """Where a suite's documents come from: a folder, or the hub."""
    made_here = found is not None and found.suite.layout == "miniature"
    if made_here != (section.data == GENERATED):
        raise UserError(
            f"{name} is {'made by the pipeline' if made_here else 'not made by the pipeline'}",
            where=f"{where}.data",
            allowed="with generated: miniature; with a folder or hub: all others",
            fix=f"write data: {'generated' if made_here else 'FOLDER, or hub'}, or take {name} out "
            "of `tasks`",
        )
    if made_here:
        return f"results/{study}/data/suites"
    if section.data == HUB and found is not None and found.suite.runs_code:
        raise UserError(
            f"{found.suite.title} is read from its authors' file, not from the hub",
            where=f"{where}.data",
            allowed="a folder that holds humaneval/HumanEval.jsonl.gz",
            fix="put the file there and give that folder; the hub's copy has the same lines",
        )
    folder = Path(section.data)
    if section.data != HUB and not folder.is_dir():
        raise UserError(
            f"no such data folder: {folder}",
            where=f"{where}.data",
            allowed="generated, hub, or a folder with the suites' own files (docs/suites.md)",
            fix=f"correct it{looked_from(folder)}",
        )
    return HUB if found is None or section.data == HUB else folder.as_posix()


def _check_counts(task: SuiteTask, found: Found, where: str) -> None:
    suite = found.suite
    if task.num_fewshot is not None and suite.most_fewshot is not None:
        most = suite.most_fewshot
        if task.num_fewshot > most:
            raise UserError(
                f"{task.num_fewshot} solved examples, and its prompts hold {most}",
                where=f"{where}.num_fewshot",
                allowed=f"0 to {most}" if most else "0, or leave it out",
            )
    if task.max_gen_toks is not None and suite.max_gen_toks is None:
        raise UserError(
            f"{suite.title} generates nothing: its candidates are scored",
            where=f"{where}.max_gen_toks",
            fix="leave it out",
        )


def _check_model(entry: ModelEntry, task: SuiteTask, found: Found | None, where: str) -> None:
    if entry.weights == "random":
        raise UserError(
            f"{entry.name} has random weights and no tokenizer: there is nothing to score",
            where=f"{where.split('.tasks')[0]}.models",
            allowed="a model with weights",
        )
    tokens = task.max_gen_toks or (found.suite.max_gen_toks if found else None)
    check_room(tokens, entry.num_positions, entry.name, f"{where}.max_gen_toks")


def _check_files(found: Found, task: SuiteTask, data: Path, where: str) -> None:
    """Reads all of a suite's files, and counts the examples that may stand before a question."""
    for subject in subjects_of(found, data):
        splits = documents(found.suite, data, subject)
        shown = splits.get("dev", splits.get("train"))
        wanted = task.num_fewshot or 0
        if shown is not None and wanted > len(shown):
            raise UserError(
                f"{wanted} solved examples, and {subject or found.suite.title} has {len(shown)}",
                where=f"{where}.num_fewshot",
                allowed=f"at most {len(shown)}",
            )


def suite_files(run: SuiteSpec) -> list[str]:
    """The files that a run reads of its suite; none where they come from the hub."""
    found = find(run.task)
    if found is None or run.data_path == HUB:
        return []
    if found.suite.layout == "miniature":
        return [f"{run.data_path}/{file}" for file in MINIATURE_FILES]
    return [path.as_posix() for path in files_of(found, Path(run.data_path))]
