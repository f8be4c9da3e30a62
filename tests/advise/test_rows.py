"""How many sequences fit, beside trying each batch; the price of a switch beside its own step."""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import yaml

from analysis.cli import main as analysis_main
from analysis.records.accuracy import AVERAGE, accuracy_cells
from analysis.records.collected import load
from lomo.advise import known
from lomo.advise.costs import FLIPS, flipped, longest_sequence, peak_at, smallest_card
from lomo.advise.known import DOCUMENTED
from lomo.advise.rows import KINDS, Fit, Setting, rows_of
from lomo.memory.predicted.peaks import PeakByBatch
from lomo.memory.predicted.predict import predict
from lomo.model.architecture import count_parameters
from lomo.record.made import PUBLISHED
from lomo.study.cards import CARDS
from lomo.study.machine import GIB, RESERVE_GIB
from tests.memory.predictions import small

LLAMA = small("llama")
SHORT = Setting(16)


def predicted(name: str, batch_size: int, setting: Setting = SHORT) -> int:
    spec = setting.spec(KINDS[name], "llama", batch_size)
    return predict(LLAMA, spec).ledger.peak_bytes


def gib_of(budget: int) -> float:
    return RESERVE_GIB + budget / GIB


@pytest.mark.slow
@pytest.mark.parametrize("names", [["lomo"], ["adamw_16bit", "adamw_8bit"]])
def test_a_row_is_what_trying_all_batches_finds(names: list[str]) -> None:
    peaks = [predicted(names[0], batch) for batch in range(1, 5)]
    budgets = [peaks[0] - 1, peaks[0], peaks[1], peaks[3] - 1, 1000]
    num_parameters = count_parameters(LLAMA)
    less = int((4 - DOCUMENTED) * num_parameters)
    rows = rows_of(
        [KINDS[name] for name in names],
        LLAMA,
        SHORT,
        [gib_of(budget) for budget in budgets],
        num_parameters,
        1000,
    )
    assert [row.kind.name for row in rows] == names
    for row in rows:
        assert row.account == "simulated" and row.why is None
        own = [peak - (less if row.kind.eight_bit else 0) for peak in peaks]
        for fit, budget in zip(row.fits, budgets, strict=True):
            fitting = sum(peak <= budget for peak in own)
            if fitting == len(own):  # of the smaller states, more than were tried
                continue
            assert fit.batch_size == fitting
            assert fit.peak_bytes == own[max(fitting, 1) - 1]
            assert fit.missing_bytes == max(own[0] - budget, 0)
            assert fit.next_bytes == (own[fitting] if fitting else None)
            assert fit.one_bytes == pytest.approx(own[0], rel=0.05)


def test_what_a_method_refuses_is_told_in_its_row() -> None:
    kinds = [replace(KINDS["lora"], hyper={}), KINDS["lora"]]
    wordy = replace(SHORT, sequence_length=65)  # the model has 64 positions
    rows = rows_of(kinds, LLAMA, wordy, [24.0], 1, 9)
    assert [row.why for row in rows] == ["65 tokens are more than llama has positions"] * 2
    assert all(row.fits == () and row.fit(0) is None for row in rows)


@pytest.mark.slow
def test_a_flip_is_a_step_with_the_flip() -> None:
    for name in ("gradient norm clipped", "eager attention"):
        flip = flipped(SHORT)[name]
        assert peak_at(KINDS["lomo"], LLAMA, flip, 5) == predicted("lomo", 5, flip), name


@pytest.mark.slow
@pytest.mark.parametrize(("name", "num_gpus"), [("lomo", 1), ("adamw", 2)])
def test_a_clipped_step_of_a_deep_model_is_told_to_the_byte(name: str, num_gpus: int) -> None:
    """A layer more is not one run put in there, and few layers tell nothing of many."""
    import copy

    config = copy.deepcopy(LLAMA.config)
    config.num_hidden_layers = 9
    deep = replace(LLAMA, config=config)
    clipped = replace(SHORT, max_grad_norm=1.0, num_gpus=num_gpus)
    whole = predict(deep, clipped.spec(KINDS[name], "llama", 5)).ledger.peak_bytes
    assert peak_at(KINDS[name], deep, clipped, 5) == whole


def test_only_what_changes_is_flipped() -> None:
    assert list(flipped(SHORT)) == list(FLIPS)
    plain = replace(SHORT, checkpointing=False, attention="eager", head_loss="model")
    assert list(flipped(plain)) == ["gradient norm clipped", "float32 weights"]


