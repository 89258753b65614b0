"""Chains: processes tabulated on levels, with the interface of a process of continuous time."""

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from .base import SDE
from .checks import check_steps, check_switch
from .prior import Prior


class Discretized(SDE):
    """A process on N levels: DDPM over VP, NCSN over VE, a chain over any other.

        x_i = a_i x_{i−1} + b_i z,   a_i = α_i/α_{i−1},   b_i² = σ_i² − a_i² σ_{i−1}²,
        α_{−1} = 1,   σ_{−1} = 0

    Level i has the time t_i = linspace(t_0, T, N)_i with t_0 = the base's `sampling_eps`, and
    time 0 is the data, level −1. Between levels log α and log σ are monotone cubic interpolants of
    the tables, and f and g are their exact derivatives, so solvers of any kind run on a chain.

    With zero terminal SNR the table of a variance-preserving chain is shifted and stretched until
    its last level is pure noise, like the state from which sampling starts:

        α_i ← (α_i − α_{N−1}) α_0/(α_0 − α_{N−1}),   σ_i² = 1 − α_i²

    Before that level α falls to 0 linearly in t. Steps leave it by the data prediction, since the
    score contains no information about the data there.

    Args:
        base: Process whose `levels` are tabulated.
        steps: Number of levels N ≥ 2; 3 with zero terminal SNR.
        zero_terminal_snr: Whether the last level is pure noise.

    Attributes:
        times: t_i, float64, shape (N,).
        alphas: α_i, float64, shape (N,).
        sigmas: σ_i, float64, shape (N,).

    Raises:
        ValueError: steps is not such an integer, or the base has no such chain.

    Reference: Ho et al. 2020, arXiv:2006.11239 (eq. 2, 4); Song & Ermon 2019, arXiv:1907.05600;
    Lin et al. 2024, arXiv:2305.08891 (algorithm 1), for zero terminal SNR.
    """

    steps: int

    def __init__(self, base: SDE, steps: int, zero_terminal_snr: bool = False) -> None:
        self.zero_terminal_snr = check_switch(zero_terminal_snr, "zero_terminal_snr")
        least = 3 if zero_terminal_snr else 2
        if check_steps(steps) < least:
            raise ValueError(f"steps must be an integer ≥ {least} for a chain, got {steps}")
        self.base, self.steps = base, int(steps)
        self.T, self.data_range = base.T, base.data_range
        self.eps = self.sampling_eps = base.sampling_eps
        self.alphas, self.sigmas = _checked(base, steps, zero_terminal_snr)
        self.times = torch.linspace(self.eps, self.T, steps, dtype=torch.float64)
        if zero_terminal_snr:
            self.alphas, self.sigmas = _without_signal(self.alphas, self.sigmas)
            self._log_alpha: _MonotoneCubic = _Vanishing(self.times, self.alphas)
        else:
            self._log_alpha = _MonotoneCubic(self.times, self.alphas.log())
        self._log_sigma = _MonotoneCubic(self.times, self.sigmas.log())

    def alpha(self, t: Tensor) -> Tensor:
        """α of the level whose time is t; between the data and level 0, log α is linear in t."""
        below = self._log_alpha.first * t / self.eps
        return torch.where(t < self.eps, below, self._log_alpha(t)).exp()

    def sigma(self, t: Tensor) -> Tensor:
        """σ of the level whose time is t; between the data and level 0, σ is linear in t."""
        below = self.sigmas[0].item() * t / self.eps
        return torch.where(t < self.eps, below, self._log_sigma(t).exp())

    def f(self, t: Tensor) -> Tensor:
        """(log α)′ of the interpolant."""
        below = torch.full_like(t, self._log_alpha.first / self.eps)
        return torch.where(t < self.eps, below, self._log_alpha.slope(t))

    def g(self, t: Tensor) -> Tensor:
        """√(2 σ² ((log σ)′ − (log α)′)) of the interpolants."""
        sigma = self.sigma(t)
        growth = torch.where(
            t < self.eps,
            (self.sigmas[0].item() / self.eps) * sigma,
            sigma.square() * self._log_sigma.slope(t),
        )
        return (2 * (growth - self.f(t) * sigma.square())).sqrt()

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives of the interpolants of α and σ."""
        first = self.sigmas[0].item() / self.eps
        below = self._log_alpha.first / self.eps * self.alpha(t)
        return (
            torch.where(t < self.eps, below, self._log_alpha.growth(t)),
            torch.where(t < self.eps, first, self._log_sigma.growth(t)),
        )

    def prior(self, shape: tuple[int, ...]) -> Prior:
        """The base's prior."""
        return self.base.prior(shape)

    def label(self, t: Tensor) -> Tensor:
        """The integer level i at time t_i, and the number between two of them elsewhere."""
        return (t - self.eps) / (self.T - self.eps) * (self.steps - 1)

    def levels(self, steps: int) -> tuple[Tensor, Tensor]:
        """The chain's own table: a chain is not discretized twice.

        Raises:
            ValueError: steps is not this chain's own number of levels.
        """
        if steps != self.steps:
            raise ValueError(
                f"this chain has {self.steps} levels, not {steps}; discretize its base instead"
            )
        return self.alphas, self.sigmas

    def to_levels(self, t: Tensor) -> Tensor:
        """The time of the level in whose cell t falls.

        [t_0, T] is divided into N equal cells, one for each level, so that a uniform time becomes a
        uniform level.
        """
        return self._times_of(self._level(t).clamp(min=0))

    def to_grid(self, t: Tensor) -> Tensor:
        """The levels nearest to a decreasing grid, each at most once; t_0 becomes the data.

        Raises:
            ValueError: The grid has more steps than the chain has levels.
        """
        if len(t) > self.steps + 1:
            raise ValueError(
                f"a grid of {len(t) - 1} steps does not fit on a chain of {self.steps} levels; "
                f"use steps ≤ {self.steps}"
            )
        levels = self._level(t).tolist()
        for k in range(1, len(levels)):  # a level taken twice moves to the next free one below
            levels[k] = min(levels[k], levels[k - 1] - 1)
        for k in reversed(range(len(levels))):  # and up again, where there are none left below
            levels[k] = max(levels[k], len(levels) - 2 - k)
        return self._times_of(torch.tensor(levels))

    def _level(self, t: Tensor) -> Tensor:
        """Number of the level in whose cell t falls, −1 for t_0 and before."""
        cell = (t.double() - self.eps) / (self.T - self.eps) * self.steps
        # The tolerance keeps a cell's upper edge in its cell in spite of rounding.
        return torch.ceil(cell - 1e-9).long().clamp(0, self.steps) - 1

    def _times_of(self, level: Tensor) -> Tensor:
        times = self.times.to(level.device)
        return torch.where(level < 0, torch.zeros_like(times[0]), times[level.clamp(min=0)])


