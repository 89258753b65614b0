"""What masks know: all but a box, random pixels, or random lines of frequencies."""

from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde.sde.checks import check_count

from .checks import check_image


def outside_box(
    shape: Sequence[int], height: int, width: int, top: int | None = None, left: int | None = None
) -> Tensor:
    """True outside a box, for `Mask`; bool, shape (C, H, W).

    Args:
        shape: Shape of one image, (C, H, W).
        height, width: Size of the box ≥ 1.
        top, left: First row and column of the box; centred where not given.

    Raises:
        ValueError: The box is not inside the image.
    """
    _, rows, columns = check_image(shape)
    height, width = check_count("height", height, 1), check_count("width", width, 1)
    top = (rows - height) // 2 if top is None else top
    left = (columns - width) // 2 if left is None else left
    if min(top, left) < 0 or top + height > rows or left + width > columns:
        raise ValueError(
            f"the box must lie inside the image of {rows} × {columns} pixels, got {height} × "
            f"{width} from row {top} and column {left}"
        )
    known = torch.ones(tuple(shape), dtype=torch.bool)
    known[:, top : top + height, left : left + width] = False
    return known


def random_pixels(
    shape: Sequence[int], share: float, seed: int = 0, samples: int | None = None
) -> Tensor:
    """True at random pixels, of all channels at once, for `Mask`; bool, shape (C, H, W).

    Args:
        shape: Shape of one image, (C, H, W).
        share: Share of the pixels that are known, in (0, 1), rounded to whole pixels.
        seed: Seed of the choice.
        samples: Number B of masks, one for each sample: shape (B, C, H, W); one for all where not
            given. They know as many pixels each.

    Raises:
        ValueError: The share is not in (0, 1).
    """
    channels, height, width = check_image(shape)
    _check_share(share)
    count = 1 if samples is None else check_count("samples", samples, 1)
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(count, height * width, generator=generator).argsort(1)
    known = (order.argsort(1) < round(share * height * width)).reshape(-1, 1, height, width)
    known = known.expand(-1, channels, -1, -1)
    return known[0] if samples is None else known


def random_columns(
    height: int, width: int, share: float, centre: float = 0.08, seed: int = 0
) -> Tensor:
    """True at some columns of frequencies, for `FourierMask`; bool, shape (H, W).

    The lowest frequencies are known, and random pairs ±ω of the others: the pattern of Cartesian
    magnetic resonance imaging.

    Args:
        height, width: H and W ≥ 1.
        share: Share of the columns that are known, in (0, 1), at most.
        centre: Share of the columns that are known because they are lowest, in [0, share].
        seed: Seed of the choice.

    Raises:
        ValueError: The shares are not in these ranges, or too small for any column.
    """
    height, width = check_count("height", height, 1), check_count("width", width, 1)
    _check_share(share)
    if not 0 <= centre <= share:
        raise ValueError(f"centre must be in [0, share], got {centre} for share {share}")
    generator = torch.Generator().manual_seed(seed)
    low = torch.fft.fftfreq(width).abs()  # the same at ±ω
    sizes = low.unique()
    lowest = sizes < centre / 2
    priority = torch.rand(len(sizes), generator=generator).where(~lowest, sizes - 1)
    known = torch.zeros(width, dtype=torch.bool)
    for place in priority.argsort():
        pair = low == sizes[place]
        if known.sum() + pair.sum() <= share * width:
            known |= pair
    if not known.any():
        raise ValueError(f"share ({share}) is too small for one of {width} columns; use more")
    return known.expand(height, width).clone()


def _check_share(share: float) -> None:
    if not 0 < share < 1:
        raise ValueError(f"share must be in (0, 1), got {share}")
