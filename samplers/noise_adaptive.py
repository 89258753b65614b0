"""Schedules that follow the estimated noise level of each sample."""

from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise

import torch
from torch import Tensor

from scoresde.sde import SDE, Score, expand
from scoresde.sde.checks import check_steps, check_switch

from .base import Sampler
from .context import SamplingContext
from .grids.grid import Grid, UniformGrid
from .solvers.predictors import Predictor
from .solvers.variance import NotFitted
from .stability import check_plan

Estimator = Callable[[Tensor], Tensor]
"""estimator(x) → λ̂, half the log signal-to-noise ratio of each state, shape (B,)."""

KNOTS = 1024  # of the table t(λ), in addition to the times of the grid


class NoiseAdaptive(Sampler):
    """A predictor whose remaining steps follow the estimated noise level of each sample.

        λ_i ← clamp(λ̂(x), max(λ_{i−1}, G_{i−1}), G_{i+1}),
        λ_{i+1} = clamp(λ_i + (Λ_N − λ_i) (Λ_{i+1} − Λ_i)/(Λ_N − Λ_i), G_i, G_{i+2})

    Λ is the grid in λ and its remaining shape is laid affinely over what is left, [λ_i, Λ_N]; the
    predictor then steps from t(λ_i) to t(λ_{i+1}), each sample by its own times. A perfect
    estimator reproduces the grid.

    The first estimate may lie anywhere on the grid, [Λ_0, Λ_N]; the grid laid over [λ_0, Λ_N] is
    G, that of the sample. Every later estimate and plan stays between the neighbours G_{i−1} and
    G_{i+1}, so that errors of the estimator shift a sample by at most one step; and no estimate
    lies before the beginning λ_{i−1} of the last step, so that times only fall. The last step ends
    where the grid ends. Data at time 0 have λ = ∞: there Λ_N is the last time with noise, and the
    last step goes from any λ to the data. On a chain times are those of levels.

    From D coordinates λ is known to about 1/√(2D) at best: in the plane, estimates do harm.
    Evaluations of the estimator do not count as evaluations of the score.

    Args:
        predictor: Predictor, whose step needs one evaluation.
        estimator: λ̂(x) of shape (B,); None keeps the grid as it is, for comparison.
        steps: Number of steps ≥ 1.
        grid: Rule for the times; `UniformGrid()` where not given.
        every: Steps from one estimate to the next ≥ 1.
        denoise: Return the mean of the last update, without its noise.

    Raises:
        ValueError: steps or every is not an integer ≥ 1.
        TypeError: The predictor is not a `Predictor`.

    Reference: San-Roman, Nachmani & Wolf 2021, arXiv:2104.02600 (section 3.3), who fit a linear
    or a Fibonacci schedule to the estimate instead.
    """

    def __init__(
        self,
        predictor: Predictor,
        estimator: Estimator | None = None,
        steps: int = 20,
        *,
        grid: Grid | None = None,
        every: int = 1,
        denoise: bool = True,
    ) -> None:
        if not isinstance(predictor, Predictor):
            raise TypeError(
                f"predictor must be a one-evaluation Predictor such as DDIM(), got {predictor!r}; "
                "the weights of other solvers belong to a fixed grid"
            )
        self.predictor, self.estimator = predictor, estimator
        self.steps, self.every = check_steps(steps), check_steps(every, "every")
        self.grid, self.denoise = grid or UniformGrid(), check_switch(denoise, "denoise")

    def check(self, sde: SDE, dtype: torch.dtype) -> None:
        """Raise ValueError if the grid does not fit the process, or the predictor does not."""
        sde.check_signal("a schedule that follows an estimate of the noise")
        times = self.grid(sde, self.steps)
        with suppress(NotFitted):
            check_plan(sde, self.predictor.plan(sde, times), dtype)

    def states(self, sde: SDE) -> int:
        return self.steps + 1

    def run(self, sde: SDE, score: Score, x: Tensor, run: SamplingContext) -> Tensor:
        """Carry x from T to the end of the grid, each sample by its own times."""
        if run.encode:
            raise ValueError(
                "a schedule that depends on the state cannot be run backwards, so this sampler "
                "cannot encode; use ProbabilityFlowODE, or PredictorCorrector(DDIM())"
            )
        sde.check_signal("a schedule that follows an estimate of the noise")
        times = self.grid(sde, self.steps)
        plan = self.predictor.plan(sde, times)
        check_plan(sde, plan, x.dtype)
        clock = _AdaptedGrid(sde, times, x.device)
        lam = torch.full((len(x),), clock.first, dtype=torch.float64, device=x.device)
        own, began, mean, t_next = lam, lam, x, lam
        run.begin(self.steps, x)
        for i in range(self.steps):
            if i == 0:
                own = lam = self._estimate(x, lam).clamp(clock.first, clock.last)
            elif i % self.every == 0:
                low, high = clock.node(own, i - 1), clock.node(own, i + 1)
                lam = self._estimate(x, lam).clamp(torch.maximum(began, low), high)
            began, lam = lam, clock.advance(lam, own, i)
            t, t_next = clock.step(began, lam, i)
            mean, std = self.predictor.transition(sde, score, x, t, t_next)
            x = torch.addcmul(mean, expand(std, x), run.noise(x)) if plan.draws_noise else mean
            x = run.constrain(x, t_next)
            run.visit(i + 1, t_next, x)
        return run.finish(mean, t_next) if self.denoise else x

    def _estimate(self, x: Tensor, planned: Tensor) -> Tensor:
        """λ̂ of each state, float64, shape (B,); without an estimator, the λ planned."""
        if self.estimator is None:
            return planned
        lam = self.estimator(x).detach()
        if lam.shape != planned.shape:
            raise ValueError(
                f"estimator must return λ of shape {tuple(planned.shape)}, got {tuple(lam.shape)}"
            )
        return lam.double()


