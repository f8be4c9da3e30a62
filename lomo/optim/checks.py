"""Checks of what a user hands to an optimizer: ValueError says what, got and allowed."""

import math
from collections.abc import Sequence
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


def require_non_negative(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a finite number, 0 or above."""
    allowed = "a finite number, 0 or above"
    if not 0.0 <= _number(name, value, allowed) < math.inf:
        raise ValueError(f"{name} must be {allowed}, got {value!r}")


def require_unique(params: Sequence[Tensor]) -> None:
    """Raise ValueError if a parameter occurs twice: torch only warns, and it would step twice."""
    if len({id(parameter) for parameter in params}) != len(params):
        raise ValueError("a parameter occurs twice in one group; each may be given once")
