"""The recipes of CONTRIBUTING.md, followed word for word in a copy of the checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from analysis.cli import main as analysis_main

ROOT = Path(__file__).parent.parent
# A fenced block: the words after its language say what to do with it.
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Block:
    language: str
    words: dict[str, str]
    text: str


def blocks_of(recipe: str) -> list[Block]:
    whole = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = re.search(rf"^### {recipe}\n(.*?)(?=^##)", whole, re.MULTILINE | re.DOTALL)
    assert section is not None, recipe
    return [
        Block(language, dict(re.findall(r'(\w+)="([^"]*)"', words)), text)
        for language, words, text in BLOCK.findall(section[1])
    ]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("lomo", "analysis", "config", "workflow", "profiles"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
    return tmp_path


def follow(checkout: Path, block: Block) -> None:
    """Writes a file, or puts lines in behind the one that is named."""
    if "title" in block.words:
        path = checkout / block.words["title"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text)
    elif "after" in block.words:
        path = checkout / block.words["in"]
        lines = path.read_text().splitlines(keepends=True)
        (place,) = [n for n, line in enumerate(lines) if line.startswith(block.words["after"])]
        # Behind a comment: behind all of it.
        while lines[place].startswith("#"):
            place += 1
        lines.insert(place + 1 if lines[place].strip() else place, block.text)
        path.write_text("".join(lines))


def results_to_read(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A made-up study's collected results, and the copied analysis under its installed name."""
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "analysis"))
    import synthetic

    results = checkout / "results" / "tiny"
    synthetic.write_results(results, synthetic.plan_of(synthetic.study_dict()))
    assert analysis_main(["collect", "--results", str(results)]) == 0
    (checkout / "lomo_analysis").symlink_to(checkout / "analysis")


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        ("A method", "gradients"),
        ("A model", "activations"),
        ("A task", "6 runs in all"),
        ("A table", ""),
    ],
)
def test_a_recipe_works_as_it_stands(
    checkout: Path, recipe: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if recipe == "A table":
        results_to_read(checkout, monkeypatch)
    blocks = blocks_of(recipe)
    for block in blocks:
        follow(checkout, block)
    (commands,) = [block.text for block in blocks if block.language == "sh"]
    bin_folder = Path(sys.executable).parent
    path = os.pathsep.join([str(bin_folder), os.environ.get("PATH", "")])
    done = subprocess.run(
        ["bash", "-ec", commands],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout), "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert told in done.stdout
    if recipe == "A table":
        text = (checkout / "results/tiny/tables/slowest.md").read_text()
        assert "took longest" in text and text.count("train/") + text.count("measure/") >= 5
