"""Text into tokens, in one place for training and scoring. Imports no torch.

The tokens are those of prompt and answer written in one piece, as the model has learnt text. What
a tokenizer puts in front stays; what it appends (an end token) does not: it would stand between
prompt and answer, or be scored in place of the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lomo.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = "Yes"


@dataclass(frozen=True)
class Encoded:
    """A prompt and its candidate answers as tokens; each answer follows the same prompt."""

    prompt: list[int]
    answers: list[list[int]]
    # Of the prompt's last tokens, those that no cut may take.
    num_needed: int


@dataclass(frozen=True)
class Encoder:
    """A tokenizer, and the special tokens that it puts in front of a text."""

    tokenizer: PreTrainedTokenizerBase
    prefix: list[int]
    folder: str

    @property
    def end_id(self) -> int:
        """The token that ends a training example."""
        return int(self.tokenizer.eos_token_id)

    def encode(self, prompt: str, answers: Sequence[str], *, num_free: int = 0) -> Encoded:
        """The tokens of `prompt` and of each answer after it.

        A token with characters of both belongs to the answers, and so does what follows the first
        token that differs between them: all of them are scored after one and the same prompt.
        Text is never read as a special token. White space at the prompt's end goes to the answers,
        as lm-eval has it. The first `num_free` characters of the prompt may be lost to a cut.
        """
        end = len(prompt.rstrip())
        whole = self.tokenizer(
            [prompt + answer for answer in answers],
            add_special_tokens=False,
            split_special_tokens=True,
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
        )
        rows: list[list[int]] = whole["input_ids"]
        offsets: list[tuple[int, int]] = whole["offset_mapping"][0]
        length = min(_num_before(spans, end) for spans in whole["offset_mapping"])
        if offsets and offsets[-1][1] < len((prompt + answers[0]).rstrip()):
            # Characters without a token were dropped, and all behind them is told too far left.
            alone = self._tokens_of(prompt[:end])
            length = min(_num_common([alone, row]) for row in rows)
        length = _num_common([row[:length] for row in rows])
        num_needed = sum(stop > num_free for _, stop in offsets[:length])
        # Something has to stand before the first token that is scored.
        start = self.prefix or ([] if length else [self._start_id()])
        return Encoded(
            [*start, *rows[0][:length]],
            [row[length:] for row in rows],
            num_needed if length else len(start),
        )

    def _tokens_of(self, text: str) -> list[int]:
        options = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
        found: list[int] = self.tokenizer(text, **options)["input_ids"]
        return found

    def _start_id(self) -> int:
        start = self.tokenizer.bos_token_id
        return self.end_id if start is None else int(start)


def text_encoder(tokenizer: PreTrainedTokenizerBase, folder: str) -> Encoder:
    """The encoder of a tokenizer. Raises UserError for one that gives no text's tokens as they are.

    That is one that draws its tokens at random, or does more than put tokens before and after.
    """
    where = f"{folder}/tokenizer.json"
    if not tokenizer.is_fast:
        raise UserError(
            "the tokenizer does not tell where in the text a token lies",
            where=folder,
            allowed="a tokenizer.json (a fast tokenizer)",
            fix="write it with AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER)",
        )
    model: Any = tokenizer.backend_tokenizer.model
    if getattr(model, "dropout", None):
        raise UserError(
            f"model.dropout is {model.dropout:g}: each text is split at random, anew each time",
            where=where,
            allowed="null",
            fix="set model.dropout to null: it is meant for training a tokenizer's model",
        )
    plain: list[int] = tokenizer.encode(_PROBE, add_special_tokens=False)
    dressed: list[int] = tokenizer.encode(_PROBE)
    for start in range(len(dressed) - len(plain) + 1):
        if plain and dressed[start : start + len(plain)] == plain:
            return Encoder(tokenizer, dressed[:start], folder)
    raise UserError(
        f"the post_processor makes {dressed} of the tokens {plain} of {_PROBE!r}",
        where=where,
        allowed="a post_processor that puts special tokens before or after a text",
        fix="take what it changes inside of a text out of post_processor",
    )


def _num_before(spans: Sequence[tuple[int, int]], end: int) -> int:
    """How many of the first tokens hold no character from `end` on."""
    return next((n for n, (_, stop) in enumerate(spans) if stop > end), len(spans))


def _num_common(rows: Sequence[list[int]]) -> int:
    """How many of their first tokens all rows share."""
    columns = zip(*rows, strict=False)  # up to the end of the shortest
    shortest = min(map(len, rows))
    return next((n for n, column in enumerate(columns) if len(set(column)) > 1), shortest)


def check_tokens(encoder: Encoder, encoded: Encoded, *, num_rows: int, where: str) -> None:
    """Raises UserError for what a model of `num_rows` embeddings can't read or can't tell apart."""
    named = f"{encoder.folder}/tokenizer.json"
    largest = max(max(row, default=0) for row in (encoded.prompt, *encoded.answers))
    if max(largest, encoder.end_id) >= num_rows:
        what = f"{where} gets" if largest >= num_rows else "its end token is"
        raise UserError(
            f"the tokenizer does not fit the model: {what} {max(largest, encoder.end_id)}",
            where=named,
            allowed=f"0 to {num_rows - 1}: vocab_size in config.json is {num_rows}",
            fix="give the tokenizer that the model was trained with",
        )
    if not all(encoded.answers):
        raise UserError(f"{where}: an answer gets no token", where=named)
    if len({tuple(answer) for answer in encoded.answers}) < len(encoded.answers):
        raise UserError(
            f"{where}: two answers get the same tokens, and no score tells them apart",
            where=named,
            fix="mend the example if its answers are alike; or else give another tokenizer",
        )
