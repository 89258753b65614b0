"""Measurements of rows and columns: Y = A X Bᵀ in each channel, that is H = A ⊗ B."""

from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde.sde.checks import check_floating

from .checks import check_image
from .constant import Constant
from .operator import SpectralOperator
from .order import Order


class Separable(SpectralOperator):
    """Columns of pixels are measured by A and rows by B, with singular values s_i(A) s_j(B).

    Args:
        shape: Shape of one image, (C, H, W).
        vertical: A, shape (M, H).
        horizontal: B, shape (N, W).
        rcond: Singular values of at most rcond times the largest count as 0 in the pseudo-inverse,
            0 ≤ rcond < 1.

    Raises:
        TypeError: A matrix is not floating point.
        ValueError: The shape is not (C, H, W), or a matrix does not fit it, is not finite or zero.
    """

    def __init__(
        self, shape: Sequence[int], vertical: Tensor, horizontal: Tensor, rcond: float = 0.0
    ) -> None:
        channels, height, width = check_image(shape)
        self.vertical = _check_axis("vertical", vertical, height)
        self.horizontal = _check_axis("horizontal", horizontal, width)
        svds = [torch.linalg.svd(axis) for axis in (self.vertical, self.horizontal)]
        self._u = [Constant(u[:, : len(s)]) for u, s, _ in svds]
        self._vt = [Constant(vt) for _, _, vt in svds]
        inside = svds[0][1][:, None] * svds[1][1]
        values = torch.zeros(height, width, dtype=torch.float64)
        values[: len(inside), : inside.shape[1]] = inside
        least = 1e-12 * values.max()
        self._order = Order(values.flatten() > least, channels)
        self._order_out = Order(inside.flatten() > least, channels)
        self._inside = tuple(inside.shape)
        shape_out = (channels, len(vertical), len(horizontal))
        super().__init__(
            (channels, height, width), shape_out, self._order.values(values.flatten()), rcond
        )

    def to_spectral(self, x: Tensor) -> Tensor:
        """Vᵀ x along both axes, the measured coordinates first."""
        vertical, horizontal = (vt(x) for vt in self._vt)
        return self._order((vertical @ x @ horizontal.T).flatten(2))

    def from_spectral(self, c: Tensor) -> Tensor:
        """V c along both axes."""
        vertical, horizontal = (vt(c) for vt in self._vt)
        return vertical.T @ self._order.inverse(c).reshape(-1, *self.shape) @ horizontal

    def measure_spectral(self, y: Tensor) -> Tensor:
        """Uᵀ y along both axes."""
        vertical, horizontal = (u(y) for u in self._u)
        return self._order_out.measured((vertical.T @ y @ horizontal).flatten(2))

    def from_measure_spectral(self, c: Tensor) -> Tensor:
        """U c along both axes."""
        vertical, horizontal = (u(c) for u in self._u)
        return vertical @ self._order_out.inverse(c).unflatten(2, self._inside) @ horizontal.T


def _check_axis(name: str, matrix: Tensor, size: int) -> Tensor:
    check_floating(name, matrix)
    if matrix.ndim != 2 or not len(matrix) or matrix.shape[1] != size:
        raise ValueError(
            f"{name} must be a matrix of {size} columns, one for each pixel along that axis, got "
            f"shape {tuple(matrix.shape)}"
        )
    if not matrix.isfinite().all() or not matrix.any():
        raise ValueError(f"{name} must be finite and not zero everywhere")
    return matrix.double()
