"""The LOMO authors' loss, which every variant of a `peers` section gets."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F


def authors_loss(logits: Tensor, labels: Tensor, vocab_size: int, **_: Any) -> Tensor:
    """Mean cross entropy of each token given those before it, in the dtype of the logits (B, S, V).

    transformers' own makes fp32 copies of 16-bit logits. In a small model these are the peak of the
    step, and hide what an optimizer takes.
    """
    shifted = logits[..., :-1, :].contiguous()
    targets = labels[..., 1:].contiguous()
    return F.cross_entropy(shifted.view(-1, vocab_size), targets.view(-1))
