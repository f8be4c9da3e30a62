"""The tokenizer that a GGUF file describes, split as its model has learnt texts.

transformers builds it of vocabulary and merges. How a text is split before the merges stands in the
file as a name alone; where transformers does not know the name, it splits as GPT-2 does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lomo.errors import UserError
from lomo.model.gguf.source import Source, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Values of tokenizer.ggml.pre whose texts are split as GPT-2's.
AS_GPT2 = frozenset({"gpt-2", "phi-2", "mpt", "olmo", "jais", "exaone4", "mellum"})
# Before that, each digit stands alone.
DIGITS_ALONE = frozenset(
    {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
)


def read_tokenizer(folder: Path, name: str, source: Source) -> PreTrainedTokenizerBase:
    """The tokenizer of the GGUF file `name` in `folder`.

    Raises UserError where the file has none, or how it splits texts is not known.
    """
    from transformers import AutoTokenizer

    where = str(source.path)
    if source.tokenizer is None:
        raise UserError("holds no tokenizer (tokenizer.ggml.model)", where=where)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, gguf_file=name, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # a broken vocabulary raises whatever its reader stumbles over
        raise UserError(
            f"transformers can't read its tokenizer: {first_line(error)}", where=where
        ) from error
    _settle_splitting(tokenizer, source)
    return tokenizer


def _settle_splitting(tokenizer: Any, source: Source) -> None:
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    if not _splits_as_gpt2(tokenizer):
        return  # pieces of sentences, or a splitting that transformers knows by its name
    if source.splitting in DIGITS_ALONE:
        alone = [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence(alone)
    elif source.splitting not in AS_GPT2:
        raise UserError(
            f"splits texts in a way that is not known (tokenizer.ggml.pre: {source.splitting})",
            where=str(source.path),
            allowed=f"{', '.join(sorted(AS_GPT2 | DIGITS_ALONE))}, and what transformers knows",
            fix="take the model's folder of safetensors, which has its tokenizer.json",
        )


def _splits_as_gpt2(tokenizer: Any) -> bool:
    told = json.loads(tokenizer.backend_tokenizer.to_str())["pre_tokenizer"] or {}
    return bool(told.get("type") == "ByteLevel" and told.get("use_regex", True))
