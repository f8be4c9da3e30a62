"""A base model's seed draws its weights and the order of its text, and not the tokenizer."""

from __future__ import annotations

from pathlib import Path

import torch

from lomo.model.registry import ModelEntry, Pretraining
from lomo.run.pretrain import _batches, make_base_model

PLAN = Pretraining(num_steps=2, batch_size=2, sequence_length=16, learning_rate=0.003)
ENTRY = ModelEntry(
    name="base",
    weights="pretrain",
    architecture={
        "model_type": "llama",
        "vocab_size": 300,
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    },
    pretrain=PLAN,
)


def test_a_seed_is_a_base_model(tmp_path: Path, data_folder: Path) -> None:
    text = data_folder.parent / "text.txt"
    made = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_base_model(ENTRY, text, tmp_path / name, seed=seed, progress=False)
        files = {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        made[name] = (files.pop("model.safetensors"), files)
    assert made["a"] == made["b"]
    assert made["a"][0] != made["c"][0] and made["a"][1] == made["c"][1]


def test_a_seed_orders_the_text() -> None:
    tokens = torch.arange(16 * 8)

    def order(seed: int) -> list[int]:
        plan = PLAN.model_copy(update={"num_steps": 4})
        rows = torch.cat([batch.input_ids_BS[:, 0] for batch in _batches(tokens, plan, seed)])
        return [int(row) // 16 for row in rows]

    assert order(1) == order(1) != order(2)
    assert sorted(order(1)) == sorted(order(2)) == list(range(8)), "each row once"
