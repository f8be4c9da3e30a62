"""Lightning's Trainer, automatic and manual, beside torch's SGD in the same Trainer."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from lomo.optim import AdaLomo, Lomo
from tests.numerics.models import assert_bit_equal, llama, max_difference, weights
from tests.trainer.training import lomo, sgd

pytestmark = pytest.mark.slow  # Lightning takes seconds to import
CLIPPED = 0.5  # norms are between 2 and 4
Make = Callable[[Any], Optimizer]


def clipping(params: Any) -> Optimizer:
    return Lomo(params, lr=0.1, max_grad_norm=CLIPPED)


def adalomo(params: Any) -> Optimizer:
    return AdaLomo(params, lr=0.01)


@pytest.fixture
def client() -> ModuleType:
    """Lightning and how it is used, imported by the first test that runs."""
    from tests.clients import in_lightning

    return in_lightning


def refused(client: ModuleType, message: str, make: Make = lomo, **options: Any) -> None:
    """Before a weight moves, by the optimizer's own word."""
    module = client.Module(make)
    with pytest.raises(ValueError, match=re.escape(message)):
        client.fit(module, **options)
    assert_bit_equal(weights(module.model), weights(llama()))


@pytest.mark.parametrize("options", [{}, {"precision": "bf16-mixed"}, {"manual": True}], ids=str)
def test_it_trains_as_sgd_bit_for_bit(client: ModuleType, options: dict[str, Any]) -> None:
    expected, actual = client.trained(sgd, **options), client.trained(lomo, **options)
    assert_bit_equal(weights(actual.model), weights(expected.model))
    assert actual.losses == expected.losses
    assert actual.rates == expected.rates
    assert actual.trainer.global_step == expected.trainer.global_step == client.NUM_STEPS


@pytest.mark.parametrize("manual", [False, True])
def test_clipping_by_the_optimizers_backward_is_lightnings(
    client: ModuleType, manual: bool
) -> None:
    class ClipsByHand(client.Module):
        def step_by_hand(self, loss: Tensor) -> None:
            self.manual_backward(loss)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIPPED)
            self.optimizers().step()
            self.lr_schedulers().step()
            self.optimizers().zero_grad()

    if manual:
        expected = client.fit(ClipsByHand(sgd, manual=True))
    else:
        expected = client.trained(sgd, gradient_clip_val=CLIPPED)
    actual = client.trained(clipping, own_backward=True, manual=manual)
    assert all(norm > CLIPPED for norm in actual.norms)
    assert max_difference(weights(actual.model), weights(expected.model)) < 1e-6
    assert actual.trainer.global_step == client.NUM_STEPS


def test_the_same_limit_in_the_trainer_is_no_contradiction(client: ModuleType) -> None:
    """Lightning then clips gradients that are gone, by what they have been clipped by already."""
    expected = client.trained(clipping, own_backward=True)
    actual = client.trained(clipping, own_backward=True, gradient_clip_val=CLIPPED)
    assert_bit_equal(weights(actual.model), weights(expected.model))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradient_clip_val": 0.5}, "gradient_clip_val=0.5: gradients are gone"),
        (
            {"gradient_clip_val": 0.5, "gradient_clip_algorithm": "value"},
            "gradient_clip_val=0.5: gradients are gone",
        ),
        ({"accumulate_grad_batches": 2}, "accumulate_grad_batches=2: the first gradient is used"),
        (
            {"gradient_clip_val": 1.0, "accumulate_grad_batches": 4},
            "accumulate_grad_batches=4: the first gradient is used and dropped before the second "
            "comes; set it to 1 and use a larger batch\n- gradient_clip_val=1.0: gradients are",
        ),
    ],
    ids=["norm", "value", "accumulation", "both"],
)
def test_what_would_go_wrong_is_refused_before_a_weight_moves(
    client: ModuleType, options: dict[str, Any], message: str
) -> None:
    refused(client, message, **options)


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_clipping_by_hand_is_an_error_where_it_finds_no_gradients(
    client: ModuleType, algorithm: str
) -> None:
    class ClipsByHand(client.Module):
        def step_by_hand(self, loss: Tensor) -> None:
            self.manual_backward(loss)
            self.clip_gradients(self.optimizers(), CLIPPED, algorithm)

    with pytest.raises(RuntimeError, match="clip_gradients found no gradients"):
        client.fit(ClipsByHand(lomo, manual=True))


