"""Only a good checkpoint of just this training is gone on from; the others are told."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sittings import assert_same, at_step, brisk, finish, often, saved, signalled, sit

from lomo.engines.single import ALONE
from lomo.record.clock import Clock
from lomo.record.schema import Record
from lomo.run.findings import Deadline, RunStopped
from lomo.run.resume import checkpoints
from lomo.run.resume.checkpoints import Checkpoints
from lomo.run.resume.state import Progress, generator_states, restore_generators
from lomo.run.resume.tensors import TensorFile, Unkept, pack, unpack, why_broken, write_tensors

Damage = Callable[[Path], None]


def cut(path: Path) -> None:
    """Half of the file is there."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_tensors(checkpoint: Path) -> None:
    cut(checkpoint / "rank0.safetensors")


def cut_text(checkpoint: Path) -> None:
    cut(checkpoint / "rank0.json")


def lose_tensors(checkpoint: Path) -> None:
    (checkpoint / "rank0.safetensors").unlink()


def lose_text(checkpoint: Path) -> None:
    (checkpoint / "rank0.json").unlink()


def flip_a_bit(checkpoint: Path) -> None:
    path = checkpoint / "rank0.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def put_in_a_nan(checkpoint: Path) -> None:
    """Written as a whole, by somebody who did not look."""
    path = checkpoint / "rank0.safetensors"
    tensors = load_file(path)
    next(t for name, t in tensors.items() if name.startswith("weights/")).view(-1)[0] = torch.nan
    save_file(tensors, path)
    _edit(checkpoint, sha256=checkpoints.hashlib.sha256(path.read_bytes()).hexdigest())


def of_another(key: str) -> Damage:
    def damage(checkpoint: Path) -> None:
        content = _content(checkpoint)
        _edit(checkpoint, origin={**content["origin"], key: "another"})

    return damage


def _content(checkpoint: Path) -> dict[str, Any]:
    text = (checkpoint / "rank0.json").read_text().partition("\n")[2]
    content: dict[str, Any] = json.loads(text)
    return content


def _edit(checkpoint: Path, **changes: Any) -> None:
    text = json.dumps({**_content(checkpoint), **changes})
    (checkpoint / "rank0.json").write_text(f"{checkpoints._sha256(text)}\n{text}\n")


DAMAGES: dict[str, tuple[Damage, str]] = {
    "cut": (cut_tensors, "rank0.safetensors is not what was written: it was cut or changed"),
    "cut text": (cut_text, "rank0.json is not what was written: it was cut or changed"),
    "lost": (lose_tensors, "rank0.safetensors cannot be read"),
    "lost text": (lose_text, "rank0.json cannot be read"),
    "changed": (flip_a_bit, "rank0.safetensors is not what was written"),
    "NaN": (put_in_a_nan, "holds a NaN"),
    **{
        key: (of_another(key), f"it is of another {key}")
        for key in ("fingerprint", "spec", "weights_sha256", "data", "packages", "device")
    },
}


@pytest.fixture(scope="module")
def killed(
    unit_study: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Path, Path]:
    """A spec, the folder of its run killed at step 6 with two checkpoints, and of the whole run."""
    spec = brisk(json.loads(json.dumps(unit_study)), "lomo")
    folder = tmp_path_factory.mktemp("runs")
    finish(spec, folder / "whole")
    assert sit(spec, folder / "killed", often(), at_step(6, signalled(signal.SIGKILL))) < 0
    return spec, folder / "killed", folder / "whole"


QUICK = ("cut", "NaN", "fingerprint", "spec")
NAMES = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in DAMAGES]


