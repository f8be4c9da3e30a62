"""The modelling code that the paper's numbers come from: all that differs from today's is here.

transformers 4.30.2 lies in a folder of its own; torch and the rest are the environment's. Why it is
made so, and what was found with it, stand in docs/decisions/012-modelling-of-june-2023.md.
"""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lomo.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from lomo.specs import MeasureSpec

VERSION = "4.30.2"


def use(folder: Path) -> None:
    """Lets this process import the folder's transformers in place of the installed one.

    Raises UserError where the folder lacks it, RuntimeError where another one was imported before.
    """
    if not (folder / f"transformers-{VERSION}.dist-info").is_dir():
        raise UserError(
            f"holds no transformers {VERSION}",
            where=str(folder),
            fix="make it (network): snakemake --cores all predict_june_2023 --configfile FILE",
        )
    if "transformers" in sys.modules:
        raise RuntimeError("another transformers was imported before that of June 2023")
    sys.path.insert(0, str(folder.resolve()))
    importlib.invalidate_caches()
    # It refuses the installed tokenizers, which are too new, but does without any.
    sys.modules["tokenizers"] = None  # type: ignore[assignment]


def in_use() -> bool:
    """Whether this process has the transformers of June 2023."""
    import transformers

    return transformers.__version__ == VERSION


@contextmanager
def defaults_of_then() -> Iterator[None]:
    """Inside, checkpointing is reentrant where nobody says how, as it was in torch 2.0."""
    import torch.utils.checkpoint as checkpointing

    today = checkpointing.checkpoint
    checkpointing.checkpoint = partial(today, use_reentrant=True)
    try:
        yield
    finally:
        checkpointing.checkpoint = today


def build(config: Any, spec: MeasureSpec) -> nn.Module:
    """The causal LM, called as the authors' trainer calls theirs.

    They leave the key-value cache as the config has it, on, and transformers turns it off only
    where layers are checkpointed; and they hold the model's output, cache and all, until the next.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_config(
        copy.deepcopy(config), torch_dtype=getattr(torch, spec.dtype), trust_remote_code=False
    )
    if spec.activation_checkpointing:
        model.gradient_checkpointing_enable()
    held: list[Any] = []

    def before(_model: nn.Module, arguments: Any, named: dict[str, Any]) -> Any:
        named.pop("num_items_in_batch", None)  # its loss is the mean, and knows no other
        return arguments, named

    def after(_model: nn.Module, _arguments: Any, output: Any) -> None:
        held[:] = [output]

    model.register_forward_pre_hook(before, with_kwargs=True)
    model.register_forward_hook(after)
    built: nn.Module = model
    return built
