"""The command `doctor`: what this machine has for the pipeline, what it lacks, and the way out.

Exit code: 0 the default study runs here, 3 it does not.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from lomo.study.machine import GIB
from lomo.system.command import NO, Command, tell

State = Literal["ok", "note", "bad"]

PROJECT = "lomo-repro"
# Of the default study, with room to spare; its plan tells 0.02 GiB of disk.
LEAST_DISK_BYTES, LEAST_HOST_BYTES = 2**30, 4 * 2**30
HUB = ("huggingface.co", 443)
_PATIENCE_S = 3.0
_MARKS = {"ok": "ok  ", "note": "note", "bad": "BAD "}


@dataclass(frozen=True)
class Finding:
    """One thing looked at. note: something is missing that the default study does not need."""

    name: str
    state: State
    what: str
    fix: str | None = None


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `doctor`."""
    parser.add_argument("--json", action="store_true", help="the same as JSON")


def answer(options: argparse.Namespace) -> tuple[str, int]:
    """What was found, as text, and the exit code."""
    findings = list(examine())
    code = NO if any(finding.state == "bad" for finding in findings) else 0
    return (as_json(findings) if options.json else as_text(findings)), code


def examine() -> Iterator[Finding]:
    """Looks at all of it, one after the other; nothing is changed."""
    for look in LOOKS:
        try:
            yield look()
        except ImportError as error:
            fix = "make venv, or pip install -r requirements.lock"
            yield Finding(look.__name__, "bad", f"cannot be told: {error}", fix)


def as_text(findings: list[Finding]) -> str:
    """A line each, and the way out below what needs one."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{_MARKS[finding.state]} {finding.name:<{width}}  {finding.what}")
        if finding.fix and finding.state != "ok":
            lines.append(f"     {'':<{width}}  to mend: {finding.fix}")
    bad = sum(finding.state == "bad" for finding in findings)
    lines.append(
        f"{bad} to mend before the default study runs here"
        if bad
        else "the default study runs here"
    )
    return "\n".join(lines)


def as_json(findings: list[Finding]) -> str:
    """A list of objects."""
    return json.dumps([asdict(finding) for finding in findings], indent=1)


def python() -> Finding:
    """Whether this Python is one of those that are tested."""
    version = sys.version_info[:2]
    what = f"{'.'.join(map(str, sys.version_info[:3]))}, {sys.executable}"
    if (3, 11) <= version < (3, 14):
        return Finding("python", "ok", what)
    return Finding("python", "bad", what, "take 3.11, 3.12 or 3.13: make run PYTHON=...")


def packages() -> Finding:
    """What is installed, against the lock of the checkout or, without one, the declared ranges."""
    fix = "make venv, or pip install -r requirements.lock"
    missing = [name for name, (_, found) in _declared().items() if found is None]
    if missing:
        return Finding("packages", "bad", f"not installed: {', '.join(missing)}", fix)
    lock = Path(__file__).resolve().parents[2] / "requirements.lock"
    if not lock.is_file():
        odd = [f"{name} {found}" for name, (ok, found) in _declared().items() if not ok]
        what = f"outside of their range: {', '.join(odd)}" if odd else "all in their ranges"
        return Finding("packages", "note" if odd else "ok", what, "pip install -U " + PROJECT)
    other = []
    lines = [line for line in lock.read_text(encoding="utf-8").splitlines() if "==" in line]
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    for name, pinned in pins.items():
        found = _version(name)
        if found is not None and found.split("+")[0] != pinned:
            other.append(f"{name} {found}, tested with {pinned}")
    if other:
        return Finding("packages", "note", "; ".join(other), fix)
    return Finding("packages", "ok", f"the {len(pins)} of requirements.lock")


def _declared() -> Mapping[str, tuple[bool, str | None]]:
    """For each package that the project needs: whether in its range, and what is installed."""
    found = {}
    for text in importlib.metadata.requires(PROJECT) or ():
        need = Requirement(text)
        if need.marker is None or need.marker.evaluate({"extra": ""}):
            version = _version(need.name)
            found[need.name] = (version is not None and version in need.specifier, version)
    return found


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def cards() -> Finding:
    """The GPUs, and whether the torch that is installed can use them."""
    from lomo.study.machine import find_machine, has_gpu

    machine = find_machine("auto")
    build = _version("torch") or ""
    if machine.kind != "cuda":
        why = "the driver's tool finds none" if has_gpu() else "no NVIDIA driver here"
        return Finding("cards", "ok", f"none ({why}): studies run on the CPU, in miniature")
    size = f"{machine.device_bytes / GIB:.1f} GiB" if machine.device_bytes else "a size not told"
    what = f"{machine.num_devices} x {machine.name}, {size}"
    if "+cpu" in build or not _torch_sees_a_card():
        fix = "install torch's CUDA build: pip install --force-reinstall torch (docs/gpu.md)"
        return Finding("cards", "bad", f"{what}; torch {build} does not see it", fix)
    return Finding("cards", "ok", what)


def _torch_sees_a_card() -> bool:
    import torch

    return torch.cuda.is_available()


def precision() -> Finding:
    """How fast this CPU is in bfloat16, beside float32."""
    from lomo.study.native_dtype import SLOW, time_products

    products = time_products(1, ("float32", "bfloat16"))
    factor = products.slowdown("bfloat16")
    if factor <= SLOW:
        return Finding("bfloat16", "ok", f"native on this CPU: {1 / factor:.1f} x float32's speed")
    return Finding(
        "bfloat16",
        "note",
        f"{factor:.0f} times slower than float32 on this CPU",
        "nothing for dtype: auto; else write dtype: float32",
    )


def engines() -> Finding:
    """What the engines of several devices need."""
    import torch

    needs = {
        "fsdp2": torch.distributed.is_available(),
        "zero3": _version("deepspeed") is not None,
    }
    lacking = [engine for engine, has in needs.items() if not has]
    if lacking:
        fix = "pip install -r requirements.lock"
        return Finding("engines", "note", f"single alone; not {', '.join(lacking)}", fix)
    distributed = torch.distributed
    backends = {"nccl": distributed.is_nccl_available(), "gloo": distributed.is_gloo_available()}
    there = " and ".join(name for name, has in backends.items() if has)
    return Finding("engines", "ok", f"single, fsdp2, zero3; {there}")


def compiler() -> Finding:
    """Whether there is a C compiler, for the compiled ablations and stochastic rounding on CUDA."""
    found = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if found:
        return Finding("compiler", "ok", str(shutil.which(found)))
    fix = "apt install gcc; without it `compile: layers` and Triton's kernels do not run"
    return Finding("compiler", "note", "no C compiler", fix)


def memory() -> Finding:
    """The host's memory, or the container's."""
    from lomo.study.machine import host_bytes

    size = host_bytes()
    what = f"{size / GIB:.1f} GiB, {os.cpu_count()} cores"
    if size < LEAST_HOST_BYTES:
        fix = f"the default study takes up to {LEAST_HOST_BYTES / GIB:.0f} GiB: snakemake --cores 1"
        return Finding("memory", "note", what, fix)
    return Finding("memory", "ok", what)


def disk() -> Finding:
    """Room and rights where results and temporary files go."""
    for folder in (Path.cwd(), Path(tempfile.gettempdir())):
        if not os.access(folder, os.W_OK):
            fix = "work elsewhere: snakemake -s .../Snakefile -d FOLDER; or set TMPDIR"
            return Finding("disk", "bad", f"{folder} is not writable", fix)
        free = shutil.disk_usage(folder).free
        if free < LEAST_DISK_BYTES:
            what = f"{free / GIB:.2f} GiB free in {folder}"
            return Finding("disk", "bad", what, "make room: 1 GiB is needed")
    free = shutil.disk_usage(Path.cwd()).free
    return Finding("disk", "ok", f"{free / GIB:.0f} GiB free here")


def caches() -> Finding:
    """Whether Snakemake's own cache has a place: without one it ends before it reads a study."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if os.access(there, os.W_OK | os.X_OK):
        return Finding("cache", "ok", f"{cache} takes Snakemake's")
    fix = "export XDG_CACHE_HOME=FOLDER, one that is yours"
    return Finding("cache", "bad", f"{cache} takes no files of Snakemake's", fix)


