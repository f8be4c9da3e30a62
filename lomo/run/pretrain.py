"""Makes a base model of the miniature: a tokenizer and a causal LM that know the language.

They are trained on generated text alone and never see a task. AdamW, fp32, on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.progress import Progress
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from lomo.engines.single import training_step
from lomo.model.registry import ModelEntry, Pretraining
from lomo.system.files import read_text, whole
from lomo.tasks.batches import Batch

END = "<|end|>"
WARMUP_SHARE = 0.05


def make_base_model(
    entry: ModelEntry, text: Path, folder: Path, *, seed: int, progress: bool
) -> float:
    """Trains `entry` on `text` and saves it into `folder`; gives the last steps' mean loss.

    `seed` draws the weights and the order of the text; the tokenizer is the same for all. The
    folder appears whole or not at all.
    """
    assert entry.architecture is not None and entry.pretrain is not None
    torch.manual_seed(seed)
    lines = read_text(text).splitlines()
    tokenizer = make_tokenizer(lines, int(entry.architecture["vocab_size"]))
    settings = {k: v for k, v in entry.architecture.items() if k != "model_type"}
    config = AutoConfig.for_model(
        str(entry.architecture["model_type"]),
        **settings,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    model = AutoModelForCausalLM.from_config(config)
    model.config.use_cache = False
    # Two paragraphs a document: the model must know a line break before it sees a prompt.
    documents = ["\n".join(lines[start : start + 2]) for start in range(0, len(lines), 2)]
    encoded = tokenizer(documents)["input_ids"]
    tokens = [token for row in encoded for token in [*row, tokenizer.eos_token_id]]
    loss = _train(model, torch.tensor(tokens), entry.pretrain, seed=seed, progress=progress)
    with whole(folder) as unfinished:
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
    return loss


def make_tokenizer(lines: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of at most `vocab_size` tokens, trained on `lines`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)


def _train(
    model: torch.nn.Module, tokens: torch.Tensor, plan: Pretraining, *, seed: int, progress: bool
) -> float:
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=plan.learning_rate, betas=(0.9, 0.95), weight_decay=0.01
    )
    schedule = LambdaLR(optimizer, lambda step: _warmup_then_cosine(step, plan.num_steps))
    model.train()
    losses: list[float] = []
    with Progress(disable=not progress) as bar:
        task = bar.add_task("pretraining", total=plan.num_steps)
        for batch in _batches(tokens, plan, seed):
            losses.append(training_step(model, [optimizer], [batch], max_grad_norm=1.0).loss)
            schedule.step()
            bar.update(task, advance=1, description=f"pretraining, loss {losses[-1]:.3f}")
    last = losses[-max(1, plan.num_steps // 20) :]
    return sum(last) / len(last)


def _batches(tokens: torch.Tensor, plan: Pretraining, seed: int) -> Iterator[Batch]:
    """Rows of the text in random order; every row is used once before any is used again."""
    generator = torch.Generator().manual_seed(seed)
    num_rows = len(tokens) // plan.sequence_length
    rows_RS = tokens[: num_rows * plan.sequence_length].view(num_rows, plan.sequence_length)
    order: list[int] = []
    for _ in range(plan.num_steps):
        while len(order) < plan.batch_size:
            order += torch.randperm(num_rows, generator=generator).tolist()
        chosen, order = order[: plan.batch_size], order[plan.batch_size :]
        batch_BS = rows_RS[chosen]
        yield Batch(batch_BS, torch.ones_like(batch_BS), batch_BS.clone())


def _warmup_then_cosine(step: int, num_steps: int) -> float:
    num_warmup = max(1, int(WARMUP_SHARE * num_steps))
    if step < num_warmup:
        return (step + 1) / num_warmup
    done = (step - num_warmup) / max(1, num_steps - num_warmup)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done))
