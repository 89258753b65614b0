"""Arrays saved by numpy: one image, or a stack of many, in a file .npy or .npz."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from math import prod
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .files import File
from .picture import Decoder
from .place import PLAIN, ZIP_STORED, Place, seek_bytes

_EXPECTED = (
    "expected one uint8 image (H, W), (H, W, C) or (C, H, W), or a stack (N, H, W, C) or "
    "(N, C, H, W), with C = 1 or 3; scale it to 0..255 and save it as uint8"
)
_IMAGES = "arr_0"  # the name that numpy.savez gives to the first unnamed array


class Stack:
    """A file of one array of images; in an npz, the array `arr_0` or the only one.

    The channels are the last axis of an image if its length is 1 or 3, otherwise the first. The
    images are read one after the other.

    Raises:
        ValueError: The file is corrupt, or does not hold uint8 images.
    """

    def __init__(self, file: File) -> None:
        self.file = file
        self._key: str | None = None
        self._others: list[str] = []
        if file.suffix == ".npz":
            with self._readable(), self.file.open() as stream, zipfile.ZipFile(stream) as archive:
                names = [name.removesuffix(".npy") for name in archive.namelist()]
            self._key = names[0] if len(names) == 1 else _IMAGES
            self._others = [name for name in names if name != self._key]
            if self._key not in names:
                raise ValueError(
                    f"{file.source} holds the arrays {', '.join(names) or 'none'}, expected its "
                    f"images in {_IMAGES}; save them by numpy.savez(FILE, images, labels)"
                )
        with self._array(self._key) as stream:
            self.shape, self.fortran, dtype = _header(stream)
        count, one, self.first = _layout(self.shape)
        if dtype != np.uint8 or count == 0:
            raise ValueError(f"{file.source} holds {dtype} {self.shape}, {_EXPECTED}")
        self._count, self._one = count, one

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Image.Image]:
        size = prod(self._one)
        with self._array(self._key) as stream:
            _header(stream)
            if self.fortran:
                content = _exactly(stream, size * self._count)
                array = np.frombuffer(content, np.uint8).reshape(self.shape, order="F")
                images = iter(array.reshape(self._count, *self._one))
            else:
                images = (
                    np.frombuffer(_exactly(stream, size), np.uint8).reshape(self._one)
                    for _ in range(self._count)
                )
            for image in images:
                yield _upright(image, self.first)

    def label_names(self) -> list[str]:
        """The names of the other arrays of an npz that hold one integer for each image."""
        names = []
        for name in self._others:
            with self._array(name) as stream:
                shape, _, dtype = _header(stream)
            if shape == (self._count,) and dtype.kind in "iu":
                names.append(name)
        return names

    def labels(self, name: str) -> NDArray[np.int64]:
        """The integers of another array in the npz, (N,)."""
        with self._array(name) as stream:
            _, _, dtype = _header(stream)
            content = _exactly(stream, self._count * dtype.itemsize)
        return np.frombuffer(content, dtype).astype(np.int64)

    def place(self) -> tuple[Place, Decoder]:
        """The place of the first image's bytes, and their decoder.

        Raises:
            ValueError: The array is compressed, or is in Fortran order.
        """
        place, source = self.file.place, self.file.source
        packed = place.packing not in (PLAIN, ZIP_STORED)
        if not packed and self._key is not None:
            with self._readable(), self.file.open() as stream, zipfile.ZipFile(stream) as archive:
                member = archive.getinfo(f"{self._key}.npy")
            packed = member.compress_type != zipfile.ZIP_STORED
        if packed or self.fortran:
            how = "is compressed" if packed else "is in Fortran order"
            raise ValueError(
                f"{source} holds an array that {how}, and cannot be read image by image; save it "
                "by numpy.save in C order, or use data=folder"
            )
        with open(place.path, "rb") as stream, self._readable():
            seek_bytes(stream, place, source)
            if self._key is not None:
                within = Place(place.path, stream.tell() + member.header_offset, packing=ZIP_STORED)
                seek_bytes(stream, within, source)
            _header(stream)
            size, decoder = prod(self._one), partial(_row_image, self._one, self.first)
            return Place(place.path, stream.tell(), size, PLAIN, size), decoder

    @contextmanager
    def _array(self, key: str | None) -> Iterator[IO[bytes]]:
        """A stream of an array's bytes, which begins at its header."""
        with self._readable(), self.file.open() as stream:
            if key is None:
                yield stream
                return
            with zipfile.ZipFile(stream) as archive, archive.open(f"{key}.npy") as member:
                yield member

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (_Unreadable, KeyError) as error:
            raise ValueError(
                f"{self.file.source} is corrupt, truncated or not what its name says: expected a "
                f"complete array ({error}); replace or remove it"
            ) from error


def _row_image(shape: tuple[int, ...], first: bool, content: bytes, source: str) -> Image.Image:
    """The image in a row's bytes; `first` says whether its channels come first."""
    return _upright(np.frombuffer(content, np.uint8).reshape(shape), first)


def _upright(image: NDArray[np.uint8], first: bool) -> Image.Image:
    """A Pillow image, in which channels come last and a single channel has no axis."""
    upright = image.transpose(1, 2, 0) if first else image
    flat = upright[..., 0] if upright.ndim == 3 and upright.shape[2] == 1 else upright
    return Image.fromarray(np.ascontiguousarray(flat))


class _Unreadable(Exception):
    """The bytes are not an array saved by numpy."""


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether the order is Fortran's, and type of an array; nothing is unpickled."""
    try:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            raise _Unreadable(f"version {version} of the format holds no plain numbers")
    except _Unreadable:
        raise
    except Exception as error:  # a hostile header can raise any error
        raise _Unreadable(str(error)) from error
    if dtype.hasobject:
        raise _Unreadable("it holds Python objects, which are not unpickled")
    return shape, fortran, dtype


def _exactly(stream: IO[bytes], size: int) -> bytes:
    content = stream.read(size)
    if len(content) != size:
        raise _Unreadable(f"{size - len(content)} of its bytes are missing")
    return content


def _layout(shape: tuple[int, ...]) -> tuple[int, tuple[int, ...], bool]:
    """Number of images, 0 for an array of none, the shape of one, and if channels come first."""
    count, one = (shape[0], shape[1:]) if len(shape) == 4 else (1, shape)
    if min(shape, default=0) > 0 and len(shape) == 2:
        return 1, shape, False
    if min(shape, default=0) > 0 and len(one) == 3:
        for axis in (2, 0):
            if one[axis] in (1, 3):
                return count, one, axis == 0
    return 0, shape, False
