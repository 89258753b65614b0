"""The sub-VP SDE, whose variance stays below that of the VP SDE."""

import torch
from torch import Tensor

from .base import SDE
from .prior import Prior
from .schedule import Schedule, choose_schedule


class SubVP(SDE):
    """The sub-variance-preserving process: VP's drift with less noise, made for likelihood.

        dx = −½ β(t) x dt + √(β(t) (1 − exp(−2 B(t)))) dw,   α = exp(−½ B(t)),   σ = 1 − α²

    σ carries no square root: it is VP's variance, used as a standard deviation.

    Arguments and errors are those of `VP`.

    Reference: Song et al. 2021, arXiv:2011.13456 (eq. 12, 29).
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
        """1 − exp(−B(t)), without cancellation at small t."""
        return -torch.expm1(-self.schedule.integral(t))

    def f(self, t: Tensor) -> Tensor:
        """−½ β(t)."""
        return -0.5 * self.schedule.beta(t)

    def g(self, t: Tensor) -> Tensor:
        """√(β(t) (1 − exp(−2 B(t))))."""
        return (-self.schedule.beta(t) * torch.expm1(-2 * self.schedule.integral(t))).sqrt()

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(−½ β α, β α²), which at t = 0, where σ = 0, are finite."""
        alpha, beta = self.alpha(t), self.schedule.beta(t)
        return -0.5 * beta * alpha, beta * alpha.square()

    def prior(self, shape: tuple[int, ...]) -> Prior:
        """N(0, I)."""
        return Prior(shape)

    def label(self, t: Tensor) -> Tensor:
        """999 t, as for VP."""
        return 999 * t

    def levels(self, steps: int) -> tuple[Tensor, Tensor]:
        """DDPM's α_i with σ_i = 1 − α_i²."""
        log_alpha = self.schedule.log_alpha_levels(steps)
        return log_alpha.exp(), -torch.expm1(2 * log_alpha)
