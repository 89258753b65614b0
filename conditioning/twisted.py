"""Twisted diffusion sampling: particles that are proposed and weighed by a posterior score."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor

from scoresde.samplers import Grid, Predictor
from scoresde.sde import SDE, Score, rows
from scoresde.sde.checks import check_positive
from scoresde.sde.score import like

from .measurements import LinearOperator, Measurement, SpectralOperator
from .particles import Dynamics, Move, Particles
from .prediction import Prediction

LogLikelihood = Callable[[Tensor], Tensor]
"""log p(y | x_0) of data (A, *), shape (A,), differentiable; with a method `rows` where y belongs
to samples."""


class TDS(Particles):
    """Twisted diffusion sampling, exact for the chain of N steps as K → ∞ with any prior.

        p̃_t(y | x) = N(y; H D, r² H Hᵀ + σ_y² I),   r² = v_0 ς²/(v_0 + ς²),
        x_u ~ N(m(D_y), v² I),   D_y = D + (σ²/α) ∇ log p̃_t(y | x),
        log W += log p̃_u(y | x_u) − log p̃_t(y | x_t) + log N(x_u; m(D), v²) − log N(x_u; m(D_y), v²)

    m(D) and v are the predictor's mean and noise. The twist p̃ steers particles and cancels from
    their weights, in whose last factor p(y | x_0) takes its place. With any other function of x_0,
    such as a classifier or the likelihood of a measurement that is not linear, p̃_t is that function
    of D; where it is much steeper there than p(y | x_t), few particles bear all of the weight. The
    last step returns its mean, as `PredictorCorrector` does, divided by α.

    With σ_y = 0 there is no last factor: p̃ at the last time before it stays, as if the measurement
    had the noise that is left then, and x_0 is projected onto H x_0 = y. The error falls with ς.

    Args:
        measurement: y = h(x_0) + σ_y n, or a function log p(y | x_0) of data (A, *).
        particles: K ≥ 2; 2 to 64 in the publication.
        steps: Number of steps ≥ 1.
        variance: v_0, the variance of the data, which only steers; inf for r² = ς².
        predictor, grid, threshold: As for `Particles`.

    Raises:
        ValueError: A number out of its range, or σ_y = 0 where h is not linear.
        TypeError: The measurement is neither a `Measurement` nor a function.

    Reference: Wu et al. 2023, arXiv:2306.17775 (algorithm 1).
    """

    alone = (
        "the posterior score itself, PosteriorScore(score, measurement, PiGDM()), in any sampler"
    )
    products = 1

    def __init__(
        self,
        measurement: Measurement | LogLikelihood,
        particles: int = 64,
        steps: int = 100,
        *,
        variance: float = 1.0,
        predictor: Predictor | None = None,
        grid: Grid | None = None,
        threshold: float = 0.5,
    ) -> None:
        super().__init__(particles, steps, predictor=predictor, grid=grid, threshold=threshold)
        self.measurement = measurement
        self.twist = _twist(measurement, check_positive("variance", variance))

    def begin(self, sde: SDE, score: Score, index: Tensor) -> Dynamics:
        """The dynamics of a run; see `Particles.begin`."""
        return _Twisted(sde, rows(score, index), self.twist.rows(index))

    def rows(self, index: Tensor) -> Self:
        """The sampler with the measurements of some samples of the batch."""
        part = copy.copy(self)
        part.measurement, part.twist = rows(self.measurement, index), self.twist.rows(index)
        return part

    def check_samples(self, x: Tensor) -> None:
        """Refuse states that are not of the measurement's shape and number."""
        if isinstance(self.measurement, Measurement):
            self.measurement.check_samples(x)


class Twist(ABC):
    """p̃_t(y | x), an approximation of p(y | x_t) through D, and p(y | x_0)."""

    @abstractmethod
    def steer(self, prediction: Prediction) -> tuple[Tensor, Tensor]:
        """log p̃_t(y | x), (A,), and D_y − D = (σ²/α) ∇ log p̃_t(y | x), shape of D."""

    @abstractmethod
    def finish(self, x0: Tensor) -> tuple[Tensor, Tensor | None]:
        """The data that are returned, and log p(y | x_0), (A,); None where it does not exist."""

    @abstractmethod
    def rows(self, index: Tensor) -> "Twist":
        """The twist of some samples."""


def _twist(measurement: Measurement | LogLikelihood, variance: float) -> Twist:
    """The twist of a measurement.

    Raises:
        TypeError: It is neither a measurement nor a function.
    """
    if isinstance(measurement, Measurement):
        if isinstance(measurement.operator, LinearOperator):
            return _GaussianTwist(measurement, measurement.operator, variance)
        measurement.check_noisy("the twist of a measurement that is not linear")
        return _MeasuredTwist(measurement)
    if not callable(measurement):
        raise TypeError(
            "measurement must be a Measurement or a function log p(y | x_0), "
            f"got {type(measurement).__name__}"
        )
    return _FunctionTwist(measurement)


