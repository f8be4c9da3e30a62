"""A small LLaMA of June 2023: one step on real tensors, and the same predicted. Run as a module:

python -m tests.memory.june_2023_run FOLDER SPEC

Prints both ledgers as JSON. A process of its own, since it imports another transformers.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lomo.model import june_2023
from lomo.specs import MeasureSpec


def main(folder: str, given: str) -> None:
    june_2023.use(Path(folder))
    from transformers import LlamaConfig

    from lomo.memory.predicted.predict import predict
    from lomo.model.architecture import Architecture

    spec = MeasureSpec.model_validate_json(given)
    config = LlamaConfig(
        vocab_size=120,
        hidden_size=32,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    predicted = predict(Architecture("small", config), spec, device="cpu").ledger
    print(json.dumps([asdict(ledger) for ledger in (predicted, _run(config, spec))]))


def _run(config: Any, spec: MeasureSpec) -> Any:
    import torch

    from lomo.engines.single import training_step
    from lomo.memory.measured.ledger import StepMeter
    from lomo.methods import prepare
    from lomo.tasks.batches import Batch

    torch.manual_seed(0)
    tokens_BS = torch.randint(0, 100, (spec.batch_size, spec.sequence_length))
    batch = Batch(tokens_BS, torch.ones_like(tokens_BS), tokens_BS.clone())
    with june_2023.defaults_of_then():
        prepared = prepare(spec.method)(june_2023.build(config, spec), spec, lambda m: m)
        prepared.model.train()
        optimizers = [optimizer for optimizer, _ in prepared.optimizers]
        training_step(prepared.model, optimizers, [batch], max_grad_norm=None)
        inputs = [batch.input_ids_BS, batch.attention_mask_BS, batch.labels_BS]
        states = [optimizer.state for optimizer in optimizers]
        with StepMeter(prepared.model, lambda: states, inputs=inputs) as meter:
            training_step(
                prepared.model, optimizers, [batch], max_grad_norm=None, enter=meter.phase
            )
    return meter.ledger()


if __name__ == "__main__":
    main(*sys.argv[1:])
