"""Pairs of images for conditional models: what is given of an image, and what is to be made."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .checks import check_integer, check_share

Span = tuple[float, float]
"""(lo, hi), the range of the images."""


class Pair(ABC):
    """A rule that makes the condition y of an image x, and with it a data set of pairs.

    Attributes:
        known: Whether the last channel of y is a mask, 1 where y has the pixels of x.
    """

    known: ClassVar[bool] = False

    @abstractmethod
    def channels(self, shape: Sequence[int]) -> int:
        """Number of channels of y.

        Args:
            shape: (C, H, W) of the images.

        Raises:
            ValueError: Images of this shape have no such pairs.
        """

    @abstractmethod
    def __call__(self, x: Tensor, generator: torch.Generator, span: Span) -> Tensor:
        """The condition y of images, float32, shape (B, channels, h, w).

        Args:
            x: Images in their range, shape (B, C, H, W).
            generator: Source of all random choices, on the CPU.
            span: Range of the images.
        """

    @abstractmethod
    def shown(self, y: Tensor, shape: Sequence[int]) -> Tensor:
        """The condition as an image (B, C, H, W), for a picture; the best plain guess of x.

        Args:
            y: Condition, shape (B, channels, h, w).
            shape: (C, H, W) of the images.
        """

    def target(self, x: Tensor, y: Tensor, span: Span) -> Tensor:
        """What a model generates; x itself, but for residuals."""
        return x

    def image(self, target: Tensor, y: Tensor, span: Span) -> Tensor:
        """The image of what a model generates; the inverse of `target`."""
        return target


class SuperResolution(Pair):
    """Images f times smaller on each axis.

        y = H x,   H the mean of f × f pixels, or bicubic with antialiasing

    With `residual` a model generates m + h clip(2 (x − up y)/h, −1, 1) in place of x, where up is
    bicubic, and m and h are the middle and half the width of the range; what is clipped is lost.

    Args:
        factor: f ≥ 2, which divides H and W.
        kernel: `average` or `bicubic`.
        residual: Whether a model generates residuals.

    Raises:
        ValueError: f is not an integer ≥ 2, or an unknown kernel.

    Reference: Saharia et al. 2021, arXiv:2104.07636 (SR3); Li et al. 2022, arXiv:2104.14951
    (SRDiff, section 3.2), for the residuals.
    """

    def __init__(self, factor: int, kernel: str = "average", residual: bool = False) -> None:
        self.factor = check_integer("condition.factor", factor, 2)
        if kernel not in ("average", "bicubic"):
            raise ValueError(f"unknown kernel {kernel!r}. Available: average, bicubic")
        self.kernel, self.residual = kernel, residual

    def channels(self, shape: Sequence[int]) -> int:
        """C; see `Pair.channels`."""
        if shape[1] % self.factor or shape[2] % self.factor:
            raise ValueError(
                f"condition.factor must divide the size of the images, {tuple(shape[1:])}, got "
                f"{self.factor}"
            )
        return shape[0]

    def __call__(self, x: Tensor, generator: torch.Generator, span: Span) -> Tensor:
        """H x; see `Pair.__call__`."""
        if self.kernel == "average":
            return F.avg_pool2d(x, self.factor)
        size = (x.shape[2] // self.factor, x.shape[3] // self.factor)
        return F.interpolate(x, size=size, mode="bicubic", align_corners=False, antialias=True)

    def shown(self, y: Tensor, shape: Sequence[int]) -> Tensor:
        """up y, the bicubic enlargement."""
        size = (shape[1], shape[2])
        return F.interpolate(y, size=size, mode="bicubic", align_corners=False)

    def target(self, x: Tensor, y: Tensor, span: Span) -> Tensor:
        """x, or its clipped residual."""
        if not self.residual:
            return x
        middle, half = (span[1] + span[0]) / 2, (span[1] - span[0]) / 2
        return middle + half * self.unclipped(x, y, span).clamp(-1, 1)

    def image(self, target: Tensor, y: Tensor, span: Span) -> Tensor:
        """The image of a target."""
        if not self.residual:
            return target
        middle = (span[1] + span[0]) / 2
        return self.shown(y, target.shape[1:]) + (target - middle) / 2

    def unclipped(self, x: Tensor, y: Tensor, span: Span) -> Tensor:
        """2 (x − up y)/h, whose entries beyond ±1 are clipped."""
        return 4 * (x - self.shown(y, x.shape[1:])) / (span[1] - span[0])


class Colorization(Pair):
    """Colour images and the mean of their channels.

    Reference: Saharia et al. 2022, arXiv:2111.05826 (section 4.1).
    """

    def channels(self, shape: Sequence[int]) -> int:
        """1; see `Pair.channels`."""
        if shape[0] != 3:
            raise ValueError(f"colorization needs images of 3 channels, got {shape[0]}")
        return 1

    def __call__(self, x: Tensor, generator: torch.Generator, span: Span) -> Tensor:
        """The mean of the channels; see `Pair.__call__`."""
        return x.mean(1, keepdim=True)

    def shown(self, y: Tensor, shape: Sequence[int]) -> Tensor:
        """The grey image."""
        return y.expand(-1, shape[0], -1, -1)


class Decompression(Pair):
    """Images and what is left of them after JPEG, at a random quality for each.

    Args:
        lowest, highest: Qualities 1 ≤ lowest ≤ highest ≤ 95, uniform between them.

    Raises:
        ValueError: The qualities are not in this range.

    Reference: Saharia et al. 2022, arXiv:2111.05826 (section 4.4).
    """

    def __init__(self, lowest: int = 5, highest: int = 30) -> None:
        self.lowest = check_integer("lowest", lowest, 1)
        self.highest = check_integer("highest", highest, lowest)
        if highest > 95:
            raise ValueError(f"highest must be at most 95, got {highest}")

    def channels(self, shape: Sequence[int]) -> int:
        """C; see `Pair.channels`."""
        if shape[0] not in (1, 3):
            raise ValueError(f"JPEG holds images of 1 or 3 channels, got {shape[0]}")
        return shape[0]

    def __call__(self, x: Tensor, generator: torch.Generator, span: Span) -> Tensor:
        """The decoded images; see `Pair.__call__`."""
        low, width = span[0], span[1] - span[0]
        grey = ((x.double() - low) / width * 255).round().clamp(0, 255).to(torch.uint8)
        qualities = torch.randint(self.lowest, self.highest + 1, (len(x),), generator=generator)
        decoded = [
            _through_jpeg(one, quality)
            for one, quality in zip(grey, qualities.tolist(), strict=True)
        ]
        return (low + width * torch.stack(decoded).double() / 255).to(x.dtype)

    def shown(self, y: Tensor, shape: Sequence[int]) -> Tensor:
        """The decoded image."""
        return y


class Masked(Pair, ABC):
    """Images of which only some pixels are known: y has these, grey elsewhere, and the mask."""

    known = True

    def channels(self, shape: Sequence[int]) -> int:
        """C + 1; see `Pair.channels`."""
        return shape[0] + 1

    def __call__(self, x: Tensor, generator: torch.Generator, span: Span) -> Tensor:
        """Known pixels and the mask; see `Pair.__call__`."""
        known = self.mask(x, generator)
        grey = torch.full_like(x, (span[0] + span[1]) / 2)
        return torch.cat([torch.where(known, x, grey), known.to(x.dtype)], 1)

    def shown(self, y: Tensor, shape: Sequence[int]) -> Tensor:
        """The known pixels."""
        return y[:, :-1]

    @abstractmethod
    def mask(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """True where pixels are known, shape (B, 1, H, W)."""


class Inpainting(Masked):
    """A box of each image is unknown, of random size at a random place.

    Args:
        smallest, largest: Sides of the box as shares of those of the image, 0 < smallest ≤ largest
            < 1, uniform between them and rounded to at least one pixel.

    Raises:
        ValueError: The shares are not in this range.

    Reference: Saharia et al. 2022, arXiv:2111.05826 (section 4.2).
    """

    def __init__(self, smallest: float = 0.25, largest: float = 0.6) -> None:
        self.smallest, self.largest = (
            check_share("smallest", smallest),
            check_share("largest", largest),
        )
        if smallest > largest:
            raise ValueError(f"smallest ({smallest}) must be ≤ largest ({largest}); swapped?")

    def mask(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """See `Masked.mask`."""
        u = torch.rand(4, len(x), 1, generator=generator, dtype=torch.float64)
        inside = []
        for size, share, place in zip(x.shape[2:], u[:2], u[2:], strict=True):
            share = self.smallest + (self.largest - self.smallest) * share
            side = (share * size).round().clamp(1, size - 1)
            first = (place * (size - side + 1)).floor()
            pixels = torch.arange(size)
            inside.append((pixels >= first) & (pixels < first + side))
        return ~(inside[0][:, :, None] & inside[1][:, None, :])[:, None]


class Uncropping(Masked):
    """The part of each image next to one of its four sides is unknown.

    Args:
        share: Share of the image that is unknown, in (0, 1), rounded to at least one pixel.

    Raises:
        ValueError: The share is not in (0, 1).

    Reference: Saharia et al. 2022, arXiv:2111.05826 (section 4.3).
    """

    def __init__(self, share: float = 0.5) -> None:
        self.share = check_share("share", share)

    def mask(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """See `Masked.mask`."""
        side = torch.randint(4, (len(x),), generator=generator)
        sides = []
        for axis in (2, 3):
            size = x.shape[axis]
            known = torch.arange(size) >= max(1, min(size - 1, round(self.share * size)))
            for one in (known, known.flip(0)):
                rows = one[:, None] if axis == 2 else one[None, :]
                sides.append(rows.expand(x.shape[2], x.shape[3]))
        return torch.stack(sides)[side][:, None]


def _through_jpeg(pixels: Tensor, quality: int) -> Tensor:
    """An image (C, H, W) of bytes after encoding and decoding."""
    array = pixels.permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(
        buffer, "JPEG", quality=quality
    )
    decoded = np.asarray(Image.open(buffer))
    decoded = decoded[:, :, None] if decoded.ndim == 2 else decoded
    return torch.from_numpy(decoded.copy()).permute(2, 0, 1)
