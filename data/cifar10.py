"""CIFAR-10 in its three forms: binary batches, Python's batches, or zips of class folders."""

from __future__ import annotations

import posixpath
import tarfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from .base import Split
from .batches import Records, binary_batch, python_batch
from .levels import GreyLevels
from .listing import listing, root_path
from .memory import InMemory
from .reading import Form, fill, images_of

SITE = "download CIFAR-10 from www.cs.toronto.edu/~kriz/cifar.html and set data.root=DIR"
CLASSES = [
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
]  # fmt: skip
_NAMES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
_FORMS = (
    ("cifar-10-batches-bin", "cifar-10-binary.tar.gz", ".bin"),
    ("cifar-10-batches-py", "cifar-10-python.tar.gz", ""),
)


class CIFAR10(InMemory):
    """The 50000 + 10000 colour images of 32 x 32 pixels in ten classes.

    The first of these forms that root holds is read: cifar-10-batches-bin/,
    cifar-10-binary.tar.gz, cifar-10-batches-py/, cifar-10-python.tar.gz, or train.zip and test.zip
    with one folder of images per class. The pickles of the Python version are read without running
    anything in them.

    Reference: Krizhevsky 2009, Learning multiple layers of features from tiny images.

    Args:
        root: directory that holds one of the forms above, or the six batches themselves.
        range, dequantize, flip, condition: as for `Folder`.

    Raises:
        FileNotFoundError: root holds none of the forms, or one of the six batches is missing.
        ValueError: corrupt or foreign file, impossible range or condition.
    """

    def __init__(
        self,
        root: str | Path,
        range: tuple[float, float] = (-1.0, 1.0),
        dequantize: bool = True,
        flip: bool = True,
        condition: str | None = None,
    ) -> None:
        path, notes = root_path(root), list[str]()
        read, grey = partial(_read_cifar10, path, notes), GreyLevels(range)
        super().__init__(
            "cifar10", read, grey, dequantize=dequantize, flip=flip, condition=condition
        )
        self._tell(f"images from {' and '.join(notes)}")


def _read_cifar10(root: Path, notes: list[str]) -> tuple[Split, Split]:
    for folder, archive, suffix in _FORMS:
        names = [f"{name}{suffix}" for name in _NAMES]
        places = (root / folder, root / archive, root / archive.removesuffix(".gz"))
        source = next((path for path in places if path.exists()), None)
        if source is None and any((root / name).is_file() for name in names):
            source = root  # the folder of the batches itself
        if source is None and root.is_file() and root.name.startswith(archive.split(".")[0]):
            source = root
        if source is not None:
            notes.append(str(source))
            return _read_batches(source, names)
    if (root / "train.zip").is_file() and (root / "test.zip").is_file():
        return _class_zip(root / "train.zip", notes), _class_zip(root / "test.zip", notes)
    raise FileNotFoundError(
        f"CIFAR-10 not found under data.root={root}: expected cifar-10-batches-bin/, "
        "cifar-10-binary.tar.gz, cifar-10-batches-py/, cifar-10-python.tar.gz, or train.zip and "
        f"test.zip; {SITE}"
    )


def _read_batches(source: Path, names: list[str]) -> tuple[Split, Split]:
    """Read the six batches, each into its place in one tensor."""
    parse = binary_batch if names[0].endswith(".bin") else python_batch
    sizes: dict[str, int] = {}
    samples, labels = torch.empty(0, 3, 32, 32, dtype=torch.uint8), torch.empty(0, dtype=torch.long)
    files = _tar_files(source, names) if source.is_file() else _plain_files(source, names)
    for name, content in files:
        batch: Records = parse(content, f"{source}/{name}", SITE)
        size = sizes[name] = len(batch.labels)
        if len(sizes) == 1:  # a batch of another size is refused below
            samples = torch.empty(len(names) * size, 3, 32, 32, dtype=torch.uint8)
            labels = torch.empty(len(names) * size, dtype=torch.int64)
        if size * len(names) == len(samples):
            place = slice(names.index(name) * size, (names.index(name) + 1) * size)
            samples.numpy()[place] = batch.pixels.reshape(-1, 3, 32, 32)
            labels.numpy()[place] = batch.labels
    for name in names:
        if name not in sizes:
            raise FileNotFoundError(f"{name} not found in {source}; {SITE}")
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"{source} is corrupt or truncated: expected batches of one size, got "
            f"{[sizes[name] for name in names]} images; {SITE}"
        )
    train = len(samples) // len(names) * (len(names) - 1)
    return Split(samples[:train], labels[:train]), Split(samples[train:], labels[train:])


def _plain_files(folder: Path, names: list[str]) -> Iterator[tuple[str, bytes]]:
    return ((name, (folder / name).read_bytes()) for name in names if (folder / name).is_file())


def _tar_files(path: Path, names: list[str]) -> Iterator[tuple[str, bytes]]:
    try:
        # "r:*", since browsers may decompress the file without renaming it.
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                name = posixpath.basename(member.name)
                stored = archive.extractfile(member) if name in names else None
                if stored is not None:
                    yield name, stored.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path} is corrupt or truncated: expected a complete tar.gz ({error}); {SITE}"
        ) from error


def _class_zip(path: Path, notes: list[str]) -> Split:
    """Read a zip of class folders, taking the classes in turn.

    Every leading part of the set then holds the classes in equal numbers, up to one image.
    """
    with listing(path) as found:
        folders = [posixpath.dirname(file.name) or "." for file in found.files]
        classes = sorted(set(folders))
        if classes != CLASSES:
            raise ValueError(
                f"{path} holds images in the folders {classes}, expected {CLASSES}; {SITE}"
            )
        labels = torch.tensor([classes.index(folder) for folder in folders])
        place = torch.arange(len(labels)) - torch.searchsorted(labels, labels)
        order = torch.argsort(place * len(classes) + labels)
        sources = [images_of(file) for file in found.files]
        samples = fill(sources, order.argsort(), Form(None, 3, None), found.skipped)
        skipped = ", ".join(f"{count} {kind}" for kind, count in found.skipped.items() if count)
        notes.append(f"{path}{f' ({skipped})' if skipped else ''}")
    if samples.shape[1:] != (3, 32, 32):
        raise ValueError(
            f"{path} holds images {tuple(samples.shape[1:])}, expected (3, 32, 32); {SITE}"
        )
    return Split(samples, labels[order])
