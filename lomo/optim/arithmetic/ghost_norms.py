"""The gradient of a weight from its two factors: its norm, or a block at a time, never the whole.

dW = dY^T X for a linear layer; for an embedding, the rows of dY summed by id. Letters: T tokens,
I inputs, O outputs, H hidden, V vocabulary.
"""

import threading
import weakref
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from .tensors import SIXTEEN_BIT, at_least_fp32, norm_of

# Elements of scratch: 4 MiB in fp32 on a CPU; a GPU needs large products to be busy.
_SCRATCH_ELEMENTS_CPU = 1 << 20
_SCRATCH_ELEMENTS_DEVICE = 1 << 24
# Tokens in a block of the Gram matrices. Small blocks skip more of the upper half, large ones
# multiply faster.
_GRAM_TOKENS_CPU = 128
_GRAM_TOKENS_DEVICE = 1024


def linear_gradient_norm(x_TI: Tensor, dy_TO: Tensor) -> Tensor:
    """Frobenius norm of dY^T X, 0-dim, fp64 of fp64 and else fp32, by the way that is cheaper.

    By the Gram matrices of the tokens, sum((X X^T) * (dY dY^T)), or by blocks of dY^T X.
    Relative error, measured: 1e-6 in fp32, 1e-4 where tokens cancel (on CUDA more: the choice below
    would make the host wait). 16-bit on a CPU, whose products round their results:
    up to 8e-4 by Gram matrices (1e-4 for the norm over a LLaMA of 34 million parameters), 2e-5 by
    blocks; float16, whose range is short, by blocks only. On CUDA 16-bit products are kept in fp32.
    """
    num_tokens, num_in = x_TI.shape
    block = _GRAM_TOKENS_CPU if x_TI.device.type == "cpu" else _GRAM_TOKENS_DEVICE
    cheaper = gram_is_cheaper(num_tokens, num_in, dy_TO.shape[1], block)
    if cheaper and num_tokens > 0 and not _overflows(x_TI):
        norm = _norm_by_gram(x_TI, dy_TO, block)
        if norm is not None:
            return norm
    return norm_of(part for _, part in linear_gradient_blocks(x_TI, dy_TO))


def gram_is_cheaper(num_tokens: int, num_in: int, num_out: int, block: int) -> bool:
    """Whether half of the two Gram matrices, in row blocks, costs less than dY^T X itself."""
    return (num_tokens + block) * (num_in + num_out) < 2 * num_in * num_out


