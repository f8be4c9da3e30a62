"""The Triton kernel of the update does what the update in chunks does."""

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lomo.optim import lomo
from lomo.optim.arithmetic.rounding import Stream
from lomo.optim.lomo import sgd_step_

from .rounding_reference import KERNELS, finite_numbers, neighbours
from .test_rounding import DTYPES, MAX_Z, both_types, update

pytest.importorskip("triton", reason="needs Triton: pip install triton (it runs without a GPU)")

ON_GPU = torch.cuda.is_available()
needs_gpu = pytest.mark.skipif(not ON_GPU, reason="needs a CUDA device")

# A process of its own, since TRITON_INTERPRET has to be set before anybody imports triton.
_SCRIPT = f"""
import sys, torch
from {KERNELS} import sgd_stochastic_
device = "cuda" if torch.cuda.is_available() else "cpu"
results = []
for case in torch.load(sys.argv[1]):
    case = {{k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in case.items()}}
    padded = torch.full((case["weight"].numel() + 1,), 7.0, device=device).to(case["weight"])
    weight = padded[:-1].copy_(case.pop("weight"))
    gradient = case.pop("gradient")
    before = gradient.clone()
    sgd_stochastic_(weight, gradient, **case)
    assert padded[-1] == 7.0, "wrote beyond the end"
    assert torch.equal(gradient.nan_to_num(), before.nan_to_num()), "wrote to the gradient"
    results.append(weight.cpu())
torch.save(results, sys.argv[2])
"""


def can_be_subnormal(dtype: torch.dtype) -> bool:
    """The interpreter of Triton 3.9 misreads subnormal bfloat16 when it casts it to fp32."""
    return ON_GPU or dtype == torch.float16


def case(weight: Tensor, gradient: Tensor, **options: Any) -> dict[str, Any]:
    defaults = {"lr": 1.0, "scale": 1.0, "weight_decay": 0.0, "clip_value": None, "stream": 2**63}
    return {"weight": weight, "gradient": gradient} | defaults | options


def run(folder: Path, *cases: dict[str, Any]) -> list[Tensor]:
    """The weights after the update, on a GPU or under Triton's interpreter."""
    torch.save(list(cases), folder / "cases.pt")
    command = [sys.executable, "-c", _SCRIPT, folder / "cases.pt", folder / "results.pt"]
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"TRITON_INTERPRET": "0" if ON_GPU else "1", "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results: list[Tensor] = torch.load(folder / "results.pt")
    return results


