"""Kernels of blurs: box, Gaussian, and the path of a shaking camera."""

import torch
from torch import Tensor

from scoresde.sde.checks import check_count, check_positive


def box_kernel(size: int) -> Tensor:
    """The mean of `size` pixels along one axis, shape (size,), float64.

    Args:
        size: Number of taps ≥ 1.
    """
    size = check_count("size", size, 1)
    return torch.full((size,), 1 / size, dtype=torch.float64)


def gaussian_kernel(size: int, std: float) -> Tensor:
    """exp(−j²/(2 std²)) at the distances j from the middle of the taps, of sum 1; (size,), float64.

    Args:
        size: Number of taps ≥ 1; the middle of an even number lies between two pixels.
        std: Standard deviation > 0, in pixels.
    """
    size, std = check_count("size", size, 1), check_positive("std", std)
    j = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    kernel = (-0.5 * (j / std).square()).exp()
    return kernel / kernel.sum()


def motion_kernel(size: int, intensity: float = 0.5, seed: int = 0, steps: int = 2000) -> Tensor:
    """The path of a point that keeps its speed while its direction wanders; (size, size), float64.

    The path is centred, fitted into the kernel, and spread over the four pixels next to each of its
    points; entries are ≥ 0 and sum to 1. It is data: the same seed gives the same kernel.

    Args:
        size: Taps along each axis ≥ 2.
        intensity: Standard deviation of the change of direction along the whole path, in turns; 0
            is a straight line.
        seed: Seed of the path.
        steps: Points of the path ≥ 1.

    Raises:
        ValueError: The intensity is negative or not finite.
    """
    size, steps = check_count("size", size, 2), check_count("steps", steps, 1)
    if not 0 <= intensity < float("inf"):
        raise ValueError(f"intensity must be a finite number ≥ 0, got {intensity}")
    generator = torch.Generator().manual_seed(seed)
    start = torch.rand(1, generator=generator, dtype=torch.float64)
    turns = torch.randn(steps, generator=generator, dtype=torch.float64) * intensity / steps**0.5
    angle = 2 * torch.pi * (start + turns.cumsum(0))
    path = torch.stack([angle.sin(), angle.cos()]).cumsum(1)
    low, high = path.min(1, keepdim=True)[0], path.max(1, keepdim=True)[0]
    extent = (high - low).max().clamp(min=1)
    path = (path - (low + high) / 2) * (size - 1) / extent + (size - 1) / 2
    # Each point is shared among its neighbours in proportion to its distance from them.
    axis = torch.arange(size, dtype=torch.float64)
    vertical, horizontal = ((1 - (axis[:, None] - p).abs()).clamp(min=0) for p in path)
    kernel = vertical @ horizontal.T
    return kernel / kernel.sum()