def locks() -> Finding:
    """Whether this folder's disk keeps locks: without them two pipelines write one study."""
    from lomo.system.files import hold, is_held

    try:
        with tempfile.TemporaryDirectory(dir=".", prefix=".doctor-") as folder:
            path = Path(folder, "lock")
            with hold(path):
                held = is_held(path)
    except OSError as error:
        return Finding("locks", "note", f"cannot be tried here: {error}", "work in another folder")
    if held:
        return Finding("locks", "ok", "kept by this disk")
    fix = "run one pipeline at a time, or work on a local disk"
    return Finding("locks", "note", "this disk keeps none", fix)


def checkout() -> Finding:
    """The commit that records will name."""
    from lomo.record.provenance import source_facts

    facts = source_facts()
    commit = facts.get("git_commit")
    if not commit:
        fix = "clone the repository: a record then names its commit"
        return Finding("checkout", "note", "no commit is known here", fix)
    changed = " with uncommitted changes" if facts.get("git_dirty") else ""
    state: State = "note" if changed else "ok"
    return Finding("checkout", state, f"{str(commit)[:12]}{changed}", "commit before you publish")


def network() -> Finding:
    """Whether the hub answers. The default study needs no network."""
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        return Finding(
            "hub", "note", "HF_HUB_OFFLINE=1 is set", "unset it to fetch models and data"
        )
    try:
        socket.create_connection(HUB, timeout=_PATIENCE_S).close()
    except OSError as error:
        fix = "give models and data as folders: config/local.yaml"
        return Finding("hub", "note", f"{HUB[0]} does not answer ({error})", fix)
    return Finding("hub", "ok", f"{HUB[0]} answers")


def dashboards() -> Finding:
    """Whether W&B has a key. Without one its runs are kept on disk."""
    keyed = bool(os.environ.get("WANDB_API_KEY")) or _netrc_names("api.wandb.ai")
    what = "a key is there: wandb: online sends runs" if keyed else "no key: runs are kept on disk"
    return Finding("wandb", "ok", what)


def _netrc_names(host: str) -> bool:
    try:
        return host in Path.home().joinpath(".netrc").read_text(encoding="utf-8")
    except (OSError, RuntimeError):
        return False


LOOKS: tuple[Callable[[], Finding], ...] = (
    *(python, packages, cards, precision, engines, compiler),
    *(memory, disk, caches, locks, checkout, network, dashboards),
)


def run(options: argparse.Namespace) -> int:
    """The command `doctor`."""
    return tell(answer(options))


COMMANDS = {"doctor": Command(add_options, run)}
