"""Each gradient of our optimizers is dead before the next is made: the timeline tells."""

from collections import Counter
from typing import Any

import pytest
import torch

from lomo.memory.measured.ledger import Ledger, StepMeter
from lomo.optim import AdaLomo, Lomo, update_in_gemm
from tests.numerics.models import CHECKPOINTING, llama, loss_of

CLIP = {"max_grad_norm": 0.5}
VARIANTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "lomo": (Lomo, {}),
    "lomo-clipped": (Lomo, CLIP),
    "lomo-parameter": (Lomo, {**CLIP, "norm_scope": "parameter"}),
    "lomo-previous_step": (Lomo, {**CLIP, "norm_scope": "previous_step"}),
    "lomo-decay": (Lomo, {"weight_decay": 0.1}),
    "lomo-stochastic": (Lomo, {"rounding": "stochastic"}),
    "lomo-scaled": (Lomo, {"loss_scale": 1024.0}),
    "adalomo": (AdaLomo, {}),
    "adalomo-clipped": (AdaLomo, CLIP),
}


def ledger_of(variant: str, checkpointing: str, *, in_gemm: bool = False) -> tuple[Ledger, Any]:
    """The ledger of a second step, when all state is there, and the model."""
    make, options = VARIANTS[variant]
    model = llama(checkpointing=checkpointing, dtype=torch.bfloat16)
    optimizer = make(model.parameters(), lr=0.01, **options)
    if in_gemm:
        update_in_gemm(optimizer, model)
    optimizer.backward(loss_of(model, 0))
    optimizer.step()
    with StepMeter(model, lambda: optimizer) as meter:
        meter.phase("forward")
        loss = loss_of(model, 1)
        meter.phase("backward")
        optimizer.backward(loss)
        meter.phase("step")
        optimizer.step()
    return meter.ledger(), model


def gradients_made(ledger: Ledger) -> Counter[str]:
    """How often each parameter's gradient was made; fails where two were alive at one time."""
    made: Counter[str] = Counter()
    alive: list[str] = []
    for event in ledger.timeline:
        if event.event == "gradient_created":
            assert not alive, f"{event.parameter} is made while {alive} is there"
            assert event.parameter is not None
            made[event.parameter] += 1
            alive.append(event.parameter)
        elif event.event == "gradient_released":
            assert alive == [event.parameter]
            alive.clear()
    assert not alive
    return made


@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
@pytest.mark.parametrize("variant", VARIANTS)
def test_each_gradient_is_dead_before_the_next_is_made(variant: str, checkpointing: str) -> None:
    ledger, model = ledger_of(variant, checkpointing)
    options = VARIANTS[variant][1]
    two_passes = "max_grad_norm" in options and "norm_scope" not in options
    names = [name for name, _ in model.named_parameters()]
    assert gradients_made(ledger) == dict.fromkeys(names, 2 if two_passes else 1)
    assert ledger.gradients_peak_bytes == max(p.nbytes for p in model.parameters())


@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
@pytest.mark.parametrize("variant", ["lomo", "lomo-clipped"])
def test_in_the_product_no_matrix_has_a_gradient(variant: str, checkpointing: str) -> None:
    ledger, model = ledger_of(variant, checkpointing, in_gemm=True)
    vectors = [name for name, p in model.named_parameters() if p.dim() == 1]
    assert set(gradients_made(ledger)) == set(vectors)
    assert ledger.gradients_peak_bytes == max(p.nbytes for p in model.parameters() if p.dim() == 1)
