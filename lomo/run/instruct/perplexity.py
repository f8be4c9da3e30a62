"""How well a model foretells held-out answers: perplexity by token, and its error by example.

Letters: B batch, S sequence, T targets of a batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lomo.engines.single import Single
from lomo.record.evidence import perplexity_of
from lomo.record.schema import PERPLEXITY, Evaluation
from lomo.run.loop import NothingTold, Samples
from lomo.specs import InstructSpec, Split
from lomo.tasks.answers import Answers
from lomo.tasks.batches import IGNORED, Batch, Example, collate


class AnswerScorer:
    """Scores the answers of a split: the tokens that a training's loss is on."""

    def __init__(
        self,
        spec: InstructSpec,
        engine: Single,
        model: nn.Module,
        parts: Mapping[str, Answers],
        *,
        pad_id: int,
    ) -> None:
        self.spec, self.engine, self.model = spec, engine, model
        self.parts, self.pad_id = parts, pad_id

    def score(self, split: Split, *, step: int, epoch: int) -> tuple[Evaluation, Samples]:
        """Perplexity of `split`. Raises NothingTold where it is not finite."""
        part = self.parts[split]
        training = self.model.training
        self.model.eval()
        sums = self._log_likelihoods(part.examples)
        self.model.train(training)
        samples = [
            {
                "doc_id": number,
                "log_likelihood": total,
                "num_tokens": len(example.tokens) - example.num_prompt_tokens,
            }
            for number, example, total in zip(part.numbers, part.examples, sums, strict=True)
        ]
        try:
            found = perplexity_of(samples)
        except (OverflowError, ValueError) as error:
            raise NothingTold("the perplexity of the answers is not finite") from error
        evaluation = Evaluation(
            split=split,
            step=step,
            epoch=epoch,
            metric=PERPLEXITY,
            value=found.value,
            stderr=found.stderr,
            num_examples=len(samples),
            num_cut=part.num_cut,
            num_ties=0,
            other_metrics={
                "nll_per_token": found.nll_per_token,
                "num_tokens": found.num_tokens,
                "num_left_out": part.num_left_out,
            },
            missing={} if found.stderr is not None else {"stderr": "one example has no spread"},
        )
        return evaluation, samples

    def _log_likelihoods(self, examples: Sequence[Example]) -> list[float]:
        """Of each example's answer, in nats; the longest are scored first, and fail first."""
        order = sorted(range(len(examples)), key=lambda i: -len(examples[i].tokens))
        sums = [0.0] * len(examples)
        for start in range(0, len(order), self.spec.eval_batch_size):
            chosen = order[start : start + self.spec.eval_batch_size]
            batch = collate([examples[i] for i in chosen], pad_id=self.pad_id)
            found = log_likelihoods(self.model, batch.to(self.engine.device))
            for index, total in zip(chosen, found, strict=True):
                sums[index] = total
        return sums


@torch.no_grad()
def log_likelihoods(model: Any, batch: Batch) -> list[float]:
    """The summed log-likelihood of each row's targets: tokens in fp32, their sum in fp64."""
    logits_BSV = model(input_ids=batch.input_ids_BS, attention_mask=batch.attention_mask_BS).logits[
        :, :-1
    ]
    labels_BS = batch.labels_BS[:, 1:]
    is_target_BS = labels_BS != IGNORED
    losses_T = cross_entropy(
        logits_BSV[is_target_BS].float(), labels_BS[is_target_BS], reduction="none"
    )
    rows = losses_T.double().cpu().split(is_target_BS.sum(dim=1).tolist())
    return [-float(row_T.sum()) for row_T in rows]
