"""The discrete Fourier transform of real images in real orthonormal coordinates."""

import math

import torch
from torch import Tensor

from .constant import Constant


class RealFourier:
    """Unitary Fourier coefficients of real images, of which half determine the other half.

    X(−ω) is the conjugate of X(ω). Coordinates are X where ω = −ω, which is real, then √2 Re X and
    √2 Im X of one ω of each other pair: H W numbers for H W pixels, an orthonormal basis.

    Args:
        height, width: H and W.

    Attributes:
        frequency: Index in the flattened H × W transform of each coordinate, int64, (H W,).
        halves: Index of each frequency that has coordinates, the self-conjugate ones first.
        alone: Number of self-conjugate frequencies: 1, 2 or 4.
    """

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        index = torch.arange(height * width).reshape(height, width)
        opposite = mirrored(index).flatten()
        index = index.flatten()
        alone, half = index[index == opposite], index[index < opposite]
        self.alone, self.halves = len(alone), torch.cat([alone, half])
        self.frequency = torch.cat([alone, half, half])
        self._halves = Constant(self.halves)
        # Where a coefficient is found among those of `halves`, then the conjugates of the pairs.
        self._places = Constant(torch.argsort(torch.cat([self.halves, opposite[half]])))

    def forward(self, x: Tensor, phase: Tensor | None = None) -> Tensor:
        """Coordinates (…, H W) of images (…, H, W), turned back by a phase.

        Args:
            x: Images.
            phase: Unit complex numbers, one for each of `halves`; none where not given.
        """
        whole = torch.fft.fft2(x, norm="ortho").flatten(-2)[..., self._halves(x)]
        if phase is not None:
            whole = whole * phase.conj()
        alone, pairs = whole[..., : self.alone].real, math.sqrt(2) * whole[..., self.alone :]
        return torch.cat([alone, pairs.real, pairs.imag], -1)

    def inverse(self, c: Tensor, phase: Tensor | None = None) -> Tensor:
        """Images (…, H, W) of coordinates (…, H W), turned by a phase; see `forward`."""
        alone, pairs = c[..., : self.alone], c[..., self.alone :] / math.sqrt(2)
        half = torch.complex(*pairs.chunk(2, -1))
        whole = torch.cat([torch.complex(alone, torch.zeros_like(alone)), half], -1)
        if phase is not None:
            whole = whole * phase
        whole = torch.cat([whole, whole[..., self.alone :].conj()], -1)[..., self._places(c)]
        return torch.fft.ifft2(whole.unflatten(-1, (self.height, self.width)), norm="ortho").real


def mirrored(spectrum: Tensor) -> Tensor:
    """The values at −ω of a function of the frequencies (H, W), in the order of `torch.fft`."""
    return spectrum.flip((0, 1)).roll((1, 1), (0, 1))


def unit(z: Tensor) -> Tensor:
    """z/|z|, and 1 where z = 0."""
    size = z.abs()
    return torch.where(size > 0, z / size, torch.ones_like(z))