class _AdaptedGrid:
    """A grid in λ, and t(λ) as a table that is looked up without waiting for the device.

    Args:
        sde: Process.
        times: Times of the grid, shape (N + 1,).
        device: Device of the states.
    """

    def __init__(self, sde: SDE, times: Tensor, device: torch.device) -> None:
        grid = sde.half_log_snr(times[sde.sigma(times) > 0])
        self.sde, self.end = sde, times[-1].to(device)
        self.first, self.last = grid[0].item(), grid[-1].item()
        left = (self.last - grid).tolist()
        left += [0.0] * (len(times) - len(grid))
        # Each step as a part of what is left, and the share of the whole before it.
        self._parts = [1 - after / before if before else 0.0 for before, after in pairwise(left)]
        self._shares = [1 - rest / left[0] if left[0] else 0.0 for rest in left]
        self._to_data = len(times) - 1 if len(grid) < len(times) else None
        dense = torch.linspace(self.first, self.last, KNOTS, dtype=torch.float64)
        # The table contains the grid, so that a perfect estimate gives its times exactly.
        knots = torch.cat([grid, dense[1:-1]]).unique()
        self._knots, self._times = knots.to(device), sde.time_of_half_log_snr(knots).to(device)

    def node(self, own: Tensor, i: int) -> Tensor:
        """G_i: the grid's λ number i, laid over [own, Λ_N]; Λ_N beyond its end."""
        return own + (self.last - own) * self._shares[min(i, len(self._shares) - 1)]

    def advance(self, lam: Tensor, own: Tensor, i: int) -> Tensor:
        """λ_{i+1}, after step i from λ_i."""
        plan = lam + (self.last - lam) * self._parts[i]
        return plan.clamp(self.node(own, i), self.node(own, i + 2))

    def step(self, lam: Tensor, lam_next: Tensor, i: int) -> tuple[Tensor, Tensor]:
        """The times t and t_next ≤ t of step i, (B,) each."""
        t = self.time(lam)
        if i + 1 == self._to_data:
            return t, self.end.expand(len(t))
        t_next = self.time(lam_next)
        # A step of rounding size, at the end, has no sign: the sample stays there.
        return t, torch.where(t - t_next > 1e-12 * self.sde.T, t_next, t)

    def time(self, lam: Tensor) -> Tensor:
        """t(λ) of each sample, or the level in whose cell it falls."""
        if len(self._knots) == 1:  # a single step to the data
            return self._times.expand(len(lam))
        k = torch.searchsorted(self._knots, lam).clamp(1, len(self._knots) - 1)
        low, high = self._knots[k - 1], self._knots[k]
        t = torch.lerp(self._times[k - 1], self._times[k], (lam - low) / (high - low))
        return self.sde.to_levels(t)
