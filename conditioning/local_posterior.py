"""The posterior with a Gaussian in the place of the data, N(x_0; m, r² I) p(y | x_0)."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from scoresde.samplers import Corrector
from scoresde.samplers.context import Noise
from scoresde.samplers.langevin import Level
from scoresde.sde.checks import check_positive, check_steps

from .measurements import LinearOperator, Measurement, SpectralOperator

DEGREE = 64
"""Degree of the polynomial of H Hᵀ, each a product with H and with Hᵀ."""

ITERATIONS = 200
"""Of power iteration for the largest singular value."""


class LocalPosterior(ABC):
    """A way to sample p(x_0) ∝ N(x_0; m, r² I) p(y | x_0)."""

    @abstractmethod
    def check(self, measurement: Measurement) -> None:
        """Raise ValueError or TypeError if the measurement does not allow it."""

    @abstractmethod
    def draw(
        self, mean: Tensor, std: float, measurement: Measurement, noise: Noise, share: float
    ) -> Tensor:
        """A sample for each mean, shape (B, *).

        Args:
            mean: m, shape (B, *).
            std: r > 0.
            measurement: y = h(x_0) + σ_y n.
            noise: noise(x) → z, of x's shape.
            share: Part of the run that is done, in [0, 1].
        """


class Exact(LocalPosterior):
    """Exact samples for a linear measurement with Gaussian noise, by Matheron's rule.

        x̃ = m + r z_1,   x = x̃ + r² Hᵀ (r² H Hᵀ + σ_y² I)⁻¹ (y + σ_y z_2 − H x̃)

    Any linear operator that solves such a system will do; σ_y may be 0.

    Reference: Hoffman & Ribak 1991; Wilson et al. 2020, arXiv:2002.09309.
    """

    def check(self, measurement: Measurement) -> None:
        """Refuse an operator that is not linear."""
        if not isinstance(measurement.operator, LinearOperator):
            raise TypeError(
                "exact samples need a linear operator, got "
                f"{type(measurement.operator).__name__}; use LangevinDraw()"
            )
        _ = measurement.std

    def draw(
        self, mean: Tensor, std: float, measurement: Measurement, noise: Noise, share: float
    ) -> Tensor:
        """A sample for each mean; see `LocalPosterior.draw`."""
        operator, sigma = measurement.operator, measurement.std
        assert isinstance(operator, LinearOperator)
        x = torch.add(mean, noise(mean), alpha=std)
        residual = measurement.residual(x)
        residual = torch.add(residual, noise(residual), alpha=sigma)
        solved = operator.solve(residual, prior=std**2, noise=sigma**2)
        return torch.add(x, operator.adjoint(solved), alpha=std**2)


class SplitNoise(LocalPosterior):
    """Exact samples with the noise covariance σ_y² I − r² H Hᵀ in the place of σ_y² I.

        x̃ = m + r z_1,   x = x̃ + (r²/σ_y²) Hᵀ (y + (σ_y² I − r² H Hᵀ)^½ z_2 − H x̃)

    It exists for r ≤ σ_y/s_max. What is missing in the noise is that of m around the data. Without
    a singular value decomposition of H, s_max is found by power iteration, and the root is a
    polynomial of H Hᵀ, exact to rounding for r ≤ 0.95 σ_y/s_max.

    Args:
        measurement: y = H x_0 + σ_y n.

    Attributes:
        limit: σ_y/s_max, the largest r.

    Raises:
        TypeError: h is not linear.
        ValueError: σ_y = 0.
    """

    def __init__(self, measurement: Measurement) -> None:
        self.check(measurement)
        operator = measurement.operator
        assert isinstance(operator, LinearOperator)
        self._largest = _largest_singular_value(operator, measurement.y)
        self.limit = measurement.std / self._largest

    def check(self, measurement: Measurement) -> None:
        """Refuse an operator that is not linear, and σ_y = 0."""
        if not isinstance(measurement.operator, LinearOperator):
            raise TypeError(
                "splitting the noise needs a linear operator, got "
                f"{type(measurement.operator).__name__}; use the form without a split, "
                "pnp_dm(measurement) or form='plain'"
            )
        if measurement.std == 0:
            raise ValueError(
                "splitting the noise of the measurement divides by it, and std is 0; use "
                "form='plain', rho=0.03, decay=0.98, whose error falls with rho"
            )

    def draw(
        self, mean: Tensor, std: float, measurement: Measurement, noise: Noise, share: float
    ) -> Tensor:
        """A sample for each mean; see `LocalPosterior.draw`."""
        operator, sigma = measurement.operator, measurement.std
        assert isinstance(operator, LinearOperator)
        x = torch.add(mean, noise(mean), alpha=std)
        residual = measurement.residual(x)
        z, ratio = noise(residual), std / sigma
        root = _root(operator, z, ratio, ratio * self._largest)
        residual = torch.add(residual, root, alpha=sigma)
        return torch.add(x, operator.adjoint(residual), alpha=ratio**2)


def _root(operator: LinearOperator, z: Tensor, ratio: float, largest: float) -> Tensor:
    """(I − q² H Hᵀ)^½ z, by singular values or as a Chebyshev series of H Hᵀ.

    Args:
        operator: H.
        z: Shape (B, *shape_out).
        ratio: q.
        largest: q s_max ≤ 1.
    """
    if isinstance(operator, SpectralOperator):
        s = operator.singular_values.to(z)
        less = (1 - (ratio * s).square()).clamp(min=0).sqrt() - 1
        return z + operator.from_measure_spectral(less * operator.measure_spectral(z))
    top = min(largest, 1.0) ** 2

    def shifted(v: Tensor) -> Tensor:  # its eigenvalues are in [−1, 1]
        return 2 * ratio**2 / top * operator(operator.adjoint(v)) - v

    angles = (torch.arange(DEGREE + 1, dtype=torch.float64) + 0.5) * math.pi / (DEGREE + 1)
    values = (1 - top * (angles.cos() + 1) / 2).sqrt()
    series = (
        2 * torch.outer(torch.arange(DEGREE + 1), angles).cos() @ values / (DEGREE + 1)
    ).tolist()
    series[0] /= 2
    before, now = z, shifted(z)
    total = series[0] * before + series[1] * now
    for weight in series[2:]:
        before, now = now, 2 * shifted(now) - before
        total = total + weight * now
    return total


def _largest_singular_value(operator: LinearOperator, like: Tensor) -> float:
    """s_max, without a decomposition by power iteration."""
    if isinstance(operator, SpectralOperator):
        return operator.singular_values.max().item()
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(1, *operator.shape, generator=generator, dtype=torch.float64).to(like.device)
    for _ in range(ITERATIONS):
        v = operator.adjoint(operator(v / v.norm()))
    return v.norm().sqrt().item()


class LangevinDraw(LocalPosterior):
    """Langevin steps from m, for measurements that are not linear.

        x ← x + δ ∇ log [N(x; m, r² I) p(y | x)] + √(2δ) z

    It samples the posterior only as δ → 0 and δ · steps → ∞. δ is divided by 1 + δ/r², so that
    steps stay stable where r is small, and must itself stay below σ_y²/‖∂h‖². Steps of δ ≪ r²
    hardly leave m: with the published constants they optimize.

    Args:
        steps: Langevin steps ≥ 1.
        step: δ at the beginning of a run > 0.
        last_step: δ at its end > 0; it falls linearly from `step`.

    Raises:
        ValueError: A number out of its range.

    Reference: Zhang et al. 2025, arXiv:2407.01521 (algorithm 1).
    """

    def __init__(self, steps: int = 100, step: float = 1e-4, last_step: float = 1e-6) -> None:
        self.steps = check_steps(steps)
        self.step = check_positive("step", step)
        self.last_step = check_positive("last_step", last_step)

    def check(self, measurement: Measurement) -> None:
        """Refuse a measurement without noise."""
        measurement.check_noisy("a Langevin step on log p(y | x_0)")

    def draw(
        self, mean: Tensor, std: float, measurement: Measurement, noise: Noise, share: float
    ) -> Tensor:
        """A sample for each mean; see `LocalPosterior.draw`."""

        def score(x: Tensor, t: Tensor) -> Tensor:
            leaf = x.detach().requires_grad_()
            with torch.enable_grad():
                value = measurement.log_likelihood(leaf).sum()
            (gradient,) = torch.autograd.grad(value, leaf)
            return gradient + (mean - x) / std**2

        delta = self.step + share * (self.last_step - self.step)
        steps = _EqualSteps(self.steps, delta / (1 + delta / std**2))
        return steps.step(Level(torch.zeros(()), 1.0, std), score, mean, noise)[0]


class _EqualSteps(Corrector):
    """Langevin steps of one size."""

    def __init__(self, n_steps: int, delta: float) -> None:
        super().__init__(n_steps)
        self.delta = delta

    def step_size(self, level: Level, s: Tensor, z: Tensor) -> float:
        """δ; see `Corrector.step_size`."""
        return self.delta
