"""The interface of measurement operators, y = H x.

An operator knows the shape of a sample, so that what it needs of it is computed once. A linear one
has an adjoint and a pseudo-inverse; one with a known singular value decomposition H = U S Vᵀ states
three transforms, and all else follows from them without a matrix.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from .conjugate_gradients import conjugate_gradients
from .constant import Constant
from .level import Level, broadcast, noisy, per_sample, reciprocal


class Operator(ABC):
    """A measurement h(x) of samples, differentiable by autograd.

    Args:
        shape: Shape of one sample, such as (C, H, W).
        shape_out: Shape of its measurement.
    """

    def __init__(self, shape: tuple[int, ...], shape_out: tuple[int, ...]) -> None:
        self.shape, self.shape_out = tuple(shape), tuple(shape_out)

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """h(x), shape (B, *shape_out), of samples (B, *shape)."""

    def check_samples(self, x: Tensor) -> Tensor:
        """Return samples, refusing another shape.

        Raises:
            ValueError: x is not (B, *shape).
        """
        return self._checked("samples", x, self.shape)

    def check_measurement(self, y: Tensor) -> Tensor:
        """Return a measurement, refusing another shape.

        Raises:
            ValueError: y is not (B, *shape_out).
        """
        return self._checked("a measurement", y, self.shape_out)

    def _checked(self, name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor:
        if tuple(value.shape[1:]) != shape or value.ndim != 1 + len(shape):
            raise ValueError(
                f"{name} of {type(self).__name__} must have shape (B, "
                f"{', '.join(map(str, shape))}), got {tuple(value.shape)}"
            )
        return value


class LinearOperator(Operator):
    """A linear measurement y = H x, by its products alone.

    Where no decomposition is known, systems are solved by conjugate gradients.

    Attributes:
        iterations: Most iterations for the pseudo-inverse; see `conjugate_gradients`.
    """

    iterations: int | None = None

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """Hᵀ y, shape (B, *shape), with ⟨H x, y⟩ = ⟨x, Hᵀ y⟩."""

    def pinv(self, y: Tensor) -> Tensor:
        """H⁺ y, the shortest x whose H x is nearest to y; shape (B, *shape)."""
        return conjugate_gradients(
            lambda x: self.adjoint(self(x)), self.adjoint(y), iterations=self.iterations
        )

    def project(self, x: Tensor) -> Tensor:
        """P x = H⁺ H x, the part of samples that the measurement determines."""
        return self.pinv(self(x))

    def solve(self, y: Tensor, *, prior: Level, noise: Level) -> Tensor:
        """(p H Hᵀ + v I)⁻¹ y; for v = 0 the pseudo-inverse in its place; shape of y.

        Args:
            y: Measurements, shape (B, *shape_out).
            prior: p ≥ 0, a number or one for each sample.
            noise: v ≥ 0, a number, or one for each sample or entry.

        Raises:
            ValueError: A variance is negative, or has another shape.
        """
        p, v = self.levels(y, prior, noise)

        def apply(z: Tensor) -> Tensor:
            return p * self(self.adjoint(z)) + v * z

        some = noisy(v)
        if some.all():
            return conjugate_gradients(apply, y)
        # Without noise the system is singular where H has dependent rows, and y may lie outside.
        inside = torch.where(some.to(y.device), y, self(self.pinv(y)))
        return conjugate_gradients(apply, inside, iterations=self.iterations)

    def levels(self, y: Tensor, prior: Level, noise: Level) -> tuple[Tensor, Tensor]:
        """p and v of `solve`, which broadcast over y, after checks."""
        self.check_measurement(y)
        return broadcast("prior", prior, y, entries=False), broadcast("noise", noise, y)


class SpectralOperator(LinearOperator):
    """A linear measurement H = U S Vᵀ with a known singular value decomposition.

    Spectral coordinates are numbered 0 … D − 1, with D the number of coordinates of a sample. The
    first R of them are measured, with singular values s_i > 0; the others are not.

    Args:
        shape, shape_out: Shapes of one sample and of its measurement.
        singular_values: s, float64, shape (R,), all > 0.
        rcond: Singular values of at most rcond times the largest count as 0 in the pseudo-inverse,
            but not in H; 0 ≤ rcond < 1.

    Raises:
        ValueError: rcond is not in [0, 1).

    Reference: Kawar et al. 2022, arXiv:2201.11793 (section 3).
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        shape_out: tuple[int, ...],
        singular_values: Tensor,
        rcond: float = 0.0,
    ) -> None:
        super().__init__(shape, shape_out)
        if not 0 <= rcond < 1:
            raise ValueError(f"rcond must be in [0, 1), got {rcond}")
        self.singular_values, self.rcond = singular_values.double(), rcond
        self._values = Constant(self.singular_values)
        spread = float(self.singular_values.max() - self.singular_values.min())
        self._equal = spread <= 1e-12 * float(self.singular_values.max())

    @property
    def row_norm(self) -> float | None:
        """c where H Hᵀ = c² I, so that H⁺ = Hᵀ/c²; None where the rows are not so."""
        whole = len(self.singular_values) == math.prod(self.shape_out)
        return float(self.singular_values[0]) if whole and self._equal else None

    @property
    def column_norm(self) -> float | None:
        """c where Hᵀ H = c² I; None where the columns are not so."""
        whole = len(self.singular_values) == math.prod(self.shape)
        return float(self.singular_values[0]) if whole and self._equal else None

    def inverse_values(self, like: Tensor) -> Tensor:
        """1/s_i, and 0 where H⁺ has none, shape (R,), in the type of samples or measurements.

        They are 0 up to rcond times the largest s_i, and where rounding in this type would be
        multiplied by so much that nothing else is left.
        """
        s = self.singular_values
        least = max(self.rcond, 10 * torch.finfo(like.dtype).eps) * s.max()
        return torch.where(s > least, 1 / s, 0.0).to(like)

    @abstractmethod
    def to_spectral(self, x: Tensor) -> Tensor:
        """Vᵀ x, shape (B, D), of samples (B, *shape); V is orthogonal."""

    @abstractmethod
    def from_spectral(self, c: Tensor) -> Tensor:
        """V c, shape (B, *shape), of coordinates (B, D)."""

    @abstractmethod
    def measure_spectral(self, y: Tensor) -> Tensor:
        """Uᵀ y, shape (B, R), of measurements (B, *shape_out); the columns of U are orthonormal."""

    @abstractmethod
    def from_measure_spectral(self, c: Tensor) -> Tensor:
        """U c, shape (B, *shape_out), of coordinates (B, R)."""

    def __call__(self, x: Tensor) -> Tensor:
        """H x = U S Vᵀ x."""
        s = self._values(x)
        return self.from_measure_spectral(s * self.to_spectral(self.check_samples(x))[:, : len(s)])

    def adjoint(self, y: Tensor) -> Tensor:
        """Hᵀ y = V S Uᵀ y."""
        return self._back(y, self._values(y))

    def pinv(self, y: Tensor) -> Tensor:
        """H⁺ y = V S⁺ Uᵀ y; see `rcond`."""
        return self._back(y, self.inverse_values(y))

    def solve(self, y: Tensor, *, prior: Level, noise: Level) -> Tensor:
        """(p H Hᵀ + v I)⁻¹ y in spectral coordinates; see `LinearOperator.solve`."""
        p, v = self.levels(y, prior, noise)
        if self.row_norm is not None:
            return y * reciprocal(p * self.row_norm**2 + v)
        if not per_sample(v):
            return super().solve(y, prior=prior, noise=noise)
        inside = self.measure_spectral(y)
        each, flat = reciprocal(v), (p.reshape(-1, 1), v.reshape(-1, 1))
        p, v = (level.to(y.device) for level in flat)
        exact = self.inverse_values(y).square() * reciprocal(p)
        factors = torch.where(v > 0, reciprocal(p * self._values(y).square() + v), exact)
        solved = self.from_measure_spectral(factors * inside)
        if len(self.singular_values) == math.prod(self.shape_out):
            return solved
        return solved + each * (y - self.from_measure_spectral(inside))

    def _back(self, y: Tensor, factors: Tensor) -> Tensor:
        """V F Uᵀ y."""
        inside = factors * self.measure_spectral(self.check_measurement(y))
        rest = math.prod(self.shape) - len(factors)
        return self.from_spectral(torch.nn.functional.pad(inside, (0, rest)))
