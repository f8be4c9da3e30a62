"""A package of somebody else's, made on the fly: a task and a method that the project knows not."""

from __future__ import annotations

import json
import random
from pathlib import Path

PROMPT = """\
# SST-2: is the sentence kind or not?
task: somebody_sst2
custom_dataset: !function lomo.tasks.superglue.lm_eval_dataset
dataset_kwargs:
  task: sst2
test_split: test
output_type: multiple_choice
doc_to_text: "{{sentence}}\\nIs that kind? Yes or No?\\nAnswer:"
doc_to_choice: ["No", "Yes"]
doc_to_target: label
target_delimiter: " "
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""
TASK = """
from lomo.tasks.entry import TaskFiles

TASK = TaskFiles("SST-2", ("sentence",), {"negative": 0, "positive": 1}, title="Stanford 2")
"""
METHOD = """
from lomo.methods import ORDINARY, ORDINARY_NOTES, Method, Prepared, Strict


class Hyper(Strict):
    learning_rate: float = 0.01


METHOD = Method("Mine", Hyper, ORDINARY, notes=ORDINARY_NOTES)


def prepare(model, spec, spread):
    import torch

    model = spread(model)
    rate = spec.hyper["learning_rate"]
    return Prepared(model, [(torch.optim.RMSprop(model.parameters(), lr=rate), 0.0)])
"""
POINTS = """
[lomo.tasks]
sst2 = somebody.sst2

[lomo.methods]
mine = somebody.mine
"""


def write_package(
    folder: Path,
    *,
    name: str = "somebody",
    points: str = POINTS,
    prompt: str | None = PROMPT,
    task: str = TASK,
    method: str = METHOD,
) -> Path:
    """The package with its entry points in `folder`, which has to be put on the path."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)
    code = folder / name
    code.mkdir()
    files = {"__init__.py": "", "sst2.py": task, "mine.py": method, "sst2.yaml": prompt}
    for file, text in files.items():
        if text is not None:
            (code / file).write_text(text)
    return folder


def write_lines(folder: Path, *, num_train: int = 48, num_val: int = 20) -> None:
    """The task's data, in its own folder of a data folder."""
    generator = random.Random(0)
    (folder / "SST-2").mkdir(parents=True)
    for split, num in (("train", num_train), ("val", num_val)):
        labels = ["positive", "negative"] * (num // 2)
        generator.shuffle(labels)
        lines = [
            {"sentence": f"ben is a {word} of number {n}", "label": label}
            for n, label in enumerate(labels)
            for word in ({"positive": "friend", "negative": "thief"}[label],)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "SST-2" / f"{split}.jsonl").write_text(text)
