"""The norm of a gradient that is never made, from the layer's inputs and outputs' gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lomo.optim.arithmetic import ghost_norms as ghost
from tests.numerics.in_gemm import ONE_ROUNDING, mlp, mlp_loss, train_in_gemm
from tests.numerics.models import max_difference, weights

SHAPES = {"gram": (200, 400, 300), "blocks": (300, 40, 60), "one_token": (1, 40, 60)}


def exact_norm(x: Tensor, dy: Tensor) -> float:
    return float((dy.double().t() @ x.double()).norm())


def test_shapes_take_both_ways() -> None:
    ways = {name: ghost.gram_is_cheaper(*shape, 128) for name, shape in SHAPES.items()}
    assert ways == {"gram": True, "blocks": False, "one_token": False}
    assert ghost.gram_is_cheaper(1024, 4096, 4096, 1024)
    assert not ghost.gram_is_cheaper(8192, 4096, 4096, 1024)


@pytest.mark.parametrize("parallel", [0.0, 20.0])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_ghost_norm_is_the_norm(shape: tuple[int, int, int], parallel: float) -> None:
    num_tokens, num_in, num_out = shape
    torch.manual_seed(1)
    x = torch.randn(num_tokens, num_in) + parallel  # nearly parallel tokens
    dy = torch.randn(num_tokens, num_out)
    assert float(ghost.linear_gradient_norm(x, dy)) == pytest.approx(exact_norm(x, dy), rel=1e-6)


@pytest.mark.parametrize("parallel", [0.0, 20.0])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_ghost_norm_in_bf16(shape: tuple[int, int, int], parallel: float) -> None:
    """Each rounding is off by 2^-9 / sqrt(3) in the root mean square; terms are P = Gx * Gy.

    Two factors and the mirror image make 2 * 2^-9 / sqrt(3) sqrt(sum P^2) of sum P, half of that
    for its root; allowed are four such deviations.
    """
    num_tokens, num_in, num_out = shape
    torch.manual_seed(1)
    x = (torch.randn(num_tokens, num_in) + parallel).bfloat16()
    dy = torch.randn(num_tokens, num_out).bfloat16()
    terms = (x.double() @ x.double().t()) * (dy.double() @ dy.double().t())
    deviation = 2.0**-9 / 3.0**0.5 * float(terms.norm() / terms.sum())
    norm = float(ghost.linear_gradient_norm(x, dy))
    assert norm == pytest.approx(exact_norm(x, dy), rel=4 * deviation)
    assert 4 * deviation < 5e-3 or num_tokens == 1


def test_terms_that_cancel_do_not_spoil_a_bf16_norm() -> None:
    """Equal tokens with opposite gradients: what is left is far below the Gram entries' error."""
    torch.manual_seed(2)
    x = torch.randn(1, 400).repeat(100, 1).bfloat16()
    half = torch.randn(50, 300).bfloat16()
    dy = torch.cat([half, -half])
    dy[0] *= 1.0 + 2.0**-6
    assert ghost.gram_is_cheaper(100, 400, 300, 128)
    norm = float(ghost.linear_gradient_norm(x, dy))
    assert norm == pytest.approx(exact_norm(x, dy), rel=1e-3)


@pytest.mark.parametrize("mean", [1e2, 1e3, 1e4])
def test_terms_that_cancel_do_not_spoil_an_fp32_norm(mean: float) -> None:
    """Inputs far from 0 before a batch norm, whose gradients sum to 0 over the tokens."""
    torch.manual_seed(2)
    x, dy = mean + torch.randn(100, 400), torch.randn(100, 300)
    dy -= dy.mean(0)
    assert ghost.gram_is_cheaper(100, 400, 300, 128)
    norm = float(ghost.linear_gradient_norm(x, dy))
    assert norm == pytest.approx(exact_norm(x, dy), rel=2e-4)


def test_float16_squares_do_not_overflow() -> None:
    x = torch.full((100, 400), 40.0).half()
    dy = torch.full((100, 300), 1e-3).half()
    norm = float(ghost.linear_gradient_norm(x, dy))
    assert norm == pytest.approx(exact_norm(x, dy), rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("padding_idx", [None, 3])
def test_embedding_norm(padding_idx: int | None, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    ids, dy = torch.randint(0, 9, (50,)), torch.randn(50, 16).to(dtype)
    table = torch.zeros(9, 16, dtype=torch.float64).index_add_(0, ids, dy.double())
    if padding_idx is not None:
        table[padding_idx] = 0.0
    gradient = ghost.EmbeddingGradient(ids, dy, padding_idx)
    assert float(gradient.norm()) == pytest.approx(float(table.norm()), rel=1e-6)


def test_blocks_of_columns_and_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = mlp(), mlp()
    train_in_gemm(whole, mlp_loss, max_grad_norm=0.1)
    monkeypatch.setattr(ghost, "_SCRATCH_ELEMENTS_CPU", 64)
    monkeypatch.setattr(ghost, "_GRAM_TOKENS_CPU", 4)
    train_in_gemm(parts, mlp_loss, max_grad_norm=0.1)
    assert max_difference(weights(parts), weights(whole)) <= ONE_ROUNDING


def test_modules_with_one_input_share_its_gram_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    make = ghost._make_input_grams

    def counted(*arguments: Any) -> Any:
        made.append(1)
        return make(*arguments)

    monkeypatch.setattr(ghost, "_make_input_grams", counted)
    torch.manual_seed(0)
    x, other = torch.randn(20, 256), torch.randn(20, 256)

    def check(x: Tensor, num_made: int) -> None:
        dy = torch.randn(len(x), 300)
        expected = dy.t().double().mm(x.double()).norm()
        norm = ghost.linear_gradient_norm(x, dy)
        assert float(norm) == pytest.approx(float(expected), rel=1e-6)
        assert len(made) == num_made

    check(x, 1)
    check(x, 1)
    check(x[:], 1)  # another view of the same
    check(x[1:], 2)
    check(other, 3)
    check(x, 4)
    x.mul_(2.0)
    check(x, 5)
    del x, other
    assert not ghost._last.grams
