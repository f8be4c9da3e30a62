"""The update inside the product that would make the gradient: no gradient matrix exists at all."""

import functools
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from .arithmetic.ghost_norms import EmbeddingGradient, linear_gradient_blocks, linear_gradient_norm
from .arithmetic.tensors import SIXTEEN_BIT, chunks
from .guards.ownership import require_own_memory
from .hooks import Mode, Slot, has_hooks_of_others
from .lomo import Lomo
from .sharding import require_one_process


def update_in_gemm(optimizer: Lomo, model: nn.Module) -> list[str]:
    """Update the weights of nn.Linear and nn.Embedding inside their own gradient's product.

    LOMO Algorithm 1 without its gradient: W <- (1 - lr weight_decay) W - lr c dY^T X in one
    product that accumulates in fp32 and rounds W once. c is the clip coefficient over the loss
    scale. A norm that clipping or a loss scale needs is taken from X and dY (how exactly: see
    `linear_gradient_norm`). Scratch: blocks of some MiB, never a matrix as large as a weight.

    All other parameters, biases among them, keep the ordinary hook, and so do the weights of
    subclasses, of modules with a patched forward, of what torch.compile traces, and weights with
    hooks of their own (`register_hook`, `register_post_accumulate_grad_hook`).
    `optimizer.close()`, or dropping the optimizer, makes the modules ordinary again; a copy or a
    pickle of one is ordinary too.

    Args:
        optimizer: a Lomo that rounds to nearest and has no clip_value.
        model: holds the modules; those whose weights the optimizer does not train stay as they are.

    Returns the names of the weights. Raises TypeError for another optimizer and ValueError, before
    anything is changed, for what can't be honoured. Later, in backward, RuntimeError for a module
    that was used twice in a step, and in forward under autocast.
    """
    _require_lomo(optimizer)
    optimizer = optimizer._itself() or optimizer  # no wrapper, which may be dropped before it
    if any(isinstance(module, DistributedDataParallel) for module in model.modules()):
        raise ValueError(
            "update_in_gemm can't work under DistributedDataParallel, which averages gradients "
            "that do not exist here: each rank would update from its own tokens alone"
        )
    chosen = _choose(optimizer, model)
    for name, module in chosen.items():
        _require_ordinary(name, module)
    _require_unshared(chosen, model)
    require_own_memory(dict(model.named_parameters()))
    for module in chosen.values():
        _OWNERS[module] = weakref.ref(optimizer)
        module.__class__ = _SWITCHED[type(module)]
    # Runs once: in close(), or when the optimizer is dropped.
    undo = weakref.finalize(optimizer, _restore, weakref.WeakSet(chosen.values()))
    undo.atexit = False
    optimizer._undo.append(undo)
    optimizer._fixed |= dict.fromkeys(("rounding", "clip_value"), _FIXED)
    return list(chosen)


class InGemmLinear(nn.Linear):
    """An nn.Linear whose weight is updated inside its gradient's product."""

    def forward(self, input: Tensor) -> Tensor:
        site = _site_of(self)
        if site is None:
            return super().forward(input)
        if torch.is_autocast_enabled(input.device.type):
            raise RuntimeError(_AUTOCAST)
        output: Tensor = _LinearFunction.apply(self.weight, input, self.bias, site)
        return output

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _reduced_as(nn.Linear, super().__reduce_ex__(protocol))


class InGemmEmbedding(nn.Embedding):
    """An nn.Embedding whose rows are updated without a gradient of the table's size."""

    def forward(self, input: Tensor) -> Tensor:
        site = _site_of(self)
        if site is None:
            return super().forward(input)
        output: Tensor = _EmbeddingFunction.apply(self.weight, input, self.padding_idx, site)
        return output

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _reduced_as(nn.Embedding, super().__reduce_ex__(protocol))


