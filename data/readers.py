"""Readers of image files: the three forms of CIFAR-10, directories and zips of images.

Nothing is downloaded, nothing is unpacked to disk and nothing from a file is executed. Every reader
names the file that it cannot read and says what was expected.
"""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from data.base import Split

CIFAR10_SITE = "download CIFAR-10 from www.cs.toronto.edu/~kriz/cifar.html and set data.root=DIR"
CIFAR10_CLASSES = [
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
]  # fmt: skip
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".npy")
# Naming the decoders keeps Pillow from handing a renamed file to another one, e.g. PostScript.
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
_MODES = {1: "L", 3: "RGB"}


def read_cifar10(root: Path) -> tuple[Split, Split]:
    """Read CIFAR-10 from its binary version, its Python version, or zips of class folders.

    Reference: Krizhevsky 2009, Learning multiple layers of features from tiny images.

    Raises:
        FileNotFoundError: root holds none of the forms, or a batch is missing.
        ValueError: corrupt or truncated file, or one that is not CIFAR-10.
    """
    for folder, archive, suffix, parse in (
        ("cifar-10-batches-bin", "cifar-10-binary.tar.gz", ".bin", _binary_batch),
        ("cifar-10-batches-py", "cifar-10-python.tar.gz", "", _python_batch),
    ):
        names = [f"data_batch_{i}{suffix}" for i in range(1, 6)] + [f"test_batch{suffix}"]
        source = next((p for p in (root / folder, root / archive) if p.exists()), None)
        if source is None:
            continue
        found = dict(_tar_files(source, names) if source.is_file() else _plain_files(source, names))
        for name in names:
            if name not in found:
                raise FileNotFoundError(f"{name} not found in {source}; {CIFAR10_SITE}")
        batches = [parse(found[name], f"{source}/{name}") for name in names]
        sizes = [len(batch.samples) for batch in batches]
        if len(set(sizes)) > 1:
            raise ValueError(
                f"{source} is corrupt or truncated: expected batches of one size, got {sizes} "
                f"images; {CIFAR10_SITE}"
            )
        return _join(batches[:-1]), batches[-1]
    if (root / "train.zip").is_file() and (root / "test.zip").is_file():
        return _class_zip(root / "train.zip"), _class_zip(root / "test.zip")
    raise FileNotFoundError(
        f"CIFAR-10 not found under data.root={root}: expected cifar-10-batches-bin/, "
        "cifar-10-binary.tar.gz, cifar-10-batches-py/, cifar-10-python.tar.gz, or train.zip and "
        f"test.zip; {CIFAR10_SITE}"
    )


def read_images(
    root: Path, channels: int | None = None, size: int | None = None
) -> tuple[Split, list[str]]:
    """Read all images under a directory (recursive) or in a zip, in the order of their names.

    Args:
        root: directory or zip.
        channels: 1 or 3 converts; None takes what the first image has and asks it of the rest.
        size: centre-crop to a square and resize to this many pixels; None asks for equal sizes.

    Returns:
        Images uint8 (N, C, H, W) with labels, and the directory that each label stands for;
        labels are None if all images lie in one directory.

    Raises:
        FileNotFoundError: root does not exist.
        ValueError: no image, unreadable image, mixed sizes or channels, deep (16-bit) pixels.
    """
    images: list[NDArray[np.uint8]] = []
    folders: list[str] = []
    first, wanted = "", channels
    for name, content in _image_files(root):
        source = f"{root}/{name}"
        image = _decode(content, source)
        own = 1 if image.mode in ("1", "L", "LA") else 3
        first, wanted = first or source, wanted or own
        if channels is None and own != wanted:
            raise ValueError(
                f"{source} has {own} channels, the first image ({first}) has {wanted}; "
                "set data.channels=1 or data.channels=3 to convert"
            )
        image = image.convert(_MODES[wanted])
        if size is not None:
            image = _square(image, size)
        pixels = np.asarray(image).reshape(image.height, image.width, wanted)
        if images and pixels.shape != images[0].shape:
            height, width, _ = images[0].shape
            raise ValueError(
                f"{source} is {image.width}x{image.height}, the first image ({first}) is "
                f"{width}x{height}; all must agree: set data.size to crop and resize"
            )
        images.append(pixels)
        folders.append(PurePosixPath(name).parent.as_posix())
    if not images:
        accepted = ", ".join(suffix[1:] for suffix in IMAGE_SUFFIXES)
        raise ValueError(
            f"dataset '{root.stem}' is empty (0 images under {root}; accepted: {accepted}); "
            "set data.root to a directory or zip of images"
        )
    classes = sorted(set(folders))
    number = {folder: i for i, folder in enumerate(classes)}
    labels = torch.tensor([number[folder] for folder in folders]) if len(classes) > 1 else None
    samples = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return Split(samples, labels), classes


