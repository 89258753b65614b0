"""Reading of many images into one tensor, which is allocated after the first image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from .files import PICTURES, TABLES, File
from .picture import Decoder, Picture, channels_of, pixels
from .place import Place
from .stack import Stack
from .table import Table


class Images(Protocol):
    """The images of a file in their order, and the labels in it."""

    file: File

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Image.Image]: ...

    def label_names(self) -> list[str]: ...

    def labels(self, name: str) -> NDArray[Any]: ...

    def place(self) -> tuple[Place, Decoder]:
        """The place of the first image's bytes, which the others follow, and their decoder."""
        ...


def images_of(file: File, label_files: Sequence[File] = ()) -> Images:
    """The images of a file of an accepted format, with the files next to it that hold labels."""
    if file.suffix in PICTURES:
        return Picture(file, label_files)
    return Table(file) if file.suffix in TABLES else Stack(file)


class Form:
    """The common form of all images of a set; the first image decides what the settings leave open.

    Args:
        size: crop the centre square and resize it, antialiased, to this many pixels, ≥ 1; None asks
            for images of equal size.
        channels: 1 or 3 converts; None expects all images to have the channels of the first one.
        crop: side of the centre square, ≥ 1; None takes the largest one if there is a size.

    Attributes:
        shape: (C, H, W) of an image, known after the first one.

    Raises:
        ValueError: impossible setting.
    """

    def __init__(self, size: int | None, channels: int | None, crop: int | None) -> None:
        for name, value in (("size", size), ("crop", crop)):
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{name} must be an integer ≥ 1 or null, got {value!r}")
        if channels not in (1, 3, None):
            raise ValueError(f"channels must be 1, 3 or null, got {channels!r}")
        self.size, self.channels, self.crop = size, channels, crop
        self.shape: tuple[int, ...] = ()
        self._first, self._wanted = "", channels

    def levels(self, image: Image.Image, source: str) -> NDArray[np.uint8]:
        """The grey levels of a decoded image, uint8 (C, H, W).

        Raises:
            ValueError: Its channels or size differ from the first image's, or it is smaller than
                the crop.
        """
        own = channels_of(image)
        wanted = self._wanted or own
        if self.channels is None and own != wanted:
            raise ValueError(
                f"{source} has {own} channels, the first image ({self._first}) has {wanted}; set "
                "data.channels=1 or data.channels=3 to convert"
            )
        levels = pixels(image, wanted, self.size, self.crop, source)
        if not self.shape:
            self._first, self._wanted, self.shape = source, wanted, levels.shape
        if levels.shape != self.shape:
            _, height, width = self.shape
            raise ValueError(
                f"{source} is {levels.shape[2]}x{levels.shape[1]}, the first image ({self._first}) "
                f"is {width}x{height}; all must agree: set data.size to crop and resize"
            )
        return levels


def fill(sources: Sequence[Images], rows: Tensor, form: Form, notes: Counter[str]) -> Tensor:
    """Read images one after the other into the rows of a tensor.

    Args:
        sources: files of the images.
        rows: row of each image, int64 (N,), a permutation of 0..N-1.
        form: form of the images.
        notes: counts the notes on images for the report.

    Returns:
        Images, uint8 (N, C, H, W).

    Raises:
        ValueError: unreadable image, mixed sizes or channels, deep pixels.
    """
    samples: Tensor | None = None
    places = iter(rows.tolist())
    for source in sources:
        for image in source:
            levels = form.levels(image, source.file.source)
            if samples is None:
                samples = _allocate(len(rows), levels.shape)
            samples.numpy()[next(places)] = levels
            notes.update(image.info.get("notes", ()))
    assert samples is not None, "there is at least one image"
    return samples


def _allocate(count: int, shape: tuple[int, ...]) -> Tensor:
    try:
        return torch.empty(count, *shape, dtype=torch.uint8)
    except RuntimeError as error:
        need = count * int(np.prod(shape)) / 2**30
        raise ValueError(
            f"{count} images of {shape} need {need:.1f} GiB of memory, which is not available; set "
            "data.size to smaller images, or read fewer"
        ) from error
