"""What a study may say under `suites`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lomo.specs import Attention, Dtype, SuiteName
from lomo.system.strict import Strict


class SuiteTask(Strict):
    """One suite of a study; what is left out is the suite's own."""

    num_fewshot: int | None = Field(
        None, ge=0, description="solved examples before each question; null for lm-eval's own"
    )
    limit: int | None = Field(
        None, ge=1, description="the first so many questions of each subject; null for all"
    )
    max_gen_toks: int | None = Field(
        None, ge=1, description="tokens that an answer may take; null for the suite's own"
    )


class Suites(Strict):
    """Benchmark suites that models are scored on, by lm-eval itself (docs/suites.md)."""

    models: list[str] = Field(min_length=1, description="names of config/models.yaml, or folders")
    data: str = Field(
        description="folder with the suites' own files (docs/suites.md), generated, or hub"
    )
    tasks: dict[SuiteName, SuiteTask] = Field(
        min_length=1,
        description="mmlu, bbh, gsm8k, humaneval, truthfulqa_mc1, truthfulqa_mc2, one of their "
        "subjects, or any other task of lm-eval, which comes from the hub",
    )
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] | None = Field(
        None,
        min_length=1,
        description="of a base model that is made here; null for the protocol's",
    )
    batch_size: int = Field(8, ge=1, description="requests scored at once, alike in length")
    dtype: Dtype = Field("bfloat16", description="of the weights")
    attention: Attention = Field("sdpa", description="attention kernel")