def _image_files(root: Path) -> Iterator[tuple[str, bytes]]:
    """Names below root and contents of the image files, sorted by name; hidden files left out."""

    def wanted(name: str) -> bool:
        path = PurePosixPath(name)
        hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
        return path.suffix.lower() in IMAGE_SUFFIXES and not hidden

    if root.is_dir():
        below = (p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
        for name in sorted(filter(wanted, below)):
            yield name, (root / name).read_bytes()
        return
    if not root.exists():
        raise FileNotFoundError(
            f"data.root={root} not found; set it to a directory or a zip of images"
        )
    name = ""
    try:
        with zipfile.ZipFile(root) as archive:
            for name in sorted(filter(wanted, archive.namelist())):
                yield name, archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise ValueError(
            f"{root}{name and '/' + name} is corrupt, truncated or encrypted: expected a readable "
            f"zip ({error}); make or download it again"
        ) from error


def _decode(content: bytes, source: str) -> Image.Image:
    """The image in a file's bytes, upright, with 8 bits per channel."""
    try:
        if source.lower().endswith(".npy"):
            array = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
        else:
            image = ImageOps.exif_transpose(Image.open(io.BytesIO(content), formats=_FORMATS))
            image.load()
    except Exception as error:  # on bad bytes the decoders raise a dozen unrelated types
        raise ValueError(
            f"{source} is corrupt, truncated or not what its name says: expected a complete image "
            f"({error}); replace or remove it"
        ) from error
    if source.lower().endswith(".npy"):
        flat = array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
        picture = flat.ndim == 2 or (flat.ndim == 3 and flat.shape[2] == 3)
        if flat.dtype != np.uint8 or flat.size == 0 or not picture:
            raise ValueError(
                f"{source} holds {array.dtype} {array.shape}, expected one uint8 image (H, W), "
                "(H, W, 1) or (H, W, 3); scale it to 0..255 and save it as uint8"
            )
        return Image.fromarray(np.ascontiguousarray(flat))
    if image.mode.startswith(("I", "F")):
        raise ValueError(
            f"{source} has deep pixels (Pillow mode {image.mode}), expected 8 bits per channel; "
            "convert it to 8 bits"
        )
    return image


def _square(image: Image.Image, size: int) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.LANCZOS, box=box)


def _class_zip(path: Path) -> Split:
    split, classes = read_images(path, channels=3)
    if classes != CIFAR10_CLASSES or split.labels is None or split.samples.shape[1:] != (3, 32, 32):
        raise ValueError(
            f"{path} holds images {tuple(split.samples.shape[1:])} in the folders {classes}, "
            f"expected (3, 32, 32) in {CIFAR10_CLASSES}; {CIFAR10_SITE}"
        )
    # Deal the classes out in turn, so that any leading part of the set is a fair sample.
    labels = split.labels
    place = torch.arange(len(labels)) - torch.searchsorted(labels, labels)
    order = torch.argsort(place * len(classes) + labels)
    return Split(split.samples[order], labels[order])


def _plain_files(folder: Path, names: list[str]) -> Iterator[tuple[str, bytes]]:
    return ((name, (folder / name).read_bytes()) for name in names if (folder / name).is_file())


def _tar_files(path: Path, names: list[str]) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                stored = archive.extractfile(member) if name in names else None
                if stored is not None:
                    yield name, stored.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path} is corrupt or truncated: expected a complete tar.gz ({error}); {CIFAR10_SITE}"
        ) from error


def _join(batches: list[Split]) -> Split:
    labels = [batch.labels for batch in batches if batch.labels is not None]
    return Split(torch.cat([batch.samples for batch in batches]), torch.cat(labels))


def _records(pixels: NDArray[np.uint8], labels: NDArray[np.int64], source: str) -> Split:
    if len(labels) and not 0 <= labels.min() <= labels.max() <= 9:
        raise ValueError(f"{source} has labels outside 0..9, expected CIFAR-10; {CIFAR10_SITE}")
    samples = torch.from_numpy(pixels.reshape(-1, 3, 32, 32).copy())
    return Split(samples, torch.from_numpy(labels))


def _binary_batch(content: bytes, source: str) -> Split:
    if len(content) % 3073:
        raise ValueError(
            f"{source} is corrupt or truncated: expected records of 3073 bytes, got "
            f"{len(content)} bytes; {CIFAR10_SITE}"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, 3073)
    return _records(records[:, 1:], records[:, 0].astype(np.int64), source)


class _Inert:
    """Stand-in for the numpy objects in a pickle: keeps what it is handed and runs nothing."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _BatchUnpickler(pickle.Unpickler):
    """Unpickler to which the only globals are those of a numpy array, and these are inert."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
        ):
            return _Inert
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which was refused")


def _python_batch(content: bytes, source: str) -> Split:
    try:
        batch = _BatchUnpickler(io.BytesIO(content), encoding="bytes").load()
        batch = {key.decode() if isinstance(key, bytes) else key: batch[key] for key in batch}
        _, shape, dtype, fortran, data = batch["data"].state
        labels = np.array([int(label) for label in batch["labels"]], np.int64)
        if dtype.arguments[0] not in ("u1", b"u1") or fortran or shape != (len(labels), 3072):
            raise TypeError(f"array of shape {shape} with {len(labels)} labels")
        pixels = np.frombuffer(data, np.uint8).reshape(shape)
    except Exception as error:  # a hostile or broken pickle can raise anything
        raise ValueError(
            f"{source} is not a CIFAR-10 batch: expected a dict of a uint8 array (N, 3072) and N "
            f"labels ({type(error).__name__}: {error}); nothing was executed; {CIFAR10_SITE}"
        ) from error
    return _records(pixels, labels, source)
