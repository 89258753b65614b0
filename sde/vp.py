"""The variance-preserving SDE, of which DDPM is the chain."""

import torch
from torch import Tensor

from .base import SDE
from .prior import Prior
from .schedule import Schedule, choose_schedule


class VP(SDE):
    """The variance-preserving process: unit-variance data keep unit variance.

        dx = −½ β(t) x dt + √β(t) dw,   α = exp(−½ B(t)),   σ² = 1 − α²,   B(t) = ∫₀ᵗ β

    Args:
        beta_min: β(0) of the linear schedule; 0.1 where not given.
        beta_max: β(1) of the linear schedule; 20 where not given.
        schedule: Another β(t), such as `CosineSchedule()`, in place of the linear one.

    Raises:
        ValueError: Constants out of range, or both a schedule and constants.

    Reference: Song et al. 2021, arXiv:2011.13456 (eq. 11, 29).
    """

    def __init__(
        self,
        beta_min: float | None = None,
        beta_max: float | None = None,
        *,
        schedule: Schedule | None = None,
    ) -> None:
        self.schedule = choose_schedule(beta_min, beta_max, schedule)
        self.remember(schedule=self.schedule)  # with the numbers of the defaults
        self.T = self.schedule.T

    def alpha(self, t: Tensor) -> Tensor:
        """exp(−½ B(t))."""
        return torch.exp(-0.5 * self.schedule.integral(t))

    def sigma(self, t: Tensor) -> Tensor:
        """√(1 − exp(−B(t))), without cancellation at small t."""
        return (-torch.expm1(-self.schedule.integral(t))).sqrt()

    def f(self, t: Tensor) -> Tensor:
        """−½ β(t)."""
        return -0.5 * self.schedule.beta(t)

    def g(self, t: Tensor) -> Tensor:
        """√β(t)."""
        return self.schedule.beta(t).sqrt()

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(−½ β α, ½ β α²/σ), of which no terms cancel."""
        alpha, half = self.alpha(t), 0.5 * self.schedule.beta(t)
        return -half * alpha, half * alpha.square() / self.sigma(t)

    def prior(self, shape: tuple[int, ...]) -> Prior:
        """N(0, I)."""
        return Prior(shape)

    def label(self, t: Tensor) -> Tensor:
        """999 t: DDPM's integer steps 0 … 999, stretched over continuous time."""
        return 999 * t

    def levels(self, steps: int) -> tuple[Tensor, Tensor]:
        """DDPM's table: α_i² = Π_{j ≤ i} (1 − β_j), σ_i² = 1 − α_i²."""
        log_alpha = self.schedule.log_alpha_levels(steps)
        return log_alpha.exp(), (-torch.expm1(2 * log_alpha)).sqrt()
