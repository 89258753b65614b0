"""Two measurements, one after the other."""

from torch import Tensor

from scoresde.sde import rows
from scoresde.sde.checks import check_steps

from .level import Level, per_sample, reciprocal
from .operator import LinearOperator, SpectralOperator


class Composition(LinearOperator):
    """y = G H x, of which the pseudo-inverse is in general not H⁺ G⁺.

    It is where the rows of H or the columns of G are orthogonal and equally long, as for a mask
    after a pooling; else systems are solved by conjugate gradients, as for a mask after a blur.

    Args:
        outer: G, which measures what H gives.
        inner: H.
        iterations: Most iterations of conjugate gradients ≥ 1 for the pseudo-inverse. Where the two
            together are so ill-conditioned that they do not suffice, small singular values count as
            0: those that were not yet found.

    Raises:
        TypeError: An operator is not linear.
        ValueError: The samples of G have another shape than the measurements of H.
    """

    def __init__(self, outer: LinearOperator, inner: LinearOperator, iterations: int = 500) -> None:
        for name, operator in (("outer", outer), ("inner", inner)):
            if not isinstance(operator, LinearOperator):
                raise TypeError(
                    f"{name} must be a linear operator, got {type(operator).__name__}; its "
                    "pseudo-inverse would not be one of the two together"
                )
        if outer.shape != inner.shape_out:
            raise ValueError(
                f"the samples of the outer operator must be measurements of the inner one, of "
                f"shape {inner.shape_out}, got {outer.shape}; are the two swapped?"
            )
        super().__init__(inner.shape, outer.shape_out)
        self.outer, self.inner = outer, inner
        self.iterations: int = check_steps(iterations, "iterations")

    def __call__(self, x: Tensor) -> Tensor:
        """G H x."""
        return self.outer(self.inner(x))

    def adjoint(self, y: Tensor) -> Tensor:
        """Hᵀ Gᵀ y."""
        return self.inner.adjoint(self.outer.adjoint(y))

    def pinv(self, y: Tensor) -> Tensor:
        """(G H)⁺ y."""
        if self._rows is None and self._columns is None:
            return super().pinv(y)
        return self.inner.pinv(self.outer.pinv(y))

    def solve(self, y: Tensor, *, prior: Level, noise: Level) -> Tensor:
        """(p G H Hᵀ Gᵀ + v I)⁻¹ y; see `LinearOperator.solve`."""
        p, v = self.levels(y, prior, noise)
        if self._rows is not None:  # H Hᵀ = c² I
            return self.outer.solve(y, prior=p * self._rows**2, noise=v)
        if self._columns is None or not per_sample(v):
            return super().solve(y, prior=prior, noise=noise)
        # G = c Q with orthonormal columns Q: the system is that of H within their span.
        c = self._columns
        inside = self.inner.solve(self.outer.adjoint(y), prior=p * c**2, noise=v)
        rest = y - self.outer(self.outer.pinv(y))
        return self.outer(inside) / c**2 + reciprocal(v) * rest

    def rows(self, index: Tensor) -> "Composition":
        """The measurements of some samples; see `scoresde.sde.rows`."""
        parts = rows(self.outer, index), rows(self.inner, index)
        return Composition(*parts, self.iterations)

    @property
    def _rows(self) -> float | None:
        return self.inner.row_norm if isinstance(self.inner, SpectralOperator) else None

    @property
    def _columns(self) -> float | None:
        return self.outer.column_norm if isinstance(self.outer, SpectralOperator) else None
