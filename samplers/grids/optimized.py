"""The grid that minimizes the error of a solver on Gaussian data."""

import numpy as np
import torch
from scipy.optimize import least_squares
from torch import Tensor

from scoresde.sde import SDE

from ..context import SamplingContext
from ..solvers.folding import fold
from ..solvers.plan import State
from ..solvers.solver import Solver
from ..solvers.variance import NotFitted
from .grid import Grid, check_half_log_snr, last_time

MOST_STEPS = 64


class OptimizedGrid(Grid):
    """The N steps that minimize a solver's error on Gaussian data.

        min over λ_1 … λ_{N−1} of Σ_ℓ (x_N(ℓ) − √(α² ℓ + σ²))²

    x_N(ℓ) is the end of the solver's path from one standard deviation of data N(0, ℓ), whose
    probability flow is known exactly, for 24 variances ℓ. The grid depends only on the process, the
    solver and the number of steps, and is computed once, in about a second.

    Args:
        solver: Deterministic solver that will run on the grid.
        smallest: Smallest ℓ > 0, the variance of the details of the data.
        largest: Largest ℓ, the variance of the data as a whole.
        eps: Last time in (0, T); the process's own `sampling_eps` where not given.

    Raises:
        ValueError: A solver that draws noise, more than 64 steps, or not 0 < smallest < largest.
        TypeError: solver is not a Solver.

    Reference: Xue et al. 2024, arXiv:2402.17376, minimize a bound of the error; for Gaussian data
    the error itself is known.
    """

    def __init__(
        self,
        solver: Solver,
        smallest: float = 0.01,
        largest: float = 2.0,
        eps: float | None = None,
    ) -> None:
        if not 0 < smallest < largest < float("inf"):
            raise ValueError(f"variances need 0 < smallest < largest, got {smallest}, {largest}")
        if not isinstance(solver, Solver):
            raise TypeError(f"steps are optimized for a Solver, got {solver!r}; use grid=log_snr")
        self.solver, self.eps = solver, eps
        self.variances = torch.logspace(
            np.log10(smallest), np.log10(largest), 24, dtype=torch.float64
        )
        self._found: dict[tuple[SDE, int], Tensor] = {}

    def place(self, sde: SDE, steps: int) -> Tensor:
        check_half_log_snr(sde, "optimized")
        if steps > MOST_STEPS:
            raise ValueError(
                f"steps are optimized up to {MOST_STEPS}, got {steps}; use grid=log_snr, which "
                "costs nothing and is as good for many steps"
            )
        if (sde, steps) not in self._found:
            self._found[sde, steps] = self._search(sde, steps)
        return sde.to_grid(self._found[sde, steps])

    def _search(self, sde: SDE, steps: int) -> Tensor:
        ends = torch.tensor([sde.T, last_time(sde, self.eps)], dtype=torch.float64)
        first, last = sde.half_log_snr(ends).tolist()

        def times(logits: np.ndarray) -> Tensor:
            shares = np.exp(logits - logits.max())
            lam = first + (last - first) * np.cumsum(shares)[:-1] / shares.sum()
            return torch.cat([ends[:1], sde.time_of_half_log_snr(torch.from_numpy(lam)), ends[1:]])

        even = np.zeros(steps)
        if self._is_random(sde, times(even)):
            raise ValueError(
                "steps are optimized for deterministic solvers, and this one draws noise; "
                "use grid=log_snr"
            )
        if steps == 1:
            return ends
        found = least_squares(lambda u: self._errors(sde, times(u)), even, max_nfev=40)
        return times(found.x)

    def _is_random(self, sde: SDE, times: Tensor) -> bool:
        try:
            return self.solver.plan(sde, times).draws_noise
        except NotFitted:  # what is not fitted is the variance of its noise
            return True

    def _errors(self, sde: SDE, times: Tensor) -> np.ndarray:
        """The difference of the ends of the solver and of the flow, for each ℓ."""

        def spread(t: Tensor) -> Tensor:
            return (sde.alpha(t).square() * self.variances + sde.sigma(t).square())[:, None]

        def score(x: Tensor, t: Tensor) -> Tensor:
            return -x / spread(t)

        plan = fold(self.solver.plan(sde, times))
        state = State(plan, score, spread(times[0]).sqrt(), SamplingContext())
        for step in plan:
            state.predict(step)
        return (state.x - spread(times[-1]).sqrt()).flatten().numpy()
