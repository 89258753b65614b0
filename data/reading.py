"""Reading of many images into one tensor, which is allocated once, before the second image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from .files import PICTURES, TABLES, File
from .picture import Picture, channels_of, pixels
from .stack import Stack
from .table import Table


class Images(Protocol):
    """The images of a file in their order, and the labels that it holds itself."""

    file: File

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Image.Image]: ...

    def label_names(self) -> list[str]: ...

    def labels(self, name: str) -> NDArray[np.int64]: ...


def images_of(file: File) -> Images:
    """The images of a file of an accepted kind."""
    if file.suffix in PICTURES:
        return Picture(file)
    return Table(file) if file.suffix in TABLES else Stack(file)


def fill(
    sources: Sequence[Images],
    rows: Tensor,
    channels: int | None,
    size: int | None,
    notes: Counter[str],
) -> Tensor:
    """Read images, one after the other, into the rows of a tensor.

    Args:
        sources: of the images.
        rows: where each image goes, int64 (N,), a permutation of 0..N-1.
        channels: 1 or 3 converts; None takes what the first image has and asks it of the rest.
        size: centre-crop to a square and resize to this many pixels; None asks for equal sizes.
        notes: counts what a report should say of images.

    Returns:
        Images, uint8 (N, C, H, W).

    Raises:
        ValueError: unreadable image, mixed sizes or channels, deep pixels.
    """
    samples: Tensor | None = None
    first, wanted, places = "", channels, iter(rows.tolist())
    for source in sources:
        for image in source:
            own = channels_of(image)
            first, wanted = first or source.file.source, wanted or own
            if channels is None and own != wanted:
                raise ValueError(
                    f"{source.file.source} has {own} channels, the first image ({first}) has "
                    f"{wanted}; set data.channels=1 or data.channels=3 to convert"
                )
            levels = pixels(image, wanted, size).transpose(2, 0, 1)
            if samples is None:
                samples = _allocate(len(rows), levels.shape)
            if levels.shape != samples.shape[1:]:
                height, width = samples.shape[2:]
                raise ValueError(
                    f"{source.file.source} is {levels.shape[2]}x{levels.shape[1]}, the first image "
                    f"({first}) is {width}x{height}; all must agree: set data.size to crop and "
                    "resize"
                )
            samples.numpy()[next(places)] = levels
            notes.update(image.info.get("notes", ()))
    assert samples is not None, "there is an image at least"
    return samples


def _allocate(count: int, shape: tuple[int, ...]) -> Tensor:
    try:
        return torch.empty(count, *shape, dtype=torch.uint8)
    except RuntimeError as error:
        need = count * int(np.prod(shape)) / 2**30
        raise ValueError(
            f"{count} images of {shape} need {need:.1f} GiB of memory, which cannot be had; set "
            "data.size to smaller images, or read fewer"
        ) from error
