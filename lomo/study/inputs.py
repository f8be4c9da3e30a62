"""The files that a study's runs read: where the pipeline makes, fetches or finds them."""

from __future__ import annotations

from pathlib import Path

from lomo.errors import UserError
from lomo.model.checkpoint import weight_files
from lomo.model.registry import ModelEntry, looked_from
from lomo.specs import Protocol
from lomo.study.config import Instruct, Study
from lomo.study.machine import has_gpu
from lomo.tasks.instructions import draw
from lomo.tasks.lines import broken_link
from lomo.tasks.superglue import GIVEN, check_splits, files_of, find_file

SPLITS = ("train", "val")
# Weights that the fetch rule gets, once for all studies.
FETCHED = ("hub", "package")
# The hub's instructions, where the fetch rule puts them.
ALPACA = "resources/alpaca/alpaca.json"


def data_folder(study: Study) -> str:
    """The folder that holds the study's tasks in SuperGLUE's JSONL layout."""
    if study.data == "generated":
        return f"results/{study.study}/data/superglue"
    if study.data == "superglue":
        return "resources/superglue"
    return Path(study.data).as_posix()


def task_files(task: str | None = None, folder: Path | None = None) -> list[str]:
    """The files of one task, or of all that the pipeline makes, relative to the data folder.

    Given the folder, the names that they have there: `datasets` exports a validation.jsonl.
    """
    if task and folder:
        found = [find_file(folder, task, split)[0] for split in SPLITS]
        return [path.relative_to(folder).as_posix() for path in found]
    folders = [files_of(name).folder for name in ([task] if task else GIVEN)]
    return [f"{folder}/{split}.jsonl" for folder in folders for split in SPLITS]


def model_folder(entry: ModelEntry, study: str, seed: int | None = None) -> str:
    """The folder with the model's weights, where the pipeline makes or finds it.

    A base model that the pipeline trains is another one for each `seed`. Without one, as in a
    measured run, it is the architecture alone.
    """
    if entry.path is not None:
        return Path(entry.path).as_posix()
    if entry.weights in FETCHED:
        return f"resources/models/{entry.name}"
    folder = f"results/{study}/models/{entry.name}"
    return f"{folder}/s{seed}" if entry.weights == "pretrain" and seed is not None else folder


def model_files(entry: ModelEntry, study: str, seed: int | None = None) -> list[str]:
    """What a run reads of its model; where it is made or fetched, the file that is written last."""
    folder = model_folder(entry, study, seed)
    if entry.weights == "local":
        weights = weight_files(Path(folder), where=folder)
        names = [path.as_posix() for path in weights]
        return [f"{folder}/config.json", f"{folder}/tokenizer.json", *names]
    if entry.weights in FETCHED:
        return [f"{folder}/fetched.json"]
    trained = entry.weights == "pretrain" and seed is not None
    return [f"{folder}/{'model.safetensors' if trained else 'config.json'}"]


def instruct_file(section: Instruct) -> str:
    """The file with the section's instructions."""
    return ALPACA if section.data == "alpaca" else Path(section.data).as_posix()


def check_instructions(section: Instruct, protocol: Protocol, *, where: str) -> None:
    """Raises UserError where a local file of instructions has a bad item, or too few of them."""
    path = Path(instruct_file(section))
    if section.data == "alpaca" and not path.exists():
        return  # the pipeline fetches it
    if path.is_dir():
        raise UserError(
            f"is a folder: {path}",
            where=f"{where}.data",
            allowed="alpaca, or a JSON or JSONL file in Alpaca's layout",
        )
    given = section.settings
    num_dev = given.num_dev if protocol == "sound" else 0
    draw(
        path,
        num_train=given.num_train,
        num_dev=num_dev,
        num_test=given.num_test,
        seed=given.sample_seed,
    )


def gpus_a_run(study: Study) -> int:
    """How many GPUs a run asks Snakemake for: none where it will not use one."""
    return int(study.device == "cuda" or (study.device == "auto" and has_gpu()))


def check_data(study: Study, tasks: set[str], *, where: str) -> None:
    """Raises UserError where a local data folder lacks a task of the study, or a line is bad.

    Every line is read: what is wrong in the last task is told before the first run.
    """
    if study.data in ("generated", "superglue"):
        for task in sorted(tasks - set(GIVEN)):
            holds = {"generated": "the generated data", "superglue": "SuperGLUE"}[study.data]
            raise UserError(
                f"{holds} has no {task}",
                where=f"{where}: data",
                allowed=f"with {study.data}: {', '.join(GIVEN)}",
                fix=f"give a folder that holds {' and '.join(task_files(task))}, data: FOLDER",
            )
        return
    folder = Path(study.data)
    if not folder.is_dir():
        raise UserError(
            f"no such data folder: {folder}",
            where=f"{where}: data",
            allowed="generated, superglue, or a folder in SuperGLUE's JSONL layout",
            fix="correct `data` there; snakemake takes it on its command line too, "
            f"--config data=FOLDER{looked_from(folder)}",
        )
    for task in sorted(tasks):
        for file in task_files(task, folder):
            path = folder / file
            if not path.is_file() or path.stat().st_size == 0:
                link = broken_link(path)
                problem = f"a broken link to {link}" if link else "no such file"
                raise UserError(
                    f"{'is empty' if path.is_file() else problem}: {path}",
                    where=f"{where}: data",
                    allowed=f"{', '.join(task_files(task))} in the data folder",
                    fix=f"add it, or leave {task} out of `tasks`",
                )
        check_splits(folder, task, selects=study.protocol == "sound")