def linear_gradient_blocks(x_TI: Tensor, dy_TO: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows of dY^T X, a quarter of them at most at a time: which ones, and their values."""
    num_in, num_out = x_TI.shape[1], dy_TO.shape[1]
    num_rows = max(1, min(-(-num_out // 4), _scratch_elements(x_TI) // max(1, num_in)))
    for start in range(0, num_out, num_rows):
        rows = slice(start, min(start + num_rows, num_out))
        yield rows, _product(dy_TO[:, rows].t(), x_TI)


def _norm_by_gram(x_TI: Tensor, dy_TO: Tensor, block: int) -> Tensor | None:
    """Half of each matrix, for both are symmetric; None if rounding has spoilt the sum.

    Rounded entries have errors of their own size, mostly at random, so the error of the sum is
    about 2^-9 of the root of its terms' squares. Terms that do not cancel add up to more than
    that root; if they do cancel, nothing is left of the sum's precision. Wider types have bits to
    spare, so a sum down to 2^-10 of that root is kept (less comes of inputs far from 0 before a
    batch norm, whose gradients add up to 0 over the tokens).
    """
    on_cpu = x_TI.device.type == "cpu"
    rounded = _rounds(x_TI)
    sums, squares = [], []
    starts = range(0, x_TI.shape[0], block)
    for start, gram_x in zip(starts, _input_grams(x_TI, block), strict=True):
        rows, columns = slice(start, start + block), slice(0, start + block)
        gram_y = at_least_fp32(_product(dy_TO[rows], dy_TO[columns].t()))
        terms = gram_y.mul_(gram_x).view(-1)
        sums.append(terms.sum())
        if rounded or on_cpu:
            squares.append(torch.dot(terms, terms))
    total = torch.stack(sums).sum().clamp_(min=0.0)
    if squares and not isinstance(total, FakeTensor):
        lost = 1.0 if rounded else 2.0**-20
        if bool(total.square() < torch.stack(squares).sum() * lost):
            return None
    return total.sqrt_()


class _Last(threading.local):
    """The input whose Gram matrix was made last, and the matrix; one for each backward thread."""

    storage: "Callable[[], object] | None" = None
    key: tuple[object, ...] = ()
    grams: tuple[Tensor, ...] = ()


_last = _Last()


def _input_grams(x_TI: Tensor, block: int) -> tuple[Tensor, ...]:
    """Lower half of X X^T in row blocks, at least fp32; what stands for two counts twice.

    Kept until the next input comes, or this one is freed: query, key and value have the same
    input, and so have gate and up.
    """
    storage = x_TI.untyped_storage()
    key = (x_TI._version, x_TI.storage_offset(), x_TI.shape, x_TI.stride(), x_TI.dtype, block)
    if _last.storage is not None and _last.storage() is storage and _last.key == key:
        return _last.grams
    _last.storage, _last.grams = None, ()  # free the other one before this one is made
    grams = tuple(_make_input_grams(x_TI, block))
    if sum(gram.numel() for gram in grams) <= _scratch_elements(x_TI):

        def forget(_: object) -> None:
            _last.storage, _last.grams = None, ()

        _last.storage, _last.key, _last.grams = weakref.ref(storage, forget), key, grams
    return grams


def _make_input_grams(x_TI: Tensor, block: int) -> Iterator[Tensor]:
    if _rounds(x_TI):  # normalised tokens have equal squares, whose errors would add up
        diagonal = _squared_norms(x_TI)
    for start in range(0, x_TI.shape[0], block):
        rows, columns = slice(start, start + block), slice(0, start + block)
        gram = at_least_fp32(_product(x_TI[rows], x_TI[columns].t()))
        if _rounds(x_TI):
            gram.diagonal(start).copy_(diagonal[rows])
        if start:  # left of the diagonal block: stands for its mirror image as well
            gram[:, :start].mul_(2.0)
        yield gram


def _squared_norms(rows: Tensor) -> Tensor:
    # The CPU's kernel makes an fp32 copy of what it is given.
    parts = rows.split(max(1, _scratch_elements(rows) // rows.shape[1]))
    norms = [torch.linalg.vector_norm(part, dim=1, dtype=torch.float32) for part in parts]
    return torch.cat(norms).square_()


def _rounds(tensor: Tensor) -> bool:
    """Whether a product of such tensors comes out in 16 bits."""
    return tensor.dtype in SIXTEEN_BIT and tensor.device.type != "cuda"


def _overflows(tensor: Tensor) -> bool:
    """Whether the squared norm of a token may be too large for the product's result."""
    return tensor.dtype == torch.float16 and _rounds(tensor)


def _product(left: Tensor, right: Tensor) -> Tensor:
    if left.dtype in SIXTEEN_BIT and not _rounds(left):
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.mm(right)


def _scratch_elements(tensor: Tensor) -> int:
    return _SCRATCH_ELEMENTS_CPU if tensor.device.type == "cpu" else _SCRATCH_ELEMENTS_DEVICE


class EmbeddingGradient:
    """The rows of an embedding's gradient that are not 0, in fp32 at least, by blocks of columns.

    Shapes do not depend on how many ids differ: there are T rows, and those of ids that occur
    again stay 0. A row whose id is `padding_idx` has no gradient.
    """

    def __init__(self, ids_T: Tensor, dy_TH: Tensor, padding_idx: int | None) -> None:
        self._dy_TH = dy_TH
        self._padding_T1 = None if padding_idx is None else (ids_T == padding_idx).unsqueeze(1)
        sorted_T, order_T = ids_T.sort()
        segment_T = torch.zeros_like(ids_T)
        segment_T[1:] = (sorted_T[1:] != sorted_T[:-1]).cumsum(0)
        self.row_of_T = torch.empty_like(ids_T).scatter_(0, order_T, segment_T)

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Which columns, and for those the T rows; the gradient of token t is `row_of_T[t]`."""
        num_tokens, num_hidden = self._dy_TH.shape
        num_columns = max(1, _scratch_elements(self._dy_TH) // max(1, num_tokens))
        for start in range(0, num_hidden, num_columns):
            columns = slice(start, min(start + num_columns, num_hidden))
            dy = at_least_fp32(self._dy_TH[:, columns])
            if self._padding_T1 is not None:
                dy = dy.masked_fill(self._padding_T1, 0.0)
            # What autograd itself sums with, here over rows instead of the vocabulary. Unlike
            # index_add_, it adds in the same order each time on a GPU.
            sums = torch.ops.aten.embedding_dense_backward
            yield columns, sums(dy, self.row_of_T, num_tokens, -1, False)

    def norm(self) -> Tensor:
        """Frobenius norm, 0-dim, fp64 of fp64 and else fp32."""
        return norm_of(rows for _, rows in self.blocks())
