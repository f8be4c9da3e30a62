"""From lm-eval's results to a score with its examples; and HumanEval, judged contained."""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import random
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import lm_eval
import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.task import Task

from lomo.record.suite import Score, mean_of, prompts_sha256, unfinished_in
from lomo.run.suites.lm import SuiteLM
from lomo.run.suites.tasks import tokens_of
from lomo.specs import SuiteSpec
from lomo.suites import humaneval
from lomo.suites.known import SUITES, Suite, find

Sample = dict[str, Any]
# As lm-eval's command line sets them; greedy decoding asks none of them.
_SEED, _OTHER_SEED = 0, 1234
_BOOTSTRAPS = 1000
_NOTHING_WRITTEN = dict.fromkeys(("max_gen_toks", "num_unfinished"), "no answer is written")
_HUMANEVAL_VERSION = "authors' file, contained"


def score_tasks(
    lm: SuiteLM, tasks: Mapping[str, Task], spec: SuiteSpec, data_sha256: str | None
) -> tuple[Score, list[Sample]]:
    """lm-eval's evaluation of the tasks, and one entry an example."""
    random.seed(_SEED)
    np.random.seed(_OTHER_SEED)  # noqa: NPY002 - lm-eval's tasks may draw from it
    torch.manual_seed(_OTHER_SEED)
    found = lm_eval.evaluate(
        lm,
        {"tasks": dict(tasks)},
        limit=spec.limit,
        bootstrap_iters=_BOOTSTRAPS,
        log_samples=True,
    )
    assert found is not None
    known = find(spec.task)
    suite = known.suite if known else None
    metric, kind = _reported(suite, tasks, found["results"])
    samples: list[Sample] = []
    requests = []
    for name in tasks:
        of_task = [s for s in found["samples"][name] if s["filter"] == kind]
        others = [s for s in found["samples"][name] if s["filter"] != kind]
        for sample in sorted(of_task, key=lambda s: int(s["doc_id"])):
            same = [s for s in others if s["doc_id"] == sample["doc_id"]]
            samples.append(_entry(name, sample, metric, same, lm.unfinished))
            requests.append([name, sample["doc_id"], sample["arguments"]])
    cut = [s for s in requests if s[2][0][0] in lm.cut]
    value, stderr, missing = _value(samples, tasks, found, metric, kind)
    few = {int(task.get_config("num_fewshot") or 0) for task in tasks.values()}
    return (
        Score(
            title=suite.title if suite else spec.task,
            metric=metric if kind == "none" else f"{metric}, {kind}",
            scoring=suite.scoring if suite else _in_words(tasks, metric, kind),
            value=value,
            stderr=stderr,
            num_examples=len(samples),
            num_subjects=len({s["subject"] for s in samples}),
            num_cut=len(cut),
            max_gen_toks=tokens_of(tasks),
            num_unfinished=unfinished_in(samples),
            other_metrics=_others(samples, metric),
            num_fewshot=max(few),
            limit=spec.limit,
            task_version=", ".join(sorted({str(task.VERSION) for task in tasks.values()})),
            lm_eval=importlib.metadata.version("lm-eval"),
            prompts_sha256=prompts_sha256(requests),
            data_sha256=data_sha256,
            missing=missing
            | ({} if tokens_of(tasks) else _NOTHING_WRITTEN)
            | ({} if spec.limit else {"limit": "all examples"})
            | ({} if data_sha256 else {"data_sha256": "the hub's; see prompts_sha256"}),
        ),
        samples,
    )


def _reported(
    suite: Suite | None, tasks: Mapping[str, Task], results: Mapping[str, Any]
) -> tuple[str, str]:
    """The metric and the filter that are reported: a known suite's, else the first of each."""
    if suite is not None:
        return suite.metric, suite.filter
    first = next(iter(tasks))
    metric = next(iter(tasks[first].aggregation()))
    keys = [key for key in results[first] if key.startswith(f"{metric},")]
    return metric, keys[0].partition(",")[2]


def _entry(
    name: str,
    sample: Mapping[str, Any],
    metric: str,
    others: Sequence[Any],
    unfinished: Collection[str],
) -> Sample:
    """One example: its outcome, what was answered, and a hash of its prompt."""
    value = sample[metric]
    entry: Sample = {
        "subject": name,
        "doc_id": sample["doc_id"],
        "outcome": float(value) if isinstance(value, int | float | np.number) else None,
        "prompt_sha256": sample["prompt_hash"],
    }
    if isinstance(sample["resps"][0][0], str):
        entry["generated"] = sample["resps"][0][0]
        entry["answer"] = str(sample["filtered_resps"][0])
        entry["finished"] = entry["generated"] not in unfinished
    else:
        entry["log_likelihoods"] = [_number(response) for response in sample["filtered_resps"]]
        entry["label"] = sample["target"] if isinstance(sample["target"], int | str) else None
    told = {name: sample[name] for name in sample["metrics"] if name != metric}
    told |= {f"{name}, {o['filter']}": o[name] for o in others for name in o["metrics"]}
    entry["other"] = {
        name: float(x) for name, x in told.items() if isinstance(x, int | float | np.number)
    }
    return entry


