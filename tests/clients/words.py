"""Texts of made-up words, and their tokenizer, within the vocabulary of the tiny LLaMA."""

from __future__ import annotations

import random
from typing import Any

NUM_WORDS = 62


def texts() -> Any:
    from datasets import Dataset

    generator = random.Random(0)
    lengths = [generator.randrange(5, 20) for _ in range(24)]
    words = [[f"w{generator.randrange(NUM_WORDS)}" for _ in range(n)] for n in lengths]
    return Dataset.from_list([{"text": " ".join(line)} for line in words])


def tokenizer() -> Any:
    """One token a word."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    words = [*(f"w{i}" for i in range(NUM_WORDS)), "<pad>", "<eos>"]
    made = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="w0"))
    made.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<eos>", unk_token="w0"
    )
