"""The variance-exploding SDE, of which NCSN is the chain."""

import math

import torch
from torch import Tensor

from .base import SDE
from .prior import Prior


class VE(SDE):
    """The variance-exploding process: the data keep their scale under growing noise.

        dx = σ(t) √(2 log(σ_max/σ_min)) dw,   α = 1,   σ(t) = σ_min (σ_max/σ_min)ᵗ

    At t = 0 the noise is σ(0) = σ_min. The prior N(0, σ_max² I) neglects the variance of the data,
    so σ_max must be large compared with it (Song & Ermon 2020 take the largest distance between two
    data points).

    Args:
        sigma_min: σ(0) > 0.
        sigma_max: σ(1) > σ_min.

    Raises:
        ValueError: The constants are not 0 < sigma_min < sigma_max < ∞.

    Reference: Song et al. 2021, arXiv:2011.13456 (eq. 9, 30); Song & Ermon 2020, arXiv:2006.09011.
    """

    sampling_eps = 1e-5
    data_range = (0.0, 1.0)

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0) -> None:
        if not (0 < sigma_min < math.inf and 0 < sigma_max < math.inf):
            raise ValueError(
                f"sigma_min and sigma_max must be finite and > 0, got {sigma_min} and {sigma_max}"
            )
        if sigma_min >= sigma_max:
            raise ValueError(f"sigma_min ({sigma_min}) must be < sigma_max ({sigma_max}); swapped?")
        self.sigma_min, self.sigma_max = float(sigma_min), float(sigma_max)
        self._log_ratio = math.log(self.sigma_max / self.sigma_min)

    def alpha(self, t: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        """σ_min (σ_max/σ_min)ᵗ."""
        return self.sigma_min * torch.exp(self._log_ratio * t)

    def f(self, t: Tensor) -> Tensor:
        """0."""
        return torch.zeros_like(t)

    def g(self, t: Tensor) -> Tensor:
        """σ(t) √(2 log(σ_max/σ_min))."""
        return math.sqrt(2 * self._log_ratio) * self.sigma(t)

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(0, σ log(σ_max/σ_min))."""
        return torch.zeros_like(t), self._log_ratio * self.sigma(t)

    def prior(self, shape: tuple[int, ...]) -> Prior:
        """N(0, σ_max² I)."""
        return Prior(shape, self.sigma_max)

    def label(self, t: Tensor) -> Tensor:
        """log σ(t)."""
        return self.sigma(t).log()

    def levels(self, steps: int) -> tuple[Tensor, Tensor]:
        """NCSN's table: σ_i geometric from σ_min to σ_max, ascending; α_i = 1."""
        sigma = self.sigma(torch.linspace(0, 1, steps, dtype=torch.float64))
        return torch.ones_like(sigma), sigma
