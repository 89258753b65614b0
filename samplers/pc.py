"""Predictor-corrector sampling, of which all samplers with fixed steps are a case."""

from collections import deque
from contextlib import suppress

import torch
from torch import Tensor

from scoresde.sde import SDE, Score
from scoresde.sde.checks import check_steps, check_switch

from .base import Sampler
from .grids.grid import Grid, UniformGrid
from .langevin import Corrector, Level
from .run import Run
from .solvers.folding import fold, merge
from .solvers.solver import (
    NotCalibrated,
    Solver,
    Step,
    advance,
    depth,
    draws_noise,
    from_noise_alone,
    is_multistep,
    tabulate,
)
from .stability import check_plan

_Levels = list[Level | None]


class PredictorCorrector(Sampler):
    """A predictor that moves between times, a corrector that works at each, or either alone.

    The predictor is any solver with fixed steps, of any order; the whole table of its weights is
    computed before the first evaluation.

    With `order="corrector-first"`, as in the reference implementation, each step from t_i to
    t_{i+1} corrects at t_i and then predicts; with `predictor-first`, as in the paper's algorithm
    1, it predicts and then corrects at t_{i+1}, except at the data, which have no score.

    Args:
        predictor: Solver, or None for a corrector alone, which works at every time but the
            last and leaves x where it is between them.
        corrector: Corrector, or None for a predictor alone. Beside a multistep solver it is
            refused: it leaves the path on which the solver's memory lies.
        steps: Number of steps ≥ 1; not a property of the process.
        grid: Rule for the times; `UniformGrid()` where not given.
        order: `corrector-first` or `predictor-first`.
        denoise: Return the mean of the last update, without its noise.

    Raises:
        ValueError: Neither predictor nor corrector, steps not an integer ≥ 1, or another order.
        TypeError: A corrector in the predictor's place, or the reverse.

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
        if order not in ("corrector-first", "predictor-first"):
            raise ValueError(
                f"unknown order '{order}'. Available: corrector-first, predictor-first"
            )
        if not isinstance(predictor, Solver | None):
            raise TypeError(f"predictor must be a Solver or None, got {predictor!r}")
        if not isinstance(corrector, Corrector | None):
            raise TypeError(f"corrector must be a Corrector or None, got {corrector!r}")
        self.predictor, self.corrector = predictor, corrector
        self.steps, self.grid = check_steps(steps), grid or UniformGrid()
        self.order, self.denoise = order, check_switch(denoise, "denoise")

    @torch.no_grad()
    def calibrate(
        self, sde: SDE, score: Score, x0: Tensor, generator: torch.Generator | None = None
    ) -> None:
        """Let the predictor measure what it needs; see `Sampler.calibrate`."""
        if self.predictor is not None:
            self.predictor.calibrate(sde, score, x0, generator)

    def check(self, sde: SDE, dtype: torch.dtype) -> None:
        """Raise ValueError if the grid does not fit on the process, or the solver not on it."""
        times = self.grid(sde, self.steps)
        with suppress(NotCalibrated):  # what it misses it gets from data, before the run
            self._check_steps(sde, self._plan(sde, times), dtype)

    def states(self, sde: SDE) -> int:
        """How many states a run passes through: one more than the steps of the plan."""
        return len(self._plan(sde, self.grid(sde, self.steps))) + 1

    def run(self, sde: SDE, score: Score, x: Tensor, run: Run) -> Tensor:
        """Carry x from T to the end of the grid, or back where latents are asked for."""
        times = self.grid(sde, self.steps)
        if run.drawn:
            _check_prior(sde, times[0])
        steps = self._plan(sde, self._towards_noise(sde, times) if run.encode else times)
        before, after = self._check_steps(sde, steps, x.dtype)
        steps = fold(steps if run.watched else merge(steps))
        memory, mean, spare = deque[Tensor](maxlen=depth(steps)), x, None
        run.begin(len(steps), x)
        for i, step in enumerate(steps):
            if self.corrector is not None and (level := before[i]):
                x, mean = self.corrector.step(level, score, x, run.noise)
                x = run.constrain(x, step.t)
            if step.rows:
                x, mean = advance(step, score, x, memory, run.noise, spare)
                spare = mean if mean is not x else None  # nobody else has seen a mean beside noise
                x = run.constrain(x, step.t_next)
            if self.corrector is not None and (level := after[i]):
                x, mean = self.corrector.step(level, score, x, run.noise)
                x = run.constrain(x, step.t_next)
            run.visit(i + 1, step.t_next, x)
        return run.constrain(mean, steps[-1].t_next) if self.denoise else x

    def _check_steps(
        self, sde: SDE, steps: list[Step], dtype: torch.dtype
    ) -> tuple[_Levels, _Levels]:
        """Where the corrector works; ValueError if a state would not survive these steps."""
        before, after = self._levels(sde, steps)
        check_plan(
            sde, steps, dtype, self.corrector, [b or a for b, a in zip(before, after, strict=True)]
        )
        return before, after

    def _plan(self, sde: SDE, times: Tensor) -> list[Step]:
        """The predictor's steps, or empty ones."""
        if self.predictor is None:
            return tabulate(times)
        steps = from_noise_alone(sde, times, self.predictor.plan)
        if self.corrector is not None and is_multistep(steps):
            raise ValueError(
                "a corrector moves the state off the path on which a multistep solver's memory "
                "lies; use a single-step predictor beside it, or sampler/corrector=none"
            )
        return steps

    def _levels(self, sde: SDE, steps: list[Step]) -> tuple[_Levels, _Levels]:
        """Where the corrector works before and after each step; nowhere on noiseless data."""
        nowhere: _Levels = [None] * len(steps)
        if self.corrector is None:
            return nowhere, nowhere
        starts, ends = (
            torch.stack(times) for times in zip(*(step[:2] for step in steps), strict=True)
        )
        if self.order == "corrector-first":
            levels = self.corrector.levels(sde, starts, ends)
            signal = (sde.alpha(starts) > 0).tolist()
            return [a if b else None for a, b in zip(levels, signal, strict=True)], nowhere
        below = torch.cat([ends[1:], ends[-1:]])  # the last time has none below it but itself
        levels = self.corrector.levels(sde, ends, below)
        return nowhere, [level if level.sigma > 0 else None for level in levels]

    def _towards_noise(self, sde: SDE, times: Tensor) -> Tensor:
        """The grid run backwards, from its lowest time with noise.

        Raises:
            ValueError: A corrector, or steps that draw noise, which no latent could undo.
        """
        if not sde.alpha(times[0]) > 0:
            sde.check_signal("encoding")
        if self.corrector is not None or draws_noise(self._plan(sde, times)):
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


def _check_prior(sde: SDE, t: Tensor) -> None:
    """Refuse to start a draw from the prior at a time where states are not as wide.

    Where α² + σ² = 1 throughout, any time will do.
    """
    here, top = (
        (sde.alpha(s).square() + sde.sigma(s).square()).sqrt().item()
        for s in (t, torch.as_tensor(sde.T, dtype=t.dtype))
    )
    if abs(here / top - 1) > 0.01:
        raise ValueError(
            f"the grid begins at t={t.item():g}, below T={sde.T:g}, where states are not as wide "
            "as the prior; begin at T, or give a state at that time as x_init"
        )
