"""Predictor-corrector sampling, of which most samplers with fixed steps are a case."""

from itertools import pairwise

import torch
from torch import Tensor

from sde import SDE, Score
from sde.base import check_steps

from .base import Run, Sampler
from .correctors import AnnealedLangevinStep, Corrector
from .grid import Grid, UniformGrid
from .predictors import Predictor, Rescale


class PredictorCorrector(Sampler):
    """A predictor that moves between times, a corrector that works at each, or either alone.

    With `order="corrector-first"`, as in the reference implementation, each step from t_i to
    t_{i+1} corrects at t_i and then predicts; with `predictor-first`, as in the paper's algorithm
    1, it predicts and then corrects at t_{i+1}, except at the data, which have no score.

    Args:
        predictor: Predictor, or None for a corrector alone, which works at every time but the
            last and leaves x where it is between them.
        corrector: Corrector, or None for a predictor alone.
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
        predictor: Predictor | None = None,
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
        if not isinstance(predictor, Predictor | None):
            raise TypeError(f"predictor must be a Predictor or None, got {predictor!r}")
        if not isinstance(corrector, Corrector | None):
            raise TypeError(f"corrector must be a Corrector or None, got {corrector!r}")
        self.predictor, self.corrector = predictor, corrector
        self.steps, self.grid = check_steps(steps), grid or UniformGrid()
        self.order, self.denoise = order, denoise

    def check(self, sde: SDE, dtype: torch.dtype) -> None:
        """Raise ValueError if the grid does not fit on the process."""
        self.grid(sde, self.steps)

    def run(self, sde: SDE, score: Score, x: Tensor, run: Run) -> Tensor:
        """Carry x from T to the end of the grid."""
        times = list(self.grid(sde, self.steps))
        below = [*times[1:], times[-1]]  # the last time has none below it but itself
        mean = x
        run.begin(self.steps, x)
        for i, (t, t_next) in enumerate(pairwise(times)):
            if self.corrector is not None and self.order == "corrector-first":
                x, mean = self.corrector.step(sde, score, x, t, t_next, run.noise)
                x = run.constrain(x, t)
            if self.predictor is not None:
                x, mean = self.predictor.step(sde, score, x, t, t_next, run.noise)
                x = run.constrain(x, t_next)
            if self.corrector is not None and self.order == "predictor-first" and t_next > 0:
                x, mean = self.corrector.step(sde, score, x, t_next, below[i + 1], run.noise)
                x = run.constrain(x, t_next)
            run.visit(i + 1, t_next, x)
        return run.constrain(mean, times[-1]) if self.denoise else x


class AnnealedLangevin(Sampler):
    """Annealed Langevin dynamics: Langevin steps at one noise level after another.

    On `VE.discretize(N)` this is the sampler of NCSN. On any other process it does to x/α what
    NCSN does to x: between levels x/α stays, and Langevin steps do all the rest. It ends with the
    posterior mean at the lowest level, (x + σ² s)/α.

    Args:
        steps: Steps of the grid ≥ 1; its times, but for the data at time 0, are the levels.
        snr: r > 0 of `AnnealedLangevinStep`.
        n_steps: Langevin steps at each level ≥ 1.
        grid: Rule for the times; `UniformGrid()` where not given.
        denoise: Return the posterior mean, at the cost of one evaluation.

    Raises:
        ValueError: A constant out of its range.

    Reference: Song & Ermon 2019, arXiv:1907.05600 (algorithm 1); Jolicoeur-Martineau et al. 2021,
    arXiv:2009.05475 (section 3) for the last step.
    """

    def __init__(
        self,
        steps: int = 100,
        snr: float = 0.16,
        n_steps: int = 5,
        *,
        grid: Grid | None = None,
        denoise: bool = True,
    ) -> None:
        self.corrector = AnnealedLangevinStep(snr, n_steps)
        self.levels = PredictorCorrector(Rescale(), self.corrector, steps, grid=grid, denoise=False)
        self.denoise = denoise

    def check(self, sde: SDE, dtype: torch.dtype) -> None:
        """Raise ValueError if the grid does not fit on the process."""
        self.levels.check(sde, dtype)

    def run(self, sde: SDE, score: Score, x: Tensor, run: Run) -> Tensor:
        """Carry x through the levels."""
        lowest, end = self.levels.grid(sde, self.levels.steps)[-2:]
        x = self.levels.run(sde, score, x, run)
        if end > 0:
            lowest = end  # a level like the others, at which the loop has not yet corrected
            x, _ = self.corrector.step(sde, score, x, end, end, run.noise)
            x = run.constrain(x, end)
        if not self.denoise:
            return x
        # On a chain the loop has carried x/α to the data: back to the level it was corrected at.
        x = x * (sde.alpha(lowest) / sde.alpha(end))
        mean = (x + sde.sigma(lowest).square() * score(x, lowest)) / sde.alpha(lowest)
        return run.constrain(mean, end)
