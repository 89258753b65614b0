"""Correctors: Langevin steps, whose stationary distribution is p_t."""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from scoresde.sde import SDE, Score, expand
from scoresde.sde.broadcast import widened
from scoresde.sde.checks import check_choice, check_steps

from .context import Noise

VANISHING = 1e10
"""Bound of ‖z‖²/(σ ‖s‖)²: the score is then 10⁵ times smaller than that of noise."""


class Level(NamedTuple):
    """A noise level at which a corrector works.

    Attributes:
        t: Time, shape ().
        a: Coefficient α_t/α_s of the transition to t from the time s below it.
        sigma: σ_t.
    """

    t: Tensor
    a: float
    sigma: float


class Corrector(ABC):
    """Unadjusted Langevin dynamics at a time t, with a rule for the step size δ.

        x ← x + δ s(x, t) + √(2δ) z

    Attributes:
        snr: r of a rule with δ = 2 (a r σ)² on noise alone, where s = −z/σ; None for other rules.

    Args:
        n_steps: Langevin steps at each time, ≥ 1.

    Raises:
        ValueError: n_steps is not an integer ≥ 1.
    """

    snr: float | None = None

    def __init__(self, n_steps: int) -> None:
        self.n_steps = check_steps(n_steps, "n_steps")

    def levels(self, sde: SDE, t: Tensor, t_next: Tensor) -> list[Level]:
        """The noise levels of some times, computed before the loop.

        Args:
            sde: Process.
            t: Times, shape (N,).
            t_next: The time below each, whose transition scales δ; t itself where there is none.
        """
        a, sigma = sde.alpha(t) / sde.alpha(t_next), sde.sigma(t)
        return [Level(*level) for level in zip(t.unbind(), a.tolist(), sigma.tolist(), strict=True)]

    @abstractmethod
    def step_size(self, level: Level, s: Tensor, z: Tensor) -> Tensor | float:
        """δ, a number or shape (B,).

        Args:
            level: Time of the step.
            s: Score at the state, shape (B, *).
            z: Noise of the step, shape (B, *).
        """

    def contraction(self, level: Level, variance: float) -> float:
        """1 − δ/(α² + σ²), the factor of a step on data N(0, I), whose variance is α² + σ²."""
        if self.snr is None:
            return 1.0
        return 1 - 2 * (level.a * self.snr * level.sigma) ** 2 / variance

    def step(self, level: Level, score: Score, x: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Take n_steps Langevin steps at one noise level.

        Args:
            level: Time of the steps.
            score: s(x, t).
            x: State at that time, shape (B, *).
            noise: noise(x) → z, of x's shape.

        Returns:
            The state after the steps, and the mean of the last one (without its noise).
        """
        mean = x
        for _ in range(self.n_steps):
            s, z, wide = (widened(v) for v in (score(x, level.t), noise(x), x))
            delta = self.step_size(level, s, z)
            if isinstance(delta, Tensor):
                delta = expand(delta, wide)
                mean = torch.addcmul(wide, delta, s)
                wide = torch.addcmul(mean, (2 * delta).sqrt(), z)
            else:
                mean = torch.add(wide, s, alpha=delta)
                wide = torch.add(mean, z, alpha=math.sqrt(2 * delta))
            x, mean = wide.to(x.dtype), mean.to(x.dtype)
        return x, mean


class Langevin(Corrector):
    """Langevin steps whose size is set by a signal-to-noise ratio.

        δ = 2 a² (r ‖z‖/‖s‖)²

    On noise alone, s = −x/σ², a step multiplies an error by 1 − 2 a² r², so that r < 1. With its
    own norms a sample does not depend on the others, but δ depends on the state, which inflates
    the variance of the distribution by about 4/D in D coordinates for every r: nothing for images,
    too much for points. With `sample`, the ratio q = ‖z‖²/(σ ‖s‖)² is therefore clamped to [1/w, w]
    with w = 1 + (D/32)²: for points δ is 2 (a r σ)², and for images the clamp does not act.

    Args:
        snr: r in (0, 1); 0.16 on CIFAR-10.
        n_steps: Langevin steps at each time, ≥ 1.
        norm: `sample` takes the norms of each sample; `batch` their means over the batch without a
            clamp, as in the published numbers, so that samples depend on each other. Only where
            the score vanishes is q = w here too.

    Raises:
        ValueError: snr is not in (0, 1), n_steps is not an integer ≥ 1, or another norm.

    Reference: Song et al. 2021, arXiv:2011.13456 (algorithms 4 and 5, appendix G).
    """

    snr: float

    def __init__(self, snr: float = 0.16, n_steps: int = 1, norm: str = "sample") -> None:
        super().__init__(n_steps)
        self.snr = _check_snr(snr)
        self.norm = check_choice("norm", norm, "sample", "batch")

    def step_size(self, level: Level, s: Tensor, z: Tensor) -> Tensor:
        """δ of each sample (B,), or of the batch (); see `Corrector.step_size`."""
        size, pull = z.flatten(1).norm(dim=1), s.flatten(1).norm(dim=1)
        scale = 2 * (level.a * self.snr) ** 2
        window = 1 + (z[0].numel() / 32) ** 2
        if self.norm == "batch":
            delta = scale * (size.mean() / pull.mean()).square()
            unit = scale * level.sigma**2
            return torch.where(delta <= VANISHING * unit, delta, window * unit)
        # 0/0, of a score and a noise that are both 0 (temperature 0), becomes 1.
        ratio = (size / (level.sigma * pull)).square().nan_to_num(1.0)
        return scale * level.sigma**2 * ratio.clamp(1 / window, window)


class AnnealedLangevinStep(Corrector):
    """Langevin steps whose size follows the noise level, as in annealed Langevin dynamics.

        δ = 2 a² (r σ(t))²

    Args:
        snr: r in (0, 1); 0.176 for NCSNv2 on CIFAR-10. On noise alone a step multiplies an error
            by 1 − 2 a² r².
        n_steps: Langevin steps at each time, ≥ 1.

    Raises:
        ValueError: snr is not in (0, 1), or n_steps is not an integer ≥ 1.

    Reference: Song & Ermon 2020, arXiv:2006.09011 (algorithm 1).
    """

    snr: float

    def __init__(self, snr: float = 0.16, n_steps: int = 1) -> None:
        super().__init__(n_steps)
        self.snr = _check_snr(snr)

    def step_size(self, level: Level, s: Tensor, z: Tensor) -> float:
        """δ of the time t; see `Corrector.step_size`."""
        return 2 * (level.a * self.snr * level.sigma) ** 2


def _check_snr(snr: float) -> float:
    if not snr > 0:
        raise ValueError(f"snr must be > 0, got {snr}")
    if snr >= 1:
        raise ValueError(
            f"snr must be < 1, got {snr}: where there is only noise, a Langevin step multiplies an "
            f"error by |1 − 2 snr²| = {abs(1 - 2 * snr**2):.3g}; published values are 0.075 to 0.4"
        )
    return snr
