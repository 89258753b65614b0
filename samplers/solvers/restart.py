"""Restart sampling: a solver that repeats a part of its path after noise is added."""

import torch
from torch import Tensor

from scoresde.sde import SDE
from scoresde.sde.checks import check_steps

from .plan import Plan, Stage, tabulate
from .solver import Solver


class Restart(Solver):
    """A solver that adds noise at σ_min up to σ_max and returns to σ_min, K times.

        x_{t_max} = a x_{t_min} + b z,   then the solver from t_max to t_min   (algorithm 1)

    The noise contracts the errors of the earlier steps, to which a deterministic solver adds few.
    σ stands for σ/α. t_min and t_max are the times of the grid nearest to σ_min and σ_max.

    Args:
        solver: Deterministic solver.
        restarts: K ≥ 1.
        sigma_min: σ/α before the noise is added.
        sigma_max: σ/α after it, > sigma_min.

    Raises:
        ValueError: A constant out of its range, a solver that draws noise itself, or a grid
            without two times with noise.
        TypeError: solver is not a Solver.

    Reference: Xu et al. 2023, arXiv:2306.14878 (algorithm 1).
    """

    def __init__(
        self,
        solver: Solver,
        restarts: int = 2,
        sigma_min: float = 0.05,
        sigma_max: float = 0.3,
    ) -> None:
        if not 0 < sigma_min < sigma_max < float("inf"):
            raise ValueError(
                f"a restart needs 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}"
            )
        if not isinstance(solver, Solver):
            raise TypeError(f"solver must be a Solver, got {solver!r}")
        self.solver, self.restarts = solver, check_steps(restarts, "restarts")
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def plan(self, sde: SDE, times: Tensor) -> Plan:
        top, bottom = self._interval(sde, times)
        again = times[top : bottom + 1]
        a, b = sde.transition(times[bottom], times[top])
        up = tabulate(again[[-1, 0]], Stage(a, (), [b]))
        steps = self.solver.plan(sde, times[: bottom + 1])
        if steps.draws_noise:
            raise ValueError(
                "restarts are the noise of a deterministic solver, and this one draws its own; "
                "use Restart(EDMHeun()), or the solver without restarts"
            )
        for _ in range(self.restarts):
            steps = steps + up + self.solver.plan(sde, again)
        rest = times[bottom:]
        return steps + self.solver.plan(sde, rest) if len(rest) > 1 else steps

    def _interval(self, sde: SDE, times: Tensor) -> tuple[int, int]:
        """Numbers of the grid's times nearest to σ_max and σ_min."""
        noisy = sde.half_log_snr(times[sde.sigma(times) > 0])
        bounds = torch.tensor([self.sigma_max, self.sigma_min], dtype=torch.float64)
        if len(noisy) < 2:
            raise ValueError(
                "a restart needs a grid of at least two times with noise; use more steps"
            )
        top, bottom = ((noisy + bound.log()).abs().argmin().item() for bound in bounds)
        bottom = max(int(bottom), 1)
        return min(int(top), bottom - 1), bottom
