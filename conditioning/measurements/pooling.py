"""Average pooling: the measurement sees the mean of each patch."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .checks import check_factor, check_image
from .constant import Constant
from .operator import SpectralOperator


class AveragePooling(SpectralOperator):
    """The mean of each f × f patch of each channel; all singular values are 1/f.

    Spectral coordinates are the discrete cosine transforms of the patches: the first of each, its
    mean times f, is measured and the others are not. H⁺ repeats each mean over its patch.

    Args:
        shape: Shape of one image, (C, H, W).
        factor: f ≥ 2, which divides H and W.

    Raises:
        ValueError: The shape is not (C, H, W), or f does not divide H and W.
    """

    def __init__(self, shape: Sequence[int], factor: int) -> None:
        channels, height, width = check_image(shape)
        self.factor = factor = check_factor(factor, shape)
        shape_out = (channels, height // factor, width // factor)
        values = torch.full((math.prod(shape_out),), 1 / factor, dtype=torch.float64)
        super().__init__((channels, height, width), shape_out, values)
        self._basis = Constant(cosine_basis(factor))

    def to_spectral(self, x: Tensor) -> Tensor:
        """Cosine coefficients, those of the lowest frequency first."""
        c, h, w = self.shape_out
        patches = x.reshape(-1, c, h, self.factor, w, self.factor)
        basis = self._basis(x)
        return torch.einsum("bchiwj,ki,lj->bklchw", patches, basis, basis).flatten(1)

    def from_spectral(self, c: Tensor) -> Tensor:
        """The patches of their cosine coefficients."""
        basis = self._basis(c)
        patches = c.reshape(-1, self.factor, self.factor, *self.shape_out)
        return torch.einsum("bklchw,ki,lj->bchiwj", patches, basis, basis).reshape(-1, *self.shape)

    def measure_spectral(self, y: Tensor) -> Tensor:
        """y itself."""
        return y.flatten(1)

    def from_measure_spectral(self, c: Tensor) -> Tensor:
        """y itself."""
        return c.reshape(-1, *self.shape_out)


def cosine_basis(size: int) -> Tensor:
    """The orthonormal discrete cosine transform (DCT-II), rows by frequency; (size, size), float64.

    Reference: Ahmed, Natarajan & Rao 1974.
    """
    k = torch.arange(size, dtype=torch.float64)
    basis = (math.pi / size * k[:, None] * (k + 0.5)).cos() * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis
