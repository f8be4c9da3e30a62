"""How long a step takes, by hand; and a published record in place of the estimate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lomo.advise import costs
from lomo.advise.costs import HIGH, LOW, Model, Speed, speed_of, step_seconds, time_ratio
from lomo.advise.rows import KINDS, Setting
from lomo.forecast.duration import LAYER_S, SUSTAINED
from lomo.study.cards import CARDS, card_of

LAYERS, WIDTH, MLP, VOCABULARY, HEADS = 32, 4096, 11008, 32000, 32
LAYER = 4 * WIDTH**2 + 3 * WIDTH * MLP
NUM = 2 * VOCABULARY * WIDTH + LAYERS * LAYER
LLAMA = Model(
    "llama-7b",
    {
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "tie_word_embeddings": False,
    },
    NUM,
)
CARD = card_of("RTX 4090", where="")
BASE = Setting(2048, head_loss="model")
LOMO, LORA, ADAMW = KINDS["lomo"], KINDS["lora"], KINDS["adamw"]


def seconds(kind: Any = LOMO, setting: Setting = BASE, batch_size: int = 4, **more: Any) -> float:
    found = step_seconds(kind, setting, CARD, LLAMA, batch_size, 2048, **more)
    assert isinstance(found, float)
    return found


def test_a_large_batch_takes_its_products_and_the_update() -> None:
    tokens = 4 * 2048
    used = NUM - VOCABULARY * WIDTH
    # Recomputed: all but the MLP's last product of each layer, and the head.
    again = used - VOCABULARY * WIDTH - LAYERS * WIDTH * MLP
    scores = 4 * LAYERS * tokens * 2048 * WIDTH / 2
    flops = 6 * used * tokens + 2 * again * tokens + scores * (1 + 1 + 2.5)
    expected = flops / (SUSTAINED * 165.2e12) + 6 * NUM / 1008e9
    assert seconds() == pytest.approx(expected, rel=1e-12)


def test_what_is_short_waits_for_the_host_and_for_the_weights() -> None:
    update = 6 * NUM / 1008e9
    found = step_seconds(LOMO, BASE, CARD, LLAMA, 1, 8)
    assert found == pytest.approx(LAYER_S * (LAYERS + 1) + update)
    slow = replace(CARD, bytes_per_s=1e11)  # read in each pass: 2 forwards, 2 parts of a backward
    found = step_seconds(LOMO, BASE, slow, LLAMA, 1, 8)
    assert found == pytest.approx(4 * 2 * NUM / 1e11 + 6 * NUM / 1e11)


def test_what_a_flip_does_to_time() -> None:
    def ratio(**flip: Any) -> float:
        found = time_ratio(LOMO, BASE, replace(BASE, **flip), CARD, LLAMA, 4)
        assert found is not None
        return found

    assert 0.75 < ratio(checkpointing=False) < 0.85
    assert 1.7 < ratio(max_grad_norm=1.0) < 1.8  # 14 of 8 products
    assert 1 < ratio(head_loss="fused") < 1.05
    assert ratio(attention="eager") > 1.1
    assert ratio(dtype="float32") == pytest.approx(2, rel=0.02)
    assert seconds(LORA) < 0.8 * seconds(LOMO) < seconds(ADAMW)


def test_cards_without_nvlink_wait_for_each_other() -> None:
    two = replace(BASE, num_gpus=2)
    messages = 2 * NUM / 2 * 3 / costs.PCIE  # half of the weights, in three passes
    found = step_seconds(LOMO, two, CARD, LLAMA, 1, 128)
    assert found == pytest.approx(messages + 3 * NUM / 1008e9)
    assert seconds(setting=two, batch_size=16) == pytest.approx(
        seconds(batch_size=16) - 3 * NUM / 1008e9
    )


def test_cards_with_nvlink_hardly_wait_and_boards_for_a_slot_do() -> None:
    two = replace(BASE, num_gpus=2)
    for name, link in (
        ("A100 80GB", 150e9),
        ("NVIDIA A100-SXM4-80GB", 150e9),
        ("NVIDIA H100 80GB HBM3", 225e9),
        ("NVIDIA A100 80GB PCIe", costs.PCIE),
        ("H100 NVL", costs.PCIE),
        ("L40S", costs.PCIE),
    ):
        slow = replace(CARD, name=name, bytes_per_s=1e15)
        found = step_seconds(LOMO, two, slow, LLAMA, 1, 2)
        assert found == pytest.approx(max(3 * NUM / link, LAYER_S * (LAYERS + 1)), rel=1e-3), name


def test_an_estimate_has_a_band_and_more_cards_give_more() -> None:
    one = speed_of(LOMO, BASE, CARD, LLAMA, 16, 2048)
    two = speed_of(LOMO, replace(BASE, num_gpus=2), CARD, LLAMA, 16, 2048)
    assert isinstance(one, Speed) and isinstance(two, Speed)
    assert one.basis == "estimate"
    assert one.low < one.tokens_per_s < one.high
    assert one.low == pytest.approx(one.tokens_per_s * LOW / SUSTAINED, rel=0.02)
    assert one.high == pytest.approx(one.tokens_per_s * HIGH / SUSTAINED, rel=0.02)
    assert two.tokens_per_s == pytest.approx(2 * one.tokens_per_s, rel=0.02)


def test_what_is_not_known_is_said() -> None:
    unknown = speed_of(LOMO, BASE, card_of("24", where=""), LLAMA, 1, 128)
    assert unknown == "not known of a card of 24 GiB; with a name such as 'RTX 4090' it is"
    mixed = replace(LLAMA, config={**LLAMA.config, "num_experts": 8})
    said = speed_of(LOMO, BASE, CARD, mixed, 1, 128)
    assert isinstance(said, str) and "mixture of experts" in said


def test_every_card_of_the_table_has_a_speed() -> None:
    for card in CARDS:
        assert isinstance(speed_of(LOMO, BASE, card, LLAMA, 1, 512), Speed), card.name


def test_a_published_record_stands_in_place_of_the_estimate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def publish(name: str, rate: float, **spec: Any) -> None:
        asked = {
            "model": "llama-7b",
            "method": "lomo",
            "num_devices": 1,
            "activation_checkpointing": True,
            "max_grad_norm": None,
            "sequence_length": 1024,
            "batch_size": 4,
        }
        record = {
            "spec": asked | spec,
            "throughput": {
                "tokens_per_s_per_device": rate,
                "tokens_per_s_per_device_p10": rate - 1,
                "tokens_per_s_per_device_p90": rate + 1,
            },
            "provenance": {"device": {"name": "NVIDIA GeForce RTX 4090"}},
        }
        path = tmp_path / "results/published/card" / name / "record.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(record))

    monkeypatch.setattr(costs, "PUBLISHED", tmp_path / "results/published")
    publish("far", 900, sequence_length=128)
    publish("near", 1000)
    publish("other", 5, method="adamw")
    publish("plain", 7, activation_checkpointing=False)
    (tmp_path / "results/published/card/failed").mkdir()
    failed = tmp_path / "results/published/card/failed/record.json"
    failed.write_text(json.dumps({"spec": {}, "throughput": None}))
    found = speed_of(LOMO, BASE, CARD, LLAMA, 4, 2048)
    assert found == Speed(
        1000,
        999,
        1001,
        "measured at 4 x 1024 tokens: results/published/card",
    )
    elsewhere = speed_of(LOMO, BASE, card_of("H100", where=""), LLAMA, 4, 2048)
    assert isinstance(elsewhere, Speed) and elsewhere.basis == "estimate"


@pytest.mark.slow
def test_the_band_holds_what_others_published() -> None:
    import importlib.util

    root = Path(__file__).parents[2]
    spec = importlib.util.spec_from_file_location("public", root / "benchmarks/public_speed.py")
    assert spec is not None and spec.loader is not None
    public = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(public)
    made = public.rows()
    assert list(made[~made["in_band"]]["row"]) == ["S10", "S14"]
    published = root / "results/published/public-speed/rows.csv"
    assert made.to_csv(index=False, lineterminator="\n") == published.read_text()
    page = (root / "docs/advise.md").read_text()
    assert public._markdown(made) in page
