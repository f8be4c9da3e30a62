"""Checks of what a user hands to an optimizer: ValueError says what, got and allowed."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor


def _number(name: str, value: Any, allowed: str) -> float:
    # float("1e-3") would work, and would hide that YAML read `1e-3` as text.
    if isinstance(value, (str, bytes, bool)) or not hasattr(value, "__float__"):
        raise ValueError(f"{name} must be {allowed}, got {value!r}")
    return float(value)


def require_positive(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a finite number above 0."""
    allowed = "a finite number above 0"
    if not 0.0 < _number(name, value, allowed) < math.inf:
        raise ValueError(f"{name} must be {allowed}, got {value!r}")


def require_limit(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a number above 0; inf is a limit that limits nothing."""
    allowed = "a number above 0, or inf to measure only"
    if not 0.0 < _number(name, value, allowed):
        raise ValueError(f"{name} must be {allowed}, got {value!r}")


def require_non_negative(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a finite number, 0 or above."""
    allowed = "a finite number, 0 or above"
    if not 0.0 <= _number(name, value, allowed) < math.inf:
        raise ValueError(f"{name} must be {allowed}, got {value!r}")


# Of the whole optimizer, or of torch's SGD: in a group they would be kept and never read.
_NOT_OF_A_GROUP = frozenset(
    ["max_grad_norm", "norm_scope", "clip_value", "loss_scale", "rounding", "seed"]
    + ["momentum", "dampening", "nesterov", "maximize"]
)


def require_group_options(names: Iterable[str]) -> None:
    """Raise ValueError for options that a parameter group can't have; unknown names are let be."""
    refused = sorted(_NOT_OF_A_GROUP.intersection(names))
    if refused:
        raise ValueError(
            f"{', '.join(refused)} can't be set for a group: clipping, loss scale and rounding are "
            "options of the whole optimizer; momentum and its kin do not exist"
        )


def require_real(params: Sequence[Tensor]) -> None:
    """Raise ValueError for complex parameters: norms and moments here are those of real numbers."""
    for parameter in params:
        if not parameter.is_floating_point():
            raise ValueError(
                f"parameters must be of a floating-point dtype, got {parameter.dtype}; train the "
                "real and imaginary parts as real parameters"
            )


def require_unique(params: Sequence[Tensor]) -> None:
    """Raise ValueError if a parameter occurs twice: torch only warns, and it would step twice."""
    if len({id(parameter) for parameter in params}) != len(params):
        raise ValueError("a parameter occurs twice in one group; each may be given once")
