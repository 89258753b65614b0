"""Blurs by a kernel: circular, and of rows and columns with borders."""

from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde.sde.checks import check_choice

from .checks import check_image, check_kernel
from .constant import Constant
from .operator import SpectralOperator
from .order import Order
from .real_fourier import RealFourier, mirrored, unit
from .resize import reflected
from .separable import Separable

BORDERS = ("zero", "reflect", "symmetric", "replicate", "circular")


class CircularBlur(SpectralOperator):
    """y_i = Σ_j k_j x_{i + j − c}, with images continued periodically; singular values are |k̂|.

    k̂ is the Fourier transform of the kernel: coordinates of samples are those of `RealFourier`, and
    those of measurements are turned by the phase of k̂.

    Args:
        shape: Shape of one image, (C, H, W).
        kernel: k, shape (h, w) with h ≤ H and w ≤ W, the same for each channel; its middle c is
            (h // 2, w // 2). A vector (n,) blurs both axes.
        rcond: Singular values of at most rcond times the largest count as 0 in the pseudo-inverse,
            but not in H; 0 ≤ rcond < 1.

    Raises:
        TypeError: The kernel is not floating point.
        ValueError: The shape is not (C, H, W), or the kernel is larger, not finite or zero, or
            rcond is not in [0, 1).
    """

    def __init__(self, shape: Sequence[int], kernel: Tensor, rcond: float = 0.0) -> None:
        channels, height, width = check_image(shape)
        self.kernel, response = frequency_response(kernel, height, width)
        self._fourier = RealFourier(height, width)
        size = response.abs().flatten()
        values = size[self._fourier.frequency]
        self._order = Order(values > 1e-12 * values.max(), channels)
        self._phase = Constant(unit(response).flatten()[self._fourier.halves])
        whole = (channels, height, width)
        super().__init__(whole, whole, self._order.values(values), rcond)

    def to_spectral(self, x: Tensor) -> Tensor:
        """Real Fourier coordinates, the measured ones first."""
        return self._order(self._fourier.forward(x))

    def from_spectral(self, c: Tensor) -> Tensor:
        """The image of its Fourier coordinates."""
        return self._fourier.inverse(self._order.inverse(c))

    def measure_spectral(self, y: Tensor) -> Tensor:
        """Real Fourier coordinates, turned back by the phase of k̂."""
        return self._order.measured(self._fourier.forward(y, self._phase(y)))

    def from_measure_spectral(self, c: Tensor) -> Tensor:
        """The image of Fourier coordinates, turned by the phase of k̂."""
        return self._fourier.inverse(self._order.inverse(c), self._phase(c))


class SeparableBlur(Separable):
    """Columns of pixels are blurred by one kernel and rows by another, with a border.

    Args:
        shape: Shape of one image, (C, H, W).
        vertical: Kernel of the columns, shape (h,) with h ≤ H, as for `CircularBlur`.
        horizontal: Kernel of the rows, shape (w,) with w ≤ W; `vertical` where not given.
        border: What lies outside: zero; reflect (2 1 | 0 1 2, as in torch); symmetric
            (1 0 | 0 1 2); replicate (0 0 | 0 1 2); circular.
        rcond: See `CircularBlur`.

    Raises:
        TypeError: A kernel is not floating point.
        ValueError: The shape is not (C, H, W), a kernel is larger, not finite or zero, the border
            is unknown, or rcond is not in [0, 1).
    """

    def __init__(
        self,
        shape: Sequence[int],
        vertical: Tensor,
        horizontal: Tensor | None = None,
        border: str = "reflect",
        rcond: float = 0.0,
    ) -> None:
        _, height, width = check_image(shape)
        self.border = check_choice("border", border, *BORDERS)
        other = vertical if horizontal is None else horizontal
        axes = (blur_matrix(vertical, height, border), blur_matrix(other, width, border))
        super().__init__(shape, *axes, rcond=rcond)


def blur_matrix(kernel: Tensor, size: int, border: str = "reflect") -> Tensor:
    """The blur of one axis, shape (size, size), float64; arguments as of `SeparableBlur`."""
    kernel = check_kernel(kernel, (size,))
    rows = torch.arange(size)[:, None]
    taps = rows + torch.arange(len(kernel)) - len(kernel) // 2
    weights = kernel.expand(size, -1)
    if border == "zero":
        weights = weights.where((taps >= 0) & (taps < size), torch.zeros(()).double())
        taps = taps.clamp(0, size - 1)
    elif border == "circular":
        taps = taps % size
    elif border == "replicate":
        taps = taps.clamp(0, size - 1)
    else:
        taps = reflected(taps, size, repeat=border == "symmetric")
    return torch.zeros(size, size, dtype=torch.float64).scatter_add_(1, taps, weights)


def frequency_response(kernel: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """A kernel, (h, w), and the factors of its blur in the Fourier transform, (H, W)."""
    if kernel.ndim == 1:
        kernel = kernel[:, None] * kernel
    kernel = check_kernel(kernel, (height, width))
    h, w = kernel.shape
    padded = torch.zeros(height, width, dtype=torch.float64)
    padded[:h, :w] = kernel
    response = torch.fft.fft2(padded.roll((-(h // 2), -(w // 2)), (0, 1)))
    # Rounding makes small factors of ω and −ω different, and images of real ones complex.
    return kernel, 0.5 * (response.conj() + mirrored(response))
