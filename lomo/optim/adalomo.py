"""AdaLomo (Lv et al., arXiv 2310.10195): an adaptive step inside the backward pass."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from .applied import AppliedSteps
from .arithmetic.rounding import Rounding, Stream, generator_for, write_rounded_
from .arithmetic.scaling import NormScope
from .arithmetic.tensors import SIXTEEN_BIT, chunks, norm_of
from .fused_backward import FusedBackward
from .guards.checks import require_positive
from .hooks import Slot
from .sharding import Shard
from .state import require_shape


class AdaLomo(FusedBackward):
    """AdaLomo, with the defaults of its released code.

    For each matrix theta with gradient g, in its t-th update:

        r <- beta_t r + (1 - beta_t) row sums of g^2        c: the same with column sums
        v = r c / sum(r)        u = g / sqrt(v)
        u_hat = u / max(1, RMS(u) / clip_threshold) * max(eps[1], RMS(theta))
        theta <- theta - lr u_hat

    Held are means instead of sums (the same v), of g^2 + eps[0]. Tensors of rank above 2 are
    batches of matrices in their last two dimensions; vectors and scalars keep an unfactored v.

    What the paper prints and what its code does differ: the paper has a constant beta (give `beta`
    for it), the code beta_t = 1 - t^-decay_rate, the default here; the paper's figure omits the
    square root that its text and its code take, and so does this. The code counts t per optimizer;
    here t counts a parameter's own updates, so a parameter that gets its first gradient late
    starts afresh. Weight decay is decoupled, as in the code:
    theta <- theta (1 - lr max(eps[1], RMS(theta)) weight_decay), unlike `Lomo`'s L2.

    State, fp32 on the parameter's device, in `state_dict`: `row` (shape without the last
    dimension) and `column` (without the last but one), or `square`; and `step`, the int t.
    Scratch: chunks of a constant size; no second tensor as large as the gradient.

    Args:
        params: parameters, named parameters or groups; fp32, bf16 or fp16.
        lr: step size relative to RMS(theta), 0 or above; the paper uses 5e-4 to 1e-3.
        eps: floor of g^2, floor of RMS(theta); both above 0.
        clip_threshold: limit of RMS(u), above 0.
        decay_rate: exponent of beta_t, above 0.
        beta: the paper's constant beta, between 0 and 1, instead of beta_t; None: beta_t.
        weight_decay: 0 or above.
        max_grad_norm, norm_scope: clip first; see `FusedBackward`. Not needed: u_hat is normalised.
        loss_scale, rounding, seed: for 16-bit weights; see `FusedBackward`.

    Raises ValueError for values that are not allowed. See `FusedBackward` for what else is refused.
    """

    _coefficient_on_host = True
    _elementwise = False
    _kind = "AdaLomo"  # of subclasses as well
    _state_names = frozenset(["step", "row", "column", "square"])

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        *,
        eps: tuple[float, float] = (1e-30, 1e-3),
        clip_threshold: float = 1.0,
        decay_rate: float = 0.8,
        beta: float | None = None,
        weight_decay: float = 0.0,
        max_grad_norm: float | None = None,
        norm_scope: NormScope = "global",
        loss_scale: float | Literal["dynamic"] | None = None,
        rounding: Rounding = "nearest",
        seed: int = 0,
    ) -> None:
        defaults = {
            "lr": lr,
            "eps": eps,
            "clip_threshold": clip_threshold,
            "decay_rate": decay_rate,
            "beta": beta,
            "weight_decay": weight_decay,
        }
        super().__init__(
            params,
            defaults,
            max_grad_norm=max_grad_norm,
            norm_scope=norm_scope,
            loss_scale=loss_scale,
            rounding=rounding,
            seed=seed,
        )

    def _check_group(self, group: dict[str, Any]) -> None:
        eps, beta = group["eps"], group["beta"]
        for name in ("clip_threshold", "decay_rate"):
            require_positive(name, group[name])
        if not isinstance(eps, (tuple, list)) or len(eps) != 2:
            raise ValueError(f"eps must be two numbers, floors of g^2 and RMS(theta), got {eps!r}")
        require_positive("eps[0]", eps[0])
        require_positive("eps[1]", eps[1])
        if beta is None:
            return
        require_positive("beta", beta)
        if beta >= 1.0:
            raise ValueError(f"beta must be above 0 and below 1, or None, got {beta!r}")

    def _check_state(self, parameter: Tensor, values: dict[str, Any]) -> None:
        if hasattr(parameter, "device_mesh") or hasattr(parameter, "ds_id"):
            return  # a rank keeps a part
        shape = tuple(parameter.shape)
        shapes: dict[str, tuple[int, ...]] = {"square": shape or (1,)}
        if len(shape) > 1:
            shapes = {"row": shape[:-1], "column": shape[:-2] + shape[-1:]}
        for name in values.keys() - {"step"}:
            require_shape(name, values[name], shapes.get(name))

    def _update(
        self, parameter: Tensor, gradient: Tensor, slot: Slot, scale: float | Tensor
    ) -> None:
        self._update_shard(Shard(parameter, parameter, gradient, parameter.shape), slot, scale)

    def _update_shard(self, shard: Shard, slot: Slot, scale: float | Tensor) -> None:
        assert not isinstance(scale, Tensor)  # asked for by _coefficient_on_host
        group, state = self.param_groups[slot.group_index], self.state[shard.owner]
        parameter, gradient = shard.parameter, shard.gradient
        if gradient.is_sparse:  # every row takes part in the moments
            gradient = gradient.to_dense()
        state["step"] = state.get("step", 0) + 1
        beta = group.get("beta") or 1.0 - math.pow(state["step"], -group["decay_rate"])
        if parameter.dim() == 0:
            parameter, gradient = parameter.view(1), gradient.view(1)
        factors = _second_moment_factors(shard, gradient, scale, state, beta, group["eps"][0])
        factors[0].mul_(scale)

        # Everything stays on the device, as 0-dim tensors: no host sync per parameter.
        norms = torch.stack([norm_of(_normalised(gradient, factors)), norm_of(chunks(parameter))])
        mean_squares = shard.total(norms.square_()).div_(shard.shape.numel())
        rms_u, rms_theta = mean_squares.sqrt_().unbind()
        shrink = torch.clamp(rms_u / group["clip_threshold"], min=1.0)
        step_size = torch.clamp(rms_theta, min=group["eps"][1]) * float(group["lr"])
        keep = 1.0 - step_size * group["weight_decay"] if group["weight_decay"] else None
        factors[0].mul_(step_size / shrink)
        self._write(parameter, gradient, factors, keep, self._stream(parameter, slot))

    def _write(
        self,
        parameter: Tensor,
        gradient: Tensor,
        factors: list[Tensor],
        keep: Tensor | None,
        stream: Stream | None,
    ) -> None:
        """theta <- round(keep theta - g times all factors)."""
        generator = None if stream is None else generator_for(parameter.device, stream)
        for weight, update in zip(chunks(parameter), _normalised(gradient, factors), strict=True):
            copy = weight.float() if weight.dtype in SIXTEEN_BIT else weight
            if keep is not None:
                copy.mul_(keep)
            write_rounded_(weight, copy.sub_(update), generator)

    def applied_steps(self, groups: Mapping[Tensor, str], *, seed: int = 0) -> AppliedSteps:
        """Watches what 16-bit weights take of the normalised step with its decay."""
        return AppliedSteps(self, "_write", self._write_watched, groups, seed=seed)

    def _write_watched(
        self,
        applied: AppliedSteps,
        parameter: Tensor,
        gradient: Tensor,
        factors: list[Tensor],
        keep: Tensor | None,
        stream: Stream | None,
    ) -> None:
        places = applied.places(parameter)
        if places is None:
            type(self)._write(self, parameter, gradient, factors, keep, stream)
            return
        before = parameter.take(places)
        step = gradient.take(places).float().neg_()
        index = torch.unravel_index(places, parameter.shape)
        for factor in factors:
            step.mul_(factor.expand(parameter.shape)[index])
        if keep is not None:
            step.add_(before.float() * (keep - 1.0))
        type(self)._write(self, parameter, gradient, factors, keep, stream)
        applied.note(parameter, step, before)


def _second_moment_factors(
    shard: Shard, gradient: Tensor, scale: float, state: dict[str, Any], beta: float, eps: float
) -> list[Tensor]:
    """Bring the moments in `state` up to date with `scale * gradient`; return 1 / sqrt(v).

    Of a matrix that is split over ranks, each rank holds whole rows: it keeps the row moments of
    those, and the column moments of all, as every rank does.

    Returned as new tensors whose product broadcasts to the gradient's shape: [row, column] for
    v = r c / mean(r) in means, [1 / sqrt(v)] for vectors.
    """
    if gradient.dim() == 1:
        square = _average(state, "square", gradient.float().mul(scale).square_().add_(eps), beta)
        return [square.rsqrt()]
    row_squares, column_squares = (
        norm.mul_(scale).square_() for norm in _row_and_column_norms(gradient)
    )
    row = _average(state, "row", row_squares.div_(shard.shape[-1]).add_(eps), beta)
    row_sum = row.sum(dim=-1, keepdim=True)
    if len(shard.shape) == 2:  # beyond that a split leaves the matrices whole
        both = shard.total(torch.cat([column_squares, row_sum]))
        column_squares, row_sum = both[:-1], both[-1:]
    column = _average(state, "column", column_squares.div_(shard.shape[-2]).add_(eps), beta)
    row_factor = (row / row_sum.div_(shard.shape[-2])).rsqrt_()
    return [row_factor.unsqueeze(-1), column.rsqrt().unsqueeze(-2)]


def _row_and_column_norms(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Norms over the last dimension and over the last but one, summed in fp32.

    Norms rather than means of the squares, since the squares would be a tensor as large as the
    gradient; in chunks, since the cast of 16-bit input would be one, too.
    """
    norm = torch.linalg.vector_norm
    parts = chunks(gradient)
    rows = torch.cat([norm(part.float(), dim=-1) for part in parts])
    columns = [norm(part.float(), dim=-2) for part in parts]
    if gradient.dim() == 2:  # chunks cut through the columns; beyond that they hold whole matrices
        return rows, norm(torch.stack(columns), dim=0)
    return rows, torch.cat(columns)


def _average(state: dict[str, Any], key: str, value: Tensor, beta: float) -> Tensor:
    """state[key] <- beta state[key] + (1 - beta) value, from 0."""
    if key not in state:
        state[key] = torch.zeros_like(value)
    average: Tensor = state[key]
    return average.mul_(beta).add_(value, alpha=1.0 - beta)


def _normalised(gradient: Tensor, factors: list[Tensor]) -> Iterator[Tensor]:
    """The gradient times all factors, in fp32, in the chunks of `chunks`."""
    parts = chunks(gradient)
    sizes = [part.shape[0] for part in parts]
    split = [
        torch.split(factor, sizes)
        if factor.shape[0] == gradient.shape[0]
        else [factor] * len(parts)
        for factor in factors
    ]
    for part, first, *others in zip(parts, *split, strict=True):
        update = part.float() * first
        for factor in others:
            update.mul_(factor)
        yield update