@pytest.mark.parametrize("name", NAMES)
def test_a_bad_one_is_refused_and_the_last_good_one_used(
    killed: tuple[Any, Path, Path], name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spec, left, whole = killed
    damage, reason = DAMAGES[name]
    folder = shutil.copytree(left, tmp_path / "run")
    older, newest = saved(folder)
    damage(folder / "checkpoints" / newest)
    record = finish(spec, folder)
    (told,) = record.checkpoints_refused
    assert told.startswith(f"{newest}: ") and reason in told
    assert f"checkpoint {newest} is refused: " in capfd.readouterr().err
    assert record.resumed_at_steps == [4] and older == "step-00000004-scored"
    assert_same(folder, whole)


@pytest.mark.parametrize("name", ["cut", pytest.param("device", marks=pytest.mark.slow)])
def test_without_a_good_one_it_is_begun_anew(
    killed: tuple[Any, Path, Path], name: str, tmp_path: Path
) -> None:
    spec, left, whole = killed
    damage, _ = DAMAGES[name]
    folder = shutil.copytree(left, tmp_path / "run")
    for checkpoint in saved(folder):
        damage(folder / "checkpoints" / checkpoint)
    record = finish(spec, folder, often())
    assert len(record.checkpoints_refused) == 2 and record.resumed_at_steps == []
    assert_same(folder, whole)


def test_weights_of_the_best_epoch_that_are_cut_are_not_gone_on_from(
    killed: tuple[Any, Path, Path], tmp_path: Path
) -> None:
    spec, left, whole = killed
    folder = shutil.copytree(left, tmp_path / "run")
    cut(folder / "checkpoints" / "best-1.rank0.safetensors")
    record = finish(spec, folder)
    assert len(record.checkpoints_refused) == 2
    assert all("best-1.rank0.safetensors" in told for told in record.checkpoints_refused)
    assert_same(folder, whole)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"weight_decay": 0.1}, "it is of another spec"),
        ({"checkpoint_interval_s": 5.0}, None),
    ],
)
def test_only_a_spec_that_computes_the_same_goes_on(
    killed: tuple[Any, Path, Path], changes: dict[str, Any], reason: str | None, tmp_path: Path
) -> None:
    spec, left, _ = killed
    folder = shutil.copytree(left, tmp_path / "run")
    record = finish(spec.model_copy(update=changes), folder)
    assert record.resumed_at_steps == ([] if reason else [5])
    assert all(reason and reason in told for told in record.checkpoints_refused)


