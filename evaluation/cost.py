"""The cost of `sample_quality`: bounded for any data, and known before it starts."""

from collections.abc import Sequence
from typing import NamedTuple

MAX_IMAGES = 10_000  # largest number of real images, and of samples, that are used
# Distorted copies per image for small sets; large sets need fewer to teach the same invariance.
_COPIES, _ENOUGH_ROWS = 8, 10_000
# Larger images are averaged over blocks to at most this many values: 32 × 32 grey pixels.
_MAX_VALUES = 1024
# Seconds of all epochs per row and per value of a row, as measured on one x86 core.
_SECONDS, _SECONDS_A_VALUE = 1.7e-4, 1.05e-6


class Cost(NamedTuple):
    """The cost of a classifier, which is at most that of 10000 images of 1024 values.

    Attributes:
        images: Number of real images that it is trained on.
        rows: Number of these and their distorted copies.
        values: Number of values of an image, after averaging.
        read: Number of samples that it classifies.
        seconds: Estimate of the processor time on one x86 core.
    """

    images: int
    rows: int
    values: int
    read: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"a classifier trains on {self.images} images ({self.rows} with distorted copies) of "
            f"{self.values} values and reads {self.read} samples, about {self.seconds:.0f} s"
        )


def cost(samples: int, real: int, shape: Sequence[int]) -> Cost:
    """The cost of `sample_quality`.

    Args:
        samples: Number of samples ≥ 1.
        real: Number of real images ≥ 2.
        shape: Shape (C, H, W) of an image.
    """
    images = -(-min(real, MAX_IMAGES) // 2)
    rows = images * (1 + copies_of(images))
    channels, height, width = shape
    factor = block_side(channels, height, width)
    values = channels * -(-height // factor) * -(-width // factor)
    seconds = rows * (_SECONDS + values * _SECONDS_A_VALUE)
    return Cost(images, rows, values, min(samples, MAX_IMAGES), seconds)


def copies_of(images: int) -> int:
    """Number of distorted copies of each training image."""
    return min(_COPIES, max(1, _ENOUGH_ROWS // images - 1))


def block_side(channels: int, height: int, width: int) -> int:
    """Side of the blocks over which images are averaged: 1 for small images."""
    factor = 1
    while channels * -(-height // factor) * -(-width // factor) > _MAX_VALUES:
        if factor >= max(height, width):
            break  # there are more channels than values, and at least one pixel remains
        factor += 1
    return factor