class _GaussianTwist(Twist):
    """N(y; H D, r² H Hᵀ + σ_y² I)."""

    def __init__(self, measurement: Measurement, operator: LinearOperator, variance: float) -> None:
        self.measurement, self.operator, self.variance = measurement, operator, variance
        self.noise = measurement.std**2

    def steer(self, prediction: Prediction) -> tuple[Tensor, Tensor]:
        level = prediction.variance.item()
        spread = level / (1 + level / self.variance)
        log, solved = self._log_density(prediction.mean, spread)
        return log, prediction.covariance(self.operator.adjoint(solved))

    def finish(self, x0: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.noise == 0:
            return x0 + self.operator.pinv(self.measurement.residual(x0)), None
        return x0, self._log_density(x0, 0.0)[0]

    def rows(self, index: Tensor) -> "Twist":
        return _GaussianTwist(self.measurement.rows(index), self.operator, self.variance)

    def _log_density(self, x0: Tensor, spread: float) -> tuple[Tensor, Tensor]:
        """log N(y; H x_0, S) with S = r² H Hᵀ + σ_y² I, and S⁻¹ (y − H x_0)."""
        residual = self.measurement.residual(x0)
        solved = self.operator.solve(residual, prior=spread, noise=self.noise)
        fit = (residual.double() * solved.double()).flatten(1).sum(1)
        return -0.5 * (fit + self._log_determinant(spread)), solved

    def _log_determinant(self, spread: float) -> float:
        """log det(2π S) on the range of S.

        Particles of one sample have it in common, so that it matters to the evidence alone, and
        there but at the last time, where S = σ_y² I needs no singular values.
        """
        size, noise = math.prod(self.operator.shape_out), self.noise
        values = list[float]()
        if isinstance(self.operator, SpectralOperator) and spread > 0:
            values = (spread * self.operator.singular_values.square()).tolist()
        rest = size - len(values) if noise > 0 else 0
        parts = [value + noise for value in values] + [noise] * rest
        return sum(math.log(2 * math.pi * part) for part in parts)


class _FunctionTwist(Twist):
    """A function log p(y | x_0), evaluated at D."""

    def __init__(self, log_likelihood: LogLikelihood) -> None:
        self.log_likelihood = log_likelihood

    def steer(self, prediction: Prediction) -> tuple[Tensor, Tensor]:
        kept = list[Tensor]()

        def value(data: Tensor) -> Tensor:
            kept.append(self._value(data))
            return kept[0]

        gradient = prediction.gradient(value)
        return kept[0].detach().double(), prediction.sigma.square() / prediction.alpha * gradient

    def finish(self, x0: Tensor) -> tuple[Tensor, Tensor | None]:
        return x0, self._value(x0).detach().double()

    def rows(self, index: Tensor) -> "Twist":
        return _FunctionTwist(rows(self.log_likelihood, index))

    def _value(self, data: Tensor) -> Tensor:
        return like(data.flatten(1)[:, 0], self.log_likelihood(data), "the log-likelihood")


class _MeasuredTwist(_FunctionTwist):
    """The likelihood of a measurement that is not linear."""

    def __init__(self, measurement: Measurement) -> None:
        super().__init__(measurement.log_likelihood)
        self.measurement = measurement

    def rows(self, index: Tensor) -> "Twist":
        return _MeasuredTwist(self.measurement.rows(index))


class _Twisted(Dynamics):
    """Particles with the twist of where they are."""

    def __init__(self, sde: SDE, score: Score, twist: Twist) -> None:
        self.sde, self.score, self.twist = sde, score, twist
        self._known: tuple[Tensor, Tensor, Tensor] | None = None

    def weigh(self, x: Tensor, move: Move) -> Tensor:
        prediction = Prediction(self.sde, self.score, x, move.t)
        log, shift = self.twist.steer(prediction)
        # What the state gains from the score, and from the twist's gradient ∇ = α (D_y − D)/σ².
        s = (prediction.alpha * prediction.mean - x) / prediction.sigma.square()
        pull = prediction.alpha / prediction.sigma.square() * shift
        self._known = (log, move.c * x + move.w * s, move.w * pull)
        return log

    def keep(self, index: Tensor) -> None:
        assert self._known is not None
        log, mean, shift = self._known
        self._known = (log[index], mean[index], shift[index])

    def advance(self, x: Tensor, move: Move, z: Tensor) -> tuple[Tensor, Tensor]:
        assert self._known is not None
        log, mean, shift = self._known
        if move.last:
            x0, final = self.twist.finish(mean / self.sde.alpha(move.t_next).to(mean))
            return x0, torch.zeros_like(log) if final is None else final - log
        # log N(x'; m, v²) − log N(x'; m + d, v²) of x' = m + d + v z is −(‖d‖²/v² + 2 d·z/v)/2.
        d, z64 = shift.double() / move.std, z.double()
        ratio = -0.5 * (d * (d + 2 * z64)).flatten(1).sum(1)
        return mean + shift + move.std * z, ratio - log
