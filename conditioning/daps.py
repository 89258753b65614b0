"""Decoupled annealing: data that fit the measurement, noised anew at each level."""

import copy
import math
from typing import Self

import torch
from torch import Tensor

from scoresde.samplers import DDIM, Grid, KarrasGrid, PredictorCorrector, Sampler
from scoresde.samplers.context import SamplingContext
from scoresde.samplers.pc import check_prior
from scoresde.sde import SDE, Score, Until
from scoresde.sde.checks import check_choice, check_positive, check_steps

from .guided import predict_data
from .local_posterior import Exact, LangevinDraw, LocalPosterior
from .measurements import LinearOperator, Measurement
from .particles import refuse_options
from .prediction import Prediction

MOST_COORDINATES = 1024
"""Largest samples of which the whole covariance is computed, one product for each coordinate."""


class DAPS(Sampler):
    """Decoupled annealing posterior sampling, from level to level through the data.

        x_0 ~ N(D(x_t), r² I) p(y | x_0),   x_u = α_u x_0 + σ_u z,   r² = v_0 ς²/(v_0 + ς²)

    With a true sample of p(x_0 | x_t, y) it would be exact. With a Gaussian in the place of
    p(x_0 | x_t) each level has an error, which the levels below forget: it vanishes for a Gaussian
    prior with `covariance="jacobian"`, where the Gaussian is N(D, C) with C = Cov[x_0 | x_t], and
    for data N(μ, v_0 I). For other priors the error falls with the number of levels, as long as the
    chain mixes.

    Samples of a linear measurement are drawn exactly, and others by Langevin steps.

    Args:
        measurement: y = h(x_0) + σ_y n.
        steps: Number of steps N ≥ 1 of the grid, at whose N + 1 times data are drawn.
        flow_steps: Steps of the probability flow by which D is found; 1 is the data prediction.
        variance: v_0, the variance of the data; inf for r = ς, as published.
        covariance: `isotropic` for r² I, or `jacobian` for C, at the cost of one vector–Jacobian
            product for each coordinate; linear measurements only.
        grid: Rule for the times; `KarrasGrid(sigma_min=0.1)` where not given, as published.
        langevin: The Langevin steps, where h is not linear.

    Raises:
        ValueError: A number out of its range, `jacobian` with several flow steps, or σ_y = 0 where
            h is not linear.
        TypeError: `jacobian` where h is not linear.

    Reference: Zhang et al. 2025, arXiv:2407.01521 (algorithm 1). There the noise of the
    measurement counts as 0.01 whatever it is: that is `Measurement(operator, y, 0.01)`.
    """

    def __init__(
        self,
        measurement: Measurement,
        steps: int = 200,
        flow_steps: int = 5,
        *,
        variance: float = math.inf,
        covariance: str = "isotropic",
        grid: Grid | None = None,
        langevin: LangevinDraw | None = None,
    ) -> None:
        self.measurement, self.steps = measurement, check_steps(steps)
        self.flow_steps = check_steps(flow_steps, "flow_steps")
        self.variance = check_positive("variance", variance)
        self.covariance = check_choice("covariance", covariance, "isotropic", "jacobian")
        self.grid = grid or KarrasGrid(sigma_min=0.1)
        linear = isinstance(measurement.operator, LinearOperator)
        self._local: LocalPosterior = Exact() if linear else langevin or LangevinDraw()
        if covariance == "jacobian":
            Exact().check(measurement)
            if flow_steps != 1:
                raise ValueError(
                    "covariance='jacobian' is that around the data prediction, so that "
                    f"flow_steps must be 1, got {flow_steps}"
                )
        self._local.check(measurement)

    def check(self, sde: SDE, dtype: torch.dtype) -> None:
        """Raise ValueError if the grid does not fit the process."""
        sde.check_signal("DAPS")
        self.grid(sde, self.steps)

    def states(self, sde: SDE) -> int:
        """Number of states of a run: the first, and the noised data of each level."""
        return self.steps + 2

    def rows(self, index: Tensor) -> Self:
        """The sampler with the measurements of some samples of the batch."""
        part = copy.copy(self)
        part.measurement = self.measurement.rows(index)
        return part

    def run(self, sde: SDE, score: Score, x: Tensor, run: SamplingContext) -> Tensor:
        """Carry x from T to the end of the grid, and to the data."""
        refuse_options(self, run)
        self.check(sde, x.dtype)
        self.measurement.check_samples(x)
        times = self.grid(sde, self.steps)
        if run.drawn:
            check_prior(sde, times[0])
        run.begin(len(times), x)
        data = x
        for i, t in enumerate(times):
            if self.covariance == "jacobian":
                data = self._gaussian(Prediction(sde, score, x, t), run)
            else:
                level = (sde.sigma(t) / sde.alpha(t)).item()
                std = level / math.sqrt(1 + level**2 / self.variance)
                mean = self._flow(sde, score, x, t)
                data = self._local.draw(mean, std, self.measurement, run.noise, i / len(times))
            if i + 1 < len(times):
                alpha, sigma = (c(times[i + 1]).item() for c in (sde.alpha, sde.sigma))
                x = torch.add(alpha * data, run.noise(data), alpha=sigma)
            run.visit(i + 1, times[min(i + 1, len(times) - 1)], x)
        return data

    def _flow(self, sde: SDE, score: Score, x: Tensor, t: Tensor) -> Tensor:
        """D: where the probability flow leads in some steps, or the data prediction."""
        level, end = (sde.sigma(s) / sde.alpha(s) for s in (t, torch.tensor(sde.sampling_eps)))
        if self.flow_steps == 1 or level <= end:
            return predict_data(sde, score, x, t)
        flow = PredictorCorrector(DDIM(), steps=self.flow_steps, grid=KarrasGrid(to_data=True))
        data = flow.run(Until(sde, t.item()), score, x, SamplingContext())
        return data / sde.alpha(torch.zeros_like(t)).to(data)

    def _gaussian(self, prediction: Prediction, run: SamplingContext) -> Tensor:
        """A sample of N(D, C) p(y | x_0), by Matheron's rule."""
        mean = prediction.mean
        size, dim = len(mean), mean[0].numel()
        if dim > MOST_COORDINATES:
            raise ValueError(
                f"covariance='jacobian' computes a matrix of {dim} × {dim} for each sample, and "
                f"the most is {MOST_COORDINATES}; use covariance='isotropic'"
            )
        covariance = _matrix(prediction)
        run.products += dim
        values, vectors = torch.linalg.eigh(covariance)
        values = values.clamp(min=0)  # a network's Jacobian need not be one of a covariance
        covariance = vectors * values[:, None] @ vectors.mT
        spread = (vectors * values.sqrt()[:, None]) @ run.noise(mean).reshape(size, dim, 1)
        x = mean + spread.reshape(mean.shape)
        residual = self.measurement.residual(x)
        sigma = self.measurement.std
        residual = torch.add(residual, run.noise(residual), alpha=sigma).reshape(size, -1, 1)
        h = _operator_matrix(self.measurement, mean)
        system = h @ covariance @ h.mT + sigma**2 * torch.eye(h.shape[1]).to(h)
        solved = torch.linalg.pinv(system, hermitian=True) @ residual
        return x + (covariance @ h.mT @ solved).reshape(mean.shape)


def _matrix(prediction: Prediction) -> Tensor:
    """C = Cov[x_0 | x_t], symmetrized, (B, D, D)."""
    mean = prediction.mean
    columns = list[Tensor]()
    for i in range(mean[0].numel()):
        unit = torch.zeros_like(mean)
        unit.flatten(1)[:, i] = 1.0
        columns.append(prediction.covariance(unit).flatten(1))
    covariance = torch.stack(columns, 2)
    return (covariance + covariance.mT) / 2


def _operator_matrix(measurement: Measurement, x: Tensor) -> Tensor:
    """H of each sample, (B, M, D)."""
    size, dim = len(x), x[0].numel()
    sample = torch.arange(size, device=x.device).repeat_interleave(dim)
    units = torch.eye(dim, dtype=x.dtype, device=x.device).repeat(size, 1)
    images = measurement.rows(sample).operator(units.reshape(-1, *x.shape[1:]))
    return images.reshape(size, dim, -1).mT
