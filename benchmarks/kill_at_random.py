"""Trainings that are killed at random steps and started again: are they, bit for bit, as if not?

python benchmarks/kill_at_random.py [--kills 10] [--rank-kills 3] [--seed 0]

Every method in one process, and over two ranks of both engines. Each kill is a SIGKILL from
outside, once a random number of steps stand in the history; of ranks, to what has started them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "run" / "resume")]

EPOCHS, STEPS_AN_EPOCH = 4, 4
ON_RANKS = {"fsdp2": "lora_lomo", "zero3": "adamw"}
# In each rank: saves at every safe point, keeps its part of the last weights.
PATCH = """
import os
if "RANK" in os.environ:
    from pathlib import Path
    from safetensors.torch import save_file
    from lomo.run import loop
    from lomo.run.resume.checkpoints import Checkpoints
    Checkpoints.is_due = property(lambda self: True)
    real = loop.TrainingLoop.report
    def report(self):
        parts = self.engine.own_parts(self.training.model)
        name = f"{self.engine.rank}.weights"
        to = Path(os.environ["WEIGHTS_TO"]) / name
        save_file({n: p.contiguous() for n, p in parts.items()}, to)
        real(self)
    loop.TrainingLoop.report = report
"""


def study(folder: Path) -> dict[str, Any]:
    """A study of all methods on a generated task and a base model of a moment, made in `folder`."""
    from lomo.model.registry import ModelEntry, Pretraining
    from lomo.run.pretrain import make_base_model
    from lomo.tasks import miniature

    miniature.write_superglue(folder / "superglue", seed=0, num_train=48, num_val=20)
    miniature.write_text(folder / "text.txt", seed=0, num_sentences=300)
    architecture = {"model_type": "llama", "vocab_size": 400, "hidden_size": 32}
    architecture |= {"intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    architecture |= {"max_position_embeddings": 256, "tie_word_embeddings": False}
    pretrain = Pretraining(num_steps=5, batch_size=4, sequence_length=32, learning_rate=0.003)
    entry = ModelEntry(
        name="base", weights="pretrain", architecture=architecture, pretrain=pretrain
    )
    make_base_model(entry, folder / "text.txt", folder / "base", seed=0, progress=False)
    settings = {"epochs": EPOCHS, "batch_size": 8, "num_train": 8 * STEPS_AN_EPOCH, "num_dev": 8}
    settings |= {"num_test": 16, "max_length": 200, "dtype": "float32"}
    accuracy = {"models": [str(folder / "base")], "tasks": ["rte"], "settings": settings}
    methods = ["sgd", "adamw", "lora", "lora_lomo", "lomo", "adalomo"]
    return {
        **{"study": "unit", "title": "killed", "data": str(folder / "superglue"), "device": "cpu"},
        "superglue": {**accuracy, "methods": methods},
    }


def num_steps_in(folder: Path) -> int:
    """Steps that stand in the history of the run in `folder`."""
    path = folder / "history.jsonl"
    return path.read_text().count('"step_s"') if path.is_file() else 0


def kill(process: int, folder: Path, after: int) -> None:
    """Kills a run as soon as so many steps stand in its history, and waits for its end."""
    while num_steps_in(folder) < after:
        time.sleep(0.001)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    while working_on(folder):  # ranks die with what has started them, a moment later
        time.sleep(0.05)
    assert not (folder / "record.json").exists(), "it had ended before it was killed"


def working_on(folder: Path) -> bool:
    """Whether a process has `folder` in its command line."""
    import psutil

    lines = [" ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"])]
    return any(f"--out {folder}" in line for line in lines)


def on_ranks(spec: Any, folder: Path, patch: Path) -> subprocess.Popen[bytes]:
    """Starts the command of the run."""
    folder.mkdir(exist_ok=True)
    arguments = ["train", "--spec", spec.model_dump_json(), "--out", str(folder)]
    given = {"PYTHONPATH": f"{patch}:{ROOT}", "WEIGHTS_TO": str(folder)}
    return subprocess.Popen(
        [sys.executable, "-m", "lomo", *arguments],
        **{"cwd": ROOT, "env": {**os.environ, **given}, "stderr": subprocess.DEVNULL},
        stdout=subprocess.DEVNULL,
    )


def is_same(folder: Path, other: Path, check: Callable[[Path, Path], None]) -> bool:
    """Whether `check` finds two runs the same; if not, what differs is told."""
    try:
        check(folder, other)
    except AssertionError as error:
        print(f"{folder}: {error}", file=sys.stderr)
        return False
    return True


def assert_same_parts(folder: Path, other: Path) -> None:
    """Two runs over ranks ended with the same weights, losses and scores."""
    import torch
    from safetensors.torch import load_file

    for rank in range(2):
        ours, theirs = (load_file(at / f"{rank}.weights") for at in (folder, other))
        assert [n for n in ours | theirs if not torch.equal(ours[n], theirs[n])] == []
    assert lines_of(folder) == lines_of(other)


def lines_of(folder: Path) -> list[Any]:
    """What the history says, without times, and the samples."""
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [{**line, "step_s": None} for line in lines] + [(folder / "samples.jsonl").read_text()]


def row(spec: Any, place: Path, num_kills: int, draw: random.Random, patch: Path) -> str:
    """The line of one method: so many runs, each killed once at a random step and started again."""
    from sittings import assert_same, finish, often, start

    from lomo.record.schema import read_record

    is_alone = spec.engine == "single"

    def whole(folder: Path) -> None:
        if is_alone:
            finish(spec, folder)
        else:
            assert on_ranks(spec, folder, patch).wait() == 0

    whole(place / "whole")
    equal, at = 0, []
    for number in range(num_kills):
        folder = place / str(number)
        ranks = None if is_alone else on_ranks(spec, folder, patch)
        process = ranks.pid if ranks else start(spec, folder, often())
        kill(process, folder, draw.randint(1, EPOCHS * STEPS_AN_EPOCH - 1))
        whole(folder)
        equal += is_same(folder, place / "whole", assert_same if is_alone else assert_same_parts)
        resumed = read_record(folder / "record.json").resumed_at_steps
        at.append(str(resumed[0]) if resumed else "anew")
    return f"| {spec.method} | {spec.engine} | {equal} of {num_kills} | {', '.join(at)} |"


def main() -> None:
    """Prints a line for each method and engine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--rank-kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    from sittings import brisk

    draw = random.Random(options.seed)
    print("| method | engine | bitwise equal | went on after step |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        made = study(place)
        patch = place / "patch"
        patch.mkdir()
        (patch / "sitecustomize.py").write_text(PATCH)
        for method in made["superglue"]["methods"]:
            spec = brisk(made, method)
            print(row(spec, place / method, options.kills, draw, patch), flush=True)
        for engine, method in ON_RANKS.items():
            spec = brisk(made, method, engine=engine, num_devices=2)
            (place / engine).mkdir()
            print(row(spec, place / engine, options.rank_kills, draw, patch), flush=True)


if __name__ == "__main__":
    main()
