"""Schedules β(t) of the variance-preserving family, with integrals and inverses in closed form."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from .description import Described

MOST_NOISE = -2 * math.log(torch.finfo(torch.float64).tiny)
"""Largest B(T) = −2 log α(T) for which α(T) is a normal number of float64: 1416.79."""


class Schedule(Described, ABC):
    """A rate β(t) > 0 on [0, T], with B(t) = ∫₀ᵗ β(s) ds, so that α(t) = exp(−B(t)/2).

    Attributes:
        T: Last time at which β is finite.
    """

    T: float = 1.0

    @abstractmethod
    def beta(self, t: Tensor) -> Tensor:
        """Rate β(t); shape of t."""

    @abstractmethod
    def integral(self, t: Tensor) -> Tensor:
        """B(t) = ∫₀ᵗ β; shape of t."""

    @abstractmethod
    def betas(self, steps: int) -> Tensor:
        """Variances β_i ∈ (0, 1) of the chain with this schedule; float64, shape (steps,)."""

    def check(self) -> None:
        """Refuse a schedule whose α(T) = exp(−B(T)/2) is not a normal number of float64.

        Raises:
            ValueError: B(T) or β(T) is not finite, or B(T) is too large; the error names the
                largest constant that works.
        """
        if not self._fits(self.T):
            noise = self.integral(torch.tensor(self.T, dtype=torch.float64)).item()
            raise ValueError(
                f"the integral of beta up to T={self.T:g} is {noise:.6g}, and must be in "
                f"(0, {MOST_NOISE:.6g}], beyond which alpha(T) is 0 in float64; {self._instead()}"
            )

    def _instead(self) -> str:
        """Which constants would do, for the error of `check`: here the largest T."""
        low, high = 0.0, self.T if 0 < self.T < math.inf else 0.0
        for _ in range(100):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if self._fits(middle) else (low, middle)
        largest = math.floor(low * 1e4) / 1e4
        return f"set T of {type(self).__name__} to {largest:g}"

    def _fits(self, t: float) -> bool:
        """Whether the process could end at t."""
        time = torch.tensor(t, dtype=torch.float64)
        return 0 < t < math.inf and (
            0 < self.integral(time).item() <= MOST_NOISE and 0 < self.beta(time).item() < math.inf
        )

    def log_alpha_levels(self, steps: int) -> Tensor:
        """log α_i = ½ Σ_{j ≤ i} log(1 − β_j) of the chain; float64, shape (steps,)."""
        return 0.5 * torch.log1p(-self.betas(steps)).cumsum(0)


class LinearSchedule(Schedule):
    """The schedule of DDPM in continuous time.

        β(t) = β_min + t (β_max − β_min)

    Args:
        beta_min: β(0) > 0.
        beta_max: β(1) ≥ β_min.

    Raises:
        ValueError: The constants are not 0 < beta_min ≤ beta_max < ∞.

    Reference: Song et al. 2021, arXiv:2011.13456 (eq. 32); Ho et al. 2020, arXiv:2006.11239.
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        if not (0 < beta_min < math.inf and 0 < beta_max < math.inf):
            raise ValueError(
                f"beta_min and beta_max must be finite and > 0, got {beta_min} and {beta_max}"
            )
        if beta_max < beta_min:
            raise ValueError(f"beta_max ({beta_max}) must be ≥ beta_min ({beta_min}); swapped?")
        self.beta_min, self.beta_max = float(beta_min), float(beta_max)

    def beta(self, t: Tensor) -> Tensor:
        """β_min + t (β_max − β_min)."""
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def integral(self, t: Tensor) -> Tensor:
        """t β_min + ½ t² (β_max − β_min)."""
        return t * (self.beta_min + 0.5 * t * (self.beta_max - self.beta_min))

    def _instead(self) -> str:
        """The largest beta_max."""
        rest = MOST_NOISE - self.T * self.beta_min
        largest = math.floor(10 * (self.beta_min + 2 * rest / self.T**2)) / 10
        if largest < self.beta_min:
            largest = math.floor(10 * MOST_NOISE / self.T) / 10
            return f"use beta_min and beta_max ≤ {largest:g}"
        known = f"with beta_min={self.beta_min:g}"
        return f"{known} use beta_max ≤ {largest:g}, got {self.beta_max:g}"

    def betas(self, steps: int) -> Tensor:
        """β_i = linspace(β_min/N, β_max/N, N), DDPM's table for N = 1000.

        Raises:
            ValueError: The chain is too short: β_max/N ≥ 1.
        """
        if self.beta_max >= steps:
            raise ValueError(
                f"a chain of {steps} levels needs beta_max < {steps}, got {self.beta_max}; "
                f"use more than {math.ceil(self.beta_max)} levels"
            )
        return torch.linspace(
            self.beta_min / steps, self.beta_max / steps, steps, dtype=torch.float64
        )


