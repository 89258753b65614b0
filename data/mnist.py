"""MNIST and its relatives, from the four IDX files."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray

from .base import Split
from .levels import GreyLevels
from .listing import root_path
from .memory import InMemory

# Folders of the files below the root, the last being that of torchvision.
_BELOW = (".", "raw", "MNIST/raw")
_DEFLATE = 1032  # the largest ratio by which gzip can compress
_ROWS = 1024  # images read at a time


class MNIST(InMemory):
    """The 60000 + 10000 handwritten digits of 28 x 28 pixels, from the four IDX files.

    Reference: LeCun, Bottou, Bengio, Haffner 1998, Gradient-based learning applied to document
    recognition.

    Args:
        root: directory with train-images-idx3-ubyte, train-labels-idx1-ubyte,
            t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, each plain or with .gz, also with a
            dot before idx; or a directory that holds them in raw or, as torchvision, MNIST/raw.
        pad: black pixels added on every side, ≥ 0; 2 gives 32 x 32, which halves five times.
        range, dequantize, flip, condition: as for `Folder`.

    Raises:
        FileNotFoundError: root or one of the four files is missing.
        ValueError: corrupt file, negative pad, impossible range or condition.
    """

    quality = "classifier"

    def __init__(
        self,
        root: str | Path,
        pad: int = 0,
        range: tuple[float, float] = (-1.0, 1.0),
        dequantize: bool = True,
        flip: bool = False,
        condition: str | None = None,
    ) -> None:
        path = root_path(root)
        below = next((f for f in _BELOW if _find(path / f, "train-images", 3)), ".")
        read, grey = partial(_read_mnist, path, below, pad), GreyLevels(range)
        super().__init__("mnist", read, grey, dequantize=dequantize, flip=flip, condition=condition)
        self._tell(f"images from {path / below}")


def _read_mnist(root: Path, below: str, pad: int) -> tuple[Split, Split]:
    if type(pad) is not int or pad < 0:
        raise ValueError(f"pad must be an integer ≥ 0, got {pad!r}; 2 gives 32 x 32")

    def part(prefix: str) -> Split:
        samples = _read_idx(root, below, f"{prefix}-images", ndim=3, pad=pad)
        labels = _read_idx(root, below, f"{prefix}-labels", ndim=1)
        if len(samples) != len(labels):
            raise ValueError(
                f"{prefix} files of {root} disagree: {len(samples)} images, {len(labels)} labels; "
                "take all four files from one source"
            )
        return Split(torch.from_numpy(samples).unsqueeze(1), torch.from_numpy(labels).long())

    return part("train"), part("t10k")


def _find(folder: Path, name: str, ndim: int) -> Path | None:
    """The file of a name in one of its spellings, which can lie in a folder of its own name."""
    for spelling in (f"{name}-idx{ndim}-ubyte", f"{name}.idx{ndim}-ubyte"):
        for end in ("", ".gz"):
            for path in (folder / f"{spelling}{end}", folder / spelling / f"{spelling}{end}"):
                if path.is_file():
                    return path
    return None


def _read_idx(root: Path, below: str, name: str, ndim: int, pad: int = 0) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, plain or gzipped, with zeros around its images."""
    path = _find(root / below, name, ndim)
    if path is None:
        raise FileNotFoundError(
            f"MNIST file {name}-idx{ndim}-ubyte[.gz] not found under data.root={root}; download "
            "the four IDX files (yann.lecun.com/exdb/mnist or a mirror) and set data.root=DIR"
        )
    if path.suffix != ".gz":
        with path.open("rb") as stream:
            return _parse_idx(stream, path, path.stat().st_size, ndim, pad)
    try:
        with gzip.open(path) as stream:
            return _parse_idx(stream, path, path.stat().st_size * _DEFLATE, ndim, pad)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path} is corrupt or truncated: expected a complete gzip file ({error}); "
            "download it again"
        ) from error


def _parse_idx(
    stream: IO[bytes] | gzip.GzipFile, path: Path, most: int, ndim: int, pad: int
) -> NDArray[np.uint8]:
    """Read magic number and sizes, then the bytes, chunk by chunk into their places.

    The file can hold at most `most` bytes, and images get `pad` zeros on every side.
    """
    magic, start = bytes((0, 0, 8, ndim)), 4 + 4 * ndim
    head = stream.read(start)
    if not head:
        raise ValueError(
            f"{path} is corrupt or truncated: expected an IDX file, got 0 bytes; download it again"
        )
    if head[:4] != magic:
        raise ValueError(
            f"{path} has the magic number 0x{head[:4].hex()}, expected 0x{magic.hex()} "
            f"(unsigned bytes, {ndim} axes); is it another file under this name?"
        )
    shape = struct.unpack(f">{ndim}I", head[4:].ljust(4 * ndim, b"\0"))
    size, got = math.prod(shape[1:]), len(head)
    array = np.zeros(0, np.uint8)
    if got == start and start + math.prod(shape) <= most:  # a false header must not allocate memory
        array = np.zeros((shape[0], *(length + 2 * pad for length in shape[1:])), np.uint8)
        inside = array[(slice(None), *(slice(pad, pad + length) for length in shape[1:]))]
        for first in range(0, shape[0], _ROWS):
            chunk = stream.read(size * len(inside[first : first + _ROWS]))
            got += len(chunk)
            if len(chunk) == size * len(inside[first : first + _ROWS]):
                rows = np.frombuffer(chunk, np.uint8).reshape(-1, *shape[1:])
                inside[first : first + _ROWS] = rows
    while chunk := stream.read(2**20):
        got += len(chunk)
    if got != start + math.prod(shape):
        raise ValueError(
            f"{path} is corrupt or truncated: its header says {shape}, so expected "
            f"{start + math.prod(shape)} bytes, got {got}; download it again"
        )
    return array
