"""Moments of affine random maps of Gaussians, without Monte Carlo."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tests.conditioning.problems import push

Noise = Callable[[Tensor], Tensor]


def push_noisy(
    step: Callable[[Tensor, Noise], Tensor], mean: Tensor, covariance: Tensor
) -> tuple[Tensor, Tensor]:
    """Moments after x ↦ A x + b + Σ_i D_i z_i with its own noise, which is fed with unit vectors.

    Args:
        step: step(x, noise) of states (B, D); noise(v) → z of v's shape, any number of times.
        mean: Mean (D,) before it.
        covariance: Covariance (D, D) before it.
    """
    sizes = list[int]()

    def silent(v: Tensor) -> Tensor:
        sizes.append(math.prod(v.shape[1:]))
        return torch.zeros_like(v)

    centre = step(mean[None], silent)
    units = iter(torch.eye(sum(sizes), dtype=mean.dtype).split(sizes, 1))
    moved = step(mean.expand(sum(sizes), -1), lambda v: next(units).reshape(v.shape)) - centre
    after, spread = push(lambda x: step(x, torch.zeros_like), mean, covariance)
    return after, spread + moved.T @ moved
