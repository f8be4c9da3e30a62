"""Where a record comes from: code, packages, device, and who else was on it."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import platform
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from lomo import engines, methods
from lomo.record.clock import process_age_s
from lomo.record.device import printed, read_device
from lomo.record.schema import Provenance
from lomo.specs import MeasureSpec, SuiteSpec, TaskSpec, TrainSpec
from lomo.suites.known import MINIATURE
from lomo.tasks import registry as tasks
from lomo.tasks.entry import outside, points

PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "datasets",
    "deepspeed",
    "lomo-optim",
    "lm-eval",
    "snakemake",
    "pandas",
    "numpy",
)

# Modules that tell, check or store, but define no number: what they pass on is in the spec.
NOT_DEFINING = frozenset(
    {
        "lomo.cli",
        "lomo.system.command",
        "lomo.study.config",
        "lomo.study.measured",
        "lomo.study.trials",
        "lomo.engines",
        "lomo.engines.launch",
        "lomo.errors",
        "lomo.system.files",
        "lomo.system.interrupts",
        "lomo.study.inputs",
        "lomo.methods",
        "lomo.methods.peers",
        "lomo.model.registry",
        "lomo.system.outside",
        "lomo.study.plan",
        "lomo.system.processes",
        "lomo.record.provenance",
        "lomo.record.schema",
        "lomo.record.device",
        "lomo.study.refusals",
        "lomo.run.execute",
        "lomo.run.suites.execute",
        "lomo.run.suites.kept",
        "lomo.record.suite",
        "lomo.specs",
        "lomo.system.strict",
        "lomo.methods.support",
        "lomo.tasks.registry",
        "lomo.record.tracking",
        "lomo.pipeline.warm",
        "lomo_analysis.dashboard.make",
    }
)
ENTRY = {
    "train": "lomo.run.train",
    "instruct": "lomo.run.instruct.work",
    "measure": "lomo.run.measure",
    "predict": "lomo.memory.predicted.study",
    "step": "lomo.memory.predicted.steps",
    "fits": "lomo.memory.asked.fits",
    "pretrain": "lomo.run.pretrain",
    "suite": "lomo.run.suites.work",
    "generate_suites": "lomo.tasks.miniature.suite",
    "generate": "lomo.tasks.miniature",
    "analysis": "lomo_analysis.cli",
}


@cache
def fingerprint(
    kind: str, method: str | None = None, task: str | None = None, engine: str | None = None
) -> str:
    """Hash of the sources that define the numbers of a run, comments and docstrings left out.

    `kind` is one of ENTRY. The sources are the modules of its package that the kind's entry
    module and the method's module import, directly or not. A touched comment changes nothing; an
    edited update rule changes exactly the methods that use it, an edited prompt the runs of its
    task.
    """
    roots = [ENTRY[kind], *([methods.module_name(method)] if method else [])]
    roots += [engines.MODULES[engine]] if engine else []
    # Of a task from outside its entry, too, says what its documents are.
    roots += [outside(task).module] if task and task in points() else []
    digest = hashlib.sha256()
    # What the modules are called, and where they lie, defines no number.
    for meaning in sorted(_meaning(name) for name in _closure(roots)):
        digest.update(meaning.encode())
    if kind == "analysis":
        package = _file("lomo_analysis")
        assert package is not None, "lomo_analysis is not installed"
        folder = package.parent
        for path in sorted([*folder.glob("paper/*.csv"), *folder.glob("templates/*")]):
            digest.update(path.read_bytes())
    if task:
        digest.update("\n".join(_lines_of(tasks.prompt_of(task))).encode())
    return digest.hexdigest()[:16]


def _closure(roots: list[str]) -> set[str]:
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name not in found and name not in NOT_DEFINING:
            found.add(name)
            waiting.extend(_imports(name))
    return found


class _Source(NamedTuple):
    """What is asked of a module's source, which is read once."""

    imports: list[ast.Import | ast.ImportFrom]  # wherever in it
    passed_on: list[ast.ImportFrom]  # those at its top: all that a package may do with a name
    body: str  # a hash


@cache
def _source(name: str) -> _Source:
    file = _file(name)
    assert file is not None, name
    tree = ast.parse(file.read_text(encoding="utf-8"))
    nodes = list(_statements(tree))
    imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    passed_on = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return _Source(imports, passed_on, _body_of(tree, nodes, name))


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """A tree's statements, wherever. Expressions hold none, and are most of it."""
    waiting = [tree]
    while waiting:
        yield (node := waiting.pop())
        for block in ("body", "orelse", "finalbody", "handlers", "cases"):
            waiting += getattr(node, block, ())


@cache
def _file(name: str) -> Path | None:
    """The source of a module, or None if there is no such module.

    Only the top package is asked for by importlib: for `lomo.optim.lomo` it would import
    `lomo.optim`, and torch with it, which costs every start of the pipeline seconds.
    """
    top, *rest = name.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin else None
    folders = [Path(folder, *rest) for folder in spec.submodule_search_locations or []]
    files = [file for f in folders for file in (f / "__init__.py", f.with_suffix(".py"))]
    return next((file for file in files if file.is_file()), None)