def _number(response: Any) -> float:
    return float(response[0] if isinstance(response, tuple | list) else response)


def _value(
    samples: list[Sample], tasks: Mapping[str, Task], found: Any, metric: str, kind: str
) -> tuple[float, float | None, dict[str, str]]:
    """The mean over all examples; lm-eval's own number where that is no mean of examples."""
    outcomes = [s["outcome"] for s in samples]
    own = {name: float(found["results"][name][f"{metric},{kind}"]) for name in tasks}
    if None not in outcomes:
        mean, stderr = mean_of(outcomes)
        of_tasks = math.fsum(
            own[name] * sum(s["subject"] == name for s in samples) for name in tasks
        )
        if math.isclose(mean, of_tasks / len(samples), rel_tol=1e-6, abs_tol=1e-9):
            missing = {} if stderr is not None else {"stderr": "one example"}
            return mean, stderr, missing
    for sample in samples:
        sample["outcome"] = None
    num = {name: sum(s["subject"] == name for s in samples) for name in tasks}
    value = math.fsum(own[name] * num[name] for name in tasks) / len(samples)
    return value, None, {"stderr": "the metric is no mean of single examples"}


def _others(samples: Sequence[Sample], metric: str) -> dict[str, float]:
    names = dict.fromkeys(name for sample in samples for name in sample["other"])
    return {
        name: math.fsum(s["other"][name] for s in samples) / len(samples)
        for name in names
        if all(name in s["other"] for s in samples)
    }


def _in_words(tasks: Mapping[str, Task], metric: str, kind: str) -> str:
    kinds = sorted({str(task.get_config("output_type")) for task in tasks.values()})
    words = {
        "multiple_choice": "the summed log-likelihood of each candidate",
        "loglikelihood": "the log-likelihood of the continuation",
        "loglikelihood_rolling": "the log-likelihood of the whole text",
        "generate_until": "greedy generation",
    }
    told = " and ".join(words.get(kind, kind) for kind in kinds)
    return f"by {told}; {metric}" + ("" if kind == "none" else f" after {kind}")


def score_humaneval(
    lm: SuiteLM, problems: Sequence[humaneval.Problem], spec: SuiteSpec, data_sha256: str
) -> tuple[Score, list[Sample]]:
    """One greedy completion a problem, each run contained."""
    suite = SUITES["humaneval"]
    options = {
        "until": list(humaneval.STOPS),
        "max_gen_toks": spec.max_gen_toks or suite.max_gen_toks,
        "do_sample": False,
    }
    asked = [
        Instance(
            request_type="generate_until",
            doc=vars(problem),
            arguments=(problem.prompt, options),
            idx=0,
            metadata=("humaneval", number, 1),
        )
        for number, problem in enumerate(problems)
    ]
    samples: list[Sample] = []
    for number, (problem, text) in enumerate(zip(problems, lm.generate_until(asked), strict=True)):
        judged = humaneval.score(problem, humaneval.completion_of(text))
        samples.append(
            {
                "subject": "humaneval",
                "doc_id": number,
                "outcome": float(judged.passed),
                "prompt_sha256": hashlib.sha256(problem.prompt.encode()).hexdigest(),
                "generated": text,
                "finished": text not in lm.unfinished,
                "answer": problem.task_id,
                "other": {},
            }
        )
    value, stderr = mean_of([s["outcome"] for s in samples])
    missing = {} if spec.limit else {"limit": "all examples"}
    return (
        Score(
            title=suite.title,
            metric=suite.metric,
            scoring=suite.scoring,
            value=value,
            stderr=stderr,
            num_examples=len(samples),
            num_subjects=1,
            num_cut=sum(problem.prompt in lm.cut for problem in problems),
            max_gen_toks=lm.tokens_of(options),
            num_unfinished=unfinished_in(samples),
            other_metrics={},
            num_fewshot=0,
            limit=spec.limit,
            task_version=_HUMANEVAL_VERSION,
            lm_eval=importlib.metadata.version("lm-eval"),
            prompts_sha256=prompts_sha256(
                [["humaneval", number, [[p.prompt, options]]] for number, p in enumerate(problems)]
            ),
            data_sha256=data_sha256,
            missing=missing | ({} if stderr is not None else {"stderr": "one example"}),
        ),
        samples,
    )


def not_finite(samples: Sequence[Sample]) -> bool:
    """Whether a score is no number."""
    return any(
        not math.isfinite(x) for sample in samples for x in sample.get("log_likelihoods", ())
    )


def first_problems(data: Path, limit: int | None) -> list[humaneval.Problem]:
    """The problems that are asked, in the file's order."""
    from lomo.suites.layouts import documents

    found = documents(SUITES["humaneval"], data, "")["test"]
    return [humaneval.Problem(**each) for each in found[:limit]]
