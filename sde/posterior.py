"""Gaussian distributions of a process between two times, of which variational bounds are sums."""

from typing import NamedTuple

import torch
from torch import Tensor

from .base import SDE


class Posterior(NamedTuple):
    """q(x_s | x_t, x_0) = N(c_0 x_0 + c_t x_t, v I) for s < t, each of the shape of the times."""

    c_0: Tensor
    c_t: Tensor
    variance: Tensor


def posterior(sde: SDE, s: Tensor, t: Tensor) -> Posterior:
    """The distribution of the state at s given the state at a later time t and the data.

        c_0 = α_s b²/σ_t²,   c_t = a σ_s²/σ_t²,   v = b² σ_s²/σ_t²,   x_t = a x_s + b z

    Reference: Ho et al. 2020, arXiv:2006.11239 (eq. 6, 7), for any process.
    """
    a, b = sde.transition(s, t)
    noise, before = sde.sigma(t).square(), sde.sigma(s).square()
    step = b.square() / noise
    return Posterior(sde.alpha(s) * step, a * before / noise, step * before)


def normal_kl(mean: Tensor, variance: Tensor, other_mean: Tensor, other_variance: Tensor) -> Tensor:
    """KL(N(m, v) ‖ N(m′, v′)) of each coordinate, in nats."""
    ratio = variance / other_variance
    return 0.5 * (ratio - 1 - ratio.log() + (mean - other_mean).square() / other_variance)


def log_cell_probability(low: Tensor, high: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Log-probability of [low, high] under N(m, s²), for each coordinate, in nats.

    It is computed in the tail on the side of the cell, as a difference of small numbers rather than
    of numbers close to 1. The ends of open cells are −∞ and ∞.
    """
    a, b = (low - mean) / std, (high - mean) / std
    flip = a + b > 0  # both in the upper tail: P(a < z < b) = P(−b < z < −a)
    lower, upper = torch.where(flip, -b, a), torch.where(flip, -a, b)
    log_upper, log_lower = torch.special.log_ndtr(upper), torch.special.log_ndtr(lower)
    gap = (log_lower - log_upper).clamp(max=-torch.finfo(low.dtype).tiny)
    return log_upper + torch.log(-torch.expm1(gap))
