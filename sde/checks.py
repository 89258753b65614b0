"""Checks of arguments that every part of the toolkit takes: tensors, switches, counts, choices.

What they refuse raises a ValueError, and a tensor of another type a TypeError.
"""

import difflib
import math
from numbers import Integral, Real

from torch import Tensor


def check_floating(name: str, x: Tensor) -> None:
    """Refuse integer tensors, whose arithmetic would round silently."""
    if not x.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {x.dtype}; use {name}.float()")


def check_switch(value: bool, name: str) -> bool:
    """Return a switch, refusing all but True and False: 'no' and 'off' would count as true."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {value!r}")
    return value


def check_steps(steps: int, name: str = "steps") -> int:
    """Return `steps` as an int, refusing all but integers ≥ 1."""
    return check_count(name, steps, 1)


def check_count(name: str, value: int, least: int) -> int:
    """Return a count as an int, refusing all but integers ≥ `least`, of NumPy's types too."""
    if not is_integer(value) or value < least:
        raise ValueError(f"{name} must be an integer ≥ {least}, got {value!r}")
    return int(value)


def is_integer(value: object) -> bool:
    """Whether a value is an integer, of NumPy's types too, but not True or False."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_positive(name: str, value: float) -> float:
    """Return a number, refusing all but those > 0; inf is one."""
    if isinstance(value, bool) or not isinstance(value, Real) or not value > 0:
        raise ValueError(f"{name} must be a number > 0, got {value!r}")
    return value


def check_choice(name: str, value: str, *allowed: str) -> str:
    """Return a choice, refusing all but the allowed ones."""
    if value not in allowed:
        lower = {choice.lower(): choice for choice in allowed}
        near = difflib.get_close_matches(str(value).lower(), lower, n=1)
        hint = f"; did you mean '{lower[near[0]]}'?" if near else ""
        raise ValueError(f"unknown {name} {value!r}. Available: {', '.join(allowed)}{hint}")
    return value


def check_between(name: str, value: float, low: float, high: float = math.inf) -> float:
    """Return a finite number, refusing all outside [low, high].

    Raises:
        ValueError: The value is not such a number.
    """
    number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not low <= value <= high:
        allowed = f"≥ {low:g}" if high == math.inf else f"in [{low:g}, {high:g}]"
        raise ValueError(f"{name} must be a finite number {allowed}, got {value!r}")
    return value
