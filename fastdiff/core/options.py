"""Checks that processes and grids make of their own fields."""
from __future__ import annotations

import math
import numbers
from typing import Any


def check_numbers(owner: Any, *names: str, optional: bool = False) -> None:
    """Each named field is a finite number and is stored as a float (numpy's scalars and Reals do not mix);
    torch scalars, for trainable parameters, stay as they are."""
    for name in names:
        value = getattr(owner, name)
        if hasattr(value, "detach") or (optional and value is None):
            continue
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError(f"{type(owner).__name__}: {name} must be a number, got {type(value).__name__}")
        if not math.isfinite(value):
            raise ValueError(f"{type(owner).__name__}: {name} must be finite, got {value}")
        object.__setattr__(owner, name, float(value))


def require(owner: Any, condition: bool, needs: str, *names: str) -> None:
    """The error for fields that do not fit together: what is needed, and what came."""
    if not condition:
        came = ", ".join(f"{name}={getattr(owner, name)}" for name in names)
        raise ValueError(f"{type(owner).__name__}: need {needs}, got {came}")
