"""DeepSpeed ZeRO-3: parameters are split flat over the ranks; the paper's way to several devices.

SGD and AdamW run in DeepSpeed's own optimizer, the paper's baseline. LOMO and AdaLomo have no
place there (its engine steps with its own optimizer or not at all): they use its partitioning, and
take their gradients in their hooks.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lomo.engines.prepared import Prepared
from lomo.engines.ranks import Ranks, decoder_layers
from lomo.engines.single import Draw, as_it_is
from lomo.optim import FusedBackward
from lomo.optim.sharding import release_gathered

# How often ZeRO-3 expects the backward of a module that has run forward.
_COUNTERS = ("applied_pre_backward_ref_cnt", "ds_grads_remaining")


class Zero3(Ranks):
    """Partitions by `deepspeed.zero.Init`, steps by DeepSpeed's engine or by a fused optimizer."""

    def __init__(self, device: str) -> None:
        super().__init__(device)
        self._modules: list[nn.Module] = []
        self._deepspeed: _DeepSpeedOptimizer | None = None

    def spread(self, model: nn.Module, draw: Draw = as_it_is) -> nn.Module:
        deepspeed = _import_deepspeed(self.device)
        config = _config(model, None)
        for module in (*decoder_layers(model), model):
            draw(module)
            # Sends what is not spread yet from rank 0 to all, a tensor at a time.
            deepspeed.zero.Init(module=module, config_dict_or_path=config)
        for buffer in model.buffers():
            buffer.data = buffer.to(self.device)
        return model

    def ready(self, prepared: Prepared, *, max_grad_norm: float | None) -> Prepared:
        deepspeed = _import_deepspeed(self.device)
        model, config = prepared.model, _config(prepared.model, max_grad_norm)
        self._modules = list(model.modules())
        ordinary = [pair for pair in prepared.optimizers if not isinstance(pair[0], FusedBackward)]
        if not ordinary:
            deepspeed.initialize(model=model, config=config)
            return prepared
        ((optimizer, warmup_ratio),) = ordinary
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
        self._deepspeed = _DeepSpeedOptimizer(engine, optimizer, clips=max_grad_norm is not None)
        prepared.optimizers = [(self._deepspeed, warmup_ratio)]
        return prepared

    def before_forward(self, *, is_last: bool) -> None:
        if self._deepspeed is not None:
            self._deepspeed.engine.set_gradient_accumulation_boundary(is_last)
            # Its engine's forward does this; only after it are gradients added up, not replaced.
            self._deepspeed.engine.optimizer.clear_backward_seen_flag()

    def before_backward(self, loss: Tensor) -> None:
        # The hooks that gather a module's parameters count down in one backward pass; exact
        # clipping takes two of one forward, so each pass starts from the counts of now.
        counts = [
            (module, name, module.__dict__[name])
            for module in self._modules
            for name in _COUNTERS
            if name in module.__dict__
        ]

        def start_of_pass(gradient: Tensor) -> None:
            for module, name, count in counts:
                setattr(module, name, count)

        loss.register_hook(start_of_pass)

    def own_parts(self, model: nn.Module) -> dict[str, Tensor]:
        named: list[tuple[str, Any]] = list(model.named_parameters())
        return {name: p.ds_tensor for name, p in named if p.requires_grad}

    def load_parts(self, model: nn.Module, kept: Mapping[str, Tensor]) -> None:
        super().load_parts(model, kept)
        release_gathered(model.parameters())


class _DeepSpeedOptimizer(Optimizer):
    """DeepSpeed's engine where a training step wants an optimizer.

    Schedulers change the groups of the torch optimizer that DeepSpeed drives on its fp32
    partitions. Clipping is DeepSpeed's own.
    """

    def __init__(self, engine: Any, inner: Optimizer, *, clips: bool) -> None:
        # Not Optimizer.__init__: it would ask for parameters, and these belong to `inner`.
        self.engine, self.clips = engine, clips
        self.grad_norm: float | None = None
        self.param_groups, self.defaults = inner.param_groups, inner.defaults
        held: Any = {"inner": inner.state, "masters": engine.optimizer.fp32_partitioned_groups_flat}
        self.state = held  # for the ledger

    def backward(self, loss: Tensor, *, others: Any = ()) -> None:
        """Backward of one micro-batch; gradients are reduced and kept in partitions."""
        self.grad_norm = None
        self.engine.backward(loss)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """DeepSpeed's step, which clips."""
        self.engine.step()
        if self.clips:
            self.grad_norm = float(self.engine.get_global_grad_norm())

    def zero_grad(self, set_to_none: bool = True) -> None:
        """DeepSpeed has dropped the gradients in its step."""


def _config(model: nn.Module, max_grad_norm: float | None) -> dict[str, Any]:
    dtype = next(model.parameters()).dtype
    return {
        "train_micro_batch_size_per_gpu": 1,  # has to be given; the loss is normalised before
        "gradient_accumulation_steps": 1,  # told for each micro-batch
        "zero_optimization": {"stage": 3},  # buckets as they are by default: the paper's baseline
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "gradient_clipping": max_grad_norm or 0.0,  # left out, it clips at 1
    }


def _import_deepspeed(device: str) -> Any:
    """DeepSpeed, told which device it runs on, and quiet."""
    os.environ.setdefault("DS_ACCELERATOR", device)
    import deepspeed
    from deepspeed.ops import __compatible_ops__

    # On a CPU it would compile an all-reduce of its own when it starts; gloo has one.
    __compatible_ops__["deepspeed_shm_comm"] = False
    logger = logging.getLogger("DeepSpeed")
    logger.setLevel(logging.WARNING)
    logger.addFilter(_is_news)
    return deepspeed


def _is_news(record: logging.LogRecord) -> bool:
    # SGD is not on its list; that it gives the same weights as one process is tested here.
    return "untested optimizer" not in record.getMessage()


def start(device: str) -> Zero3:
    """The engine of this rank."""
    return Zero3(device)