@cache
def _imports(name: str) -> frozenset[str]:
    """Modules of the same package that a module imports, wherever in it."""
    package = name.split(".")[0]
    names: set[str] = set()
    for node in _source(name).imports:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        else:
            base = _absolute(node, name)
            if base.split(".")[0] == package:
                names.update(_origin(base, alias.name) for alias in node.names)
    return frozenset(n for n in names if n.startswith(f"{package}.") and _file(n))


def _absolute(node: ast.ImportFrom, name: str) -> str:
    """The module that a `from ... import` in module `name` names, without leading dots."""
    if not node.level:
        return node.module or ""
    parts = name.split(".")
    above = parts[: len(parts) - node.level + _is_package(name)]
    return ".".join([*above, *([node.module] if node.module else [])])


def _origin(base: str, wanted: str) -> str:
    """The module that `from base import wanted` gets its name from.

    A package that only passes a name on defines nothing: `from lomo.optim import Lomo` depends on
    lomo.optim.lomo, and not on all optimizers that lomo/optim/__init__.py also imports.
    """
    if _is_package(base):
        for node in _source(base).passed_on:
            source = _absolute(node, base)
            for alias in node.names:
                # A package that imports a module of its own passes on nothing.
                if (alias.asname or alias.name) == wanted and source != base:
                    return _origin(source, alias.name)
    return f"{base}.{wanted}" if _file(f"{base}.{wanted}") else base


def _is_package(name: str) -> bool:
    file = _file(name)
    return file is not None and file.name == "__init__.py"


@cache
def _meaning(name: str) -> str:
    """Hash of what a module says and of what it takes from others of its package."""
    package = name.split(".")[0]
    taken = []
    for node in _source(name).imports:
        if isinstance(node, ast.ImportFrom):
            base = _absolute(node, name)
            if base.split(".")[0] == package:
                for alias in node.names:
                    origin = _origin(base, alias.name)
                    what = "" if origin == f"{base}.{alias.name}" else alias.name
                    source = "" if origin in NOT_DEFINING else _body(origin)
                    taken.append(f"{alias.asname or alias.name} {what} {source}")
    return hashlib.sha256("\n".join([_body(name), *sorted(taken)]).encode()).hexdigest()


def _body(name: str) -> str:
    # A name that a package makes at run time has no file.
    return name if _file(name) is None else _source(name).body


def _body_of(tree: ast.Module, nodes: list[ast.AST], name: str) -> str:
    """Hash of a module's syntax tree, without docstrings and imports from its own package.

    nodes: its statements; they lose these. Comments are not in a tree anyway. What such an import
    names may move to another file and mean the same.
    """
    package = name.split(".")[0]
    for node in nodes:
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = body[0] if body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                body = body[1:]
        kept = [one for one in body if not _is_own_import(one, name, package)]
        setattr(node, "body", kept)  # noqa: B010 - not every node has one
    return hashlib.sha256(_dumped(tree).encode()).hexdigest()


def _is_own_import(node: ast.stmt, name: str, package: str) -> bool:
    return isinstance(node, ast.ImportFrom) and _absolute(node, name).split(".")[0] == package


def fingerprint_of(spec: TrainSpec | MeasureSpec | SuiteSpec) -> str:
    """The fingerprint of a run's sources."""
    if isinstance(spec, SuiteSpec):
        return _of_suite(spec.task)
    task = spec.task if isinstance(spec, TaskSpec) else None
    return fingerprint(spec.kind, spec.method, task, spec.engine)


@cache
def _of_suite(name: str) -> str:
    """Of a suite whose prompt stands here, that too; the others come with lm-eval's version."""
    code = fingerprint("suite")
    return code if name != "miniature" else _hash_of([code, *_lines_of(MINIATURE)])


def _lines_of(path: Path) -> list[str]:
    """A YAML's lines without comments."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


def _hash_of(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def read_provenance(spec: TrainSpec | MeasureSpec | SuiteSpec, device: str) -> Provenance:
    """The provenance block of a run on `device` ("cpu", "cuda")."""
    commit, dirty = _git("rev-parse", "HEAD"), _git("status", "--porcelain")
    missing = (
        {} if commit else {"git_commit": "no git repository", "git_dirty": "no git repository"}
    )
    return Provenance(
        fingerprint=fingerprint_of(spec),
        git_commit=commit or None,
        git_dirty=bool(dirty) if commit else None,
        python=platform.python_version(),
        platform=platform.platform(),
        packages=dict(_versions()),
        device=read_device(device, spec.num_devices),
        started_at=datetime.fromtimestamp(time.time() - process_age_s(), UTC).isoformat(),
        missing=missing,
    )


def source_facts() -> dict[str, object]:
    """What a prediction comes from, beside its fingerprint: commit, Python, package versions."""
    commit = _git("rev-parse", "HEAD")
    dirty = bool(_git("status", "--porcelain")) if commit else None
    return {
        "git_commit": commit or None,
        "git_dirty": dirty,
        "python": platform.python_version(),
        "packages": dict(_versions()),
    }


def _versions() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            yield name, "not installed"


def _git(*arguments: str) -> str | None:
    return printed("git", *arguments, timeout_s=10)


def _dumped(tree: ast.AST) -> str:
    """A source as Python 3.11 dumps it: 3.12 adds `type_params`, 3.13 leaves out what is empty."""
    shown: dict[str, bool] = {"show_empty": True} if sys.version_info >= (3, 13) else {}
    return ast.dump(tree, **shown).replace(", type_params=[]", "")
