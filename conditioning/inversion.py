"""Exact inversion of deterministic single steps by a fixed-point iteration."""

import torch
from torch import Tensor

from scoresde.samplers import DDIM, Predictor, PredictorCorrector
from scoresde.samplers.context import SamplingContext
from scoresde.samplers.grids.grid import Grid
from scoresde.sde import SDE, Score
from scoresde.sde.broadcast import widened
from scoresde.sde.checks import check_steps


class ExactInversion(PredictorCorrector):
    """A deterministic sampler whose `encode` inverts its own steps, and not approximately.

        x_u = c x_t + w s(x_t, t)   ⟹   x_t ← (x_u − w s(x_t, t))/c, repeated

    DDIM inversion takes one explicit step in the place of the iteration and returns to its start
    up to an error of first order. Here the latents lead back to the data up to rounding once the
    iteration has converged, which takes long steps more iterations.

    Args:
        predictor: Deterministic predictor; `DDIM()` where not given.
        steps: Number of steps ≥ 1, as of the sampler that decodes.
        grid: Rule for the times; `UniformGrid()` where not given.
        iterations: Fixed-point iterations ≥ 1 for each step, each with an evaluation.

    Raises:
        ValueError: A predictor that draws noise, when it encodes; a number out of its range.
        TypeError: The predictor is not a Predictor.

    Reference: Song, Meng & Ermon 2021, arXiv:2010.02502 (section 4.3), for one explicit step;
    Pan et al. 2023, arXiv:2309.04907 (section 3), for the iteration.
    """

    def __init__(
        self,
        predictor: Predictor | None = None,
        steps: int = 50,
        *,
        grid: Grid | None = None,
        iterations: int = 10,
    ) -> None:
        predictor = DDIM() if predictor is None else predictor
        if not isinstance(predictor, Predictor):
            raise TypeError(
                f"predictor must be a Predictor, which has one evaluation a step, got {predictor!r}"
            )
        super().__init__(predictor, steps=steps, grid=grid)
        self.iterations = check_steps(iterations, "iterations")

    def run(self, sde: SDE, score: Score, x: Tensor, run: SamplingContext) -> Tensor:
        """Carry x from T to the data, or invert this (`encode`)."""
        if not run.encode:
            return super().run(sde, score, x, run)
        assert isinstance(self.predictor, Predictor)
        times = self._towards_noise(sde, self.grid(sde, self.steps))
        c, w, _ = self.predictor.coefficients(sde, times[1:], times[:-1])
        run.begin(len(times) - 1, x)
        for step, (slope, pull) in enumerate(zip(c.tolist(), w.tolist(), strict=True), start=1):
            t, y = times[step], x
            for _ in range(self.iterations):
                s = widened(score(y, t))
                y = torch.sub(x, s, alpha=pull) / slope
            x = y
            run.visit(step, t, x)
        return x
