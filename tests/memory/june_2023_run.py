"""A small LLaMA of June 2023: one step on real tensors, and the same predicted. Run as a module:

python -m tests.memory.june_2023_run FOLDER METHOD CHECKPOINTING

Prints both as JSON. A process of its own, since it imports another transformers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from lomo.memory import june_2023


def main(folder: str, method: str, checkpointing: str) -> None:
    june_2023.use(Path(folder))
    from lomo.memory.predict import predict
    from tests.memory.predictions import predicted, small, spec_of

    spec = spec_of(method, activation_checkpointing=checkpointing == "True")
    ledgers = predict(small("llama"), spec, device="cpu").ledger, _run(spec)
    print(json.dumps([predicted(ledger) for ledger in ledgers]))


def _run(spec: Any) -> Any:
    import torch

    from lomo.batches import Batch
    from lomo.engines.step import training_step
    from lomo.memory.ledger import StepMeter
    from lomo.methods import prepare
    from tests.memory.predictions import CONFIGS

    torch.manual_seed(0)
    tokens_BS = torch.randint(0, 100, (spec.batch_size, spec.sequence_length))
    batch = Batch(tokens_BS, torch.ones_like(tokens_BS), tokens_BS.clone())
    with june_2023.defaults_of_then():
        prepared = prepare(spec.method)(june_2023.build(CONFIGS["llama"], spec), spec, lambda m: m)
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
