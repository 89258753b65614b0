"""Guidance scales: one number for all samples, or one for each."""

import math

import torch
from torch import Tensor

from scoresde.sde import expand

Scale = float | Tensor
"""A guidance scale w ≥ 0: a number for all samples, or one for each, shape (B,)."""


def check_scale(name: str, scale: Scale, least: float = 0.0) -> Scale:
    """Return a scale, refusing one that is not a finite number ≥ `least`.

    Raises:
        ValueError: It is not.
    """
    numbers = torch.as_tensor(scale, dtype=torch.float64)
    if isinstance(scale, bool) or numbers.ndim > 1 or not (numbers >= least).all():
        raise ValueError(_refusal(name, scale, least))
    if not numbers.isfinite().all():
        raise ValueError(_refusal(name, scale, least))
    return scale if isinstance(scale, Tensor) and scale.ndim else float(scale)


def times(scale: Scale, value: Tensor) -> Tensor:
    """scale · value, each sample by its own scale."""
    if isinstance(scale, Tensor):
        return expand(scale.to(value.device), value) * value
    return value if scale == 1 else scale * value


def _refusal(name: str, scale: Scale, least: float) -> str:
    bound = f" ≥ {least:g}" if math.isfinite(least) else ""
    return (
        f"{name} must be a finite number{bound}, or one for each sample, got {scale}; for guidance "
        "away from a condition use negative=CONDITION"
    )
