"""Annealed Langevin dynamics, the sampler of score matching at several noise levels."""

import torch
from torch import Tensor

from scoresde.sde import SDE, Score
from scoresde.sde.checks import check_switch

from .base import Sampler
from .context import SamplingContext
from .grids.grid import Grid
from .langevin import AnnealedLangevinStep
from .pc import PredictorCorrector
from .solvers.predictors import Rescale


class AnnealedLangevin(Sampler):
    """Annealed Langevin dynamics: Langevin steps at one noise level after another.

    On `VE.discretize(N)` this is the sampler of NCSN. On any other process x/α takes the role of x:
    it stays the same between levels, at which Langevin steps move it. The end is the posterior
    mean at the lowest level, (x + σ² s)/α.

    Args:
        steps: Steps of the grid ≥ 1; all of its times except the data at 0 are levels.
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
        self.denoise = check_switch(denoise, "denoise")

    def check(self, sde: SDE, dtype: torch.dtype) -> None:
        """Raise ValueError if the grid does not fit the process."""
        self.levels.check(sde, dtype)
        self._lowest(sde)

    def states(self, sde: SDE) -> int:
        return self.levels.states(sde)

    def run(self, sde: SDE, score: Score, x: Tensor, run: SamplingContext) -> Tensor:
        """Carry x through the levels."""
        if run.encode:
            raise ValueError("annealed Langevin dynamics cannot encode; use ProbabilityFlowODE")
        lowest, end = self._lowest(sde)
        (alpha, alpha_end), (sigma, _) = (
            c(torch.stack([lowest, end])).tolist() for c in (sde.alpha, sde.sigma)
        )
        x = self.levels.run(sde, score, x, run)
        if end > 0:  # the loop corrects before each step, and thus not at the last level
            (level,) = self.corrector.levels(sde, end[None], end[None])
            x, _ = self.corrector.step(level, score, x, run.noise)
            x = run.constrain(x, end)
            lowest, alpha, sigma = end, alpha_end, level.sigma
        if not self.denoise:
            return x
        # On a chain the loop has carried x/α on to the data: return to the last level.
        x = x * (alpha / alpha_end)
        mean = torch.add(x, score(x, lowest), alpha=sigma**2) / alpha
        return run.finish(mean, end)

    def _lowest(self, sde: SDE) -> tuple[Tensor, Tensor]:
        """The last two times of the grid.

        Raises:
            ValueError: The first of them is noise alone, which has no score of the data.
        """
        lowest, end = self.levels.grid(sde, self.levels.steps)[-2:]
        if not sde.alpha(lowest) > 0:
            raise ValueError(
                "the only level of this grid is noise alone, alpha = 0, where Langevin dynamics "
                f"finds nothing of the data; use more steps than {self.levels.steps}"
            )
        return lowest, end
