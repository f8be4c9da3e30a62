"""Scoring by lm-eval: one task, one model in, accuracy and per-example results out.

The authors' code ranks candidates by the sum of their tokens' log-likelihoods, and so do we:
lm-eval's `acc` (docs/decisions/003-score-by-sum.md). What the paper's words say instead, the mean
over a candidate's tokens, is told beside it: `acc_token_mean`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Literal

import lm_eval
from lm_eval.api.task import Task
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from torch import nn

from lomo.record.evidence import outcomes
from lomo.record.schema import Evaluation
from lomo.specs import TaskSpec
from lomo.tasks import registry
from lomo.tasks.superglue import files_of
from lomo.tasks.tokens import Encoder

METRIC, TOKEN_MEAN = "acc", "acc_token_mean"

# lm-eval prints a paragraph for each task it loads and each batch it scores.
logging.getLogger("lm_eval").setLevel(logging.ERROR)


class QuietLM(HFLM):
    """lm-eval's model with our tokens, and without a progress bar for each batch of requests.

    together: the field by which examples belong to each other, as MultiRC's by their passage.
    """

    def __init__(self, encoder: Encoder, together: str | None = None, **options: Any) -> None:
        super().__init__(tokenizer=encoder.tokenizer, **options)
        self.encoder, self.together = encoder, together
        self.num_cut = 0  # documents of the last evaluation that were too long
        self.num_tokens: dict[int, list[int]] = {}  # of each candidate, by document

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Log-likelihood of each (context, continuation), and whether greedy decoding gives it.

        The continuations of one document follow one and the same context (lomo/tasks/tokens.py).
        """
        pairs = []
        self.num_cut, self.num_tokens = 0, {}
        for (_, document, context), group in groupby(
            requests, key=lambda request: (request.task_name, request.doc_id, request.args[0])
        ):
            answers = [request.args[1] for request in group]
            encoded = self.encoder.encode(context, answers)
            pairs += [
                ((context, answer), encoded.prompt, tokens)
                for answer, tokens in zip(answers, encoded.answers, strict=True)
            ]
            self.num_tokens[document] = [len(tokens) for tokens in encoded.answers]
            longest = len(encoded.prompt) + max(map(len, encoded.answers))
            self.num_cut += longest > self.max_length + 1
        scores: list[tuple[float, bool]] = self._loglikelihood_tokens(pairs, disable_tqdm=True)
        return scores


def load_task(spec: TaskSpec, split: Literal["dev", "test"]) -> Task:
    """The spec's task with the documents of `split`. Raises UserError for bad data files."""
    metadata: Any = {
        "folder": spec.data_path,
        "split": split,
        "seed": spec.sample_seed,
        "num_train": spec.num_train,
        "num_dev": spec.num_dev,
        "num_test": spec.num_test,
    }
    registry.check_name(spec.task, where="task")
    manager = TaskManager(include_defaults=False, metadata=metadata)
    (task,) = manager.load([str(registry.prompt_of(spec.task))])["tasks"].values()
    return task


def wrap(model: nn.Module, encoder: Encoder, spec: TaskSpec, device: str) -> QuietLM:
    """The model as lm-eval sees it."""
    return QuietLM(
        encoder,
        files_of(spec.task).together,
        pretrained=model,
        device=device,
        batch_size=spec.eval_batch_size,
        max_length=spec.max_length,
    )


def score(
    lm: QuietLM, task: Task, *, split: Literal["dev", "test"], step: int, epoch: int
) -> tuple[Evaluation, list[dict[str, Any]]]:
    """The evaluation of `split` and one entry an example (index, candidates' log-likelihoods)."""
    training = lm.model.training
    lm.model.eval()
    name = task.config.task
    # One bootstrap iteration: the mean's standard error has a closed form and needs none.
    outcome = lm_eval.evaluate(lm, {"tasks": {name: task}}, bootstrap_iters=1, log_samples=True)
    lm.model.train(training)
    assert outcome is not None
    values: dict[str, Any] = outcome["results"][name]
    metrics = {
        key.removesuffix(",none"): value
        for key, value in values.items()
        if key.endswith(",none") and isinstance(value, float)
    }
    stderr = metrics.get(f"{METRIC}_stderr")
    samples = _per_example(outcome["samples"][name], lm.num_tokens, lm.together)
    metrics[TOKEN_MEAN] = sum(sample[TOKEN_MEAN] for sample in samples) / len(samples)
    evaluation = Evaluation(
        split=split,
        step=step,
        epoch=epoch,
        metric=METRIC,
        value=metrics[METRIC],
        stderr=stderr,
        num_examples=len(samples),
        num_cut=lm.num_cut,
        num_ties=sum(_is_tie(sample) for sample in samples),
        other_metrics={
            key: value
            for key, value in metrics.items()
            if key != METRIC and not key.endswith("_stderr")
        },
        missing={} if stderr is not None else {"stderr": "lm-eval gave none"},
    )
    return evaluation, samples


def _is_tie(sample: dict[str, Any]) -> bool:
    scores = sample["log_likelihoods"]
    return scores.count(max(scores)) > 1


def _per_example(
    samples: Sequence[dict[str, Any]], num_tokens: Mapping[int, list[int]], together: str | None
) -> list[dict[str, Any]]:
    groups: dict[Any, int] = {}
    entries = []
    for sample in sorted(samples, key=lambda sample: int(sample["doc_id"])):
        totals = [float(response[0]) for response in sample["filtered_resps"]]
        numbers = num_tokens[sample["doc_id"]]
        means = [total / number for total, number in zip(totals, numbers, strict=True)]
        group = groups.setdefault(sample["doc"][together], len(groups)) if together else None
        entries.append(
            {
                "doc_id": sample["doc_id"],
                **({"group": group} if together else {}),
                "label": sample["target"],
                "log_likelihoods": totals,
                "num_tokens": numbers,
                **{metric: sample[metric] for metric in sample["metrics"]},
                TOKEN_MEAN: outcomes([means], [sample["target"]])[0],
            }
        )
    return entries
