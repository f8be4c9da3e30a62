"""Stochastic rounding is right on average, moves nothing else, and can be repeated."""

import importlib.util
import itertools
import math
import threading
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lomo.optim import lomo
from lomo.optim.arithmetic.rounding import Stream, generator_for, write_rounded_
from lomo.optim.lomo import sgd_step_

from .rounding_reference import KERNELS, finite_numbers, neighbours, z_score

DTYPES = [torch.bfloat16, torch.float16]
both_types = pytest.mark.parametrize("dtype", DTYPES, ids=["bfloat16", "float16"])

# Seeds are fixed, so that a test passes always or never; right code would fail 5 sigma with one
# seed in 1.7 million.
MAX_Z = 5.0


def rounded(value: Tensor, dtype: torch.dtype, seed: int = 0) -> Tensor:
    weight = torch.empty(value.shape, dtype=dtype)
    write_rounded_(weight, value.clone(), generator_for("cpu", Stream(seed, 0, 0)))
    return weight


def update(weight: Tensor, gradient: Tensor, **options: Any) -> Tensor:
    """The fused update of a copy."""
    weight = weight.clone()
    defaults: dict[str, Any] = {"lr": 1.0, "scale": 1.0, "weight_decay": 0.0, "clip_value": None}
    name = {"seed": 0, "step": 0, "position": 0}
    name |= {key: options.pop(key) for key in Stream._fields if key in options}
    sgd_step_(weight, gradient, **(defaults | options), stream=Stream(**name))
    return weight


def awkward_values(dtype: torch.dtype) -> Tensor:
    """fp32 numbers between two of the type: in the middle of binades, at their ends, subnormal."""
    info = torch.finfo(dtype)
    quantum = info.smallest_normal * info.eps
    values = [0.02, 1 / 3, 1.7, 3.1415, 1234.5678]
    for power in (-8.0, 0.0, 5.0):
        values += [2**power * (1 + share * info.eps) for share in (-0.6, -0.3, 0.001, 0.25, 0.999)]
    values += [info.smallest_normal * (1 + share * info.eps) for share in (-0.4, 0.7)]
    values += [share * quantum for share in (0.25, 0.8, 3.3, 21.5)]
    values += [info.max * (1 - 0.2 * info.eps), info.max * 0.7]
    both_signs = torch.tensor(values + [-value for value in values])
    assert not (both_signs == both_signs.to(dtype)).any()
    return both_signs


@both_types
def test_only_the_neighbours_occur_and_as_often_as_they_should(dtype: torch.dtype) -> None:
    values = awkward_values(dtype).unsqueeze(1)
    lower, upper, probability = neighbours(values, dtype)
    num_draws = 1 << 15
    result = rounded(values.expand(-1, num_draws), dtype).double()
    assert ((result == lower) | (result == upper)).all()
    count = (result == upper).sum(1, keepdim=True)
    z = (count - num_draws * probability) / (num_draws * probability * (1 - probability)).sqrt()
    assert z.abs().max() < MAX_Z
    assert 0.6 < z.std() < 1.4  # neither better nor worse than chance