def test_a_limit_by_another_norm_is_refused(client: ModuleType) -> None:
    def each_by_its_own(params: Any) -> Optimizer:
        return Lomo(params, lr=0.1, max_grad_norm=CLIPPED, norm_scope="parameter")

    refused(client, "gradient_clip_val=0.5", make=each_by_its_own, gradient_clip_val=CLIPPED)


def test_clipping_each_value_is_lightnings(client: ModuleType) -> None:
    """It takes no second pass; torch itself fails where there is no gradient to clip."""
    options = {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}

    def clipping_values(params: Any) -> Optimizer:
        return Lomo(params, lr=0.1, clip_value=0.01)

    refused(client, "give the optimizer clip_value=0.01", make=clipping_values, **options)
    expected = client.trained(sgd, **options)
    actual = client.trained(clipping_values)
    assert_bit_equal(weights(actual.model), weights(expected.model))
    assert max_difference(weights(client.trained(sgd).model), weights(actual.model)) > 1e-3


def test_a_grad_scaler_is_refused_before_a_weight_moves(client: ModuleType) -> None:
    precision = client.pl.plugins.MixedPrecision("16-mixed", device="cpu")
    refused(client, 'precision="16-mixed": its GradScaler', plugins=[precision])


def test_clipping_without_the_optimizers_backward_is_an_error(client: ModuleType) -> None:
    module = client.Module(clipping)
    with pytest.raises(RuntimeError, match=r"needs optimizer\.backward\(loss\)"):
        client.fit(module)
    assert_bit_equal(weights(module.model), weights(llama()))


def test_accumulation_that_begins_later_is_an_error(client: ModuleType) -> None:
    scheduler = client.pl.callbacks.GradientAccumulationScheduler({1: 2})
    with pytest.raises(RuntimeError, match="can't be accumulated"):
        client.trained(lomo, callbacks=[scheduler])


def test_a_training_step_that_gives_none_leaves_the_step_out(client: ModuleType) -> None:
    class Skips(client.Module):
        def training_step(self, batch: dict[str, Tensor], index: int) -> Any:
            return None if index == 1 else super().training_step(batch, index)

    with pytest.warns(UserWarning, match="`training_step` returned `None`"):
        expected = client.fit(Skips(sgd))
    with pytest.warns(UserWarning, match="no parameter of this optimizer got a gradient"):
        actual = client.fit(Skips(lomo))
    assert_bit_equal(weights(actual.model), weights(expected.model))


@pytest.mark.parametrize("make", [lomo, adalomo])
def test_a_resumed_fit_is_the_whole_fit_bit_for_bit(
    client: ModuleType, make: Make, tmp_path: Path
) -> None:
    whole = client.trained(make)
    first = client.trained(make, max_epochs=1)
    first.trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed = client.trained(make, ckpt_path=tmp_path / "half.ckpt")
    assert_bit_equal(weights(resumed.model), weights(whole.model))
    assert resumed.losses == whole.losses[3:]
    assert resumed.rates == whole.rates[3:]


@pytest.mark.parametrize("closures", [False, True])
def test_two_optimizers_train_as_two_of_sgd(client: ModuleType, closures: bool) -> None:
    expected = client.fit(client.Halves(lambda p: SGD(p, lr=0.01, foreach=False), closures))
    actual = client.fit(client.Halves(lambda p: Lomo(p, lr=0.01), closures))
    assert_bit_equal(weights(actual.model), weights(expected.model))
    assert actual.trainer.global_step == expected.trainer.global_step == 2 * client.NUM_STEPS
    assert max_difference(weights(actual.model), weights(llama())) > 1e-4


def test_averaged_weights_are_those_of_sgd(client: ModuleType) -> None:
    class ByEpoch(client.Module):
        interval = "epoch"

    def averaged(make: Make) -> Any:
        averaging = client.pl.callbacks.StochasticWeightAveraging(0.05, swa_epoch_start=1)
        return client.fit(ByEpoch(make), callbacks=[averaging])

    assert_bit_equal(weights(averaged(lomo).model), weights(averaged(sgd).model))
