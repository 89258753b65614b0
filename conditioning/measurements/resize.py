"""Downsampling with antialiasing, as image libraries do it: bicubic, bilinear or Lanczos."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from scoresde.sde.checks import check_choice

from .checks import check_factor, check_image
from .constant import Constant
from .separable import Separable


class Downsampling(Separable):
    """Images f times smaller by a kernel that is f times wider, reflected at the edges.

    Each axis is D of shape (n/f, n), whose rows sum to 1; singular values are s_i s_j. The low pass
    φ = upsample ∘ H is no projection (‖φ² − φ‖ = 0.25 ‖φ‖ for the bicubic kernel): where one is
    needed use `project`.

    Args:
        shape: Shape of one image, (C, H, W).
        factor: f ≥ 2, which divides H and W.
        kernel: cubic (a = −1/2), linear or lanczos3.

    Raises:
        ValueError: The shape is not (C, H, W), f does not divide H and W, or the kernel is unknown.

    Reference: Keys 1981 (the cubic kernel).
    """

    def __init__(self, shape: Sequence[int], factor: int, kernel: str = "cubic") -> None:
        check_image(shape)
        self.factor = check_factor(factor, shape)
        self.kernel = check_choice("kernel", kernel, *KERNELS)
        vertical, horizontal = (downsampling_matrix(n, factor, kernel) for n in tuple(shape)[1:])
        super().__init__(shape, vertical, horizontal)
        self._up = [Constant((axis / axis.sum(0)).T) for axis in (vertical, horizontal)]

    def upsample(self, y: Tensor) -> Tensor:
        """The usual enlargement by the same kernel, Dᵀ with rows that sum to 1; shape (B, *shape).

        Along each axis it is f Dᵀ for the cubic and the linear kernel, and it is not H⁺: what was
        enlarged and made smaller again is another image.

        Args:
            y: Measurements, shape (B, *shape_out).
        """
        vertical, horizontal = (up(y) for up in self._up)
        return vertical @ self.check_measurement(y) @ horizontal.T


def downsampling_matrix(size: int, factor: int, kernel: str = "cubic") -> Tensor:
    """D of one axis, shape (size/factor, size), float64; arguments as of `Downsampling`."""
    function, reach = KERNELS[kernel]
    reach *= factor
    centres = (torch.arange(size // factor, dtype=torch.float64) + 0.5) * factor - 0.5
    taps = torch.arange(-math.ceil(reach), math.ceil(reach) + 1) + centres.floor().long()[:, None]
    weights = function((taps - centres[:, None]) / factor)
    weights = weights / weights.sum(1, keepdim=True)
    matrix = torch.zeros(len(centres), size, dtype=torch.float64)
    return matrix.scatter_add_(1, reflected(taps, size), weights)


def reflected(positions: Tensor, size: int, *, repeat: bool = True) -> Tensor:
    """Positions outside an axis, reflected into it.

    Args:
        positions: Integers, any shape.
        size: Length of the axis.
        repeat: Whether the pixel at the edge occurs twice, as in 2 1 0 | 0 1 2, or once.
    """
    if size == 1:
        return torch.zeros_like(positions)
    period = 2 * size if repeat else 2 * size - 2
    inside = positions % period
    return torch.where(inside < size, inside, period - int(repeat) - inside)


def _cubic(x: Tensor) -> Tensor:
    x = x.abs()
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return torch.where(x <= 1, near, torch.where(x <= 2, far, 0.0))


def _linear(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp(min=0)


def _lanczos(x: Tensor) -> Tensor:
    return torch.where(x.abs() < 3, torch.sinc(x) * torch.sinc(x / 3), 0.0)


KERNELS: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "cubic": (_cubic, 2),
    "linear": (_linear, 1),
    "lanczos3": (_lanczos, 3),
}