@pytest.mark.slow
def test_the_longest_sequence_fits_and_one_longer_does_not() -> None:
    """Of a model with room for it; the answer is rounded down to two digits."""
    import copy

    config = copy.deepcopy(LLAMA.config)
    config.max_position_embeddings = 100_000
    roomy = replace(LLAMA, config=config)
    setting = Setting(64)
    budget = 3 * predict(roomy, setting.spec(KINDS["lomo"], "llama", 1)).ledger.peak_bytes
    (row,) = rows_of([KINDS["lomo"]], roomy, setting, [gib_of(budget)], 1, 1000)
    found = longest_sequence(row.fits[0], 64, budget, None)
    assert found is not None and found > 64
    alone = [
        PeakByBatch(roomy, Setting(length).spec(KINDS["lomo"], "llama")).once(1)
        for length in (found, int(1.15 * found))
    ]
    assert alone[0] <= 1.005 * budget < alone[1]


def test_a_wall_is_no_further_than_the_model() -> None:
    fit = Fit(batch_size=3, peak_bytes=400, missing_bytes=0, next_bytes=500, one_bytes=200)
    assert longest_sequence(fit, 1000, 450, None) == 3500
    assert longest_sequence(fit, 1000, 450, 3500) == 3500
    assert longest_sequence(fit, 1000, 450, 2048) == 2048
    assert longest_sequence(fit, 1024, 459, None) == 3600  # of 3676
    assert longest_sequence(replace(fit, next_bytes=None), 1000, 450, None) is None


def test_the_smallest_card_is_the_one_with_least_memory() -> None:
    found = smallest_card(int(18 * GIB))
    assert found is not None and found.gib == min(c.gib for c in CARDS if c.gib >= 19)
    assert smallest_card(int(1000 * GIB)) is None


def test_what_is_known_names_its_source() -> None:
    data = yaml.safe_load(known.FACTS.read_text(encoding="utf-8"))
    assert {fact.method for fact in known.facts()} <= set(KINDS)
    assert set(data["sources"]) == {entry["source"] for entry in data["facts"]}
    assert all(fact.source and fact.text for fact in known.facts())
    assert [fact.method for fact in known.facts() if not fact.confirmed] == ["adalomo"]
    assert set(known.order()) == {kind.name for kind in KINDS.values() if kind.runs}


def test_eight_bit_state_is_the_installed_librarys_or_its_documents(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import types

    import torch

    def installed(named: dict[str, str]) -> None:
        def version(name: str) -> str:
            if name not in named:
                raise PackageNotFoundError(name)
            return named[name]

        known.state_bytes.cache_clear()
        monkeypatch.setattr(known, "version", version)

    class AdamW8bit(torch.optim.Optimizer):
        """State as bitsandbytes 0.50.2 makes it, but for blocks of 512."""

        def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
            super().__init__(parameters, {})

        def init_state(self, _group: object, weight: torch.Tensor, *_: int) -> None:
            for number in (1, 2):
                moment = torch.zeros(weight.shape, dtype=torch.uint8)
                self.state[weight][f"state{number}"] = moment
                self.state[weight][f"qmap{number}"] = torch.zeros(256)
                self.state[weight][f"absmax{number}"] = torch.zeros(weight.numel() // 512)

    try:
        installed({})
        assert known.state_bytes() == (2.03125, known.state_bytes()[1])
        assert "is not installed" in known.state_bytes()[1]
        installed({"bitsandbytes": "0.50.2"})
        optim = types.ModuleType("bitsandbytes.optim")
        optim.AdamW8bit = AdamW8bit  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "bitsandbytes", types.ModuleType("bitsandbytes"))
        monkeypatch.setitem(sys.modules, "bitsandbytes.optim", optim)
        found = 2 * (1 + 4 / 512), "the bytes of state that bitsandbytes 0.50.2 makes"
        assert known.state_bytes() == found
        del optim.AdamW8bit
        known.state_bytes.cache_clear()
        assert known.state_bytes()[0] == DOCUMENTED
    finally:
        known.state_bytes.cache_clear()


def test_what_is_measured_here_is_what_the_published_records_say(tmp_path: Path) -> None:
    folder = tmp_path / "smollm2"
    shutil.copytree(PUBLISHED / "smollm2", folder)
    assert analysis_main(["collect", "--results", str(folder)]) == 0
    cells = accuracy_cells(load(folder), "superglue")
    means = {c.method: 100 * c.accuracy for c in cells if c.task == AVERAGE and c.accuracy}
    ours = [fact for fact in known.facts() if fact.source == "results/published/smollm2"]
    assert {fact.method for fact in ours} == means.keys() - {"zero_shot", "adamw"}
    for fact in ours:
        told = [f"{means[name]:.1f}" for name in (fact.method, "adamw", "zero_shot")]
        assert re.findall(r"\d\d\.\d", fact.text) == told
        assert fact.beside_adamw == pytest.approx(means[fact.method] - means["adamw"], abs=0.05)
        assert fact.short.startswith(f"{fact.beside_adamw:+.1f}")
