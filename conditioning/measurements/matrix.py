"""Any matrix as a measurement."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde.sde.checks import check_floating

from .constant import Constant
from .operator import SpectralOperator


class Matrix(SpectralOperator):
    """A dense matrix, y = H x with x flattened, by its singular value decomposition.

    Args:
        matrix: H, shape (M, D).
        shape: Shape of one sample with D entries; (D,) where not given.
        rcond: Singular values of at most rcond times the largest count as 0 in the pseudo-inverse.

    Raises:
        TypeError: The matrix is not floating point.
        ValueError: It is not (M, D), not finite, or zero, or rcond is not in [0, 1).
    """

    def __init__(
        self, matrix: Tensor, shape: Sequence[int] | None = None, rcond: float = 0.0
    ) -> None:
        check_floating("matrix", matrix)
        shape = tuple(matrix.shape[1:] if shape is None else shape)
        if matrix.ndim != 2 or matrix.shape[1] != math.prod(shape):
            raise ValueError(
                f"matrix must be (M, {math.prod(shape)}) for samples of shape {shape}, "
                f"got {tuple(matrix.shape)}"
            )
        if not matrix.isfinite().all() or not matrix.any():
            raise ValueError("matrix must be finite and not zero everywhere")
        self.matrix = matrix.double()
        u, s, vt = torch.linalg.svd(self.matrix, full_matrices=True)
        rank = int((s > 1e-12 * s[0]).sum())
        super().__init__(shape, (len(matrix),), s[:rank], rcond)
        self._u, self._vt = Constant(u[:, :rank]), Constant(vt)

    def to_spectral(self, x: Tensor) -> Tensor:
        """Vᵀ x."""
        return x.flatten(1) @ self._vt(x).T

    def from_spectral(self, c: Tensor) -> Tensor:
        """V c."""
        return (c @ self._vt(c)).reshape(-1, *self.shape)

    def measure_spectral(self, y: Tensor) -> Tensor:
        """Uᵀ y."""
        return y @ self._u(y)

    def from_measure_spectral(self, c: Tensor) -> Tensor:
        """U c."""
        return c @ self._u(c).T
