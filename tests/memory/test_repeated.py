"""Updates that are counted again leave the very ledger and changes of updates that are run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lomo.memory.predicted import first_step as repeated
from lomo.memory.predicted import predict as predicting
from lomo.memory.predicted.predict import Prediction, predict
from tests.memory.predictions import small, spec_of

OTHERS: list[tuple[str, str, dict[str, Any]]] = [
    ("llama", "adalomo", {"max_grad_norm": 1.0}),
    ("opt", "adalomo", {"weight_decay": 0.1}),
    ("llama", "adalomo", {"engine": "fsdp2", "num_devices": 3}),
    ("llama", "lomo", {"hyper": {"rounding": "stochastic"}, "dtype": "bfloat16"}),
    ("qwen", "lora_lomo", {}),
]
FIRST = ("llama", "adalomo", {"dtype": "bfloat16", "activation_checkpointing": True})
CASES = [FIRST, *(pytest.param(*case, marks=pytest.mark.slow) for case in OTHERS)]


def run_all(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def updates(optimizers: Any, meter: Any) -> Iterator[set[Any]]:
        with monkeypatch.context() as patch:
            patch.setattr(repeated, "_key_of", lambda *_: None)
            with repeated.repeated_updates(optimizers, meter) as updated:
                yield updated

    monkeypatch.setattr(predicting, "repeated_updates", updates)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("family", "method", "options"), CASES)
def test_the_ledger_is_that_of_updates_run(
    family: str,
    method: str,
    options: dict[str, Any],
    device: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[Prediction] = [predict(small(family), spec_of(method, **options), device=device)]
    run_all(monkeypatch)
    found.append(predict(small(family), spec_of(method, **options), device=device))
    assert found[0].ledger == found[1].ledger
    assert list(found[0].changes) == list(found[1].changes)
