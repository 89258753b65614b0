"""Fourier subsampling: the measurement sees some frequencies of a real image."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .checks import check_image
from .operator import SpectralOperator
from .order import Order
from .real_fourier import RealFourier, mirrored


class FourierMask(SpectralOperator):
    """Some coefficients of the unitary Fourier transform of each channel; singular values are 1.

    A real image has X(−ω) = X(ω)*, so that both are known or none, and y holds each pair once, in
    the real orthonormal coordinates of `RealFourier`: white noise there is what white noise of the
    image would be.

    Args:
        shape: Shape of one image, (C, H, W).
        known: True where a frequency is known, bool, (H, W), in the order of `torch.fft.fft2`: the
            mean of the image is at [0, 0].

    Raises:
        TypeError: `known` is not of type bool.
        ValueError: The shape is not (C, H, W), or `known` is not (H, W), not the same at ω and −ω,
            or hides nothing or everything.
    """

    def __init__(self, shape: Sequence[int], known: Tensor) -> None:
        channels, height, width = check_image(shape)
        if known.dtype != torch.bool:
            raise TypeError(f"known must be of type bool, got {known.dtype}; use known > 0.5")
        if known.shape != (height, width):
            raise ValueError(
                f"known must have a value for each frequency, shape {(height, width)}, got "
                f"{tuple(known.shape)}"
            )
        uneven = int((known != mirrored(known)).sum())
        if uneven:
            raise ValueError(
                f"known must be the same at ω and −ω for real images, and {uneven} frequencies "
                "differ; use known | known.flip(0, 1).roll((1, 1), (0, 1))"
            )
        if known.all() or not known.any():
            raise ValueError(
                f"a mask must hide some frequencies and not all, got {int(known.sum())} of "
                f"{known.numel()} known"
            )
        self.known, self._fourier = known, RealFourier(height, width)
        self._order = Order(known.flatten()[self._fourier.frequency], channels)
        count = self._order.count
        values = torch.ones(channels * count, dtype=torch.float64)
        super().__init__((channels, height, width), (channels, count), values)

    def to_spectral(self, x: Tensor) -> Tensor:
        """Real Fourier coordinates, the known ones first."""
        return self._order(self._fourier.forward(x))

    def from_spectral(self, c: Tensor) -> Tensor:
        """The image of its Fourier coordinates."""
        return self._fourier.inverse(self._order.inverse(c))

    def measure_spectral(self, y: Tensor) -> Tensor:
        """y itself, coordinates before channels."""
        return y.mT.flatten(1)

    def from_measure_spectral(self, c: Tensor) -> Tensor:
        """y itself."""
        return c.unflatten(1, (-1, self.shape[0])).mT

    def from_coefficients(self, spectrum: Tensor) -> Tensor:
        """y of measured Fourier coefficients, such as a scanner's; shape (B, *shape_out).

        Args:
            spectrum: Unitary coefficients (`norm="ortho"`), complex, shape (B, C, H, W); those at
                unknown frequencies do not matter.
        """
        return self(torch.fft.ifft2(spectrum, norm="ortho").real)
