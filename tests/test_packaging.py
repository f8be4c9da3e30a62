"""The files that tell versions agree with each other, and the repository is whole and small."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]
LOCK_LINES = [
    line
    for line in (ROOT / "requirements.lock").read_text().splitlines()
    if line and not line.startswith("#")
]
MAX_FILE_BYTES = 1_000_000


def locked() -> dict[str, Version]:
    pins = (line.split("==") for line in LOCK_LINES)
    return {canonicalize_name(name): Version(version) for name, version in pins}


def tracked(*folders: str) -> list[Path]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs git and a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", *folders], cwd=ROOT, capture_output=True, check=True
    )
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name]


def environment() -> dict:
    return yaml.safe_load((ROOT / "environment.yml").read_text())


ASKED = [
    Requirement(text)
    for text in (
        *PROJECT["dependencies"],
        *PROJECT["optional-dependencies"]["dev"],
        *PYPROJECT["build-system"]["requires"],
    )
]


@pytest.mark.parametrize("requirement", ASKED, ids=lambda requirement: requirement.name)
def test_lock_holds_every_dependency_within_its_range(requirement: Requirement) -> None:
    version = locked().get(canonicalize_name(requirement.name))
    assert version is not None, f"{requirement.name} is in pyproject.toml, not in requirements.lock"
    assert version in requirement.specifier


def test_torch_range_admits_what_the_project_promises() -> None:
    (torch,) = (requirement for requirement in ASKED if requirement.name == "torch")
    promised = ["2.11.0", "2.12.0", "2.13.0"]
    assert list(torch.specifier.filter(["2.10.0", *promised, "2.14.0"])) == promised


def test_lock_is_exact_versions_only() -> None:
    """No host, no path, no local version such as +cpu, no option: it means the same everywhere."""
    pin = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][A-Za-z0-9.]*")
    assert [line for line in LOCK_LINES if not pin.fullmatch(line)] == []
    assert len(locked()) == len(LOCK_LINES), "a package stands twice"


def test_lock_names_no_cuda_package() -> None:
    """Torch pins its own; named here they would break CPU machines."""
    assert [name for name in locked() if re.match(r"nvidia|cuda|triton", name)] == []


def test_environment_installs_the_lock_and_nothing_of_its_own() -> None:
    packages = environment()["dependencies"]
    (pip,) = (entry["pip"] for entry in packages if isinstance(entry, dict))
    assert pip == ["-r requirements.lock", "-e ."]
    conda = [entry for entry in packages if isinstance(entry, str)]
    assert [re.split("[=<>]", entry)[0] for entry in conda] == ["python", "pip"]
    assert environment()["channels"] == ["conda-forge", "nodefaults"]
    assert environment()["name"] == PROJECT["name"]


def test_python_versions_agree() -> None:
    (python,) = (
        entry.removeprefix("python=")
        for entry in environment()["dependencies"]
        if isinstance(entry, str) and entry.startswith("python=")
    )
    supported = SpecifierSet(PROJECT["requires-python"])
    told = [entry.rsplit(" ", 1)[1] for entry in PROJECT["classifiers"] if "Python :: 3." in entry]
    assert told == list(supported.filter([f"3.{minor}" for minor in range(9, 20)]))
    assert python in told
    assert PYPROJECT["tool"]["mypy"]["python_version"] == told[0]
    assert PYPROJECT["tool"]["ruff"]["target-version"] == "py" + told[0].replace(".", "")
    tried_by_make = re.findall(r"\bpython(3\.\d+)\b", (ROOT / "Makefile").read_text())
    assert set(tried_by_make) == set(told)


def test_hooks_run_the_locked_tools() -> None:
    """One version a tool: the hooks use the project's own environment and fetch nothing."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    hooks = config["repos"][0]["hooks"]
    assert {hook["language"] for hook in hooks} == {"system"}
    tools = {re.fullmatch(r"\.venv/bin/(\S+).*", hook["entry"])[1] for hook in hooks}
    assert tools == {"ruff", "mypy", "snakefmt", "codespell"}
    assert tools <= locked().keys()


def test_citation_has_the_project_version_and_licence() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]


def folder_of(package: str) -> str:
    """Where the sources of an installed package lie, seen from the root."""
    top, *below = package.split(".")
    return "/".join([SETUPTOOLS["package-dir"].get(top, top), *below])


def test_every_package_is_installed_and_none_is_called_analysis() -> None:
    found = {path.parent for path in tracked("lomo", "analysis") if path.suffix == ".py"}
    assert {ROOT / folder_of(package) for package in SETUPTOOLS["packages"]} == found
    assert {package.split(".")[0] for package in SETUPTOOLS["packages"]} == {
        "lomo",
        "lomo_analysis",
    }


def test_every_data_file_of_the_packages_is_installed() -> None:
    installed = [
        path
        for package, patterns in SETUPTOOLS["package-data"].items()
        for pattern in patterns
        for path in (ROOT / folder_of(package)).glob(pattern)
    ]
    data = [path for path in tracked("lomo", "analysis") if path.suffix != ".py"]
    assert sorted(installed) == sorted(data)


def test_the_sources_of_analysis_are_called_by_one_name_in_a_process() -> None:
    """Tests import the folder, commands the installed package: never both, or classes are twice."""
    pattern = re.compile(r"^\s*(from|import) (lomo_)?analysis\b", re.M)
    named = [p for p in tracked("lomo", "analysis", "workflow") if pattern.search(p.read_text())]
    assert named == []
    both = re.compile(r"^\s*(from|import) lomo_analysis\b", re.M)
    assert [
        path for path in tracked("tests") if both.search(path.read_text(errors="replace"))
    ] == []


def test_no_large_file_in_git() -> None:
    large = [path for path in tracked() if path.is_file() and path.stat().st_size > MAX_FILE_BYTES]
    assert large == []


@pytest.mark.parametrize(
    "entry",
    [
        "Snakefile",
        "workflow",
        "profiles/default",
        "config/tiny.yaml",
        "config/README.md",
        "lomo/__init__.py",
        "analysis/__init__.py",
        "packages/lomo-fused",
        "results/published",
        "tests",
        "docs",
        "README.md",
        "LICENSE",
        "CITATION.cff",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "Makefile",
        "environment.yml",
        "requirements.lock",
        ".ci/run",
    ],
)
def test_the_house_has_its_rooms(entry: str) -> None:
    assert (ROOT / entry).exists()
