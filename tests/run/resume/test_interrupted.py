"""Asked to end, or ended without being asked, at every bad moment: nothing is lost but time."""

from __future__ import annotations

import copy
import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sittings import (
    Hook,
    assert_same,
    at_step,
    brisk,
    finish,
    often,
    saved,
    signalled,
    sit,
)

from lomo.record.schema import read_record
from lomo.run import evaluate, train
from lomo.run.resume import checkpoints
from lomo.system import interrupts

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
KILLED, ENDED = -signal.SIGKILL, 128 + signal.SIGTERM
TERM, KILL = signalled(signal.SIGTERM), signalled(signal.SIGKILL)


@pytest.fixture
def spec(study_dict: dict[str, Any]) -> Any:
    """LoRA: its dropout draws from the global generator."""
    return brisk(study_dict, "lora")


@pytest.fixture(scope="module")
def whole(unit_study: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of that run when nothing disturbs it."""
    folder = tmp_path_factory.mktemp("whole")
    finish(brisk(copy.deepcopy(unit_study), "lora"), folder)
    return folder


def never() -> Hook:
    """Saves only when asked to end."""
    return lambda patch: patch.setattr(checkpoints.Checkpoints, "is_due", property(lambda _: False))


def in_evaluation(
    number: int, what: Callable[[], None], *, dev: dict[int, float] | None = None
) -> Hook:
    """Does `what` in the middle of the process's evaluation `number`; `dev`: scores by epoch."""
    seen = 0  # evaluations that are done

    def install(patch: pytest.MonkeyPatch) -> None:
        real, forward = evaluate.score, evaluate.QuietLM._model_call

        def score(*arguments: Any, **options: Any) -> Any:
            nonlocal seen
            evaluation, samples = real(*arguments, **options)
            seen += 1
            if evaluation.split == "dev" and evaluation.epoch in (dev or {}):
                value = {"value": dev[evaluation.epoch]}  # type: ignore[index]
                evaluation = evaluation.model_copy(update=value)
            return evaluation, samples

        def call(lm: Any, *arguments: Any, **options: Any) -> Any:
            if seen == number:
                what()
            return forward(lm, *arguments, **options)

        patch.setattr(evaluate, "score", score)
        patch.setattr(evaluate.QuietLM, "_model_call", call)

    return install


def in_save(what: Callable[[], None], *, before_rename: bool = False) -> Hook:
    """Does `what` when the second checkpoint is written, or was and has not got its name."""

    def install(patch: pytest.MonkeyPatch) -> None:
        method = "_publish" if before_rename else "_write"
        real, seen = getattr(checkpoints.Checkpoints, method), 0

        def attempt(*arguments: Any) -> None:
            nonlocal seen
            seen += 1
            if seen == 2:
                what()
            real(*arguments)

        patch.setattr(checkpoints.Checkpoints, method, attempt)

    return install


def test_sigterm_in_a_step_ends_the_run_after_it(
    spec: Any, whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert sit(spec, tmp_path, never(), at_step(3, TERM)) == ENDED
    assert "ended by SIGTERM after step 3, saved" in capfd.readouterr().err
    assert saved(tmp_path) == ["step-00000003"] and not (tmp_path / "record.json").exists()
    record = finish(spec, tmp_path, never())
    assert record.resumed_at_steps == [3]
    assert "goes on after step 3" in capfd.readouterr().err
    assert_same(tmp_path, whole)


@pytest.mark.parametrize("end", ["asked", "killed"])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_an_evaluation_that_was_left_is_done_again_and_once(
    spec: Any, whole: Path, tmp_path: Path, number: int, end: str
) -> None:
    """The first epoch's, the second's, and that of test: no epoch is replayed or skipped."""
    if end == "asked":
        assert sit(spec, tmp_path, never(), in_evaluation(number, TERM)) == ENDED
        names = ["step-00000004", "step-00000008", "step-00000008-scored"]
        assert saved(tmp_path) == [names[number]]
    else:
        assert sit(spec, tmp_path, often(), in_evaluation(number, KILL)) == KILLED
    assert finish(spec, tmp_path).resumed_at_steps == [(4, 8, 8)[number]]
    assert_same(tmp_path, whole)


def test_killed_at_the_first_step_of_an_epoch_it_has_that_epochs_order(
    spec: Any, whole: Path, tmp_path: Path
) -> None:
    assert sit(spec, tmp_path, often(), at_step(5, KILL)) == KILLED
    assert saved(tmp_path)[-1] == "step-00000004-scored"
    finish(spec, tmp_path)
    assert_same(tmp_path, whole)


@pytest.mark.parametrize("what", [KILL, TERM], ids=["killed", "asked"])
def test_the_best_epochs_weights_are_still_there_at_the_end(
    spec: Any, tmp_path: Path, what: Callable[[], None]
) -> None:
    """Epoch 1 of 3 is best: its weights lie in a file that checkpoints of later epochs name."""
    spec = spec.model_copy(update={"epochs": 3})
    dev = {1: 0.9, 2: 0.1, 3: 0.2}
    nobody = in_evaluation(-1, KILL, dev=dev)
    assert finish(spec, tmp_path / "whole", nobody).result.epoch == 1  # type: ignore[union-attr]
    for number in (1, 3):
        folder = tmp_path / str(number)
        assert sit(spec, folder, often(), in_evaluation(number, what, dev=dev)) in (KILLED, ENDED)
        record = finish(spec, folder, nobody)
        assert len(record.resumed_at_steps) == 1 and record.checkpoints_refused == []
        assert_same(folder, tmp_path / "whole")


def test_weights_that_a_checkpoint_refers_to_stay_when_better_ones_come(
    spec: Any, tmp_path: Path
) -> None:
    """Killed between the weights of a better epoch and the checkpoint that would name them."""
    spec = spec.model_copy(update={"epochs": 3})
    nobody = in_evaluation(-1, KILL, dev={1: 0.5, 2: 0.9, 3: 0.2})
    assert finish(spec, tmp_path / "whole", nobody).result.epoch == 2  # type: ignore[union-attr]

    def killed(patch: pytest.MonkeyPatch) -> None:
        real = checkpoints.Checkpoints.keep_best

        def keep(made: checkpoints.Checkpoints, epoch: int, parts: Any) -> Any:
            found = real(made, epoch, parts)
            if epoch == 2:
                KILL()
            return found

        patch.setattr(checkpoints.Checkpoints, "keep_best", keep)

    assert sit(spec, tmp_path / "run", often(), nobody, killed) == KILLED
    record = finish(spec, tmp_path / "run", nobody)
    assert record.resumed_at_steps == [8] and record.checkpoints_refused == []
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_an_iterator_that_draws_from_the_global_generators_changes_nothing(
    spec: Any, tmp_path: Path
) -> None:
    """As torch's DataLoader does when it begins, also where nothing is shuffled."""

    def drawing(patch: pytest.MonkeyPatch) -> None:
        real = train.epoch_batches

        def batches(*arguments: Any, **options: Any) -> Any:
            torch.empty((), dtype=torch.int64).random_()
            for batch in real(*arguments, **options):
                torch.rand(3), random.random(), np.random.rand(2)  # noqa: NPY002
                yield batch

        patch.setattr(train, "epoch_batches", batches)

    finish(spec, tmp_path / "whole", drawing)
    for step in (3, 5):
        folder = tmp_path / str(step)
        assert sit(spec, folder, drawing, often(), at_step(step, KILL)) == KILLED
        finish(spec, folder, drawing)
        assert_same(folder, tmp_path / "whole")


def test_sigterm_while_it_saves(spec: Any, whole: Path, tmp_path: Path) -> None:
    assert sit(spec, tmp_path, often(), in_save(TERM)) == ENDED
    assert saved(tmp_path) == ["step-00000001", "step-00000002"]
    assert finish(spec, tmp_path).resumed_at_steps == [2]
    assert_same(tmp_path, whole)


@pytest.mark.parametrize("late", [False, True])
def test_killed_while_it_saves_the_last_good_one_is_used(
    spec: Any, whole: Path, tmp_path: Path, late: bool
) -> None:
    assert sit(spec, tmp_path, often(), in_save(KILL, before_rename=late)) == KILLED
    assert saved(tmp_path) == ["step-00000001"]
    record = finish(spec, tmp_path)
    assert record.resumed_at_steps == [1] and record.checkpoints_refused == []
    assert_same(tmp_path, whole)


def test_a_second_sigterm_that_comes_with_the_first_disturbs_nothing(
    spec: Any, whole: Path, tmp_path: Path
) -> None:
    twice = in_save(lambda: (TERM(), TERM()) and None)
    assert sit(spec, tmp_path, often(), at_step(2, TERM), twice) == ENDED
    assert saved(tmp_path)[-1] == "step-00000002"
    finish(spec, tmp_path)
    assert_same(tmp_path, whole)


def test_a_late_second_sigterm_ends_it_at_once(spec: Any, whole: Path, tmp_path: Path) -> None:
    def impatient(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(interrupts, "_PATIENCE_S", 0.0)

    hooks = impatient, often(), at_step(2, TERM), in_save(TERM)
    assert sit(spec, tmp_path, *hooks) == ENDED
    assert saved(tmp_path) == ["step-00000001"]
    finish(spec, tmp_path)
    assert_same(tmp_path, whole)


def test_a_full_disk_costs_a_checkpoint_and_not_the_run(
    spec: Any, whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    finish(spec, tmp_path / "1", often(), in_save(full))
    told = capfd.readouterr().err
    assert "no checkpoint after step 2: cannot be written (No space left on device)" in told
    assert_same(tmp_path / "1", whole)
    # Asked to end, it ends all the same, and says what is lost.
    assert sit(spec, tmp_path / "2", often(), at_step(2, TERM), in_save(full)) == ENDED
    assert "after step 2, not saved (cannot be written" in capfd.readouterr().err
    assert finish(spec, tmp_path / "2").resumed_at_steps == [1]
    assert_same(tmp_path / "2", whole)


def test_without_an_interval_nothing_is_saved_and_a_signal_ends_it(
    spec: Any, tmp_path: Path
) -> None:
    spec = spec.model_copy(update={"checkpoint_interval_s": None})
    assert sit(spec, tmp_path, often(), at_step(6, TERM)) == -signal.SIGTERM
    assert saved(tmp_path) == []
    assert finish(spec, tmp_path, often()).resumed_at_steps == []


@pytest.fixture(scope="module")
def long_spec(unit_study: dict[str, Any]) -> Any:
    """A run that is long enough to be killed in its middle."""
    spec = brisk(copy.deepcopy(unit_study), "lora")
    return spec.model_copy(update={"epochs": 16, "checkpoint_interval_s": 0.01})


@pytest.fixture(scope="module")
def long_whole(long_spec: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder, killed by nobody."""
    folder = tmp_path_factory.mktemp("long") / "whole"
    finish(long_spec, folder, never())
    return folder


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_command_is_killed_for_real(
    long_spec: Any, long_whole: Path, tmp_path: Path, number: int
) -> None:
    spec = long_spec
    folder = tmp_path / "killed"
    arguments = ["train", "--spec", spec.model_dump_json(), "--out", str(folder)]
    command = [sys.executable, "-m", "lomo", *arguments]
    # A shell without jobs has what it puts into the background ignore Ctrl-C, and so its children.
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    pipes = {"stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes, **heard) as process:
        while not saved(folder):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        _, told = process.communicate(timeout=120)
    code = -number if number == signal.SIGKILL else 128 + number
    assert process.returncode == code, told
    assert "Traceback" not in told
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    record = read_record(folder / "record.json")
    assert len(record.resumed_at_steps) == 1
    for name in ("history.jsonl", "samples.jsonl"):
        texts = [(at / name).read_text().split("step_s") for at in (folder, long_whole)]
        assert len(texts[0]) == len(texts[1])
    assert read_record(long_whole / "record.json").evaluations == record.evaluations
