"""Predictor-corrector sampling, the loop of all samplers with fixed steps."""

from contextlib import suppress

import torch
from torch import Tensor

from scoresde.sde import SDE, Score
from scoresde.sde.checks import check_choice, check_steps, check_switch

from .base import Sampler
from .context import SamplingContext
from .grids.grid import Grid, UniformGrid
from .langevin import Corrector
from .solvers.folding import fold, merge
from .solvers.plan import Plan, State, Step, tabulate
from .solvers.solver import Solver, from_noise_alone
from .solvers.variance import NotFitted
from .stability import check_plan, spread


class PredictorCorrector(Sampler):
    """Predictor steps between times, corrector steps at each time, or either alone.

        for i = 0 … N − 1:   x ← Predictor(x, t_i → t_{i+1});   x ← Corrector(x, t_{i+1})

    That is `order="predictor-first"`, the paper's algorithm 1; noiseless data have no score and are
    not corrected. With `corrector-first`, as in the reference implementation, each step corrects at
    t_i and then predicts. Any solver with fixed steps is a predictor, of any order.

    Args:
        predictor: Solver; None for a corrector alone, at every time except the last.
        corrector: Corrector; None for a predictor alone. A multistep solver takes none, since the
            evaluations that it remembers would not lie on the corrected path.
        steps: Number of steps ≥ 1.
        grid: Rule for the times; `UniformGrid()` where not given.
        order: `corrector-first` or `predictor-first`.
        denoise: Return the mean of the last update, without its noise.

    Raises:
        ValueError: Neither predictor nor corrector, steps not an integer ≥ 1, or another order.
        TypeError: The predictor is not a Solver, or the corrector not a Corrector.

    Reference: Song et al. 2021, arXiv:2011.13456 (algorithms 1 to 3).
    """

    def __init__(
        self,
        predictor: Solver | None = None,
        corrector: Corrector | None = None,
        steps: int = 500,
        *,
        grid: Grid | None = None,
        order: str = "corrector-first",
        denoise: bool = True,
    ) -> None:
        if predictor is None and corrector is None:
            raise ValueError("PredictorCorrector needs a predictor, a corrector, or both; got none")
        check_choice("order", order, "corrector-first", "predictor-first")
        if not isinstance(predictor, Solver | None):
            raise TypeError(f"predictor must be a Solver or None, got {predictor!r}")
        if not isinstance(corrector, Corrector | None):
            raise TypeError(f"corrector must be a Corrector or None, got {corrector!r}")
        self.predictor, self.corrector = predictor, corrector
        self.steps, self.grid = check_steps(steps), grid or UniformGrid()
        self.order, self.denoise = order, check_switch(denoise, "denoise")

    def run(self, sde: SDE, score: Score, x: Tensor, run: SamplingContext) -> Tensor:
        """Carry x from T to the end of the grid (algorithm 1), or from data to T (`encode`)."""
        plan = self._prepare(sde, x.dtype, run)
        state = State(plan, score, x, run)
        for step in plan:
            state.correct(self.corrector, step.before)
            state.predict(step)
            state.correct(self.corrector, step.after)
            state.arrive(step)
        return run.finish(state.mean, step.t_next) if self.denoise else state.x

    def check(self, sde: SDE, dtype: torch.dtype) -> None:
        """Raise ValueError if the grid does not fit the process, or the solver does not."""
        times = self.grid(sde, self.steps)
        with suppress(NotFitted):  # it is fitted on data before the run
            check_plan(sde, self._plan(sde, times), dtype, self.corrector)

    def states(self, sde: SDE) -> int:
        return len(self._plan(sde, self.grid(sde, self.steps))) + 1

    def _prepare(self, sde: SDE, dtype: torch.dtype, run: SamplingContext) -> Plan:
        """The steps of a run, in as few operations as possible.

        Raises:
            ValueError: States would grow or be lost to rounding; the prior does not fit the grid.
        """
        times = self.grid(sde, self.steps)
        if run.drawn:
            check_prior(sde, times[0])
        plan = self._plan(sde, self._towards_noise(sde, times) if run.encode else times)
        if run.constraint is not None and plan.is_multistep:
            raise ValueError(
                "a constraint moves the state off the path on which a multistep solver's memory "
                "lies; use a single-step predictor, such as DDIM() (sampler/predictor=ddim)"
            )
        check_plan(sde, plan, dtype, self.corrector)
        return fold(plan if run.watched else merge(plan))

    def _plan(self, sde: SDE, times: Tensor) -> Plan:
        """The predictor's steps, or empty ones, with the levels at which the corrector works."""
        if self.predictor is None:
            plan = tabulate(times)
        else:
            plan = from_noise_alone(sde, times, self.predictor.plan)
        return plan if self.corrector is None else self._place(self.corrector, sde, plan)

    def _place(self, corrector: Corrector, sde: SDE, plan: Plan) -> Plan:
        """The plan with the levels at which a corrector works before or after each step."""
        if plan.is_multistep:
            raise ValueError(
                "a corrector moves the state off the path on which a multistep solver's memory "
                "lies; use a single-step predictor next to it, or sampler/corrector=none"
            )
        times, first = plan.times, self.order == "corrector-first"
        start, end = times[:-1], times[1:]
        if first:
            levels, works = corrector.levels(sde, start, end), sde.alpha(start) > 0
        else:  # the last time has none below it but itself
            below = torch.cat([end[1:], end[-1:]])
            levels, works = corrector.levels(sde, end, below), sde.sigma(end) > 0
        steps = list[Step]()
        for step, level, work in zip(plan, levels, works.tolist(), strict=True):
            here = level if work else None  # neither noise alone nor noiseless data is corrected
            steps.append(step._replace(before=here) if first else step._replace(after=here))
        return Plan(tuple(steps))

    def _towards_noise(self, sde: SDE, times: Tensor) -> Tensor:
        """The grid in rising order, from its lowest time with noise.

        Raises:
            ValueError: A corrector, or steps that draw noise.
        """
        if not sde.alpha(times[0]) > 0:
            sde.check_signal("encoding")
        if self.corrector is not None or self._plan(sde, times).draws_noise:
            raise ValueError(
                "encoding follows a deterministic path, and this sampler draws noise; use "
                "ProbabilityFlowODE, or PredictorCorrector(DDIM()) without a corrector"
            )
        noisy = times[sde.sigma(times) > 0]
        if len(noisy) < 2:
            raise ValueError(
                f"a grid of {len(times) - 1} steps has only {len(noisy)} times with noise, and "
                "encoding needs two; use more steps"
            )
        return noisy.flip(0)


def check_prior(sde: SDE, t: Tensor) -> None:
    """Refuse to start from the prior at a time at which states have another width."""
    here, top = spread(sde, torch.stack([t, torch.as_tensor(sde.T, dtype=t.dtype)])).sqrt().tolist()
    if abs(here / top - 1) > 0.01:
        raise ValueError(
            f"the grid begins at t={t.item():g}, below T={sde.T:g}, where states are not as wide "
            "as the prior; begin at T, or give a state at that time as x_init"
        )