@both_types
def test_mean_over_many_magnitudes(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    exponent = torch.empty(8, 1 << 17).uniform_(-26, 14, generator=generator)
    value = torch.randn(exponent.shape, generator=generator).sign() * exponent.exp2()
    z = z_score(rounded(value, dtype), value)
    assert z.abs().max() < MAX_Z
    assert 0.3 < z.std() < 2.0


@both_types
def test_what_the_type_holds_does_not_move(dtype: torch.dtype) -> None:
    numbers = finite_numbers(dtype)
    # Often where a sum with the noise could round up: with 16 bits of it, 1 in 20 000 did.
    small = numbers[numbers.abs() <= 2 * torch.finfo(dtype).smallest_normal].repeat(500)
    for every in (numbers, small):
        assert torch.equal(rounded(every.float(), dtype).double(), every)


@both_types
def test_beyond_the_largest_number_it_is_nearest(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    half = largest * torch.finfo(dtype).eps / 4  # a little below half of the last quantum
    special = torch.tensor([largest, largest + 0.9 * half, largest + 1.1 * half, 3.4e38, math.inf])
    value = torch.cat([special, -special]).repeat(1000)
    assert torch.equal(rounded(value, dtype), value.to(dtype))
    assert rounded(value, dtype).isinf().any()


@both_types
def test_nan_stays_nan(dtype: torch.dtype) -> None:
    # Those whose bits would carry into inf or into the sign among them.
    bits = torch.tensor([0x7F800001, 0x7FC00000, 0x7FFFFFFF, -1, -0x7FFFFF])
    value = bits.to(torch.int32).view(torch.float32).repeat(1000)
    assert value.isnan().all()
    assert rounded(value, dtype).isnan().all()


@both_types
def test_without_a_generator_it_is_nearest(dtype: torch.dtype) -> None:
    value = torch.randn(10_000)
    weight = torch.empty(10_000, dtype=dtype)
    write_rounded_(weight, value.clone(), None)
    assert torch.equal(weight, value.to(dtype))


@both_types
def test_any_strides_and_only_the_view_is_written(dtype: torch.dtype) -> None:
    value = torch.randn(6, 10)
    whole = torch.full((10, 20), 7.0, dtype=dtype)
    write_rounded_(
        whole[:, 3:9].t(), value.t().contiguous().t(), generator_for("cpu", Stream(0, 0, 0))
    )
    assert torch.equal(whole[:, 3:9].t(), rounded(value, dtype))
    whole[:, 3:9] = 7.0
    assert (whole == 7.0).all()


@both_types
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0), (3, 5, 7), (70_001,)])
def test_any_shape(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    weight = torch.full(shape, 1.0, dtype=dtype)
    after = update(weight, torch.full(shape, 0.25, dtype=dtype))
    assert torch.equal(after, torch.full(shape, 0.75, dtype=dtype))


def test_wider_types_are_refused() -> None:
    weight = torch.ones(3)
    with pytest.raises(ValueError, match=r"bfloat16 and float16 weights, got torch\.float32"):
        write_rounded_(weight, weight.clone(), generator_for("cpu", Stream(0, 0, 0)))
    with pytest.raises(ValueError, match=r"bfloat16 and float16 weights, got torch\.float32"):
        update(weight, weight)


def test_a_stream_is_named_by_its_arguments_alone() -> None:
    weight, gradient = torch.ones(1000).bfloat16(), torch.full((1000,), 1e-3).bfloat16()
    names = {"seed": 3, "step": 5, "position": 7, "shard": 1}
    first = update(weight, gradient, **names)
    generator_for("cpu", Stream(0, 0, 0))  # what was drawn in between does not matter
    torch.rand(10)
    assert torch.equal(update(weight, gradient, **names), first)
    for name in names:
        assert not torch.equal(update(weight, gradient, **(names | {name: 2})), first)


def test_streams_have_nothing_in_common() -> None:
    def draws(*name: int) -> Tensor:
        return torch.rand(1000, generator=generator_for("cpu", Stream(*name)))

    small = list(itertools.product(range(7), repeat=4))
    assert len({float(draws(*name)[:3].double().sum()) for name in small}) == len(small)
    # Correlation of each stream with those whose names differ by one somewhere.
    for there in ((4, 3, 3, 3), (3, 4, 3, 3), (3, 3, 4, 3), (3, 3, 3, 4), (2, 4, 3, 3)):
        both = torch.stack([draws(3, 3, 3, 3), draws(*there)])
        assert abs(float(torch.corrcoef(both)[0, 1])) * math.sqrt(1000) < MAX_Z


def test_chunks_of_a_tensor_have_nothing_in_common() -> None:
    weight = torch.ones(4 * 65536).bfloat16()
    after = update(weight, torch.full_like(weight, -0.5 / 128))
    first, *others = (after > 1).view(4, -1)  # coins: any two rows agree in half of all places
    for other in others:
        agreeing = float((first == other).double().mean())
        assert abs(agreeing - 0.5) * 2 * math.sqrt(65536) < MAX_Z


def test_a_name_may_be_any_integer() -> None:
    states = {
        int(torch.randint(2**62, (1,), generator=generator_for("cpu", Stream(seed, 2**40, 0, 0))))
        for seed in (-1, 0, 2**32, 2**63, 2**64 - 1 - 2**40)
    }
    assert len(states) == 5


def test_one_generator_a_device() -> None:
    assert generator_for("cpu", Stream(0, 0, 0)) is generator_for(
        torch.device("cpu"), Stream(1, 0, 0)
    )


def test_threads_do_not_share_a_generator() -> None:
    other: list[torch.Generator] = []
    thread = threading.Thread(target=lambda: other.append(generator_for("cpu", Stream(0, 0, 0))))
    own = generator_for("cpu", Stream(0, 0, 0))
    thread.start()
    thread.join()
    assert other[0] is not own


class FakeTensor:
    """What the choice of a kernel asks of a tensor."""

    def __init__(
        self, is_cuda: bool = True, contiguous: bool = True, dtype: torch.dtype = torch.bfloat16
    ) -> None:
        self.is_cuda, self.dtype = is_cuda, dtype
        self._contiguous = contiguous

    def is_contiguous(self) -> bool:
        return self._contiguous


def test_the_kernel_is_for_contiguous_tensors_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    choose: Any = lomo._kernels_for
    monkeypatch.setattr(lomo, "_triton_kernels", lambda: math)  # any module
    gpu, strided, cpu = FakeTensor(), FakeTensor(contiguous=False), FakeTensor(is_cuda=False)
    wide = FakeTensor(dtype=torch.float32)
    assert choose(gpu, gpu) is math
    pairs = ((gpu, strided), (strided, gpu), (cpu, cpu), (wide, wide))
    assert [choose(*pair) for pair in pairs] == [None] * 4
    monkeypatch.setattr(lomo, "_triton_kernels", lambda: None)
    assert choose(gpu, gpu) is None


def test_the_kernel_is_where_the_tests_of_a_gpu_look_for_it() -> None:
    assert importlib.util.find_spec(KERNELS) is not None


def test_without_triton_there_is_no_kernel() -> None:
    lomo._triton_kernels.cache_clear()
    is_installed = importlib.util.find_spec("triton") is not None
    assert (lomo._triton_kernels() is not None) == is_installed


class LargestAllocation(TorchDispatchMode):
    """Bytes of the largest storage that an operation made, those that are `known` aside."""

    def __init__(self, *known: Tensor) -> None:
        super().__init__()
        self._known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.num_bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self._known:
                    self.num_bytes = max(self.num_bytes, storage.nbytes())
        return result


@both_types
def test_scratch_is_of_the_size_of_a_chunk(dtype: torch.dtype) -> None:
    weight, gradient = (torch.randn(2048, 2048).to(dtype) for _ in range(2))
    with LargestAllocation(weight, gradient) as largest:
        sgd_step_(
            weight,
            gradient,
            lr=0.1,
            scale=torch.tensor(0.5),
            weight_decay=0.1,
            clip_value=1.0,
            stream=Stream(0, 0, 0),
        )
    assert 0 < largest.num_bytes <= 65536 * 4


def expected(
    weight: Tensor, gradient: Tensor, lr: float, scale: float, decay: float, clip: float | None
) -> Tensor:
    """Where the update should go on average, in float64."""
    step = gradient.double() * scale
    if clip is not None:
        step = step.clamp(-clip, clip)
    return weight.double() - lr * (step + decay * weight.double())


@both_types
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("clip", [None, 0.3])
@pytest.mark.parametrize("as_tensor", [False, True], ids=["number", "tensor"])
def test_update_is_right_in_expectation(
    dtype: torch.dtype, decay: float, clip: float | None, as_tensor: bool
) -> None:
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(512, 512, generator=generator).mul(0.02).to(dtype)
    gradient = torch.randn(512, 512, generator=generator).to(dtype)
    kept = gradient.clone()
    value = expected(weight, gradient, 1e-4, 0.5, decay, clip)
    scale = torch.tensor(0.5) if as_tensor else 0.5
    options = {"lr": 1e-4, "scale": scale, "weight_decay": decay, "clip_value": clip}
    after = update(weight, gradient, **options)
    assert torch.equal(gradient, kept)
    # Also apart for either sign of the gradient: a bias along it would cancel in the sum of all.
    for chosen in (gradient > 0, gradient < 0, weight.abs() < 0.01):
        assert abs(float(z_score(after[chosen], value[chosen]))) < MAX_Z


@both_types
def test_update_whose_result_the_type_holds_is_the_fp32_update(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randint(-32, 32, (100, 999), generator=generator).div(16).to(dtype)
    gradient = torch.randint(-8, 9, weight.shape, generator=generator).to(dtype)
    after = update(weight, gradient, lr=0.25, scale=0.5, weight_decay=0.25, clip_value=2.0)
    value = weight.float() - 0.25 * ((gradient.float() * 0.5).clamp(-2, 2) + 0.25 * weight.float())
    held = value == value.to(dtype)
    assert held.float().mean() > 0.3
    assert torch.equal(after[held], value.to(dtype)[held])


@both_types
@pytest.mark.parametrize("scale", [0.0, math.nan])
def test_a_scale_that_is_not_above_0_leaves_the_weight(dtype: torch.dtype, scale: float) -> None:
    weight = torch.randn(100).to(dtype)
    gradient = torch.full((100,), math.nan, dtype=dtype)
    after = update(weight, gradient, scale=torch.tensor(scale), weight_decay=0.1, clip_value=1.0)
    assert torch.equal(after, weight)


@both_types
def test_what_is_not_finite_shows(dtype: torch.dtype) -> None:
    weight = torch.tensor([1.0, 1.0, 1.0, math.inf], dtype=dtype)
    gradient = torch.tensor([math.nan, math.inf, -math.inf, 1.0], dtype=dtype)
    after = update(weight, gradient).tolist()
    assert math.isnan(after[0]) and after[1:] == [-math.inf, math.inf, math.inf]
    clipped = update(weight, gradient, clip_value=0.5).tolist()
    assert math.isnan(clipped[0]) and clipped[1:] == [0.5, 1.5, math.inf]


def share_applied(dtype: torch.dtype, stochastic: bool) -> tuple[float, float]:
    """How much of a step of LLaMA-7B's size arrives, and the standard error of that.

    <applied, intended> / <intended, intended>, both summed over 16 steps. lr 0.03 and a global
    norm of 1.0 over 6.7 billion weights make steps of RMS 3.7e-7.
    """
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn(1024, 1024, generator=generator).mul(0.02).to(dtype)
    lr, scale = 0.03, 3.7e-7 / 0.03  # gradients of RMS 1 before the scale: float16 holds them
    arrived, variance, intended_square = 0.0, 0.0, 0.0
    for step in range(16):
        gradient = torch.randn(weight.shape, generator=generator).to(dtype)
        intended = -lr * scale * gradient.double()
        before = weight
        if stochastic:
            weight = update(weight, gradient, lr=lr, scale=scale, step=step)
        else:
            weight = (weight.float() - lr * scale * gradient.float()).to(dtype)
        along = (weight.double() - before.double()) * intended
        arrived += float(along.sum())
        variance += float(along.var()) * along.numel()
        intended_square += float(intended.square().sum())
    return arrived / intended_square, math.sqrt(variance) / intended_square


def test_the_share_of_a_step_that_is_applied() -> None:
    for dtype in DTYPES:
        share, standard_error = share_applied(dtype, stochastic=True)
        assert standard_error < 0.01
        assert 0.97 < share < 1.03
    assert share_applied(torch.bfloat16, stochastic=False)[0] < 0.15
