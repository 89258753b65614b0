"""ΠGDM: the data given a state as a Gaussian of one variance, and a pseudo-inverse."""

from typing import Protocol, Self, runtime_checkable

from torch import Tensor

from scoresde.samplers import Grid
from scoresde.samplers.context import Noise
from scoresde.sde.checks import check_between, check_floating, check_positive

from .measurements import LinearOperator, Measurement
from .posterior_sampler import Move, PosteriorSampler
from .posterior_score import PosteriorMethod
from .prediction import Prediction


@runtime_checkable
class Invertible(Protocol):
    """A measurement with a pseudo-inverse, h(h⁺(h(x))) = h(x)."""

    def pinv(self, y: Tensor) -> Tensor:
        """h⁺(y), shape (B, *shape), of measurements (B, *shape_out)."""


class PiGDM(PosteriorMethod):
    """The score form of ΠGDM, p(x_0 | x_t) ≈ N(D, r² I), whose gradient keeps the Jacobian.

        D_y = D + C Hᵀ (r² H Hᵀ + σ_y² I)⁻¹ (y − H D),   r² = v_0 ς²/(v_0 + ς²)

    For an exact measurement the correction is C H⁺ (y − H D)/r², and for one that is not linear,
    but has a pseudo-inverse h⁺ such as a decoder, C (h⁺(y) − h⁺(h(D)))/r², for which h need not be
    differentiable. It is exact for data N(μ, v_0 I), and for no others.

    Cost: one vector–Jacobian product for each evaluation.

    Args:
        v0: v_0 > 0, the variance of a coordinate of the data; 1 in the paper. `from_data`
            estimates it.

    Raises:
        ValueError: v_0 is not a number > 0.

    Reference: Song, Vahdat, Mardani & Kautz, ICLR 2023 (section 3). Its sampler is `PiGDMSampler`.
    """

    def __init__(self, v0: float = 1.0) -> None:
        self.v0 = float(check_positive("v0", v0))

    @classmethod
    def from_data(cls, x0: Tensor) -> Self:
        """The method with v_0 the mean variance of a coordinate over samples of the data.

        Args:
            x0: Data, shape (B, *), B ≥ 2.

        Raises:
            TypeError: x0 is not floating point.
            ValueError: Fewer than two samples, or samples that are all the same.
        """
        check_floating("x0", x0)
        if len(x0) < 2:
            raise ValueError(
                f"a variance needs at least 2 samples of the data, got {len(x0)}; give more, or v0"
            )
        return cls(x0.double().var(0).mean().item())

    def check(self, measurement: Measurement) -> None:
        """Refuse a measurement without a pseudo-inverse; see `PosteriorMethod.check`."""
        operator = measurement.operator
        if isinstance(operator, LinearOperator):
            return
        if not isinstance(operator, Invertible):
            raise ValueError(
                f"PiGDM needs a linear measurement or one with a method pinv, and "
                f"{type(operator).__name__} is neither; use DPS() or DPSSampler"
            )
        if not measurement.exact:
            raise ValueError(
                f"PiGDM takes a measurement that is not linear as exact, got one with noise, of "
                f"{type(operator).__name__}; use DPS() or DPSSampler, or std=0"
            )

    def correct(self, prediction: Prediction, measurement: Measurement) -> Tensor:
        """D_y; see `PosteriorMethod.correct`."""
        r2 = prediction.variance / (1 + prediction.variance / self.v0)
        data, operator = prediction.mean, measurement.operator
        if isinstance(operator, LinearOperator):
            pull = back_project(measurement, operator, data, r2)
        else:
            assert isinstance(operator, Invertible)  # checked by `check`
            pull = (operator.pinv(measurement.y.to(data)) - operator.pinv(operator(data))) / r2
        return data + prediction.covariance(pull)


def back_project(
    measurement: Measurement, operator: LinearOperator, data: Tensor, r2: Tensor
) -> Tensor:
    """Hᵀ (r² H Hᵀ + σ_y² I)⁻¹ (y − H D), which is H⁺ (y − H D)/r² for an exact y; shape of D.

    Args:
        measurement: y, with its noise.
        operator: Its operator H.
        data: D, shape (B, *).
        r2: r², broadcast over D, one for each sample or for all.
    """
    residual = measurement.residual(data)
    prior = r2.to(residual).reshape(-1, *[1] * (residual.ndim - 1))
    noise = measurement.variance(data)
    return operator.adjoint(operator.solve(residual, prior=prior, noise=noise))


class PiGDMSampler(PosteriorSampler):
    """ΠGDM as published: DDIM steps of the data prediction, and its gradient scaled by r².

        x_u = DDIM(x_t, D) + α_u α_t r² ∇_{x_t} log p(y | x_t),
        x̄_u = D + √(ς_u² − v²) (x̄_t − D)/ς_t + v z + (r²/ς_t²) (D_y − D),
        v = η ς_u √(1 − ς_u²/ς_t²)

    with D_y, r² and exact measurements as for `PiGDM`. The weight of the gradient does not depend
    on the length of a step: the steps discretize no process, are best near the 100 of the paper,
    and depart from the posterior as they become more.

    Cost: one evaluation and one vector–Jacobian product for each step.

    Args:
        measurement: y, as for `PiGDM`.
        v0: v_0 > 0, the variance of a coordinate of the data; 1 in the paper.
        eta: η in [0, 1] of the DDIM steps.
        steps: Steps of the grid ≥ 1.
        grid, denoise, recompute: As for every `PosteriorSampler`.

    Raises:
        ValueError: A constant out of its range, or a measurement without a pseudo-inverse.

    Reference: Song, Vahdat, Mardani & Kautz, ICLR 2023 (algorithm 1).
    """

    products = 1

    def __init__(
        self,
        measurement: Measurement,
        v0: float = 1.0,
        eta: float = 1.0,
        steps: int = 100,
        *,
        grid: Grid | None = None,
        denoise: bool = True,
        recompute: bool = False,
    ) -> None:
        super().__init__(measurement, steps, grid=grid, denoise=denoise, recompute=recompute)
        self.method, self.eta = PiGDM(v0), check_between("eta", eta, 0, 1)
        self.method.check(measurement)

    def update(self, x: Tensor, prediction: Prediction, move: Move, noise: Noise) -> Tensor:
        """x̄_u; see `PosteriorSampler.update`."""
        data, std = prediction.mean, move.ddim_std(self.eta)
        pull = self.method.correct(prediction, self.measurement) - data
        keep = (move.level_next**2 - std**2) ** 0.5 / move.level
        weight = 1 / (1 + move.level**2 / self.method.v0)
        return data + keep * (x - data) + std * noise(x) + weight * pull