def _checked(base: SDE, steps: int, to_noise: bool) -> tuple[Tensor, Tensor]:
    """The base's table, after checking that λ = log(α/σ) exists and falls from level to level.

    With `to_noise` its last level may have α = 0. The error names a chain that works, if any.
    """
    table = base.levels(steps)
    level = _first_bad(*table, to_noise)
    if level is None:
        return table
    alpha, sigma = (column[level].item() for column in table)
    more = (steps * 2**k for k in range(1, 7))
    works = next((n for n in more if _first_bad(*base.levels(n), to_noise) is None), None)
    instead = (
        f"use discretize({works})" if works else "end its table with the last level that has both"
    )
    if _first_bad(*table, True) is None:
        instead += f", or use discretize({steps}, zero_terminal_snr=True)"
    raise ValueError(
        f"level {level} of this chain of {steps} levels has alpha = {alpha:g} and sigma = "
        f"{sigma:g}; both must be finite and > 0, and alpha/sigma must fall from level to level "
        f"(no level may be noise alone); {instead}"
    )


def _without_signal(alphas: Tensor, sigmas: Tensor) -> tuple[Tensor, Tensor]:
    """The table of a variance-preserving chain, moved until its last level is pure noise."""
    if not bool(((alphas.square() + sigmas.square() - 1).abs() < 1e-9).all()):
        raise ValueError(
            "zero_terminal_snr is of chains that preserve the variance, α² + σ² = 1, as those over "
            "VP (sde=ddpm, sde=iddpm); use one of these, or zero_terminal_snr=false"
        )
    first, last = alphas[0], alphas[-1]
    alphas = (alphas - last) * (first / (first - last))
    return alphas, ((1 - alphas) * (1 + alphas)).sqrt()


