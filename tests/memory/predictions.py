"""Small models of several families, specs on them, and a real run to compare a prediction with."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import (
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    OPTConfig,
    Qwen3Config,
)

from lomo import methods
from lomo.memory.measured.ledger import Ledger
from lomo.model.architecture import Architecture
from lomo.record.schema import Memory
from lomo.specs import MeasureSpec

BATCH, SEQUENCE = 2, 16
METHODS = ("sgd", "adamw", "lora", "lora_lomo", "lomo", "adalomo")
SIZES: dict[str, Any] = {
    "vocab_size": 120,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
CONFIGS: dict[str, Any] = {
    "llama": LlamaConfig(**SIZES, intermediate_size=80, tie_word_embeddings=False),
    "qwen": Qwen3Config(
        **SIZES, intermediate_size=80, num_key_value_heads=2, head_dim=8, tie_word_embeddings=True
    ),
    "opt": OPTConfig(**SIZES, ffn_dim=80, word_embed_proj_dim=32),
    "mistral": MistralConfig(**SIZES, intermediate_size=80, num_key_value_heads=2, head_dim=8),
    "gpt2": GPT2Config(vocab_size=120, n_embd=32, n_layer=3, n_head=4, n_positions=64),
    # A third of its layers' weights are never used: nothing is there to attend to.
    "gpt2-cross": GPT2Config(
        vocab_size=120, n_embd=32, n_layer=3, n_head=4, n_positions=64, add_cross_attention=True
    ),
}
# Its experts can't be simulated.
MIXTURE = MixtralConfig(
    **{**SIZES, "num_hidden_layers": 2},
    intermediate_size=80,
    num_key_value_heads=2,
    num_local_experts=4,
)


def small(family: str) -> Architecture:
    return Architecture(family, CONFIGS[family])


def spec_of(method: str, **options: Any) -> MeasureSpec:
    defaults: dict[str, Any] = {
        "study": "unit",
        "run_id": "unit",
        "model": "small",
        "model_path": "",
        "method": method,
        "hyper": methods.describe(method).hyper().model_dump(),
        "device": "cpu",
        "dtype": "float32",
        "attention": "eager",
        "activation_checkpointing": False,
        "batch_size": BATCH,
        "sequence_length": SEQUENCE,
        "max_grad_norm": None,
        "num_warmup_steps": 1,
        "num_timed_steps": 2,
        "timeout_s": None,
        "num_threads": 1,
    }
    return MeasureSpec(**{**defaults, **options})


def measured(spec: MeasureSpec, folder: Path) -> dict[str, Any]:
    """What a real run of `measure` finds: its ledger's numbers and its timeline."""
    from lomo.engines.single import Single
    from lomo.record.clock import Clock
    from lomo.record.tracking import History
    from lomo.run.findings import Findings
    from lomo.run.measure import work

    folder.mkdir(exist_ok=True)
    findings = Findings()
    history = History("unit", "unit", {}, folder)
    work(spec, folder, Single("cpu"), Clock(), history, findings)
    history.close(None)
    assert findings.memory is not None
    memory = numbers_of(findings.memory)
    lines = (folder / "timeline.jsonl").read_text().splitlines()
    return {**memory, "timeline": [json.loads(line) for line in lines]}


def predicted(ledger: Ledger) -> dict[str, Any]:
    """The same of a predicted ledger."""
    data = asdict(ledger)
    return {**_numbers(data), "timeline": data["timeline"]}


def numbers_of(memory: Memory) -> dict[str, Any]:
    """A record's memory without what stands beside the ledger."""
    data = memory.model_dump()
    for part in ("at_peak", "sum_of_terms"):
        data[part] = {k: v for k, v in data[part].items() if k not in ("missing", "residual_bytes")}
    return _numbers(data)


def _numbers(data: dict[str, Any]) -> dict[str, Any]:
    keys = ("peak_bytes", "peak_phase", "at_peak", "sum_of_terms", "gradients_peak_bytes")
    return {key: data[key] for key in keys}
