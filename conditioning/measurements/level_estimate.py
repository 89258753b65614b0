"""The level of Gaussian noise, estimated from the measurement itself."""

import math

import torch
from torch import Tensor

from .operator import SpectralOperator

NORMAL = 0.6744897501960817
"""The median of |n| with n ~ N(0, 1)."""


def detail_std(y: Tensor) -> Tensor:
    """σ_y of images: the median of their finest diagonal details over 0.6745; shape (B,).

    Details are those of Haar wavelets, (a − b − c + d)/2 in patches of 2 × 2 pixels. Smooth images
    have small ones but for few edges, to which the median is robust; fine texture counts as noise.
    The noise of the pixels must be independent, so y must be the image itself, or one that a mask
    or a downsampling has not mixed with zeros.

    Args:
        y: Images, shape (B, C, H, W) with H, W ≥ 2.

    Raises:
        ValueError: y has another shape.

    Reference: Donoho & Johnstone 1994 (section 4.2).
    """
    if y.ndim != 4 or min(y.shape[2:]) < 2:
        raise ValueError(
            f"details need images (B, C, H, W) of 2 × 2 pixels at least, got {tuple(y.shape)}; use "
            "residual_std where the operator does not reach every measurement"
        )
    height, width = (n - n % 2 for n in y.shape[2:])
    a, b, c, d = (y[:, :, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1))
    details = (0.5 * (a - b - c + d)).flatten(1).abs()
    return torch.quantile(details, 0.5, dim=1) / NORMAL


def residual_std(operator: SpectralOperator, y: Tensor) -> Tensor:
    """σ_y from what no sample can explain: ‖(I − U Uᵀ) y‖/√(M − R); shape (B,).

    It is unbiased in σ_y² for every x_0, where the M measurements of a sample have only R < M
    independent values.

    Args:
        operator: H = U S Vᵀ.
        y: Measurements, shape (B, *shape_out).

    Raises:
        ValueError: Every measurement is one of some sample, M = R.
    """
    operator.check_measurement(y)
    free = math.prod(operator.shape_out) - len(operator.singular_values)
    if not free:
        raise ValueError(
            f"{type(operator).__name__} explains every measurement, all {math.prod(y.shape[1:])} "
            "values, and leaves no residual; use detail_std or state std"
        )
    residual = y - operator.from_measure_spectral(operator.measure_spectral(y))
    return residual.flatten(1).norm(dim=1) / math.sqrt(free)
