"""EDM's process, whose time is the standard deviation of the noise."""

import math

import torch
from torch import Tensor

from .base import SDE
from .prior import Prior


class EDM(SDE):
    """The process of EDM: the standard deviation of the noise is the time.

        dx = √(2 t) dw,   α = 1,   σ(t) = t,   T = σ_max

    Args:
        sigma_min: σ at which sampling ends, > 0.
        sigma_max: T > sigma_min.
        rho: ρ > 0 of the levels of its chain, which are equally spaced in σ^{1/ρ}.

    Raises:
        ValueError: The constants are not 0 < sigma_min < sigma_max < ∞ and ρ > 0.

    Reference: Karras et al. 2022, arXiv:2206.00364 (table 1, eq. 5).
    """

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> None:
        if not (0 < sigma_min < math.inf and 0 < sigma_max < math.inf):
            raise ValueError(
                f"sigma_min and sigma_max must be finite and > 0, got {sigma_min} and {sigma_max}"
            )
        if sigma_min >= sigma_max:
            raise ValueError(f"sigma_min ({sigma_min}) must be < sigma_max ({sigma_max}); swapped?")
        if not 0 < rho < math.inf:
            raise ValueError(f"rho must be finite and > 0, got {rho}; the published value is 7")
        self.sigma_min, self.sigma_max, self.rho = float(sigma_min), float(sigma_max), float(rho)
        self.T, self.eps, self.sampling_eps = self.sigma_max, self.sigma_min, self.sigma_min

    def alpha(self, t: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        """t."""
        return t

    def f(self, t: Tensor) -> Tensor:
        """0."""
        return torch.zeros_like(t)

    def g(self, t: Tensor) -> Tensor:
        """√(2 t)."""
        return (2 * t).sqrt()

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(0, 1), at t = 0 too."""
        return torch.zeros_like(t), torch.ones_like(t)

    def prior(self, shape: tuple[int, ...]) -> Prior:
        """N(0, σ_max² I)."""
        return Prior(shape, self.sigma_max)

    def label(self, t: Tensor) -> Tensor:
        """¼ log t."""
        return 0.25 * t.log()

    def levels(self, steps: int) -> tuple[Tensor, Tensor]:
        """The steps of EDM, ascending: σ_i^{1/ρ} equally spaced from σ_min to σ_max; α_i = 1."""
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        sigma = torch.linspace(low, high, steps, dtype=torch.float64) ** self.rho
        return torch.ones_like(sigma), sigma
