"""Particles that are guided by noised measurements, without gradients of the network."""

import copy
from typing import Self

import torch
from torch import Tensor

from scoresde.samplers import Grid, Predictor
from scoresde.sde import SDE, Score, rows

from .measurements import Measurement, SpectralOperator
from .particles import Dynamics, Move, Particles


class MCGDiff(Particles):
    """Particles that are guided by the noised measurement, exact as K → ∞ and N → ∞.

    In the coordinates c = Vᵀ x̄ of H = U S Vᵀ and with ȳ_i = (Uᵀ y)_i/s_i and ν_i = σ_y/s_i, the
    potential of a measured coordinate is that of ȳ_i as a value of the path at the level ς = ν_i:

        G_t(c) = Π_i N(c_i; ȳ_i, |ς_t² − ν_i²|),
        log W += Σ_i log N(ȳ_i; m_i, v² + |ς_u² − ν_i²|) − log N(c_i; ȳ_i, ς_t² − ν_i²),
        c_i′ ~ N(m_i + k (ȳ_i − m_i), (1 − k) v²),   k = v²/(v² + |ς_u² − ν_i²|)

    with m and v the predictor's mean and noise over α_u. Coordinates that are not measured take the
    step m_i + v z, and so do measured ones once ς_t < ν_i: their potential in the step across ν_i
    stays as their likelihood, so that the grid need not contain the level. In the last step 0
    stands for ς_u, so that for σ_y = 0 the measured coordinates are ȳ_i exactly. A coordinate
    with ν_i ≥ ς at the first time says nothing and is left out.

    Args:
        measurement: y = H x_0 + σ_y n with a `SpectralOperator` H.
        particles: K ≥ 2; more are needed than with `TDS`, each at less than half the cost.
        steps: Number of steps ≥ 1.
        predictor, grid, threshold: As for `Particles`.

    Raises:
        ValueError: A number out of its range.
        TypeError: The operator has no known singular value decomposition.

    Reference: Cardoso et al. 2024, arXiv:2308.07983 (algorithm 1, section 3); Trippe et al. 2023,
    arXiv:2206.04119, for its ancestor.
    """

    alone = "replacement of the measured coordinates in any sampler"

    def __init__(
        self,
        measurement: Measurement,
        particles: int = 64,
        steps: int = 100,
        *,
        predictor: Predictor | None = None,
        grid: Grid | None = None,
        threshold: float = 0.5,
    ) -> None:
        super().__init__(particles, steps, predictor=predictor, grid=grid, threshold=threshold)
        self.operator = check_spectral("MCGDiff", measurement, "TDS(measurement)")
        self.measurement, self.std = measurement, measurement.std

    def begin(self, sde: SDE, score: Score, index: Tensor) -> Dynamics:
        """The dynamics of a run; see `Particles.begin`."""
        y = self.measurement.rows(index).y
        return _Tied(sde, rows(score, index), self.operator, y, self.std)

    def rows(self, index: Tensor) -> Self:
        """The sampler with the measurements of some samples of the batch."""
        part = copy.copy(self)
        part.measurement = self.measurement.rows(index)
        return part

    def check_samples(self, x: Tensor) -> None:
        """Refuse states that are not of the measurement's shape and number."""
        self.measurement.check_samples(x)


def check_spectral(who: str, measurement: Measurement, other: str) -> SpectralOperator:
    """The operator of a measurement, refusing one without a known decomposition.

    Args:
        who: What needs it, as the error names it.
        measurement: Measurement.
        other: What to use instead.

    Raises:
        TypeError: The operator is no `SpectralOperator`.
    """
    operator = measurement.operator
    if not isinstance(operator, SpectralOperator):
        raise TypeError(
            f"{who} works in the singular vectors of H and needs a SpectralOperator, got "
            f"{type(operator).__name__}; use Matrix(…), or {other}"
        )
    return operator


class _Tied(Dynamics):
    """Particles whose measured coordinates are tied to noised measurements."""

    def __init__(
        self, sde: SDE, score: Score, operator: SpectralOperator, y: Tensor, std: float
    ) -> None:
        self.sde, self.score, self.operator = sde, score, operator
        s = operator.singular_values.to(y.device)
        self.target = operator.measure_spectral(y.double()) / s
        self.noise, self.scale = (std / s).square(), s.log().sum()
        self.mean = torch.empty(0)

    def weigh(self, x: Tensor, move: Move) -> Tensor:
        c, alpha = self._mean(x, move), self.sde.alpha(move.t).to(x.device)
        tied, new, spread = self._levels(move)
        here = (self._relative(move.t) - self.noise).clamp(min=0)
        log = _log_normal(self.target - c[:, : len(self.noise)], new + spread)
        if move.first:
            log = log - self.scale / len(self.noise)  # the density of y, not of ȳ
        else:
            now = self.operator.to_spectral(x)[:, : len(self.noise)].double() / alpha
            log = log - _log_normal(now - self.target, here)
        # Without noise of its own, a step to noiseless data leaves the potential before it.
        self.mean = c
        return log.where(tied & (new + spread > 0), 0.0).sum(1)

    def keep(self, index: Tensor) -> None:
        self.mean = self.mean[index]

    def advance(self, x: Tensor, move: Move, z: Tensor) -> tuple[Tensor, Tensor]:
        tied, new, spread = self._levels(move)
        c, size = self.mean, len(self.noise)
        gain = (spread / (new + spread)).where(new + spread > 0, 1.0).where(tied, 0.0)
        noise = spread.sqrt() * self.operator.to_spectral(z).double()
        measured = c[:, :size] + gain * (self.target - c[:, :size])
        measured = measured + (1 - gain).sqrt() * noise[:, :size]
        c = torch.cat([measured, c[:, size:] + noise[:, size:]], 1)
        x_next = self.operator.from_spectral(c).to(x)
        if not move.last:
            x_next = x_next * self.sde.alpha(move.t_next).to(x)
        return x_next, c.new_zeros(len(c))

    def _mean(self, x: Tensor, move: Move) -> Tensor:
        """m: the predictor's mean over α_u, in spectral coordinates; float64, (A, D)."""
        mean = move.c * x + move.w * self.score(x, move.t)
        alpha = self.sde.alpha(move.t_next).to(x.device)
        return self.operator.to_spectral(mean).double() / alpha

    def _levels(self, move: Move) -> tuple[Tensor, Tensor, Tensor]:
        """Which coordinates are tied before a step, (R,), |ς_u² − ν²|, (R,), and v²/α_u², ()."""
        before, after = self._relative(move.t), self._relative(move.t_next)
        after = torch.zeros_like(after) if move.last else after
        alpha = self.sde.alpha(move.t_next).to(self.noise)
        tied = self.noise < (1 - 1e-6) * before  # not by rounding where the grid has the level
        return tied, (after - self.noise).abs(), (move.std / alpha).square()

    def _relative(self, t: Tensor) -> Tensor:
        """ς² at a time."""
        return (self.sde.sigma(t) / self.sde.alpha(t)).square().to(self.noise)


def _log_normal(z: Tensor, variance: Tensor) -> Tensor:
    """log N(z; 0, v), elementwise."""
    return -0.5 * (z.square() / variance + (2 * torch.pi * variance).log())
