"""A model is causal if no earlier logit moves with the last token; others are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BertConfig,
    BigBirdConfig,
    BloomConfig,
    ElectraConfig,
    FalconConfig,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MixtralConfig,
    OPTConfig,
    Phi3Config,
    PretrainedConfig,
    RobertaConfig,
    RoFormerConfig,
    XLMConfig,
)

from lomo.errors import UserError
from lomo.model.causal_lm import check_causal
from lomo.model.weights import load_model

# As large as people have them: the check makes its own small copy.
CAUSAL: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(),
    "mixtral": MixtralConfig(),
    "gpt2": GPT2Config(),
    "gpt-neo": GPTNeoConfig(),
    "gpt-neox": GPTNeoXConfig(),
    "opt": OPTConfig(),
    "bloom": BloomConfig(),
    "falcon": FalconConfig(),
    "phi3": Phi3Config(),
    "gemma3, windows and none": Gemma3TextConfig(),
    "bert, a decoder": BertConfig(is_decoder=True),
    "roberta, a decoder": RobertaConfig(is_decoder=True),
    "bart's decoder, though is_decoder is false": BartConfig(),
    "xlm, causal": XLMConfig(causal=True),
}
LOOKS_AHEAD: dict[str, tuple[PretrainedConfig, str]] = {
    "bert": (BertConfig(), "is_decoder is false: every token sees its answer"),
    "roberta": (RobertaConfig(), "is_decoder is false"),
    "roformer": (RoFormerConfig(), "is_decoder is false"),
    "big bird": (BigBirdConfig(), "is_decoder is false"),
    "electra": (ElectraConfig(), "is_decoder is false"),
    "xlm": (XLMConfig(), "causal is false"),
    "llama told so": (LlamaConfig(is_causal=False), "is_causal is false"),
    "gemma3 told so": (
        Gemma3TextConfig(use_bidirectional_attention=True),
        "use_bidirectional_attention is true",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("config", CAUSAL.values(), ids=CAUSAL)
def test_a_causal_model_passes(config: PretrainedConfig) -> None:
    check_causal(config, where="test")


@pytest.mark.slow
@pytest.mark.parametrize(("config", "told"), LOOKS_AHEAD.values(), ids=LOOKS_AHEAD)
def test_a_model_that_looks_ahead_is_refused(config: PretrainedConfig, told: str) -> None:
    with pytest.raises(UserError, match=told):
        check_causal(config, where="test")


@pytest.mark.parametrize("is_decoder", [False, True])
def test_real_weights_agree_with_the_small_copy(is_decoder: bool, tmp_path: Path) -> None:
    """The oracle in full: the model itself, its last token changed."""
    sizes: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 32,
    }
    model = AutoModelForCausalLM.from_config(BertConfig(**sizes, is_decoder=is_decoder)).eval()
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        first, second = (model(torch.tensor([[5, 6, 7, 8, last]])).logits[0] for last in (9, 10))
    looks_ahead = bool((first[:-1] != second[:-1]).any())
    assert looks_ahead is not is_decoder
    loading = {"dtype": "float32", "attention": "eager", "device": "cpu"}
    if is_decoder:
        load_model(str(tmp_path), **loading)
    else:
        with pytest.raises(UserError, match=f"{tmp_path}/config.json: is_decoder is false"):
            load_model(str(tmp_path), **loading)


def test_random_numbers_are_not_touched() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    check_causal(LlamaConfig(vocab_size=77), where="test")
    assert torch.equal(torch.rand(3), expected)
