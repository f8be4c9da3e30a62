"""One run of a suite: documents and prompts first, then the model, then the score."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from lomo.contained.probe import require
from lomo.model.weights import load_model, load_tokenizer, weights_sha256
from lomo.record.clock import Clock
from lomo.record.made import digest
from lomo.record.schema import ModelFacts
from lomo.record.suite import Score
from lomo.run.findings import model_facts
from lomo.run.suites import score
from lomo.run.suites.lm import SuiteLM
from lomo.run.suites.tasks import HUB, load_tasks, tokens_of
from lomo.specs import SuiteSpec
from lomo.suites.known import find
from lomo.suites.layouts import files_of
from lomo.suites.room import check_room

Scored = tuple[Score, list[dict[str, Any]]]


@dataclass
class Found:
    """What a run has found so far."""

    model: ModelFacts | None = None
    score: Score | None = None
    samples: list[dict[str, Any]] = field(default_factory=list)
    reused_from: str | None = None


def work(spec: SuiteSpec, device: str, clock: Clock, found: Found) -> None:
    """Scores the spec's folder; what is found goes to `found`.

    Raises Unsupported before any weight is loaded, and UserError for what can be mended.
    """
    ask = _asked(spec)
    tokenizer = load_tokenizer(spec.model_path)
    model = load_model(
        spec.model_path, dtype=spec.dtype, attention=spec.attention, device=device
    ).eval()
    found.model = model_facts(model, spec.model, spec.dtype, weights_sha256(spec.model_path))
    lm = SuiteLM(model, tokenizer, batch_size=spec.batch_size, device=device)
    clock.loaded()
    with clock.phase("evaluate"):
        found.score, found.samples = ask(lm)
    gc.collect()


def data_sha256(spec: SuiteSpec) -> str | None:
    """One hash over the files that a suite is read from; None where it comes from the hub."""
    known = find(spec.task)
    if known is None or spec.data_path == HUB:
        return None
    return digest(files_of(known, Path(spec.data_path)))


def _asked(spec: SuiteSpec) -> Callable[[SuiteLM], Scored]:
    """What asks a model: all of it is read and checked by now."""
    known = find(spec.task)
    data = Path(spec.data_path)
    sha256 = data_sha256(spec)
    positions = _positions(spec.model_path)
    if known is not None and known.suite.runs_code:
        require("task: humaneval")
        problems = score.first_problems(data, spec.limit)
        tokens = spec.max_gen_toks or known.suite.max_gen_toks
        check_room(tokens, positions, spec.model, "max_gen_toks")
        return lambda lm: score.score_humaneval(lm, problems, spec, str(sha256))
    tasks = load_tasks(spec)
    check_room(tokens_of(tasks), positions, spec.model, "max_gen_toks")
    return lambda lm: score.score_tasks(lm, tasks, spec, sha256)


def _positions(folder: str) -> int | None:
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    text = config.get_text_config()
    found = (getattr(text, name, None) for name in ("max_position_embeddings", "n_positions"))
    return next((number for number in found if isinstance(number, int)), None)