class ScaledLinearSchedule(Schedule):
    """The schedule whose √β grows linearly.

        β(t) = (√β_min + t (√β_max − √β_min))²

    The published chain (0.85 and 12 for N = 1000) ends with α = 0.07, yet sampling starts from
    N(0, I).

    Args:
        beta_min: β(0) > 0.
        beta_max: β(1) ≥ β_min.

    Raises:
        ValueError: The constants are not 0 < beta_min ≤ beta_max < ∞.

    Reference: Rombach et al. 2022, arXiv:2112.10752; `scaled_linear` in diffusers.
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        self._ends = LinearSchedule(beta_min, beta_max)  # checks the constants
        self.beta_min, self.beta_max = self._ends.beta_min, self._ends.beta_max
        self._first = math.sqrt(self.beta_min)
        self._rise = math.sqrt(self.beta_max) - self._first

    def beta(self, t: Tensor) -> Tensor:
        """(√β_min + t (√β_max − √β_min))²."""
        return (self._first + t * self._rise).square()

    def integral(self, t: Tensor) -> Tensor:
        """t (β_min + t √β_min d + ⅓ t² d²) with d = √β_max − √β_min."""
        first, rise = self._first, self._rise
        return t * (self.beta_min + t * (first * rise + t * (rise * rise / 3)))

    def betas(self, steps: int) -> Tensor:
        """β_i = linspace(√(β_min/N), √(β_max/N), N)².

        Raises:
            ValueError: The chain is too short: β_max/N ≥ 1.
        """
        first, last = self._ends.betas(steps)[[0, -1]].sqrt().tolist()
        return torch.linspace(first, last, steps, dtype=torch.float64).square()


class CosineSchedule(Schedule):
    """The schedule for which α is a quarter of a cosine.

        α(t) = cos c(t) / cos c(0),   c(t) = (π/2) (t + s)/(1 + s)

    β grows without bound at t = 1, so the process ends at T = 0.9946, where λ is that of the
    linear schedule at t = 1.

    Args:
        s: Offset s > 0 that keeps β(0) above 0.

    Raises:
        ValueError: s is not in (0, 1).

    Reference: Nichol & Dhariwal 2021, arXiv:2102.09672 (eq. 17); Lu et al. 2022, arXiv:2206.00927
    (appendix D.4) for T.
    """

    T = 0.9946

    def __init__(self, s: float = 0.008) -> None:
        if not 0 < s < 1:
            raise ValueError(f"s must be in (0, 1), got {s}; the published value is 0.008")
        self.s = float(s)
        self._rate = 0.5 * math.pi / (1 + self.s)
        self._start = self._rate * self.s  # c(0)

    def _angle(self, t: Tensor) -> Tensor:
        """c(t), which rounding never takes past π/2: for T = 1, α(T) stays above 0, at 6e-17."""
        return 0.5 * math.pi * ((t + self.s) / (1 + self.s))

    def beta(self, t: Tensor) -> Tensor:
        """2 c′ tan c(t)."""
        return 2 * self._rate * torch.tan(self._angle(t))

    def integral(self, t: Tensor) -> Tensor:
        """−2 log(cos c(t)/cos c(0)), by a product of sines that does not cancel at small t."""
        half = 0.5 * self._rate * t
        drop = 2 * torch.sin(half) * torch.sin(half + self._start) / math.cos(self._start)
        early = torch.log1p(-drop.clamp(max=0.5))
        # Where the cosine is small, 1 − drop would cancel.
        late = torch.log(torch.cos(self._angle(t)) / math.cos(self._start))
        return -2 * torch.where(drop < 0.5, early, late)

    def betas(self, steps: int) -> Tensor:
        """β_i = 1 − (α_{i+1}/α_i)², at most 0.999, on N equal intervals of [0, 1]."""
        c = self._start + self._rate * torch.arange(steps + 1, dtype=torch.float64) / steps
        ratio = torch.cos(c[1:]) / torch.cos(c[:-1])
        # The last ratio is 0: Nichol & Dhariwal bound β so that the chain retains some signal.
        return (1 - ratio.square()).clamp(max=0.999)


def choose_schedule(
    beta_min: float | None, beta_max: float | None, schedule: Schedule | None
) -> Schedule:
    """The linear schedule of two constants (0.1 and 20 where not given), or the schedule given."""
    if schedule is None:
        schedule = LinearSchedule(
            0.1 if beta_min is None else beta_min, 20.0 if beta_max is None else beta_max
        )
    elif beta_min is not None or beta_max is not None:
        raise ValueError(
            "got both schedule and beta_min/beta_max, which are constants of the linear schedule; "
            "give one of them"
        )
    schedule.check()
    return schedule
