"""Variances of a prior and of noise: a number, one for each sample, or one for each entry."""

import torch
from torch import Tensor

Level = float | Tensor
"""A variance ≥ 0: a number, one for each sample, (B,) or (B, 1, …), or one for each entry."""


def per_sample(level: Tensor) -> bool:
    """Whether a variance is the same for all entries of a sample."""
    return level.ndim == 0 or level.numel() == len(level)


def broadcast(name: str, level: Level, y: Tensor, *, entries: bool = True) -> Tensor:
    """A variance that broadcasts over measurements, in their type; a number has shape ().

    Args:
        name: Name of the variance in errors.
        level: The variance.
        y: Measurements, shape (B, *).
        entries: Whether the variance may differ between the entries of a sample.

    Raises:
        ValueError: The variance is negative, or has another shape.
    """
    if not isinstance(level, Tensor):
        if not 0 <= level < float("inf"):
            raise ValueError(f"{name} must be a finite number ≥ 0, got {level}")
        return torch.tensor(level, dtype=y.dtype)
    if per_sample(level):
        if level.numel() in (1, len(y)):
            return level.to(y) if level.ndim == 0 else level.to(y).reshape(-1, *[1] * (y.ndim - 1))
    elif entries and level.shape[1:] == y.shape[1:] and len(level) in (1, len(y)):
        return level.to(y)
    each = f", or {tuple(y.shape)} for one in each entry" if entries else ""
    raise ValueError(
        f"{name} must be a number or a tensor of shape ({len(y)}, 1, …) for one in each sample"
        f"{each}, got {tuple(level.shape)}"
    )


def reciprocal(c: Tensor) -> Tensor:
    """1/c, and 0 where c = 0: the pseudo-inverse of a diagonal ≥ 0."""
    return torch.where(c > 0, 1 / c, 0.0)


def noisy(level: Tensor) -> Tensor:
    """Whether any entry of a sample has a variance > 0, bool, shape () or (B, 1, …)."""
    if level.ndim == 0:
        return level > 0
    return (level > 0).flatten(1).any(1).reshape(-1, *[1] * (level.ndim - 1))
