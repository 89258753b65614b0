"""What a network's output F means: the noise and the data prediction that follow from it.

    x̂ = α x̂_0 + σ ẑ,   ẑ = n x̂ + m F,   x̂_0 = d x̂ + e F,   F = F(c x̂; c_noise)

Each parameterization states (n, m) and (d, e) separately, since x̂_0 = (x̂ − σ ẑ)/α loses all
digits as α → 0 and is undefined at α = 0, where a chain of zero terminal SNR begins. α and σ are
those of data in [−1, 1].
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

Weights = tuple[Tensor, Tensor]
"""Weights of x̂ and of F."""


@dataclass(frozen=True)
class Scales:
    """The quantities on which a parameterization depends at times t, each of t's shape.

    Attributes:
        alpha: α.
        sigma: σ, in units of half the width of the data range.
        rates: Function that computes (α′, σ′), with σ in the units of the data, for `velocity`.
        sigma_data: Standard deviation of data in [−1, 1], for `edm`.
        half: Half the width of the data range, for `raw_score` and `velocity`.
    """

    alpha: Tensor
    sigma: Tensor
    rates: Callable[[], tuple[Tensor, Tensor]]
    sigma_data: float
    half: float


class Preconditioning(NamedTuple):
    """c of the equations above, and functions that compute (n, m) and (d, e)."""

    c_in: Tensor
    noise: Callable[[], Weights]
    data: Callable[[], Weights]


def _noise(at: Scales) -> Preconditioning:
    """F = ẑ (Ho et al. 2020, arXiv:2006.11239)."""
    one = torch.ones_like(at.sigma)
    return Preconditioning(
        one, lambda: (0 * one, one), lambda: (1 / at.alpha, -at.sigma / at.alpha)
    )


def _score(at: Scales) -> Preconditioning:
    """F = σ s: NCSN++ with `scale_by_sigma` (Song & Ermon 2020, arXiv:2006.09011)."""
    one = torch.ones_like(at.sigma)
    return Preconditioning(
        one, lambda: (0 * one, -one), lambda: (1 / at.alpha, at.sigma / at.alpha)
    )


def _raw_score(at: Scales) -> Preconditioning:
    """F = s, in the units of the data: NCSN (Song & Ermon 2019, arXiv:1907.05600)."""
    one = torch.ones_like(at.sigma)
    pull = at.half * at.sigma
    return Preconditioning(
        one, lambda: (0 * one, -pull), lambda: (1 / at.alpha, at.sigma * pull / at.alpha)
    )


def _data(at: Scales) -> Preconditioning:
    """F = x̂_0, so ẑ = (x̂ − α F)/σ."""
    one = torch.ones_like(at.sigma)
    return Preconditioning(
        one, lambda: (1 / at.sigma, -at.alpha / at.sigma), lambda: (0 * one, one)
    )


def _v(at: Scales) -> Preconditioning:
    """F = (α ẑ − σ x̂_0)/r with r² = α² + σ² (Salimans & Ho 2022, arXiv:2202.00512, r = 1)."""
    r = (at.alpha.square() + at.sigma.square()).sqrt()
    return Preconditioning(
        torch.ones_like(r),
        lambda: (at.sigma / r.square(), at.alpha / r),
        lambda: (at.alpha / r.square(), -at.sigma / r),
    )


def _velocity(at: Scales) -> Preconditioning:
    """F = dx̂/dt of the probability flow, α′ x̂_0 + σ′ ẑ (Lipman et al. 2023, arXiv:2210.02747).

    With W = α σ′ − α′ σ: ẑ = (α F − α′ x̂)/W and x̂_0 = (σ′ x̂ − σ F)/W. It is `v` only where
    α = cos t and σ = sin t.
    """
    alpha_rate, sigma_rate = at.rates()
    sigma_rate = sigma_rate / at.half
    w = at.alpha * sigma_rate - alpha_rate * at.sigma
    return Preconditioning(
        torch.ones_like(w),
        lambda: (-alpha_rate / w, at.alpha / w),
        lambda: (sigma_rate / w, -at.sigma / w),
    )


def _edm(at: Scales) -> Preconditioning:
    """Inputs and targets of unit variance (Karras et al. 2022, arXiv:2206.00364, table 1).

    Their σ is σ/α here, and their x is x/α.
    """
    r = (at.alpha.square() * at.sigma_data**2 + at.sigma.square()).sqrt()
    return Preconditioning(
        1 / r,
        lambda: (at.sigma / r.square(), -at.alpha * at.sigma_data / r),
        lambda: (at.alpha * at.sigma_data**2 / r.square(), at.sigma * at.sigma_data / r),
    )


PARAMETERIZATIONS: dict[str, Callable[[Scales], Preconditioning]] = {
    "noise": _noise,
    "score": _score,
    "raw_score": _raw_score,
    "data": _data,
    "v": _v,
    "velocity": _velocity,
    "edm": _edm,
}

BLIND = ("noise", "score", "raw_score")
"""Parameterizations without information about the data at α = 0, where the state is pure noise."""
