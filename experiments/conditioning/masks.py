"""Masks by their names, or from a file: which pixels of an image are known."""

from pathlib import Path

import torch
from torch import Tensor

from scoresde.conditioning.measurements import outside_box, random_pixels
from scoresde.sde.checks import check_choice

from .source import read_image

NAMES = ("center", "left", "top", "random", "checkerboard", "outpaint")


def known_pixels(mask: str, shape: tuple[int, ...], share: float, seed: int) -> Tensor:
    """True where a pixel is known, bool, shape (C, H, W).

    Args:
        mask: What is hidden: `center`, a box of half the height and width; `left` or `top`, that
            half; `random`, random pixels; `checkerboard`, every other pixel; `outpaint`, all around
            the centre; or an image file that is white where pixels are hidden.
        shape: (C, H, W).
        share: Share of the pixels that `random` hides, in (0, 1).
        seed: Seed of their choice.

    Raises:
        ValueError: The mask is unknown, or a file of another size; it hides nothing or everything.
        FileNotFoundError: There is no such file.
    """
    if "." in mask or "/" in mask:
        return _from_file(mask, shape)
    check_choice("mask", mask, *NAMES)
    known = {
        "center": lambda: outside_box(shape, shape[1] // 2, shape[2] // 2),
        "left": lambda: _axis(shape, 2),
        "top": lambda: _axis(shape, 1),
        "random": lambda: random_pixels(shape, 1 - _share(share), seed),
        "checkerboard": lambda: _checkerboard(shape),
        "outpaint": lambda: ~outside_box(shape, shape[1] // 2, shape[2] // 2),
    }[mask]()
    return _check(mask, known)


def _axis(shape: tuple[int, ...], axis: int) -> Tensor:
    """True in the second half of an axis."""
    known = torch.ones(shape, dtype=torch.bool)
    known.narrow(axis, 0, shape[axis] // 2).fill_(False)
    return known


def _checkerboard(shape: tuple[int, ...]) -> Tensor:
    """True at every other pixel."""
    row, column = torch.arange(shape[1])[:, None], torch.arange(shape[2])
    return ((row + column) % 2 == 0).expand(shape).clone()


def _from_file(path: str, shape: tuple[int, ...]) -> Tensor:
    if not Path(path).expanduser().is_file():
        raise FileNotFoundError(
            f"there is no mask at {path}; give an image that is white where pixels are hidden, or "
            f"one of {', '.join(NAMES)}"
        )
    grey = read_image(path, (1, *shape[1:]), (0.0, 1.0))[0]
    return _check(path, (grey < 0.5).expand(shape).clone())


def _check(mask: str, known: Tensor) -> Tensor:
    if known.all() or not known.any():
        what = "nothing" if known.all() else "everything"
        raise ValueError(
            f"the mask {mask} hides {what} of images {tuple(known.shape)}; give one that hides some"
        )
    return known


def _share(share: float) -> float:
    if isinstance(share, bool) or not 0 < share < 1:
        raise ValueError(f"share must be in (0, 1), the part that is hidden, got {share}")
    return share