def test_other_data_under_the_same_path_is_another_training(
    study_dict: dict[str, Any], data_folder: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(data_folder, tmp_path / "data")
    spec = brisk({**study_dict, "data": str(data)}, "lomo")
    assert sit(spec, tmp_path / "run", often(), at_step(6, signalled(signal.SIGKILL))) < 0
    lines = (data / "RTE" / "val.jsonl").read_text().splitlines(keepends=True)
    (data / "RTE" / "val.jsonl").write_text("".join(lines[1:]))
    record = finish(spec, tmp_path / "run")
    assert record.resumed_at_steps == []
    assert all("another data" in told for told in record.checkpoints_refused)


def test_the_clock_of_a_resumed_run_adds_up(killed: tuple[Any, Path, Path], tmp_path: Path) -> None:
    spec, left, _ = killed
    folder = shutil.copytree(left, tmp_path / "run")
    before = _content(folder / "checkpoints" / saved(folder)[-1])["clock"]
    record = finish(spec, folder)
    clock = record.clock
    phases = clock.load_s + clock.compile_s + clock.train_s + clock.evaluate_s + clock.save_s
    assert phases + clock.other_s == pytest.approx(clock.wall_s, rel=1e-6)
    assert phases == pytest.approx(clock.wall_s, rel=0.01)
    for phase in ("load_s", "train_s", "evaluate_s", "save_s"):
        assert getattr(clock, phase) > before[phase], phase
    assert clock.wall_s > before["wall_s"]
    speed = record.throughput
    assert speed is None or (speed.num_warmup_steps, speed.num_timed_steps) == (6, 2)


def test_the_time_limit_counts_over_all_sittings(killed: tuple[Any, Path, Path]) -> None:
    _, left, _ = killed
    before = _content(left / "checkpoints" / saved(left)[-1])["clock"]
    clock = Clock()
    limit = clock.wall_s + before["wall_s"] / 2
    Deadline(clock, limit).check()
    clock.carry_on(_clock(before))
    with pytest.raises(RunStopped, match="the limit"):
        Deadline(clock, limit).check()


def _clock(values: dict[str, Any]) -> Any:
    return Record.model_fields["clock"].annotation.model_validate(values)  # type: ignore[union-attr]


def checkpoints_in(folder: Path, interval_s: float) -> Checkpoints:
    return Checkpoints(folder, ALONE, {}, interval_s)


def test_it_is_due_by_the_interval_and_never_costs_more_than_its_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(checkpoints.time, "perf_counter", lambda: now)
    made = checkpoints_in(tmp_path, 10.0)

    def gather() -> tuple[dict[str, Any], dict[str, Any]]:
        nonlocal now
        now += 1.0  # a save takes a second
        return {"progress": {"best": None}}, {}

    now = 9.9
    assert not made.is_due
    now = 10.0
    assert made.is_due
    assert made.save(Progress(), gather) is None
    now = 60.9
    assert not made.is_due
    now = 61.0
    assert made.is_due


def test_weights_with_a_nan_are_not_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = checkpoints_in(tmp_path, 10.0)
    tensors = {"weights/w": torch.tensor([1.0, torch.nan])}
    problem = made.save(Progress(), lambda: ({}, tensors))
    assert problem == "weights/w holds a NaN" and list(tmp_path.iterdir()) == []
    assert "no checkpoint after step 0: weights/w holds a NaN" in capsys.readouterr().err


def test_state_dicts_come_back_as_they_were() -> None:
    state = {
        "state": {0: {"step": torch.tensor(3.0), "square": torch.rand(2, 3).bfloat16()}, 2: {}},
        "param_groups": [
            {"betas": (0.9, 0.999), "lr": 0.1 + 0.2, "params": [0, 2], "foreach": None}
        ],
        "norm": float("inf"),
        "empty": torch.empty(0, 4),
        "flag": True,
    }
    tensors: dict[str, torch.Tensor] = {}
    packed = json.loads(json.dumps(pack(state, "state", tensors)))
    again = unpack(packed, tensors)
    assert repr(again) == repr(state)
    assert type(again["param_groups"][0]["betas"]) is tuple


@pytest.mark.parametrize("odd", [{"a": object()}, {1.5: 0}, [{1, 2}]])
def test_a_state_that_json_does_not_know_is_told(odd: Any) -> None:
    with pytest.raises(Unkept, match="^state"):
        pack(odd, "state", {})


def test_tensors_come_back_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = {
        "turned": torch.randn(3, 5).t(),
        "none": torch.empty(0, 7),
        "one": torch.tensor(3.5, dtype=torch.float64),
        "odd": torch.randn(7).bfloat16(),
        "bytes": torch.get_rng_state(),
        "flags": torch.tensor([True, False, True]),
        "inf": torch.tensor([torch.inf, -torch.inf]),
    }
    digest = write_tensors(path, tensors)
    assert why_broken(path, digest) is None
    found, others = TensorFile(path), load_file(path)  # the format is not only ours
    assert set(found) == set(others) == set(tensors)
    for name, tensor in tensors.items():
        for again in (found[name], others[name]):
            assert again.dtype == tensor.dtype and torch.equal(again, tensor)
    kept = found["turned"]  # as an optimizer keeps what it is given
    del found, others, again
    assert str(path) not in Path("/proc/self/maps").read_text() and kept.numel() == 15


def test_all_global_generators_are_put_back() -> None:
    import random

    import numpy as np

    def draw() -> list[float]:
        return [torch.rand(()).item(), random.random(), np.random.rand(), np.random.randn()]  # noqa: NPY002

    np.random.randn()  # noqa: NPY002 - leaves a second number for the next call
    tensors: dict[str, torch.Tensor] = {}
    kept = json.loads(json.dumps(pack(generator_states("cpu"), "generators", tensors)))
    first = draw()
    restore_generators(unpack(kept, tensors))
    assert draw() == first