def _first_bad(alphas: Tensor, sigmas: Tensor, to_noise: bool) -> int | None:
    """Index of the first level without α > 0, σ > 0 or a λ below that of the level before.

    With `to_noise` the last level may have α = 0.
    """
    smallest = torch.finfo(torch.float64).tiny
    seen = alphas >= smallest
    seen[-1] |= to_noise and bool(alphas[-1] == 0)
    good = seen & (sigmas >= smallest) & alphas.isfinite() & sigmas.isfinite()
    falls = (alphas.log() - sigmas.log()).diff() < 0
    good = good & torch.cat([torch.ones_like(falls[:1]), falls])
    return None if bool(good.all()) else int((~good).nonzero()[0])


class _MonotoneCubic:
    """A monotone cubic interpolant of a table (Fritsch & Carlson 1980), with its derivative.

    SciPy computes the coefficients; evaluation is torch's, on any device and differentiable.
    """

    def __init__(self, knots: Tensor, values: Tensor) -> None:
        self.first = values[0].item()
        self._knots = knots
        coefficients = PchipInterpolator(knots.numpy(), values.numpy()).c
        self._coefficients = torch.from_numpy(np.ascontiguousarray(coefficients))

    def _piece(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Offset from the knot below t, and the four coefficients there."""
        knots = self._knots.to(t.device)
        index = torch.searchsorted(knots, t.detach().double().contiguous(), right=True) - 1
        index = index.clamp(0, len(knots) - 2)
        return t - knots[index].to(t.dtype), self._coefficients.to(t.device)[:, index].to(t.dtype)

    def __call__(self, t: Tensor) -> Tensor:
        u, (c3, c2, c1, c0) = self._piece(t)
        return ((c3 * u + c2) * u + c1) * u + c0

    def slope(self, t: Tensor) -> Tensor:
        """Derivative of the interpolant."""
        u, (c3, c2, c1, _) = self._piece(t)
        return (3 * c3 * u + 2 * c2) * u + c1

    def growth(self, t: Tensor) -> Tensor:
        """Derivative of the exponential of the interpolant."""
        return self.slope(t) * self(t).exp()


class _Vanishing(_MonotoneCubic):
    """log α of a table whose last α is 0: α falls to 0 linearly before the last knot."""

    def __init__(self, knots: Tensor, values: Tensor) -> None:
        super().__init__(knots[:-1], values[:-1].log())
        self._start, self._end = knots[-2].item(), knots[-1].item()
        self._fall = values[-2].item() / (self._end - self._start)

    def __call__(self, t: Tensor) -> Tensor:
        return torch.where(
            t > self._start, (self._fall * (self._end - t)).log(), super().__call__(t)
        )

    def slope(self, t: Tensor) -> Tensor:
        """Derivative of log α, −∞ at the last knot."""
        return torch.where(t > self._start, -1 / (self._end - t), super().slope(t))

    def growth(self, t: Tensor) -> Tensor:
        """Derivative of α, which is finite at the last knot too."""
        return torch.where(t > self._start, -self._fall, super().growth(t))
