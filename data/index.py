"""Where the images of a set stand, kept compactly, so that each can be read on demand."""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .picture import Decoder, decode
from .place import UNKNOWN, WHOLE, Place, read_place
from .reading import Images

_CRC_UNKNOWN = 2**32  # no checksum of 32 bits


class Index:
    """The images of a survey by their number in the order of names, N in all.

    A file takes 53 bytes and its name, whatever is in it. Nothing is kept open, so that images are
    read from any thread, and from a process that was forked.

    Args:
        sources: the files, of one image each or of many.

    Raises:
        ValueError: A file holds images that cannot be read one by one.
    """

    def __init__(self, sources: Sequence[Images]) -> None:
        # Sources of all files begin alike: with the root, or with the folder of a single file.
        start = sources[0].file
        self._prefix = start.source.removesuffix(start.name)
        names, ends = bytearray(), array("q", [0])
        paths, number = list[str](), dict[str, int]()
        columns = {name: array(kind) for name, kind in _COLUMNS.items()}
        first, total = array("q", [0]), 0
        self._decoders = dict[int, Decoder]()  # of files that are no encoded images
        for i, source in enumerate(sources):
            place, decoder = source.place(), source.decoder()
            if decoder is not decode:
                self._decoders[i] = decoder
            names += source.file.name.encode("utf-8", "surrogateescape")
            ends.append(len(names))
            own = place.path == self._prefix + source.file.name
            if not own and place.path not in number:
                number[place.path] = len(paths)
                paths.append(place.path)
            columns["path"].append(-1 if own else number[place.path])
            columns["start"].append(place.start)
            columns["size"].append(place.size)
            columns["packing"].append(place.packing)
            columns["length"].append(place.length)
            columns["crc"].append(_CRC_UNKNOWN if place.crc == UNKNOWN else place.crc)
            total += len(source)
            first.append(total)
        self._names, self._paths = bytes(names), paths
        self._ends, self._first = np.array(ends), np.array(first)
        self._columns = {name: np.array(values) for name, values in columns.items()}

    def __len__(self) -> int:
        return int(self._first[-1])

    def image(self, number: int) -> tuple[Image.Image, str]:
        """An image, decoded, and what messages call it.

        Args:
            number: 0 to N - 1.

        Raises:
            FileNotFoundError: Its file is gone.
            ValueError: It cannot be read, or is no image.
        """
        file = self._file(number)
        source = self._source(file)
        content = read_place(self._place(number, file), source)
        return self._decoders.get(file, decode)(content, source), source

    def sums(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The number of bytes of each image as it is stored, unpacked, and their CRC-32; both (N,).

        A zip says them. Others are read once, from the first to the last, and nothing is decoded.
        """
        lengths, crcs = np.empty(len(self), np.int64), np.empty(len(self), np.int64)
        for number in range(len(self)):
            file = self._file(number)
            place = self._place(number, file)
            if place.crc != UNKNOWN:
                lengths[number], crcs[number] = place.length, place.crc
                continue
            content = read_place(place, self._source(file))
            lengths[number], crcs[number] = len(content), zlib.crc32(content)
        return lengths, crcs

    def _file(self, number: int) -> int:
        """Which file an image is in."""
        return int(np.searchsorted(self._first, number, side="right")) - 1

    def _source(self, file: int) -> str:
        name = self._names[self._ends[file] : self._ends[file + 1]]
        return self._prefix + name.decode("utf-8", "surrogateescape")

    def _place(self, number: int, file: int) -> Place:
        values = {name: int(column[file]) for name, column in self._columns.items()}
        path = self._source(file) if values["path"] < 0 else self._paths[values["path"]]
        crc = UNKNOWN if values["crc"] == _CRC_UNKNOWN else values["crc"]
        start, size = values["start"], values["size"]
        if size != WHOLE:
            start += (number - int(self._first[file])) * size
        return Place(path, start, size, values["packing"], values["length"], crc)


# Of each file: number of its zip or tar, or -1; and the entries of `Place`.
_COLUMNS = {"path": "i", "start": "q", "size": "q", "packing": "b", "length": "q", "crc": "q"}
