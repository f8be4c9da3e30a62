"""A LLaMA of 12 thousand parameters with random weights, and batches for it."""

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

CHECKPOINTING = {"none": None, "reentrant": True, "non_reentrant": False}
"""Ways to run the layers: the name, and use_reentrant where activations are recomputed."""


def llama(
    seed: int = 0,
    *,
    tied: bool = False,
    dtype: torch.dtype = torch.float32,
    checkpointing: str = "none",
) -> LlamaForCausalLM:
    """The model in training mode; the same seed gives the same weights."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
        tie_word_embeddings=tied,
        initializer_range=0.2,
    )
    model = LlamaForCausalLM(config).to(dtype).train()
    use_reentrant = CHECKPOINTING[checkpointing]
    if use_reentrant is not None:
        model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    return model


def loss_of(model: nn.Module, step: int) -> Tensor:
    """Loss on the batch of this step, 2 x 16 tokens."""
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(0, 64, (2, 16), generator=generator)
    loss: Tensor = model(input_ids=tokens, labels=tokens, use_cache=False).loss
    return loss


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters, by name."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def assert_bit_equal(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Same names, and every tensor equal in all its bits."""
    assert actual.keys() == expected.keys()
    different = [name for name in actual if not torch.equal(actual[name], expected[name])]
    assert not different, different


def max_difference(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest absolute difference over all parameters."""
    assert actual.keys() == expected.keys()
    return max(float((actual[n] - expected[n]).abs().max()) for n in actual)
