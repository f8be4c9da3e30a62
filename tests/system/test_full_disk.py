"""A disk that is full, for all that a study writes: one message, nothing half, and on again."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from analysis.records.collect import collect
from lomo.errors import UserError
from lomo.model.registry import ModelEntry, Pretraining
from lomo.record.clock import Clock
from lomo.run.execute import execute
from lomo.run.pretrain import make_base_model
from lomo.specs import TrainSpec
from lomo.study.config import Generated, Study
from lomo.study.plan import make_plan
from lomo.system.files import write_text
from lomo.tasks import miniature

pytestmark = pytest.mark.slow

KIB = 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system can't be mounted here (it takes root)")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, *, left: int) -> None:
    """Takes all of the disk but `left` bytes."""
    free = shutil.disk_usage(disk).free
    (disk / "of-others").write_bytes(b"x" * max(0, free - left))


def check(disk: Path, write: Callable[[], Any], name: str, *, left: int = 0) -> None:
    """It fails for want of room, names the file, leaves nothing, and works where there is room."""
    fill(disk, left=left)
    with pytest.raises(UserError) as refused:
        write()
    message = str(refused.value)
    assert name in message and "No space left on device" in message, message
    assert "make room on that disk" in message
    assert not [path for path in disk.rglob("*") if path.name.endswith(".tmp")]
    (disk / "of-others").unlink()
    subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
    write()


@pytest.fixture
def spec(study_dict: dict[str, Any]) -> TrainSpec:
    study_dict["superglue"]["methods"] = ["lomo"]
    plan = make_plan(Study.model_validate(study_dict), source="unit.yaml")
    found = next(run for run in plan.runs.values() if run.kind == "train")
    assert isinstance(found, TrainSpec)
    return found


def test_text_and_tables(disk: Path) -> None:
    check(disk, lambda: write_text(disk / "tables" / "x.csv", "1,2\n" * 9000), "tables/x.csv")


def test_generated_data(disk: Path) -> None:
    sizes = Generated(num_sentences=300, num_train=60, num_val=20)

    def write() -> None:
        miniature.write_superglue(
            disk / "superglue", seed=0, num_train=sizes.num_train, num_val=sizes.num_val
        )

    check(disk, write, "superglue/", left=20 * KIB)
    check(disk, lambda: miniature.write_text(disk / "t.txt", seed=0, num_sentences=900), "t.txt")


def test_a_pretrained_model(disk: Path, data_folder: Path, model_folder: Path) -> None:
    entry = ModelEntry(
        name="m",
        weights="pretrain",
        architecture={
            "model_type": "llama",
            "vocab_size": 400,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        },
        pretrain=Pretraining(num_steps=1, batch_size=2, sequence_length=16, learning_rate=0.003),
    )
    text = data_folder.parent / "text.txt"
    make = partial(make_base_model, entry, text, disk / "m", seed=0, progress=False)
    check(disk, make, f"{disk}/m")
    assert {path.name for path in model_folder.iterdir()} == {
        path.name for path in (disk / "m").iterdir()
    }


@pytest.mark.parametrize(
    ("left", "name"), [(0, "history.jsonl"), (16 * KIB, "best-1.rank0.safetensors")]
)
def test_a_run(disk: Path, spec: TrainSpec, left: int, name: str) -> None:
    folder = disk / "run"
    check(disk, lambda: execute(spec, folder, Clock()), name, left=left)
    assert {path.name for path in folder.iterdir()} == {
        "history.jsonl",
        "record.json",
        "samples.jsonl",
    }


def test_a_collected_table(disk: Path, study_dict: dict[str, Any]) -> None:
    plan = make_plan(Study.model_validate(study_dict), source="unit.yaml")
    subprocess.run(["mount", "-o", "remount,size=256k", str(disk)], check=True)
    write_text(disk / "plan.json", plan.model_dump_json())
    check(disk, lambda: collect(disk), "tables/outcomes.parquet")
