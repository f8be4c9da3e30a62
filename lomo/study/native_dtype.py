"""Which dtype this machine computes in: products timed once, and what is slow said before it runs.

A CPU without bfloat16 instructions multiplies bfloat16 30 to 150 times slower than float32.
Imports no torch: plans are made without it.
"""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import ValidationError

from lomo.errors import UserError
from lomo.specs import Dtype
from lomo.study.cards import peak_flops_per_s
from lomo.study.config import Study
from lomo.study.machine import find_machine
from lomo.study.measured import Measure
from lomo.system.strict import Strict

# A dtype in which products are more than so many times slower than in float32 is not native.
SLOW = 3.0
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16", "float16")
WHAT_IS_TIMED = "a product of 384 x 384 matrices, timed"
_SIDE = 384


class Products(Strict):
    """Operations a second of a product of matrices on this CPU, by dtype, and on how many threads.

    It stands in results/<study>/machine.json, so that a study keeps its dtype when it goes on in
    another hour or on another machine.
    """

    flops_per_s: dict[Dtype, float]
    num_threads: int
    timed: str = WHAT_IS_TIMED

    def slowdown(self, dtype: Dtype) -> float:
        """How many times slower than float32; below 1 is faster."""
        return self.flops_per_s["float32"] / self.flops_per_s[dtype]

    def native(self) -> Dtype:
        """bfloat16, or float32 where bfloat16 is more than `SLOW` times slower."""
        return "float32" if self.slowdown("bfloat16") > SLOW else "bfloat16"


def time_products(num_threads: int, dtypes: Iterable[Dtype] = DTYPES) -> Products:
    """The best of several products in each dtype: a busy machine makes some of them slow."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        rates = {
            dtype: _rate(torch.ones(_SIDE, _SIDE, dtype=getattr(torch, dtype))) for dtype in dtypes
        }
    finally:
        torch.set_num_threads(before)
    return Products(flops_per_s=rates, num_threads=num_threads)


def _rate(left: object) -> float:
    best = math.inf
    for _ in range(5):
        started = time.perf_counter()
        left @ left  # type: ignore[operator]  # noqa: B018
        best = min(best, time.perf_counter() - started)
    return 2 * _SIDE**3 / best


def slow_dtypes(flops_per_s: Mapping[Dtype, float], dtypes: Iterable[Dtype]) -> dict[Dtype, float]:
    """Of `dtypes` those that are more than `SLOW` times slower than float32, and how many times."""
    base = flops_per_s.get("float32")
    if base is None:
        return {}
    rates = {dtype: flops_per_s.get(dtype) for dtype in sorted(set(dtypes))}
    return {dtype: base / rate for dtype, rate in rates.items() if rate and base / rate > SLOW}


def slow_words(dtype: Dtype, factor: float) -> str:
    """What is said of a slow dtype, with the way out."""
    return (
        f"this CPU multiplies {dtype} {factor:.0f} times slower than float32 "
        f"({WHAT_IS_TIMED}): write dtype: float32, or take a machine that computes in {dtype}"
    )


def why_slow(dtype: Dtype, device: str, num_threads: int) -> str | None:
    """What is to be said before something begins in `dtype` on this machine; None: it is not slow.

    device: as a study has it, "auto", "cpu" or "cuda".
    """
    import torch

    if dtype == "float32" or (device != "cpu" and torch.cuda.is_available()):
        return None
    timed = time_products(num_threads, ("float32", dtype))
    slow = slow_dtypes(timed.flops_per_s, [dtype])
    return slow_words(dtype, slow[dtype]) if slow else None


def in_native_dtype(study: Study) -> Study:
    """The study with each `dtype: auto` resolved for the device that it will use.

    bfloat16 on a GPU that computes in it, else what `Products.native` says of this CPU. The answer
    of a study that has begun is taken from its folder.
    """
    asking = {
        name: section
        for name, section in study.sections().items()
        if isinstance(section, Measure) and section.dtype == "auto"
    }
    if not asking:
        return study
    dtype = _native(study)
    resolved = {
        name: section.model_copy(update={"dtype": dtype}) for name, section in asking.items()
    }
    return study.model_copy(update=resolved)


def file_of(study: str) -> Path:
    """Where a study keeps the answer."""
    return Path("results", study, "machine.json")


def keep(study: Study) -> None:
    """Writes the answer that a plan was made with into the study's folder, once."""
    from lomo.system.files import write_text

    if study.study in _asked and not file_of(study.study).exists():
        text = _asked[study.study].model_dump_json(indent=1) + "\n"
        write_text(file_of(study.study), text)


# The answers of this process, by study: the plan is made before anything is written.
_asked: dict[str, Products] = {}


def _native(study: Study) -> Dtype:
    machine = find_machine(study.device)
    if machine.kind == "cuda":
        peaks = [peak_flops_per_s(machine.name, dtype) for dtype in ("bfloat16", "float16")]
        return "float32" if peaks[0] is None and peaks[1] is not None else "bfloat16"
    if study.study not in _asked:
        _asked[study.study] = _standing(file_of(study.study)) or _ask(study.num_threads)
    return _asked[study.study].native()


def _standing(path: Path) -> Products | None:
    if not path.is_file():
        return None
    try:
        return Products.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(
            "does not hold what this machine was asked; it was cut or edited",
            where=str(path),
            fix="delete it: the machine is asked again",
        ) from error


def _ask(num_threads: int) -> Products:
    """The machine's answer, of a process of its own where torch is not there yet."""
    if "torch" in sys.modules:
        return time_products(num_threads)
    code = "import sys; from lomo.study.native_dtype import time_products as t; "
    code += "print(t(int(sys.argv[1])).model_dump_json())"
    done = subprocess.run(
        [sys.executable, "-c", code, str(num_threads)], capture_output=True, text=True, check=True
    )
    return Products.model_validate_json(done.stdout.splitlines()[-1])
