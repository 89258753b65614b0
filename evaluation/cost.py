"""What judging samples by a classifier costs: bounded whatever the data, and known before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

MAX_IMAGES = 10_000  # real images, and samples, that are used
# Distorted copies per image for small sets; large sets need fewer to teach the same invariance.
_COPIES, _ENOUGH_ROWS = 8, 10_000
# Larger images are averaged over blocks to no more values than this: 32 x 32 grey pixels.
_MAX_VALUES = 1024
# Seconds that a row costs, and each of its values, in all epochs: measured on one x86 core.
_SECONDS, _SECONDS_A_VALUE = 1.7e-4, 1.05e-6


class Cost(NamedTuple):
    """What a classifier costs, which no data can raise beyond 10000 images of 1024 values.

    Attributes:
        images: real images that it is trained on.
        rows: these and their distorted copies.
        values: of an image, after averaging.
        read: samples that it reads.
        seconds: estimate of the processor time on one x86 core.
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
    """The cost of `sample_quality`, known before it starts.

    Args:
        samples: number of samples.
        real: number of real images.
        shape: (C, H, W) of an image.
    """
    images = -(-min(real, MAX_IMAGES) // 2)
    rows = images * (1 + copies_of(images))
    channels, height, width = shape
    factor = block_side(channels, height, width)
    values = channels * -(-height // factor) * -(-width // factor)
    seconds = rows * (_SECONDS + values * _SECONDS_A_VALUE)
    return Cost(images, rows, values, min(samples, MAX_IMAGES), seconds)


def copies_of(images: int) -> int:
    """Distorted copies of each training image."""
    return min(_COPIES, max(1, _ENOUGH_ROWS // images - 1))


def block_side(channels: int, height: int, width: int) -> int:
    """Side of the blocks over which images are averaged: 1 for those that are small enough."""
    factor = 1
    while channels * -(-height // factor) * -(-width // factor) > _MAX_VALUES:
        if factor >= max(height, width):
            break  # more channels than values: one pixel is the least
        factor += 1
    return factor
