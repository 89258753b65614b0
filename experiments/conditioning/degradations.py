"""What can be done to images before they are restored: one class for each choice."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from scoresde.conditioning import DPSSampler
from scoresde.conditioning import measurements as operators
from scoresde.conditioning.measurements import (
    AveragePooling,
    CircularBlur,
    ColourMixing,
    Downsampling,
    FourierMask,
    Hadamard,
    Mask,
    Operator,
    RandomProjection,
    box_kernel,
    gaussian_kernel,
    motion_kernel,
    random_columns,
)
from scoresde.sde.checks import check_choice

from .masks import known_pixels
from .restoration import Restoration

Shape = tuple[int, ...]
Span = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Inpaint(Restoration):
    """Hidden pixels are filled in.

    Args:
        mask: What is hidden; see `known_pixels`.
        share: Share of the pixels that `mask=random` hides.
        mask_seed: Seed of their choice.
    """

    mask: str = "center"
    share: float = 0.5
    mask_seed: int = 0

    def operator(self, shape: Shape, span: Span) -> Operator:
        """See `Restoration.operator`."""
        return Mask(known_pixels(str(self.mask), shape, self.share, self.mask_seed), shape)


@dataclass(frozen=True, kw_only=True)
class Superres(Restoration):
    """Images become larger.

    Args:
        factor: f ≥ 2, which divides the height and the width.
        kernel: `average` of f × f pixels, or `bicubic`.
    """

    pixels = True
    factor: int = 2
    kernel: str = "average"

    def operator(self, shape: Shape, span: Span) -> Operator:
        """See `Restoration.operator`."""
        check_choice("kernel", self.kernel, "average", "bicubic")
        if self.kernel == "average":
            return AveragePooling(shape, self.factor)
        return Downsampling(shape, self.factor)


@dataclass(frozen=True, kw_only=True)
class Deblur(Restoration):
    """Images become sharp.

    Args:
        kernel: `gaussian`, `box` or `motion`.
        size: Pixels of the kernel along each axis ≥ 1.
        width: Standard deviation of the Gaussian in pixels.
        kernel_seed: Seed of the motion.
    """

    pixels = True
    std: float = 0.05
    kernel: str = "gaussian"
    size: int = 5
    width: float = 1.0
    kernel_seed: int = 0

    def operator(self, shape: Shape, span: Span) -> Operator:
        """See `Restoration.operator`."""
        check_choice("kernel", self.kernel, "gaussian", "box", "motion")
        kernel = {
            "gaussian": lambda: gaussian_kernel(self.size, self.width),
            "box": lambda: box_kernel(self.size),
            "motion": lambda: motion_kernel(self.size, seed=self.kernel_seed),
        }[self.kernel]()
        return CircularBlur(shape, kernel)


@dataclass(frozen=True, kw_only=True)
class Colorize(Restoration):
    """Grey images get colours."""

    pixels = True

    def operator(self, shape: Shape, span: Span) -> Operator:
        """See `Restoration.operator`."""
        if shape[0] == 1:
            raise ValueError(
                "conditioning=colorize needs images with colours, and these have 1 channel; use "
                "data=cifar10 or a folder of colour images"
            )
        return ColourMixing(shape)


@dataclass(frozen=True, kw_only=True)
class Compress(Restoration):
    """Images are found from a few random projections.

    Args:
        projection: `random` rows, or `hadamard` for those of the Walsh–Hadamard transform.
        share: Number of projections over that of pixels, in (0, 1].
        projection_seed: Seed of their choice.
    """

    projection: str = "random"
    share: float = 0.25
    projection_seed: int = 0

    def operator(self, shape: Shape, span: Span) -> Operator:
        """See `Restoration.operator`."""
        check_choice("projection", self.projection, "random", "hadamard")
        if isinstance(self.share, bool) or not 0 < self.share <= 1:
            raise ValueError(f"share must be in (0, 1], got {self.share}")
        size = shape[0] * shape[1] * shape[2]
        kind = RandomProjection if self.projection == "random" else Hadamard
        return kind(shape, max(1, round(self.share * size)), self.projection_seed)


@dataclass(frozen=True, kw_only=True)
class Fourier(Restoration):
    """Images are found from some columns of their Fourier transform, as in magnetic resonance.

    Args:
        share: Share of the columns that are known, in (0, 1).
        centre: Share that is known because it is lowest, in [0, share].
        columns_seed: Seed of the others.
    """

    share: float = 0.5
    centre: float = 0.08
    columns_seed: int = 0

    def operator(self, shape: Shape, span: Span) -> Operator:
        """See `Restoration.operator`."""
        _, height, width = shape
        known = random_columns(height, width, self.share, self.centre, self.columns_seed)
        return FourierMask(shape, known)


@dataclass(frozen=True, kw_only=True)
class Clip(Restoration):
    """Overexposed images get back what was cut off.

    Args:
        gain: Factor > 0 of the exposure.
    """

    pixels = True
    gain: float = 2.0

    def operator(self, shape: Shape, span: Span) -> Operator:
        """See `Restoration.operator`."""
        return operators.Clipping(shape, self.gain, *span)


@dataclass(frozen=True, kw_only=True)
class JPEG(Restoration):
    """Images lose the blocks of their compression.

    Args:
        quality: 1, coarse, to 100, fine.
    """

    quality: int = 25

    def operator(self, shape: Shape, span: Span) -> Operator:
        """See `Restoration.operator`."""
        return operators.JPEG(shape, self.quality, low=span[0], high=span[1])


@dataclass(frozen=True, kw_only=True)
class PhaseRetrieval(Restoration):
    """Images are found from the size of their Fourier coefficients.

    Args:
        padding: Pixels of zeros on each side ≥ 0; half the image where not given.
        delta: As for `conditioning.measurements.PhaseRetrieval`.
    """

    method: Any = field(default_factory=lambda: partial(DPSSampler))
    std: float = 0.05
    padding: int | None = None
    delta: float | None = 1e-4

    def operator(self, shape: Shape, span: Span) -> Operator:
        """See `Restoration.operator`."""
        padding = shape[1] // 2 if self.padding is None else self.padding
        return operators.PhaseRetrieval(shape, padding, self.delta)