_SWITCHED: dict[type, type] = {nn.Linear: InGemmLinear, nn.Embedding: InGemmEmbedding}
_ORDINARY: dict[type, type] = {switched: plain for plain, switched in _SWITCHED.items()}

# Beside the modules, not in them: a copy of a module must not update the original's weight.
_OWNERS: weakref.WeakKeyDictionary[nn.Module, "weakref.ref[Lomo]"] = weakref.WeakKeyDictionary()


class _Site(NamedTuple):
    """Whose weight a node of the graph updates, and what the weight was in the forward pass."""

    owner: "weakref.ref[Lomo]"
    slot: Slot
    weight: Tensor
    version: int


def _first_derivative(backward: Callable[..., Any]) -> Callable[..., Any]:
    """`backward` without a graph of its own; RuntimeError where one is asked for."""

    @functools.wraps(backward)
    def checked(ctx: Any, dy: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(_SECOND.format(slot=ctx.site.slot))
        return backward(ctx, dy)

    return checked


class _LinearFunction(torch.autograd.Function):
    """F.linear that updates its weight in backward; it keeps the input, as F.linear does."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, x: Tensor, bias: Tensor | None, site: _Site) -> Tensor:
        ctx.save_for_backward(x)
        ctx.site = site
        return F.linear(x, weight, bias)

    @staticmethod
    @_first_derivative
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        weight, (x,) = ctx.site.weight, ctx.saved_tensors
        optimizer, mode = _admit(ctx)
        dy_TO, x_TI = dy.reshape(-1, weight.shape[0]), x.reshape(-1, weight.shape[1])
        dx = dy_TO.mm(weight).view(x.shape) if ctx.needs_input_grad[1] else None
        bias_gradient = dy_TO.sum(0) if ctx.needs_input_grad[2] else None
        if optimizer is None:
            return dy_TO.t().mm(x_TI), dx, bias_gradient, None
        _use(
            optimizer,
            mode,
            ctx.site.slot,
            (dy_TO, x_TI),
            lambda: linear_gradient_norm(x_TI, dy_TO),
            lambda scale: _update_linear(optimizer, ctx.site, x_TI, dy_TO, scale),
        )
        return None, dx, bias_gradient, None


class _EmbeddingFunction(torch.autograd.Function):
    """F.embedding that updates its rows in backward; it keeps the ids, as F.embedding does."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, ids: Tensor, padding_idx: int | None, site: _Site
    ) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.site, ctx.padding_idx = site, padding_idx
        return F.embedding(ids, weight, padding_idx)

    @staticmethod
    @_first_derivative
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        weight, (ids,) = ctx.site.weight, ctx.saved_tensors
        optimizer, mode = _admit(ctx)
        if optimizer is None:
            padding_idx = -1 if ctx.padding_idx is None else ctx.padding_idx
            dense = torch.ops.aten.embedding_dense_backward
            return dense(dy, ids, weight.shape[0], padding_idx, False), None, None, None
        if mode is Mode.DROP:
            return None, None, None, None
        ids_T = ids.flatten().long()
        gradient = EmbeddingGradient(ids_T, dy.reshape(-1, weight.shape[1]), ctx.padding_idx)
        _use(
            optimizer,
            mode,
            ctx.site.slot,
            (dy,),
            gradient.norm,
            lambda scale: _update_embedding(optimizer, ctx.site, ids_T, gradient, scale),
        )
        return None, None, None, None


def _admit(ctx: Any) -> tuple[Lomo | None, Mode]:
    """The optimizer that is to get the gradient and what for; None: autograd is to get it."""
    site: _Site = ctx.site
    optimizer = site.owner()
    if optimizer is None or optimizer._closed or not _reaches_weight(ctx):
        optimizer, mode = None, Mode.UPDATE
    elif has_hooks_of_others(site.weight):  # registered since the forward pass
        optimizer, mode = None, Mode.UPDATE
    elif optimizer._last_pass[site.slot.position] == optimizer._pass:
        raise RuntimeError(_TWICE.format(slot=site.slot))
    else:
        require_one_process()
        mode = optimizer._admit(site.slot)
    if site.weight._version != site.version:
        raise RuntimeError(
            f"the weight {site.slot} was changed between forward and backward: its input's "
            "gradient would be wrong"
        )
    return optimizer, mode


