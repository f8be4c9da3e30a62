"""Cross entropy from hidden states, slice by slice of the vocabulary: the logits never exist whole.

A model's own loss keeps the log-softmax of all logits in fp32 for its backward, and makes fp32
copies of logits and of their gradient. Here the forward keeps one number a token, the logarithm of
its softmax's denominator, and the backward makes each slice of the logits again: one more product
of the head. Letters: B batch, S sequence, T tokens, H width, V vocabulary, C columns of a slice.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from lomo.errors import UserError
from lomo.optim.arithmetic import tensors
from lomo.tasks.batches import IGNORED


def fuse_head_loss(model: Any) -> None:
    """Makes calls of a causal LM with labels take their loss from `head_loss`, without logits.

    The loss is taken inside the head's forward, where engines that split parameters have gathered
    it. Calls without labels give logits as before. Call it before adapters or engines wrap the
    model. Raises UserError for a model without a linear head, and later, in forward, where the
    model changes its logits before its loss.
    """
    head: Any = model.get_output_embeddings()
    is_linear = type(head) is nn.Linear
    if not is_linear:
        raise UserError(f"{type(model).__name__} has no linear head", where="head_loss", fix=_FIX)
    asked: dict[str, Any] = {}
    own_forward, own_head = model.forward, head.forward

    @functools.wraps(own_forward)
    def forward(*arguments: Any, **named: Any) -> Any:
        if len(arguments) > 1:
            raise TypeError("with a fused head loss all but the tokens must be given by name")
        if named.get("labels") is None:
            return own_forward(*arguments, **named)
        asked["targets_T"] = _targets(named["labels"])
        asked["num_targets"] = named.get("num_items_in_batch")
        try:
            output = own_forward(*arguments, **named)
            if output.loss is not asked.get("loss"):
                raise UserError(
                    f"{type(model).__name__} changes its logits before its loss",
                    where="head_loss",
                    fix=_FIX,
                )
        finally:
            asked.clear()
        output.logits = None  # what stands there is the loss
        return output

    def head_forward(hidden: Tensor) -> Tensor:
        if not asked:
            return own_head(hidden)
        asked["loss"] = head_loss(
            hidden.flatten(0, -2), head.weight, head.bias, asked["targets_T"], asked["num_targets"]
        )
        loss: Tensor = asked["loss"]
        return loss

    model.forward = forward
    head.forward = head_forward
    model.loss_function = _as_it_is


_FIX = "leave head_loss at `model`"


def _as_it_is(logits: Tensor, *_: Any, **__: Any) -> Tensor:
    return logits


def _targets(labels_BS: Tensor) -> Tensor:
    """For each token the one that follows it; IGNORED at the end of a sequence."""
    return F.pad(labels_BS, (0, 1), value=IGNORED)[:, 1:].flatten()


def head_loss(
    hidden_TH: Tensor,
    weight_VH: Tensor,
    bias_V: Tensor | None,
    targets_T: Tensor,
    num_targets: int | Tensor | None = None,
) -> Tensor:
    """Mean cross entropy of the targets under the logits `hidden_TH @ weight_VH.T + bias_V`, fp32.

    num_targets: what the sum is divided by; None for the number of targets that are not IGNORED.
    A slice has as many columns as the hidden states, so that its logits take what these take.
    Where `num_targets` says that fewer than half the tokens have a target, as in a task's answers,
    the others are left out of the products.
    The weight's gradient is whole and rounded once. A target outside the vocabulary gives nan.
    """
    if num_targets is None:
        num_targets = (targets_T != IGNORED).sum()
    elif isinstance(num_targets, int) and 2 * num_targets < targets_T.numel():
        # Counted on the host: looking here would make it wait for a GPU at every step.
        kept = (targets_T != IGNORED).nonzero().squeeze(1)
        hidden_TH, targets_T = hidden_TH[kept], targets_T[kept]
    total: Tensor = _HeadLoss.apply(hidden_TH, weight_VH, bias_V, targets_T)
    return total / num_targets


class _HeadLoss(torch.autograd.Function):
    """The sum over targets; its backward may run twice."""

    @staticmethod
    def forward(
        ctx: Any, hidden_TH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, targets_T: Tensor
    ) -> Tensor:
        empty = hidden_TH.new_full(targets_T.shape, -torch.inf, dtype=torch.float32)
        log_sum_T, target_logit_T = empty, torch.full_like(empty, torch.nan)
        for columns in _slices(weight_VH):
            logits_TC = _logits(hidden_TH, weight_VH, bias_V, columns)
            inside_T, index_T1 = _inside(targets_T, columns)
            found_T = logits_TC.gather(1, index_T1).squeeze(1)
            target_logit_T = torch.where(inside_T, found_T, target_logit_T)
            highest_T1 = logits_TC.amax(1, keepdim=True)
            part_T = logits_TC.sub_(highest_T1).exp_().sum(1).log_().add_(highest_T1.squeeze(1))
            log_sum_T = torch.logaddexp(log_sum_T, part_T)
            del logits_TC
        ctx.save_for_backward(hidden_TH, weight_VH, bias_V, targets_T, log_sum_T)
        losses_T = log_sum_T - target_logit_T
        return torch.where(targets_T != IGNORED, losses_T, 0.0).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden_TH, weight_VH, bias_V, targets_T, log_sum_T = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias, _ = ctx.needs_input_grad
        scale_T1 = torch.where(targets_T != IGNORED, gradient, 0.0).unsqueeze(1)
        # Products and their sum in fp32: what is rounded once a slice does not cancel as it should.
        d_hidden_TH = torch.zeros_like(hidden_TH, dtype=torch.float32) if needs_hidden else None
        d_weight_VH = torch.empty_like(weight_VH) if needs_weight else None
        d_bias_V = torch.empty_like(bias_V) if needs_bias else None
        for columns in _slices(weight_VH):
            inside_T, index_T1 = _inside(targets_T, columns)
            d_logits_TC = _logits(hidden_TH, weight_VH, bias_V, columns)
            d_logits_TC.sub_(log_sum_T.unsqueeze(1)).exp_()
            d_logits_TC.scatter_add_(1, index_T1, -inside_T.float().unsqueeze(1))
            d_logits_TC = d_logits_TC.mul_(scale_T1).to(weight_VH.dtype)
            if d_hidden_TH is not None:
                d_hidden_TH += _product_fp32(d_logits_TC, weight_VH[columns])
            if d_weight_VH is not None:
                torch.mm(d_logits_TC.t(), hidden_TH, out=d_weight_VH[columns])
            if d_bias_V is not None:
                d_bias_V[columns] = d_logits_TC.sum(0)
            del d_logits_TC
        d_hidden = None if d_hidden_TH is None else d_hidden_TH.to(hidden_TH.dtype)
        return d_hidden, d_weight_VH, d_bias_V, None


def _slices(weight_VH: Tensor) -> Iterator[slice]:
    num_rows, width = weight_VH.shape
    for start in range(0, num_rows, width):
        yield slice(start, min(start + width, num_rows))


def _logits(hidden_TH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, columns: slice) -> Tensor:
    """A slice of the logits, rounded as the model's own are, then in fp32."""
    bias_C = None if bias_V is None else bias_V[columns]
    return F.linear(hidden_TH, weight_VH[columns], bias_C).float()


def _product_fp32(left: Tensor, right: Tensor) -> Tensor:
    """The product without rounding to 16 bits. Only a GPU has a kernel for that."""
    if left.dtype not in tensors.SIXTEEN_BIT:
        return left @ right
    if tensors.on_cpu(left):
        return left.float() @ right.float()
    return torch.mm(left, right, out_dtype=torch.float32)


def _inside(targets_T: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
    """Which targets a slice holds, and their column in it; 0 for the others."""
    inside_T = (targets_T >= columns.start) & (targets_T < columns.stop)
    return inside_T, torch.where(inside_T, targets_T - columns.start, 0).unsqueeze(1)
