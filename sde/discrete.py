"""The chains: processes tabulated on levels, which are again processes to all that use them."""

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from .base import SDE, check_steps
from .prior import Prior


class Discretized(SDE):
    """A process on N levels: DDPM over VP, NCSN over VE, a chain over any other.

        x_i = a_i x_{i−1} + b_i z,   a_i = α_i/α_{i−1},   b_i² = σ_i² − a_i² σ_{i−1}²,
        α_{−1} = 1,   σ_{−1} = 0

    Level i has the time t_i = linspace(t_0, T, N)_i with t_0 = the base's `sampling_eps`, and
    time 0 is the data, level −1. Between levels log α and log σ are monotone cubic interpolants of
    the tables, and f and g are their exact derivatives, so solvers of any kind run on a chain.

    Args:
        base: Process whose `levels` are tabulated.
        steps: Number of levels N ≥ 2.

    Raises:
        ValueError: steps is not an integer ≥ 2, or the base has no such chain.

    Reference: Ho et al. 2020, arXiv:2006.11239 (eq. 2, 4); Song & Ermon 2019, arXiv:1907.05600.
    """

    steps: int

    def __init__(self, base: SDE, steps: int) -> None:
        if check_steps(steps) < 2:
            raise ValueError(f"steps must be an integer ≥ 2 for a chain, got {steps}")
        self.base, self.steps = base, int(steps)
        self.T, self.data_range = base.T, base.data_range
        self.eps = self.sampling_eps = base.sampling_eps
        self.alphas, self.sigmas = _checked(base, steps)
        self.times = torch.linspace(self.eps, self.T, steps, dtype=torch.float64)
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

    def prior(self, shape: tuple[int, ...]) -> Prior:
        """The base's prior."""
        return self.base.prior(shape)

    def label(self, t: Tensor) -> Tensor:
        """The integer level i at time t_i, and the number between two of them elsewhere."""
        return (t - self.eps) / (self.T - self.eps) * (self.steps - 1)

    def levels(self, steps: int) -> tuple[Tensor, Tensor]:
        """The base's table: a chain is not discretized twice.

        Raises:
            ValueError: steps is not this chain's own number of levels.
        """
        if steps != self.steps:
            raise ValueError(
                f"this chain has {self.steps} levels, not {steps}; discretize its base instead"
            )
        return self.alphas, self.sigmas

    def to_levels(self, t: Tensor) -> Tensor:
        """The level in whose cell t falls, as a time.

        [t_0, T] is cut into N equal cells, one for each level, so that a uniform draw becomes a
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
        # The slack keeps a cell's upper edge, computed with rounding, in its own cell.
        return torch.ceil(cell - 1e-9).long().clamp(0, self.steps) - 1

    def _times_of(self, level: Tensor) -> Tensor:
        times = self.times.to(level.device)
        return torch.where(level < 0, torch.zeros_like(times[0]), times[level.clamp(min=0)])


def _checked(base: SDE, steps: int) -> tuple[Tensor, Tensor]:
    """The base's table, in which each level has a λ = log(α/σ), lower than the one before.

    Raises:
        ValueError: A level has none; it is named, with a chain of this base that works, if any.
    """
    table = base.levels(steps)
    level = _first_bad(*table)
    if level is None:
        return table
    alpha, sigma = (column[level].item() for column in table)
    more = (steps * 2**k for k in range(1, 7))
    works = next((n for n in more if _first_bad(*base.levels(n)) is None), None)
    instead = (
        f"use discretize({works})" if works else "end its table with the last level that has both"
    )
    raise ValueError(
        f"level {level} of this chain of {steps} levels has alpha = {alpha:g} and sigma = "
        f"{sigma:g}; both must be finite and > 0, and alpha/sigma must fall from level to level "
        f"(no level may be noise alone); {instead}"
    )


def _first_bad(alphas: Tensor, sigmas: Tensor) -> int | None:
    """Number of the first level that has no α, no σ or no λ below the one before it."""
    smallest = torch.finfo(torch.float64).tiny
    good = (alphas >= smallest) & (sigmas >= smallest) & alphas.isfinite() & sigmas.isfinite()
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
        u, (c3, c2, c1, _) = self._piece(t)
        return (3 * c3 * u + 2 * c2) * u + c1
