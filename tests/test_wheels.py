"""The wheels: the optimizers alone, used where there is torch and nothing else, and the project."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
ALONE = ROOT / "packages" / "lomo-fused"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PROJECT_ALONE = tomllib.loads((ALONE / "pyproject.toml").read_text())["project"]
MAX_BYTES = 100_000

# torch without NumPy says so.
STRICT = ("-W", "error", "-W", "ignore:Failed to initialize NumPy")

# Trains beside SGD, clipped by the exact norm, in one process that could import nothing else.
USED = """
import importlib.util
import torch
from torch import nn
from lomo_fused import AdaLomo, Lomo

for name in ("lomo", "lomo_analysis", "analysis", "transformers", "snakemake", "numpy"):
    assert importlib.util.find_spec(name) is None, name

def trained(make, clipped):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    optimizer = make(model.parameters())
    for step in range(5):
        inputs = torch.randn(3, 4, generator=torch.Generator().manual_seed(step))
        norms.append(clipped(optimizer, model, model(inputs).square().mean()))
        optimizer.step()
        optimizer.zero_grad()
    return torch.cat([p.detach().flatten() for p in model.parameters()])

def by_torch(optimizer, model, loss):
    loss.backward()
    return float(nn.utils.clip_grad_norm_(model.parameters(), 0.05))

def by_itself(optimizer, model, loss):
    optimizer.backward(loss)
    return optimizer.grad_norm

norms = []
expected = trained(lambda p: torch.optim.SGD(p, lr=0.1, foreach=False), by_torch)
actual = trained(lambda p: Lomo(p, lr=0.1, max_grad_norm=0.05), by_itself)
assert min(norms) > 0.05, norms
assert (actual - expected).abs().max() < 1e-7
assert torch.tensor(norms[5:]).allclose(torch.tensor(norms[:5]))
assert trained(lambda p: AdaLomo(p, lr=0.01, max_grad_norm=0.05), by_itself).isfinite().all()
print("trained")
"""


def run(*command: object, cwd: Path) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def built(source: Path, to: Path) -> Path:
    """The wheel of a folder, which is a copy: setuptools leaves its build in the source."""
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check"]
    run(*pip, "--no-build-isolation", "--no-deps", "-w", to, source, cwd=to)
    (wheel,) = to.glob("*.whl")
    return wheel


def copied(to: Path, *paths: str) -> Path:
    ignored = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
    for path in paths:
        source, copy = ROOT / path, to / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, symlinks=True, ignore=ignored)
        else:
            shutil.copy(source, copy)
    return to


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That of the optimizers alone."""
    source = copied(tmp_path_factory.mktemp("alone"), "packages", "lomo/optim", "LICENSE")
    return built(source / "packages" / "lomo-fused", tmp_path_factory.mktemp("wheel"))


def needed(name: str, found: dict[str, Distribution]) -> dict[str, Distribution]:
    """A distribution and all that it needs, by name."""
    found[name] = distribution(name)
    for text in found[name].requires or []:
        requirement = Requirement(text)
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if wanted and requirement.name not in found:
            needed(requirement.name, found)
    return found


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with torch and what torch needs, linked, and nothing else."""
    folder = tmp_path_factory.mktemp("empty") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    (packages,) = folder.glob("lib/python*/site-packages")
    for one in needed("torch", {}).values():
        for top in {file.parts[0] for file in one.files or [] if file.parts[0] != ".."}:
            source = Path(str(one.locate_file(top)))
            if top != "__pycache__" and not (packages / top).exists():
                (packages / top).symlink_to(source)
    return folder / "bin" / "python"


@pytest.mark.slow
def test_the_optimizers_alone_train_where_there_is_only_torch(
    wheel: Path, empty: Path, tmp_path: Path
) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", empty]
    # Without an index: what the wheel needs beyond torch could not be found.
    run(*pip, "install", "-q", "--no-index", "--no-compile", wheel, cwd=tmp_path)
    (snippet,) = re.findall(r"```python\n(.*?)```", (ALONE / "README.md").read_text(), re.S)
    assert run(empty, *STRICT, "-c", USED + snippet, cwd=tmp_path) == "trained\n"


@pytest.mark.slow
def test_the_wheel_of_the_optimizers_is_small_and_whole(wheel: Path) -> None:
    assert wheel.stat().st_size < MAX_BYTES
    names = zipfile.ZipFile(wheel).namelist()
    folder = ROOT / "lomo" / "optim"
    sources = [path.relative_to(folder).as_posix() for path in folder.rglob("*.py")]
    assert {f"lomo_fused/{name}" for name in [*sources, "py.typed"]} <= set(names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"lomo_fused"}
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_the_wheel_of_the_project_has_two_names_and_neither_is_analysis(tmp_path: Path) -> None:
    files = ("lomo", "analysis", "pyproject.toml", "README.md", "LICENSE")
    wheel = built(copied(tmp_path / "source", *files), tmp_path)
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"lomo", "lomo_analysis"}
    assert {"lomo_analysis/paper/claims.csv", "lomo/tasks/rte.yaml", "lomo/optim/lomo.py"} <= {
        *names
    }


def test_both_projects_say_the_same() -> None:
    for key in ("version", "license", "requires-python", "authors"):
        assert PROJECT_ALONE[key] == PROJECT[key], key
    assert PROJECT_ALONE["dependencies"] == [d for d in PROJECT["dependencies"] if d[:5] == "torch"]


@pytest.mark.parametrize("path", sorted((ROOT / "lomo/optim").rglob("*.py")), ids=lambda p: p.name)
def test_the_optimizers_import_torch_and_themselves(path: Path) -> None:
    """By relative names, or they would not be found under the name that the wheel gives them."""
    allowed = {"torch", *sys.stdlib_module_names}
    if path.name == "triton_kernels.py":  # imported where a GPU needs it; torch comes with it
        allowed.add("triton")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level <= len(path.relative_to(ROOT / "lomo/optim").parts)
            names = [] if node.level else [node.module or ""]
        assert {name.split(".")[0] for name in names} <= allowed, ast.unparse(node)