@pytest.mark.slow
@both_types
def test_only_the_neighbours_occur_and_as_often_as_they_should(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    info = torch.finfo(dtype)
    num_draws = 20_001
    starts = [(1.0, info.eps), (0.02, 2**-6 * info.eps)]
    if can_be_subnormal(dtype):
        quantum = info.smallest_normal * info.eps
        starts.append((3 * quantum, quantum))
    cases = []
    for start, quantum_here in starts:
        for sign in (1.0, -1.0):
            for share in (0.3, -0.2):
                weight = torch.full((num_draws,), sign * start).to(dtype)
                gradient = torch.ones(num_draws, dtype=dtype)
                cases.append(case(weight, gradient, scale=share * quantum_here, stream=len(cases)))
    for one, result in zip(cases, run(tmp_path, *cases), strict=True):
        value = one["weight"][:1].float() - torch.tensor(one["scale"])
        lower, upper, probability = neighbours(value, dtype)
        result = result.double()
        assert ((result == lower) | (result == upper)).all()
        deviation = float((result == upper).sum() - num_draws * probability)
        assert abs(deviation / math.sqrt(num_draws * probability * (1 - probability))) < MAX_Z


@pytest.mark.slow
def test_results_that_the_type_holds_and_special_numbers(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    cases, wanted = [], []

    def add(weight: Tensor, gradient: Tensor, want: Tensor, **options: Any) -> None:
        cases.append(case(weight, gradient, **options))
        wanted.append(want)

    for dtype in DTYPES:
        weight = torch.randint(-32, 32, (5, 999), generator=generator).div(16).to(dtype)
        gradient = torch.randint(-8, 9, weight.shape, generator=generator).to(dtype)
        for options in (
            {},
            {"lr": 0.5, "weight_decay": 0.5, "clip_value": 2.0},
            {"lr": 0.5, "scale": torch.tensor(0.5)},
        ):
            # In a float64 sum that both types hold: the kernel, the chunks and this are the same.
            lr, scale = float(options.get("lr", 1.0)), float(options.get("scale", 1.0))
            clip, decay = options.get("clip_value", math.inf), options.get("weight_decay", 0.0)
            step = (gradient.double() * scale).clamp(-clip, clip) + decay * weight.double()
            want = (weight.double() - lr * step).to(dtype)
            assert torch.equal(want.double(), weight.double() - lr * step)
            add(weight.view(-1), gradient.view(-1), want.view(-1), **options)
            assert torch.equal(update(weight, gradient, **options), want)

        numbers = finite_numbers(dtype).to(dtype)
        if not can_be_subnormal(dtype):
            numbers = numbers[numbers.abs() >= torch.finfo(dtype).smallest_normal]
        add(numbers, torch.zeros_like(numbers), numbers, clip_value=1.0)

        inf, nan, largest = math.inf, math.nan, torch.finfo(dtype).max
        weight = torch.tensor([inf, -inf, nan, 1.0, 1.0, largest, -largest], dtype=dtype)
        gradient = torch.tensor([1.0, 1.0, 1.0, nan, inf, -largest, largest], dtype=dtype)
        want = torch.tensor([inf, -inf, nan, nan, -inf, inf, -inf], dtype=dtype)
        add(weight, gradient, want)
        clipped = torch.tensor([inf, -inf, nan, nan, 0.5, largest, -largest], dtype=dtype)
        add(weight, gradient, clipped, clip_value=0.5)
        for scale in (0.0, nan):  # the gradient was not finite: nothing moves
            add(weight, gradient, weight, scale=torch.tensor(scale), weight_decay=0.1)
        add(weight[:0], gradient[:0], weight[:0])
    for number, (got, want) in enumerate(zip(run(tmp_path, *cases), wanted, strict=True)):
        assert torch.equal(got.isnan(), want.isnan()), number
        assert torch.equal(got[~got.isnan()], want[~want.isnan()]), number


@pytest.mark.slow
def test_the_stream_alone_decides_and_its_parts_differ(tmp_path: Path) -> None:
    weight = torch.ones(1 << 14).bfloat16()
    gradient = torch.ones(weight.shape).bfloat16()
    keys = (5, 5, 6, 5 + 2**40, 2**64 - 1)
    results = run(tmp_path, *(case(weight, gradient, scale=-0.5 / 128, stream=k) for k in keys))
    up = [(result > 1).double() for result in results]
    assert torch.equal(up[0], up[1])
    # Coins, so other streams agree in half of all places, and so does a stream with itself moved.
    for other in (*up[2:], *(up[0].roll(places) for places in (1, 512, 1024, 1536, 2048))):
        share = float((up[0] == other).double().mean())
        assert abs(share - 0.5) * 2 * math.sqrt(weight.numel()) < MAX_Z


@needs_gpu
@both_types
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_on_a_gpu_nothing_is_allocated_and_the_host_does_not_wait(dtype: torch.dtype) -> None:
    weight = torch.full((1 << 22,), 0.02, device="cuda").to(dtype)
    gradient = torch.ones_like(weight)
    scale = torch.tensor(1e-6, device="cuda")
    options: dict[str, Any] = {"lr": 1.0, "scale": scale, "weight_decay": 0.0, "clip_value": None}
    options |= {"stream": Stream(0, 0, 0)}
    sgd_step_(weight, gradient, **options)  # compiles
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before, bytes_before = float(weight.double().mean()), torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    try:
        torch.cuda.set_sync_debug_mode("error")  # it warns, too, of being a prototype
        sgd_step_(weight, gradient, **options)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.max_memory_allocated() == bytes_before
    assert float(weight.double().mean()) - before == pytest.approx(-1e-6, rel=0.05)


@needs_gpu
@both_types
def test_on_a_gpu_other_strides_are_updated_in_chunks(dtype: torch.dtype) -> None:
    weight = torch.ones(64, 32, device="cuda").to(dtype).t()
    gradient = torch.full((32, 64), 0.25, device="cuda").to(dtype)
    assert torch.equal(update(weight, gradient), torch.full_like(weight, 0.75))


@needs_gpu
@both_types
def test_on_a_gpu_without_triton_it_is_updated_in_chunks(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lomo, "_triton_kernels", lambda: None)
    weight = torch.ones(64, 32, device="cuda").to(dtype)
    assert torch.equal(update(weight, weight / 4), torch.full_like(weight, 0.75))
