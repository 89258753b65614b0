"""Diffusion posterior sampling: the likelihood of a measurement at the data prediction."""

import math

import torch
from torch import Tensor

from scoresde.samplers import Grid
from scoresde.samplers.context import Noise
from scoresde.sde.checks import check_between

from .measurements import Measurement
from .posterior_sampler import Move, PosteriorSampler
from .posterior_score import PosteriorMethod
from .prediction import Prediction


class DPS(PosteriorMethod):
    """The score form of diffusion posterior sampling, p(y | x_t) ≈ p(y | x_0 = D).

        D_y = D + (σ²/α) ∇_x log p(y | D) = D + C Hᵀ (y − H D)/σ_y²  for a linear H

    It runs on any measurement that is differentiable, linear or not. The approximation leaves out
    the uncertainty H C Hᵀ of the data given x_t, so that the measurement counts too much, the more
    so the larger the noise is; steps are stiff where C is larger than σ_y², and few of them
    diverge. It does not exist for σ_y = 0.

    Cost: one vector–Jacobian product for each evaluation.

    Reference: Chung et al. 2023, arXiv:2209.14687 (eq. 11, 14). Its sampler is `DPSSampler`.
    """

    def check(self, measurement: Measurement) -> None:
        """Refuse an exact measurement; see `PosteriorMethod.check`."""
        measurement.check_noisy("DPS")

    def correct(self, prediction: Prediction, measurement: Measurement) -> Tensor:
        """D_y; see `PosteriorMethod.correct`."""
        scale = prediction.sigma.square() / prediction.alpha
        return prediction.mean + scale * prediction.gradient(measurement.log_likelihood)


class DPSSampler(PosteriorSampler):
    """Diffusion posterior sampling as published: ancestral steps, and a step along a gradient.

        x_u = m(x_t, D) + v z − ζ ∇_{x_t} ‖y − h(D)‖   on the variance-preserving process

    m and v are those of `Ancestral("posterior")`; the norm is not squared, and is each sample's
    own. ζ has units: on another process the step is that of its variance-preserving twin,

        x̄_u = D + (ς_u/ς_t)² (x̄_t − D) + ς_u √(1 − ς_u²/ς_t²) z
              − ζ √(1 + ς_u²) √(1 + ς_t²) ∇_x̄ ‖y − h(D)‖

    It approximates the posterior for no number of steps: the sum of all pulls grows with it, so
    that ζ belongs to the 1000 steps of the paper and has to be found again for others. It does
    not see σ_y.

    Cost: one evaluation and one vector–Jacobian product for each step.

    Args:
        measurement: y, of any differentiable measurement.
        zeta: ζ ≥ 0; 0.3 for superresolution and blurs, 0.5 for inpainting, 1 for phase retrieval.
        steps: Steps of the grid ≥ 1.
        grid, denoise, recompute: As for every `PosteriorSampler`.

    Raises:
        ValueError: A constant out of its range.

    Reference: Chung et al. 2023, arXiv:2209.14687 (algorithms 1 and 2).
    """

    products = 1

    def __init__(
        self,
        measurement: Measurement,
        zeta: float = 0.3,
        steps: int = 1000,
        *,
        grid: Grid | None = None,
        denoise: bool = True,
        recompute: bool = False,
    ) -> None:
        super().__init__(measurement, steps, grid=grid, denoise=denoise, recompute=recompute)
        self.zeta = check_between("zeta", zeta, 0)

    def update(self, x: Tensor, prediction: Prediction, move: Move, noise: Noise) -> Tensor:
        """x̄_u; see `PosteriorSampler.update`."""

        def distance(data: Tensor) -> Tensor:
            return self.measurement.residual(data).flatten(1).norm(dim=1)

        gradient = prediction.gradient(distance)
        mean = torch.lerp(prediction.mean, x, (move.level_next / move.level) ** 2)
        # ∇_x̄ = α ∇_x
        twin = math.hypot(1, move.level_next) * math.hypot(1, move.level) * move.alpha
        return mean + move.ddim_std(1) * noise(x) - self.zeta * twin * gradient
