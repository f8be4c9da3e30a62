"""TRL's SFTTrainer, with our callback, beside torch's SGD in the same trainer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.optim import Optimizer

from lomo.optim import Lomo
from lomo.trainer import FusedBackwardCallback
from tests.clients.words import texts, tokenizer
from tests.numerics.models import assert_bit_equal, llama, max_difference, weights
from tests.trainer.training import NUM_STEPS, logged, lomo, sgd

pytestmark = [
    pytest.mark.slow,  # TRL takes seconds to import
    # trl 1.16 sets an argument that transformers 5.23 calls by a new name; trl's to fix.
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning"),
]
CLIPPED = 0.5  # norms are above 1


def trainer(folder: Path, make: Callable[[Any], Optimizer], **options: Any) -> Any:
    from trl import SFTConfig, SFTTrainer

    defaults = {"max_grad_norm": 0.0, "max_steps": NUM_STEPS, "per_device_train_batch_size": 4}
    args = SFTConfig(
        output_dir=str(folder),
        report_to="none",
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
        logging_steps=1,
        save_strategy="no",
        dataloader_pin_memory=False,
        **{**defaults, **options},
    )
    model = llama()
    made = SFTTrainer(
        model,
        args,
        train_dataset=texts(),
        processing_class=tokenizer(),
        optimizers=(make(model.parameters()), None),
    )
    if make is not sgd:
        made.add_callback(FusedBackwardCallback(made))
    return made


def train(folder: Path, make: Callable[[Any], Optimizer], **options: Any) -> Any:
    made = trainer(folder, make, **options)
    made.train()
    return made


@pytest.mark.parametrize("options", [{}, {"packing": True, "max_length": 32}], ids=str)
def test_it_trains_as_sgd_bit_for_bit(tmp_path: Path, options: dict[str, Any]) -> None:
    expected, actual = (train(tmp_path, make, **options) for make in (sgd, lomo))
    assert_bit_equal(weights(actual.model), weights(expected.model))
    assert logged(actual, "loss") == logged(expected, "loss")
    assert max_difference(weights(actual.model), weights(llama())) > 1e-3


def test_the_trainers_limit_is_honoured_exactly(tmp_path: Path) -> None:
    def clipping(params: Any) -> Optimizer:
        return Lomo(params, lr=0.1, max_grad_norm=CLIPPED)

    expected, actual = (train(tmp_path, m, max_grad_norm=CLIPPED) for m in (sgd, clipping))
    assert max_difference(weights(actual.model), weights(expected.model)) < 1e-6
    assert logged(actual, "grad_norm") == pytest.approx(logged(expected, "grad_norm"), rel=1e-5)
    assert min(logged(actual, "grad_norm")) > CLIPPED


def test_trls_own_limit_of_one_is_refused_where_the_optimizer_has_none(tmp_path: Path) -> None:
    made = trainer(tmp_path, lomo, max_grad_norm=1.0)
    with pytest.raises(ValueError, match="max_grad_norm=1.0 in the arguments"):
        made.train()
    assert_bit_equal(weights(made.model), weights(llama()))
