"""Compressed sensing: orthonormal rows of a random matrix, or of the Walsh–Hadamard transform."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde.sde.checks import check_count

from .checks import check_rows
from .constant import Constant
from .operator import SpectralOperator
from .order import Order


class RandomProjection(SpectralOperator):
    """Orthonormal rows that span a uniformly random subspace; all singular values are 1.

    Gaussian rows are made orthonormal once, by Householder reflections that serve as V: M D numbers
    are kept.

    Args:
        shape: Shape of one sample, with D entries.
        count: Number M of rows, 1 ≤ M ≤ D.
        seed: Seed of the rows.

    Raises:
        ValueError: The shape or the count are no such integers.
    """

    def __init__(self, shape: Sequence[int], count: int, seed: int = 0) -> None:
        sizes = tuple(check_count("sizes of shape", n, 1) for n in shape)
        count = check_rows(count, math.prod(sizes))
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(count, math.prod(sizes), generator=generator, dtype=torch.float64)
        reflections, factors = torch.geqrf(rows.T)
        self._reflections, self._factors = Constant(reflections), Constant(factors)
        super().__init__(sizes, (count,), torch.ones(count, dtype=torch.float64))

    def to_spectral(self, x: Tensor) -> Tensor:
        """Vᵀ x by reflections; its first M entries are y."""
        v = self._reflections(x), self._factors(x)
        return torch.ormqr(*v, x.flatten(1).T.contiguous(), transpose=True).T

    def from_spectral(self, c: Tensor) -> Tensor:
        """V c by reflections."""
        v = self._reflections(c), self._factors(c)
        return torch.ormqr(*v, c.T.contiguous()).T.reshape(-1, *self.shape)

    def measure_spectral(self, y: Tensor) -> Tensor:
        """y itself."""
        return y

    def from_measure_spectral(self, c: Tensor) -> Tensor:
        """y itself."""
        return c


class Hadamard(SpectralOperator):
    """Random rows of (Walsh–Hadamard/√n)·(random signs) in each channel; singular values are 1.

    A product costs O(n log n), and 2 n numbers are kept.

    Args:
        shape: Shape of one sample: (C, H, W) with n = H W pixels in each channel, or n = (D,).
        count: Number M of rows in each channel, 1 ≤ M ≤ n.
        seed: Seed of the signs and of the choice of rows.

    Raises:
        ValueError: n is no power of two, or the shape or the count are no such integers.
    """

    def __init__(self, shape: Sequence[int], count: int, seed: int = 0) -> None:
        sizes = tuple(check_count("sizes of shape", n, 1) for n in shape)
        if len(sizes) not in (1, 3):
            raise ValueError(f"shape must be (C, H, W) or (D,), got {sizes}")
        channels, pixels = math.prod(sizes[:-2]), math.prod(sizes[-2:])
        if pixels & (pixels - 1):
            near = 2 ** (pixels.bit_length() - 1)
            raise ValueError(
                f"a Walsh–Hadamard transform needs a power of two of pixels in each channel, got "
                f"{pixels}; use {near} or {2 * near}, or RandomProjection for any number"
            )
        count = check_rows(count, pixels)
        generator = torch.Generator().manual_seed(seed)
        signs = 2 * torch.randint(2, (pixels,), generator=generator).double() - 1
        measured = torch.zeros(pixels, dtype=torch.bool)
        measured[torch.randperm(pixels, generator=generator)[:count]] = True
        self._signs, self._order = Constant(signs), Order(measured, channels)
        self._channels = channels
        shape_out = (channels, count) if len(sizes) == 3 else (count,)
        super().__init__(sizes, shape_out, torch.ones(channels * count, dtype=torch.float64))

    def to_spectral(self, x: Tensor) -> Tensor:
        """The signed transform, the chosen rows first."""
        pixels = x.reshape(len(x), self._channels, -1)
        return self._order(walsh_hadamard(self._signs(x) * pixels))

    def from_spectral(self, c: Tensor) -> Tensor:
        """The transform, which is its own inverse, and the signs."""
        return (self._signs(c) * walsh_hadamard(self._order.inverse(c))).reshape(-1, *self.shape)

    def measure_spectral(self, y: Tensor) -> Tensor:
        """y itself, rows before channels."""
        return y.reshape(len(y), self._channels, -1).mT.flatten(1)

    def from_measure_spectral(self, c: Tensor) -> Tensor:
        """y itself."""
        return c.unflatten(1, (-1, self._channels)).mT.reshape(-1, *self.shape_out)


def walsh_hadamard(x: Tensor) -> Tensor:
    """The orthonormal Walsh–Hadamard transform along the last axis, a power of two long."""
    size, half = x.shape[-1], 1
    while half < size:
        pairs = x.unflatten(-1, (-1, 2, half))
        a, b = pairs.unbind(-2)
        x = torch.stack([a + b, a - b], -2).flatten(-3)
        half *= 2
    return x / math.sqrt(size)
