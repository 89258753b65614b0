"""Image sets: scikit-learn's digits, MNIST, CIFAR-10 and folders of one's own images."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.base import Dataset, Split, stream
from data.readers import read_cifar10, read_images


class Digits(Dataset):
    """The 1797 handwritten digits of 8 x 8 pixels and 17 grey levels that scikit-learn bundles.

    Each class gives the same fraction of its images to the test set, chosen by the seed.

    Reference: Alpaydin, Kaynak 1998, Optical recognition of handwritten digits (UCI).

    Args:
        test_fraction: part of each class that is held out, in (0, 1).
        seed: of the split, any integer.
        range: (lo, hi) that the network sees, lo < hi.
        dequantize: add uniform noise within the grey level's cell to training batches.
        flip: mirror half of the training images.

    Raises:
        ValueError: test_fraction outside (0, 1), impossible range.
    """

    def __init__(
        self,
        test_fraction: float = 0.2,
        seed: int = 0,
        range: tuple[float, float] = (-1.0, 1.0),
        dequantize: bool = True,
        flip: bool = False,
    ) -> None:
        super().__init__(
            "digits",
            lambda: _read_digits(test_fraction, seed),
            range=range,
            levels=17,
            dequantize=dequantize,
            flip=flip,
        )


class MNIST(Dataset):
    """The 60000 + 10000 handwritten digits of 28 x 28 pixels, from the four IDX files.

    Reference: LeCun, Bottou, Bengio, Haffner 1998, Gradient-based learning applied to document
    recognition.

    Args:
        root: directory with train-images-idx3-ubyte, train-labels-idx1-ubyte,
            t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, each plain or with .gz.
        pad: black pixels added on every side, ≥ 0; 2 gives 32 x 32, which halves five times.
        range: (lo, hi) that the network sees, lo < hi.
        dequantize: add uniform noise within the grey level's cell to training batches.
        flip: mirror half of the training images.

    Raises:
        FileNotFoundError: root or one of the four files is missing.
        ValueError: corrupt file, negative pad, impossible range.
    """

    def __init__(
        self,
        root: str | Path,
        pad: int = 0,
        range: tuple[float, float] = (-1.0, 1.0),
        dequantize: bool = True,
        flip: bool = False,
    ) -> None:
        super().__init__(
            "mnist",
            lambda: _read_mnist(Path(root).expanduser(), pad),
            range=range,
            levels=256,
            dequantize=dequantize,
            flip=flip,
        )


class CIFAR10(Dataset):
    """The 50000 + 10000 colour images of 32 x 32 pixels in ten classes.

    The first of these that root holds is read: cifar-10-batches-bin/, cifar-10-binary.tar.gz,
    cifar-10-batches-py/, cifar-10-python.tar.gz, or train.zip with test.zip, which hold one folder
    of images per class. The Python version consists of pickles; they are read without running
    anything from them.

    Reference: Krizhevsky 2009, Learning multiple layers of features from tiny images.

    Args:
        root: directory that holds one of the forms above.
        range: (lo, hi) that the network sees, lo < hi.
        dequantize: add uniform noise within the grey level's cell to training batches.
        flip: mirror half of the training images.

    Raises:
        FileNotFoundError: root holds none of the forms, or one of the six batches is missing.
        ValueError: corrupt or foreign file, impossible range.
    """

    def __init__(
        self,
        root: str | Path,
        range: tuple[float, float] = (-1.0, 1.0),
        dequantize: bool = True,
        flip: bool = True,
    ) -> None:
        super().__init__(
            "cifar10",
            lambda: read_cifar10(Path(root).expanduser()),
            range=range,
            levels=256,
            dequantize=dequantize,
            flip=flip,
        )


class Folder(Dataset):
    """A directory or zip of png, jpg, jpeg, bmp, webp or npy images, all held in memory.

    Images are read in the order of their names; if they lie in several directories, label i is the
    i-th directory by name. The seed then deals them out to train and test in random order, so that
    any leading part of either is a fair sample. Transparency is dropped.

    Args:
        root: directory, searched recursively, or zip.
        size: crop the centre square and resize it, antialiased, to this many pixels, ≥ 1; None asks
            for images of equal size.
        channels: 1 or 3 converts to grey or colour; None takes what the first image has and asks
            the same of the others.
        test_fraction: part that is held out, in (0, 1).
        seed: of the split, any integer.
        range: (lo, hi) that the network sees, lo < hi.
        dequantize: add uniform noise within the grey level's cell to training batches.
        flip: mirror half of the training images.

    Raises:
        FileNotFoundError: root does not exist.
        ValueError: fewer than 2 images, unreadable image, mixed sizes or channels, bad setting.
    """

    def __init__(
        self,
        root: str | Path,
        size: int | None = None,
        channels: int | None = None,
        test_fraction: float = 0.1,
        seed: int = 0,
        range: tuple[float, float] = (-1.0, 1.0),
        dequantize: bool = True,
        flip: bool = True,
    ) -> None:
        path = Path(root).expanduser()
        super().__init__(
            path.stem,
            lambda: _read_folder(path, size, channels, test_fraction, seed),
            range=range,
            levels=256,
            dequantize=dequantize,
            flip=flip,
        )


def _read_digits(test_fraction: float, seed: int) -> tuple[Split, Split]:
    _check_fraction(test_fraction)
    from sklearn.datasets import load_digits  # here: importing it takes longer than all else

    pixels, classes = load_digits(return_X_y=True)
    samples = torch.from_numpy(pixels).to(torch.uint8).view(-1, 1, 8, 8)
    labels = torch.from_numpy(classes).long()
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for digit in range(10):
        members = (labels == digit).nonzero().squeeze(1)
        order = torch.randperm(len(members), generator=stream("split", seed, digit))
        held_out[members[order[: _held_out(len(members), test_fraction)]]] = True
    return (
        Split(samples[~held_out], labels[~held_out]),
        Split(samples[held_out], labels[held_out]),
    )


def _read_mnist(root: Path, pad: int) -> tuple[Split, Split]:
    if pad < 0:
        raise ValueError(f"pad must be an integer ≥ 0, got {pad}; 2 gives 32 x 32")

    def part(prefix: str) -> Split:
        images = _read_idx(root, f"{prefix}-images-idx3-ubyte", ndim=3)
        labels = _read_idx(root, f"{prefix}-labels-idx1-ubyte", ndim=1)
        if len(images) != len(labels):
            raise ValueError(
                f"{prefix} files of {root} disagree: {len(images)} images, {len(labels)} labels; "
                "take all four files from one source"
            )
        padded = torch.nn.functional.pad(images.unsqueeze(1), (pad, pad, pad, pad))
        return Split(padded, labels.long())

    return part("train"), part("t10k")


def _read_idx(root: Path, name: str, ndim: int) -> Tensor:
    """Read an IDX file of unsigned bytes, plain or gzipped: magic, sizes, then the bytes."""
    path = next((p for p in (root / name, root / f"{name}.gz") if p.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"MNIST file {name}[.gz] not found under data.root={root}; download the four IDX files "
            "(yann.lecun.com/exdb/mnist or a mirror) and set data.root=DIR"
        )
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(
                f"{path} is corrupt or truncated: expected a complete gzip file ({error}); "
                "download it again"
            ) from error
    magic, start = bytes((0, 0, 8, ndim)), 4 + 4 * ndim
    if content[:4] != magic:
        raise ValueError(
            f"{path} has the magic number 0x{content[:4].hex()}, expected 0x{magic.hex()} "
            f"(unsigned bytes, {ndim} axes); is it another file under this name?"
        )
    shape = struct.unpack(f">{ndim}I", content[4:start].ljust(4 * ndim, b"\0"))
    if len(content) != start + math.prod(shape):
        raise ValueError(
            f"{path} is corrupt or truncated: its header says {shape}, so expected "
            f"{start + math.prod(shape)} bytes, got {len(content)}; download it again"
        )
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy())


def _read_folder(
    root: Path, size: int | None, channels: int | None, test_fraction: float, seed: int
) -> tuple[Split, Split]:
    _check_fraction(test_fraction)
    if size is not None and size < 1:
        raise ValueError(f"size must be an integer ≥ 1 or null, got {size}")
    if channels not in (1, 3, None):
        raise ValueError(f"channels must be 1, 3 or null, got {channels}")
    (samples, labels), _ = read_images(root, channels, size)
    total = len(samples)
    if total < 2:
        raise ValueError(
            f"dataset '{root.stem}' has 1 image under {root}; add at least one for the test set"
        )
    order = torch.randperm(total, generator=stream("split", seed))
    test, train = order.tensor_split([_held_out(total, test_fraction)])
    if labels is None:
        return Split(samples[train], None), Split(samples[test], None)
    return Split(samples[train], labels[train]), Split(samples[test], labels[test])


def _check_fraction(test_fraction: float) -> None:
    if not 0 < test_fraction < 1:
        raise ValueError(
            f"test_fraction must be in (0, 1), got {test_fraction}; 0.1 holds out a tenth"
        )


def _held_out(total: int, test_fraction: float) -> int:
    """Size of the test part: the nearest count that leaves a sample on either side."""
    return min(max(round(total * test_fraction), 1), total - 1)
