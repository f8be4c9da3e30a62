"""Operations of a step, beside torch's own count of them, and the table of peaks."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, OPTConfig, Qwen3Config

from lomo import methods
from lomo.engines.single import training_step
from lomo.model.weights import checkpoint_activations
from lomo.speed.flops import backwards_per_step, hardware_flops_per_step, model_flops_per_token
from lomo.study.cards import peak_flops_per_s
from lomo.tasks.batches import random_batch
from tests.memory.predictions import spec_of

BATCH, SEQUENCE = 2, 32
SIZES: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
CONFIGS: dict[str, Any] = {
    "llama": LlamaConfig(**SIZES, intermediate_size=352, tie_word_embeddings=False),
    "qwen": Qwen3Config(
        **SIZES, intermediate_size=352, num_key_value_heads=2, head_dim=48, tie_word_embeddings=True
    ),
    "opt": OPTConfig(**SIZES, ffn_dim=512, max_position_embeddings=64, word_embed_proj_dim=128),
    "gpt2": GPT2Config(vocab_size=512, n_embd=128, n_layer=3, n_head=4, n_positions=64),
}
LLAMA_7B = {
    **SIZES,
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "tie_word_embeddings": False,
}
NUM_7B = 6_738_415_616


@pytest.mark.parametrize("max_grad_norm", [None, 1.0])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("family", "method"),
    [
        ("llama", "sgd"),
        ("llama", "lomo"),
        ("llama", "adalomo"),
        ("llama", "lora"),
        ("llama", "lora_lomo"),
        ("qwen", "lomo"),
        ("opt", "sgd"),
        ("gpt2", "lomo"),
    ],
)
def test_a_step_executes_what_torch_counts(
    family: str, method: str, checkpointing: bool, max_grad_norm: float | None
) -> None:
    config = CONFIGS[family]
    spec = spec_of(method, max_grad_norm=max_grad_norm)
    model: Any = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    model.config.use_cache = False
    if checkpointing:
        checkpoint_activations(model)
    prepared = methods.prepare(method)(model, spec, lambda adapted: adapted)
    prepared.model.train()
    batch = random_batch(
        vocabulary=512, batch_size=BATCH, sequence_length=SEQUENCE, seed=0, device="cpu"
    )
    with FlopCounterMode(display=False) as counter:
        training_step(
            prepared.model,
            [optimizer for optimizer, _ in prepared.optimizers],
            [batch],
            max_grad_norm=max_grad_norm,
        )
    parameters = list(prepared.model.parameters())
    num_backwards = backwards_per_step(method, spec.hyper, max_grad_norm)
    assert num_backwards is not None
    flops = hardware_flops_per_step(
        config.to_dict(),
        num_parameters=sum(p.numel() for p in parameters),
        num_trainable_parameters=sum(p.numel() for p in parameters if p.requires_grad),
        batch_size=BATCH,
        sequence_length=SEQUENCE,
        activation_checkpointing=checkpointing,
        num_backwards=num_backwards,
    )
    # Above it by norms and biases, which are no products; of LoRA by what the first layer need not
    # hand down to a frozen embedding, one part in `num_hidden_layers` of a few products.
    rel = 0.05 if method == "lora" else 0.01
    assert flops == pytest.approx(counter.get_total_flops(), rel=rel)


def test_the_papers_convention_by_hand() -> None:
    sizes = {"num_parameters": NUM_7B, "num_trainable_parameters": NUM_7B, "sequence_length": 2048}
    used = NUM_7B - 32000 * 4096
    expected = 6 * used + 12 * 32 * 4096 * 2048
    assert model_flops_per_token(LLAMA_7B, **sizes) == expected


def test_frozen_weights_need_no_gradient() -> None:
    adapters = 2_000_000
    flops = model_flops_per_token(
        LLAMA_7B,
        num_parameters=NUM_7B + adapters,
        num_trainable_parameters=adapters,
        sequence_length=1,
    )
    base = NUM_7B - 32000 * 4096
    assert flops == 4 * base + 6 * adapters + 12 * 32 * 4096


def test_flash_attention_skips_half_and_computes_scores_again() -> None:
    def flops(attention: str) -> float:
        return hardware_flops_per_step(
            {**LLAMA_7B, "num_hidden_layers": 1},
            num_parameters=0,
            num_trainable_parameters=1,
            batch_size=1,
            sequence_length=100,
            activation_checkpointing=False,
            attention=attention,
        )

    products = 4 * 100 * 100 * 4096
    looked_up = 32000 * 4096
    rest = -6 * looked_up * 100 + 2 * (looked_up + 1) * 100
    assert flops("eager") == pytest.approx(rest + 3 * products)
    assert flops("sdpa") == pytest.approx(rest + 1.75 * products)


@pytest.mark.parametrize("num_backwards", [1, 2])
def test_logits_made_again_are_one_product_of_the_head_a_backward(num_backwards: int) -> None:
    def flops(**options: Any) -> float:
        return hardware_flops_per_step(
            LLAMA_7B,
            num_parameters=NUM_7B,
            num_trainable_parameters=NUM_7B,
            batch_size=8,
            sequence_length=512,
            activation_checkpointing=True,
            num_backwards=num_backwards,
            **options,
        )

    more = flops(head_recomputed=True) - flops()
    assert more == num_backwards * 2 * 32000 * 4096 * 8 * 512


@pytest.mark.parametrize(
    ("method", "hyper", "max_grad_norm", "expected"),
    [
        ("lomo", {}, 1.0, 2),
        ("lomo", {}, None, 1),
        ("lomo", {"norm_scope": "parameter"}, 1.0, 1),
        ("lomo", {"norm_scope": "global", "update": "gemm"}, 1.0, None),
        ("adalomo", {"norm_scope": "previous_step"}, 1.0, 1),
        ("lora_lomo", {}, 1.0, 2),
        ("adamw", {}, 1.0, 1),
    ],
)
def test_exact_clipping_takes_two_backwards(
    method: str, hyper: dict[str, Any], max_grad_norm: float | None, expected: int | None
) -> None:
    assert backwards_per_step(method, hyper, max_grad_norm) == expected


@pytest.mark.parametrize(
    "change", [{"num_local_experts": 8}, {"tie_word_embeddings": None}, {"hidden_size": None}]
)
def test_what_cannot_be_counted_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="experts|tie_word|hidden_size"):
        model_flops_per_token(
            {**LLAMA_7B, **change},
            num_parameters=NUM_7B,
            num_trainable_parameters=NUM_7B,
            sequence_length=8,
        )


@pytest.mark.parametrize(
    ("name", "dtype", "expected"),
    [
        ("NVIDIA H200", "bfloat16", 989.4e12),
        ("NVIDIA H200 NVL", "bfloat16", 835.5e12),
        ("NVIDIA GH200 480GB", "bfloat16", 989.4e12),
        ("NVIDIA H100 80GB HBM3", "float16", 989.4e12),
        ("NVIDIA H100 PCIe", "bfloat16", 756e12),
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 312e12),
        ("NVIDIA A100-PCIE-40GB", "float32", 19.5e12),
        ("NVIDIA A800-SXM4-80GB", "bfloat16", 312e12),
        ("NVIDIA L40S", "bfloat16", 362.05e12),
        ("NVIDIA L40", "bfloat16", 181.05e12),
        ("NVIDIA L4", "bfloat16", 121e12),
        ("NVIDIA A10", "bfloat16", 125e12),
        ("NVIDIA A10G", "bfloat16", None),
        ("NVIDIA GeForce RTX 3090", "bfloat16", 71e12),
        ("NVIDIA GeForce RTX 3090 Ti", "bfloat16", None),
        ("NVIDIA GeForce RTX 4090", "float32", 82.6e12),
        ("NVIDIA GeForce RTX 4090 D", "bfloat16", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bfloat16", None),
        ("NVIDIA RTX A6000", "bfloat16", 154.8e12),
        ("NVIDIA RTX 6000 Ada Generation", "bfloat16", 364.2e12),
        ("Tesla V100-SXM2-32GB", "bfloat16", None),
        ("Tesla V100-SXM2-32GB", "float16", 125e12),
        ("Tesla T4", "float16", 65e12),
        ("Intel(R) Xeon(R)", "float32", None),
        # A part of a card has a part of its peak.
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", "bfloat16", None),
    ],
)
def test_peaks_of_devices(name: str, dtype: str, expected: float | None) -> None:
    assert peak_flops_per_s(name, dtype) == expected


def test_nothing_here_needs_torch() -> None:
    code = "import sys, lomo.speed.flops; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
