"""A blur followed by downsampling, with its decomposition in the frequencies of the small image."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .blur import frequency_response
from .checks import check_factor, check_image
from .constant import Constant
from .operator import SpectralOperator
from .order import Order
from .real_fourier import RealFourier, mirrored, unit


class BlurDownsampling(SpectralOperator):
    """A circular blur K of which every f-th pixel is kept, from the first: H = S K.

    f² frequencies of the image fall on each frequency ω of the small one, so that H Hᵀ is there the
    mean m(ω) of |k̂|² over them, and singular values are √m. V maps the kept pixels, in Fourier
    coordinates, to the span of Hᵀ, by a reflection that is diagonal in ω; the other pixels go to
    what is orthogonal to it.

    Args:
        shape: Shape of one image, (C, H, W).
        kernel: k; see `CircularBlur`.
        factor: f ≥ 2, which divides H and W.
        rcond: See `CircularBlur`.

    Raises:
        TypeError: The kernel is not floating point.
        ValueError: The shape is not (C, H, W), f does not divide H and W, the kernel is larger, not
            finite or zero, or rcond is not in [0, 1).

    Reference: Zhao et al. 2016, arXiv:1510.00143 (H Hᵀ).
    """

    def __init__(
        self, shape: Sequence[int], kernel: Tensor, factor: int, rcond: float = 0.0
    ) -> None:
        channels, height, width = check_image(shape)
        self.factor = factor = check_factor(factor, shape)
        self.kernel, response = frequency_response(kernel, height, width)
        small = (height // factor, width // factor)
        self._small, self._fourier = small, RealFourier(*small)
        values = self._folded(response.abs().square()).sqrt()
        seen = values > 1e-12 * values.max()
        # The span of Hᵀ is that of V₁ = Hᵀ (H Hᵀ)^(−½), a filter after zeros between the pixels.
        scale = torch.where(seen, 1 / values, 0.0)
        filters = response.conj() * self._tiled(scale)
        overlap = self._folded(filters)  # S V₁
        overlap = 0.5 * (overlap + mirrored(overlap).conj())
        phase = -unit(overlap).conj()
        # With P the phase, S V₁ P = −|S V₁|, and I − W (I + |S V₁|)⁻¹ Wᵀ reflects Sᵀ to V₁ P.
        difference = filters * self._tiled(phase) - self._tiled(seen.to(response))
        self._difference = Constant(difference)
        self._weights = Constant(1 / (1 + overlap.abs()))
        self._phase = Constant(phase.flatten()[self._fourier.halves])
        pixels = torch.arange(height * width).reshape(height, width)
        kept = torch.zeros(height, width, dtype=torch.bool)
        kept[::factor, ::factor] = True
        order = torch.cat([pixels[kept], pixels[~kept]])
        self._pixels, self._places = Constant(order), Constant(torch.argsort(order))
        of_coordinates = torch.zeros(height * width, dtype=torch.float64)
        of_coordinates[: values.numel()] = values.flatten()[self._fourier.frequency]
        self._order = Order(of_coordinates > 1e-12 * values.max(), channels)
        self._order_out = Order(seen.flatten()[self._fourier.frequency], channels)
        super().__init__(
            (channels, height, width),
            (channels, *small),
            self._order.values(of_coordinates),
            rcond,
        )

    def to_spectral(self, x: Tensor) -> Tensor:
        """Vᵀ x: the reflection, then Fourier coordinates of the kept pixels, and the others."""
        pixels = self._reflected(x).flatten(2)[..., self._pixels(x)]
        count = self._small[0] * self._small[1]
        kept = self._fourier.forward(pixels[..., :count].unflatten(2, self._small))
        return self._order(torch.cat([kept, pixels[..., count:]], 2))

    def from_spectral(self, c: Tensor) -> Tensor:
        """V c, the same steps backwards."""
        pixels = self._order.inverse(c)
        count = self._small[0] * self._small[1]
        kept = self._fourier.inverse(pixels[..., :count]).flatten(2)
        whole = torch.cat([kept, pixels[..., count:]], 2)[..., self._places(c)]
        return self._reflected(whole.reshape(-1, *self.shape))

    def measure_spectral(self, y: Tensor) -> Tensor:
        """Uᵀ y: Fourier coordinates turned back by the phase."""
        return self._order_out.measured(self._fourier.forward(y, self._phase(y)))

    def from_measure_spectral(self, c: Tensor) -> Tensor:
        """U c: the small image of Fourier coordinates turned by the phase."""
        return self._fourier.inverse(self._order_out.inverse(c), self._phase(c))

    def _reflected(self, x: Tensor) -> Tensor:
        """x − W (I + |S V₁|)⁻¹ Wᵀ x, which is its own inverse."""
        difference, spectrum = self._difference(x), torch.fft.fft2(x)
        inside = self._weights(x) * self._folded(difference.conj() * spectrum)
        return x - torch.fft.ifft2(difference * self._tiled(inside)).real

    def _folded(self, spectrum: Tensor) -> Tensor:
        """The mean over the frequencies that fall on each one of the small image."""
        f, (h, w) = self.factor, self._small
        return spectrum.unflatten(-1, (f, w)).unflatten(-3, (f, h)).mean((-4, -2))

    def _tiled(self, spectrum: Tensor) -> Tensor:
        """A function of the small frequencies at all frequencies."""
        return spectrum.repeat(*[1] * (spectrum.ndim - 2), self.factor, self.factor)
