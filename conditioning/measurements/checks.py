"""Checks of what measurements of images are made of: shapes, factors, kernels, counts."""

import math
from collections.abc import Sequence

from torch import Tensor

from scoresde.sde.checks import check_count, check_floating, is_integer


def check_image(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return the shape of an image, refusing all but three integers ≥ 1.

    Raises:
        ValueError: The shape is not (C, H, W).
    """
    sizes = tuple(shape)
    if len(sizes) != 3 or not all(is_integer(n) and n >= 1 for n in sizes):
        raise ValueError(
            f"shape must be that of one image, (channels, height, width), got {sizes}; leave the "
            "batch out"
        )
    return int(sizes[0]), int(sizes[1]), int(sizes[2])


def check_factor(factor: int, shape: Sequence[int]) -> int:
    """Return a factor of downsampling that divides the height and the width of images.

    Raises:
        ValueError: It is not an integer ≥ 2, or does not divide both.
    """
    factor = check_count("factor", factor, 2)
    height, width = shape[-2:]
    if height % factor or width % factor:
        raise ValueError(
            f"factor must divide the height and the width of images, got {factor} for "
            f"{height} × {width}; crop them to {height - height % factor} × "
            f"{width - width % factor}, or use a common divisor such as {math.gcd(height, width)}"
        )
    return factor


def check_kernel(kernel: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return a kernel in float64 that is not larger than what it blurs.

    Args:
        kernel: Kernel, as many dimensions as `sizes`.
        sizes: Lengths of the blurred axes.

    Raises:
        TypeError: It is not floating point.
        ValueError: It has another number of dimensions, is empty, larger than the axes, not finite
            or zero.
    """
    check_floating("kernel", kernel)
    if kernel.ndim != len(sizes) or not kernel.numel():
        raise ValueError(
            f"kernel must have {len(sizes)} dimensions and entries, got shape {tuple(kernel.shape)}"
        )
    if any(taps > size for taps, size in zip(kernel.shape, sizes, strict=True)):
        raise ValueError(
            f"kernel must not be larger than the image, got {tuple(kernel.shape)} taps for "
            f"{tuple(sizes)} pixels; use a smaller kernel or larger images"
        )
    if not kernel.isfinite().all() or not kernel.any():
        raise ValueError("kernel must be finite and not zero everywhere")
    return kernel.double()


def check_rows(count: int, size: int) -> int:
    """Return a number of rows of a square matrix, refusing all but 1 ≤ count ≤ size.

    Raises:
        ValueError: It is not such an integer.
    """
    count = check_count("count", count, 1)
    if count > size:
        raise ValueError(
            f"count must be at most the number of entries of a sample, {size}, got {count}; more "
            "rows than that are not orthonormal"
        )
    return count