def _reaches_weight(ctx: Any) -> bool:
    """Whether this backward would write the weight's .grad: autograd.grad must not update."""
    try:
        return torch._C._will_engine_execute_node(ctx.next_functions[0][0])
    except RuntimeError:  # autograd.grad was asked for this very weight
        return False


def _use(
    optimizer: Lomo,
    mode: Mode,
    slot: Slot,
    factors: tuple[Tensor, ...],
    norm: Callable[[], Tensor],
    update: Callable[[float | Tensor], None],
) -> None:
    if mode is not Mode.DROP:
        optimizer._note(mode, slot, *factors)
    if mode is Mode.MEASURE:
        optimizer._record_norm(slot, norm())
    elif mode is Mode.UPDATE:
        scale = optimizer._coefficient(slot, norm)
        if scale is not None:
            update(scale)


def _update_linear(
    optimizer: Lomo, site: _Site, x_TI: Tensor, dy_TO: Tensor, scale: float | Tensor
) -> None:
    if isinstance(scale, Tensor):  # on a device; a product takes its factors as numbers
        for rows, block in linear_gradient_blocks(x_TI, dy_TO):
            optimizer._update(site.weight[rows], block, site.slot, scale)
        return
    group = optimizer.param_groups[site.slot.group_index]
    lr, weight_decay = float(group["lr"]), float(group["weight_decay"])
    # As W^T <- W^T - lr X^T dY: some CPU kernels are faster that way round, none slower.
    site.weight.t().addmm_(x_TI.t(), dy_TO, beta=1.0 - lr * weight_decay, alpha=-lr * scale)


def _update_embedding(
    optimizer: Lomo, site: _Site, ids_T: Tensor, gradient: EmbeddingGradient, scale: float | Tensor
) -> None:
    group = optimizer.param_groups[site.slot.group_index]
    lr, kept = float(group["lr"]), 1.0 - float(group["lr"]) * float(group["weight_decay"])
    for columns, rows in gradient.blocks():
        weight = site.weight[:, columns]
        old = weight[ids_T]
        new = (old.to(rows.dtype) * kept).sub_(rows[gradient.row_of_T].mul_(scale), alpha=lr)
        if isinstance(scale, Tensor):  # 0: the gradient was not finite
            new = torch.where(scale > 0, new, old)
        if kept != 1.0:
            _decay(weight, kept, scale)
        weight.index_copy_(0, ids_T, new.to(weight.dtype))  # an id that recurs: the same row again


def _decay(weight: Tensor, kept: float, scale: float | Tensor) -> None:
    wide = torch.float32 if weight.dtype in SIXTEEN_BIT else weight.dtype
    for part in chunks(weight):
        decayed = part.to(wide) * kept
        part.copy_(torch.where(scale > 0, decayed, part) if isinstance(scale, Tensor) else decayed)


def _site_of(module: nn.Linear | nn.Embedding) -> _Site | None:
    """Where this forward's gradient goes; None: it is an ordinary forward."""
    # A compiled graph must not have side effects in its backward: it hands out the gradient.
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return None
    # Not module.weight: a parametrization (spectral_norm) moves on each time that it is asked.
    owner, weight = _OWNERS.get(module), module._parameters.get("weight")
    optimizer = None if owner is None else owner()
    if owner is None or optimizer is None or weight is None or not weight.requires_grad:
        return None
    if _derives_otherwise() or has_hooks_of_others(
        weight
    ):  # they want the gradient that would not exist
        return None
    slot = optimizer._slots.get(weight)  # None: another parameter was put into its place
    return None if slot is None else _Site(owner, slot, weight, weight._version)


