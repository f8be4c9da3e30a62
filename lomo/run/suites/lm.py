"""lm-eval's own model with its own tokens, that counts what it cuts and draws no bars."""

from __future__ import annotations

import logging
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from transformers import PreTrainedModel, PreTrainedTokenizerBase

# lm-eval prints a paragraph for each task it loads, and a line for each prompt that it cuts.
logging.getLogger("lm_eval").setLevel(logging.ERROR)


class SuiteLM(HFLM):
    """A loaded model as lm-eval's command line would load it. Requests are scored by length.

    cut: the prompts that were longer than the model, and lost their beginning. unfinished: the
    answers that took all the tokens they may take: what would have come after is not scored.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int,
        device: str,
    ) -> None:
        super().__init__(
            pretrained=model, tokenizer=tokenizer, batch_size=batch_size, device=device
        )
        self.cut: set[str] = set()
        self.unfinished: set[str] = set()
        ends = getattr(model.generation_config, "eos_token_id", None)
        self._ends = {self.eot_token_id, *(ends if isinstance(ends, list) else [ends])}

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Log-likelihood of each (context, continuation), and whether greedy decoding gives it."""
        return super().loglikelihood(requests, disable_tqdm=True)

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> list[float]:
        """Log-likelihood of each whole text."""
        return super().loglikelihood_rolling(requests, disable_tqdm=True)

    def _loglikelihood_tokens(
        self, requests: Any, disable_tqdm: bool = True, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        for (context, _), prompt, continuation in requests:
            if len(prompt) + len(continuation) > self.max_length + 1:
                self.cut.add(context)
        return super()._loglikelihood_tokens(requests, disable_tqdm=True, override_bs=override_bs)

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> list[str]:
        """What is written greedily behind each context, up to a stop."""
        for request in requests:
            context, options = request.args
            room = self.max_length - self.tokens_of(options)
            if len(self.tok_encode(context)) > room:
                self.cut.add(context)
        return super().generate_until(requests, disable_tqdm=True)

    def _model_generate(
        self, context: torch.Tensor, max_length: int, stop: list[str], **options: Any
    ) -> torch.Tensor:
        rows: torch.Tensor = super()._model_generate(context, max_length, stop, **options)
        for tokens in rows[:, context.shape[1] :].tolist():
            text = self.tok_decode(tokens)
            if self._ends.isdisjoint(tokens) and not any(term in text for term in stop if term):
                self.unfinished.add(text)
        return rows

    def tokens_of(self, options: dict[str, Any]) -> int:
        """How many tokens an answer may take."""
        return int(normalize_gen_kwargs(dict(options), self.max_gen_toks)["max_gen_toks"])
