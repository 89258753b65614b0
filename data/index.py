"""A compact index of the places of a set's images, by which each is read on demand."""

from __future__ import annotations

import zlib
from array import array
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .picture import Decoder, decode
from .place import UNKNOWN, WHOLE, Place, read_place
from .reading import Images


class Index:
    """The N images of a survey by their number in the order of names.

    The entry of a file takes 53 bytes and its name, whatever the file holds. No file is kept open,
    so that any thread and any forked process can read images.

    Args:
        sources: the files, each of one image or many.

    Raises:
        ValueError: A file holds images that cannot be read one by one.
    """

    def __init__(self, sources: Sequence[Images]) -> None:
        # The sources of all files begin with the root, or with the folder of a single file.
        start = sources[0].file
        self._prefix = start.source.removesuffix(start.name)
        names, ends = bytearray(), array("q", [0])
        paths, number = list[str](), dict[str, int]()
        columns = [array(kind) for kind in _COLUMNS]
        first, total = array("q", [0]), 0
        self._decoders = dict[int, Decoder]()  # of files that do not hold encoded images
        for i, source in enumerate(sources):
            place, decoder = source.place()
            if decoder is not decode:
                self._decoders[i] = decoder
            names += source.file.name.encode("utf-8", "surrogateescape")
            ends.append(len(names))
            own = place.path == self._prefix + source.file.name
            if not own and place.path not in number:
                number[place.path] = len(paths)
                paths.append(place.path)
            entries = (-1 if own else number[place.path], *place[1:])
            for column, value in zip(columns, entries, strict=True):
                column.append(value)
            total += len(source)
            first.append(total)
        self._names, self._paths = bytes(names), paths
        self._ends, self._first = ends, first
        self._columns = columns

    def __len__(self) -> int:
        return self._first[-1]

    def image(self, number: int) -> tuple[Image.Image, str]:
        """The decoded image of a number, 0 to N - 1, and its name in messages.

        Raises:
            FileNotFoundError: Its file no longer exists.
            ValueError: It cannot be read, or is not an image.
        """
        file, source, place = self._find(number)
        return self._decoders.get(file, decode)(read_place(place, source), source), source

    def sums(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The number of bytes of each image before packing, and their CRC-32; both (N,).

        The directory of a zip lists them. Other files are read once, and nothing is decoded.
        """
        lengths, crcs = np.empty(len(self), np.int64), np.empty(len(self), np.int64)
        for number in range(len(self)):
            _, source, place = self._find(number)
            if place.crc == UNKNOWN:
                content = read_place(place, source)
                place = place._replace(length=len(content), crc=zlib.crc32(content))
            lengths[number], crcs[number] = place.length, place.crc
        return lengths, crcs

    def _find(self, number: int) -> tuple[int, str, Place]:
        """Number of the file that holds an image, its name in messages, and the image's place."""
        file = bisect_right(self._first, number) - 1
        name = self._names[self._ends[file] : self._ends[file + 1]]
        source = self._prefix + name.decode("utf-8", "surrogateescape")
        other, start, size, packing, length, crc = (column[file] for column in self._columns)
        if size != WHOLE:  # a row of an array
            start += (number - self._first[file]) * size
        path = source if other < 0 else self._paths[other]
        return file, source, Place(path, start, size, packing, length, crc)


# Types of a file's entries: the number of its zip or tar, or -1, and the fields of `Place`.
_COLUMNS = "iqqbqq"