def _derives_otherwise() -> bool:
    """Inside of torch.func or a forward derivative, which need the formulas of F.linear itself."""
    inside_func = torch._C._functorch.peek_interpreter_stack() is not None
    return inside_func or forward_ad._current_level >= 0


def _choose(optimizer: Lomo, model: nn.Module) -> dict[str, nn.Linear | nn.Embedding]:
    """Weights by name, and the module that each belongs to."""
    chosen = {
        f"{name}.weight" if name else "weight": module
        for name, module in model.named_modules()
        if type(module) in _SWITCHED and "forward" not in vars(module)
        if module.weight in optimizer._slots and not has_hooks_of_others(module.weight)
    }
    if not chosen:
        raise ValueError(
            "the model has no nn.Linear or nn.Embedding whose weight this optimizer updates by "
            "its hook, without hooks of others: make the optimizer from this model's parameters, "
            "unfrozen, and call update_in_gemm once"
        )
    return chosen


def _require_lomo(optimizer: Lomo) -> None:
    if getattr(type(optimizer), "_update", None) is not Lomo._update:
        raise TypeError(
            f"update_in_gemm needs a Lomo, got {type(optimizer).__name__}: only an update that is "
            "linear in the gradient can be made inside the product"
        )
    optimizer._check_not_closed()
    if optimizer.clip_value is not None:
        raise ValueError(
            "update_in_gemm can't honour clip_value, which needs each element of the gradient: "
            "use max_grad_norm"
        )
    if optimizer.rounding != "nearest":
        raise ValueError(
            f"update_in_gemm can't honour rounding={optimizer.rounding!r}: a product rounds to "
            "nearest"
        )


def _require_ordinary(name: str, module: nn.Linear | nn.Embedding) -> None:
    weight = module.weight
    if is_traceable_wrapper_subclass(weight) or hasattr(weight, "ds_id"):
        raise ValueError(
            f"{name} is sharded or wrapped ({type(weight).__name__}): its gradient is only whole "
            "after a reduction over the ranks; update_in_gemm needs plain parameters"
        )
    if isinstance(module, nn.Embedding):
        for option in ("max_norm", "scale_grad_by_freq", "sparse"):
            if getattr(module, option):
                raise ValueError(
                    f"{name}: update_in_gemm can't honour nn.Embedding's {option}; "
                    "leave the option out"
                )


def _require_unshared(chosen: dict[str, nn.Linear | nn.Embedding], model: nn.Module) -> None:
    places: dict[Tensor, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        places.setdefault(parameter, []).append(name)
    for module in chosen.values():
        names = places[module.weight]
        if len(names) > 1:
            raise ValueError(
                f"{' and '.join(names)} are one parameter: its first use would change it before "
                "the gradient of the second is known; untie them (tie_word_embeddings=False) or "
                "do without update_in_gemm"
            )


def _restore(modules: "weakref.WeakSet[nn.Module]") -> None:
    for module in modules:
        _OWNERS.pop(module, None)
        module.__class__ = _ORDINARY.get(type(module), type(module))


def _reduced_as(plain: type, reduced: Any) -> Any:
    """What copy and pickle make a module from, with the class `plain`."""
    return object.__new__, (plain,), *reduced[2:]


_FIXED = "update_in_gemm updates weights inside a product, which can't honour another value"
_TWICE = (
    "{slot} got a second gradient in one step: its module was used twice in the forward pass, or "
    "backward ran twice before step(). An update inside the product has used the first gradient "
    "already. Leave out update_in_gemm for a module that is used twice; do not accumulate."
)
_SECOND = (
    "a second derivative (create_graph=True) runs through {slot}, which is updated inside its "
    "gradient's product, before the second derivative is known: do without update_in_gemm. No "
    "weight was changed."
)
_AUTOCAST = (
    "update_in_gemm can't work under autocast, which computes with copies of the weights in "
    "another dtype: give the model that dtype, or do without update_in_gemm"
)
