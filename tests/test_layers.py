"""The plan of the house: each module on its floor, and no import that climbs."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the ground. A module stands on the floor of its longest prefix; it may import from its own
# and from those before it. CONTRIBUTING.md shows the same as a map.
FLOORS = (
    "lomo.errors",
    "lomo.system",
    "lomo.specs",
    "lomo.optim",
    "lomo.tasks",
    "lomo.contained",
    "lomo.suites",
    "lomo.engines",
    "lomo.model",
    "lomo.methods",
    "lomo.peers",
    "lomo.study",
    "lomo.record",
    "lomo.memory.measured",
    "lomo.memory.predicted",
    "lomo.memory.asked",
    "lomo.speed",
    "lomo.run",
    "lomo.forecast",
    "lomo.advise",
    "lomo.pipeline",
    "lomo.trainer",
    "lomo.cli",
    "lomo.__main__",
    "analysis.text",
    "analysis.statistics",
    "analysis.records",
    "analysis.paper",
    "analysis.tables",
    "analysis.verdicts",
    "analysis.rounding",
    "analysis.instruct",
    "analysis.suites",
    "analysis.figures",
    "analysis.page",
    "analysis.dashboard",
    "analysis.export",
    "analysis.cli",
    "analysis.__main__",
)
# Empty but for their docstring: they belong to every floor.
LANDINGS = ("lomo", "lomo.memory", "analysis")
# What a plan is made with, and what the doors need to say "no": a second, not three.
WITHOUT_TORCH = (
    "lomo.cli",
    "lomo.study.plan",
    "lomo.pipeline.standing",
    "lomo.pipeline.status",
    "lomo.forecast.estimates",
    "lomo.record.schema",
    "lomo.suites.humaneval",
)


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    files = [file for top in ("lomo", "analysis") for file in sorted((ROOT / top).rglob("*.py"))]
    return {name_of(file): file for file in files}


def floor_of(module: str) -> str | None:
    found = [floor for floor in FLOORS if module == floor or module.startswith(f"{floor}.")]
    return max(found, key=len, default=None)


@cache
def imports(module: str) -> frozenset[str]:
    """Modules of the house that one imports, wherever in it, for types as well."""
    path = modules()[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(above if node.level else []), *([node.module or ""])]).strip(".")
            base = base.replace("lomo_analysis", "analysis", 1)
            inner = {f"{base}.{alias.name}" for alias in node.names}
            found |= {name if name in modules() else base for name in inner}
    return frozenset(found & modules().keys() - {module})


def test_every_module_stands_on_a_floor() -> None:
    homeless = [name for name in modules() if floor_of(name) is None and name not in LANDINGS]
    assert homeless == []
    empty = [floor for floor in FLOORS if not any(floor_of(name) == floor for name in modules())]
    assert empty == []


def test_no_import_climbs() -> None:
    climbing = [
        f"{module} ({floor}) imports {other} ({floor_of(other)})"
        for module in modules()
        for other in imports(module)
        for floor in [floor_of(module)]
        if other not in LANDINGS
        and module not in LANDINGS
        and FLOORS.index(str(floor_of(other))) > FLOORS.index(str(floor))
    ]
    assert climbing == []


def test_no_imports_go_in_a_circle() -> None:
    done: set[str] = set()

    def walk(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module not in done:
            for other in sorted(imports(module)):
                walk(other, (*trail, module))
            done.add(module)

    for module in modules():
        walk(module, ())


def test_the_rooms_are_small() -> None:
    loose = [path for path in modules().values() if path.parent == ROOT / "lomo"]
    assert len(loose) <= 6
    assert len([path for path in modules().values() if path.parent == ROOT / "analysis"]) <= 5
    folders = {path.parent for path in modules().values()}
    crowded = {
        f"{folder.relative_to(ROOT)}: {len(list(folder.glob('*.py')))}"
        for folder in folders
        if len(list(folder.glob("*.py"))) > 12
    }
    assert crowded == set()
    long = [name for name, path in modules().items() if len(path.read_text().splitlines()) > 400]
    assert long == []


def third_parties(module: str) -> set[str]:
    tree = ast.parse(modules()[module].read_text(encoding="utf-8"))
    names = [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    ]
    names += [
        node.module or ""
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and not node.level
    ]
    return {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)


def test_the_tables_need_no_torch_and_the_optimizers_nothing_else() -> None:
    for module in modules():
        if module.startswith("analysis"):
            assert not third_parties(module) & {"torch", "transformers", "snakemake"}, module
        if module.startswith("lomo"):
            assert not third_parties(module) & {"snakemake", "analysis", "lomo_analysis"}, module
        if module.startswith("lomo.optim"):
            assert third_parties(module) <= {"torch", "triton", "__future__"}, module


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_a_plan_is_made_without_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
