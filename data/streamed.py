"""Directories, zips and tars of images that are read on demand."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from .ahead import Ahead
from .base import Dataset
from .checks import check_labelled, check_request
from .digest import digest_of
from .index import Index
from .levels import GreyLevels
from .listing import root_path
from .reading import Form
from .survey import LABELLED, Survey

AT_ONCE = 2**32  # largest number of bytes of decoded images in one request


class Streamed(Dataset):
    """Images of a directory, zip or tar, decoded on demand.

    Batches equal those of `Folder` with the same settings bit by bit, for any number of workers.
    Memory holds the names and places of all images, but the pixels of a few batches only. A tar, or
    a directory of tars, is read in place: by its folders, or in the format of WebDataset, with
    files .cls and .json of labels next to the images. Links in it, and names that lead out of it,
    are not followed. Arrays npy and npz are read row by row unless they are compressed.

    An image that cannot be read ends the training at its batch.

    Attributes:
        reader: reader of all images by their number in the order of names.

    Args:
        root: directory, searched recursively, zip, tar, directory of tars, or one file npy or npz.
        size, channels, labels, test_fraction, seed, range, dequantize, flip, crop, condition: as
            for `Folder`.
        workers: threads that read ahead of training, ≥ 0; 0 reads each batch when it is needed.

    Raises:
        FileNotFoundError: root does not exist.
        ValueError: fewer than 2 images, a file whose images cannot be read one by one, an
            unreadable first image, missing labels, or an impossible setting.
    """

    reader: Reader
    train: OnDemand
    test: OnDemand

    def __init__(
        self,
        root: str | Path,
        size: int | None = None,
        channels: int | None = None,
        labels: str | None = None,
        test_fraction: float = 0.1,
        seed: int = 0,
        range: tuple[float, float] = (-1.0, 1.0),
        dequantize: bool = True,
        flip: bool = True,
        crop: int | None = None,
        condition: str | None = None,
        workers: int = 2,
    ) -> None:
        path = root_path(root)
        super().__init__(
            path.stem, GreyLevels(range), dequantize=dequantize, flip=flip, condition=condition
        )
        check_labelled(path.stem, condition, labels is not None, LABELLED)
        survey = Survey(path, labels, test_fraction, seed, tars=True)
        form = Form(size, channels, crop)
        with survey.find() as found:
            index = Index(found.sources)
            test, train = slice(found.tests), slice(found.tests, None)
            self._set_labels(found.part_labels(train), found.part_labels(test))
            places = found.order[train], found.order[test]
        self.reader = reader = Reader(index, form)
        survey.check_two(len(index))
        self.shape = form.shape
        self.at_once = AT_ONCE // torch.Size(self.shape).numel()
        self.train, self.test = (OnDemand(self.name, reader, part, self.at_once) for part in places)
        self._ahead = Ahead(reader.read, workers)
        self.report = survey.report(len(self.train), len(self.test), "found")

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the stored images and the labels in their order, as 64 hexadecimal digits.

        It depends on the number of bytes of each image, their CRC-32, and the shape and crop to
        which images are brought, but not on names, places or times. The checksums are in the
        directory of a zip; other files are read once. The digest of `Folder`, which hashes pixels,
        is different.
        """
        lengths, crcs = map(torch.from_numpy, self.reader.index.sums())
        parts: list[str | Tensor] = [f"{self.shape} {self.reader.form.crop}\n"]
        for images, labels in ((self.train, self.train_labels), (self.test, self.test_labels)):
            parts += [f"{len(images)} {labels is not None}\n"]
            parts += [lengths[images.numbers], crcs[images.numbers]]
            parts += [] if labels is None else [labels]
        return digest_of(parts)

    def close(self) -> None:
        """End the threads that read ahead; the next batch starts them again."""
        self._ahead.close()

    def _raw(self, step: int, batch_size: int, seed: int) -> Tensor:
        def positions(step: int) -> Tensor:
            return self.train.numbers[self.indices(step, batch_size, seed)]

        return self._ahead.take(step, positions, self.shape, (batch_size, seed))


class Reader:
    """Decodes the images of an index by their number, and brings them to a common form.

    Raises:
        ValueError: The first image cannot be read.
    """

    def __init__(self, index: Index, form: Form) -> None:
        self.index, self.form = index, form
        form.levels(*index.image(0))

    def read(self, numbers: Tensor, out: Tensor) -> None:
        """Write the images of numbers int64 (B,) into `out`, uint8 (B, C, H, W).

        Raises:
            FileNotFoundError: The file of an image no longer exists.
            ValueError: An image cannot be read, or its form differs from that of the first.
        """
        levels = out.numpy()
        for i, number in enumerate(numbers.tolist()):
            levels[i] = self.form.levels(*self.index.image(number))


class OnDemand:
    """The raw images of one part, indexed like a tensor and decoded on demand.

    Args:
        name: name of the data set in messages.
        reader: reader of all images.
        numbers: numbers of the images in the order of names, int64 (N,).
        at_once: largest number of images in one request.
    """

    def __init__(self, name: str, reader: Reader, numbers: Tensor, at_once: int) -> None:
        self.numbers = numbers
        self._name, self._reader, self._at_once = name, reader, at_once

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: slice | Tensor, /) -> Tensor:
        """The images of a slice, or of positions int64 (B,), uint8 (B, C, H, W).

        Raises:
            FileNotFoundError: The file of an image no longer exists.
            ValueError: They would take more than 4 GiB, or one of them cannot be read.
        """
        numbers = self.numbers[index]
        check_request(self._name, numbers.numel(), self._at_once, "ask for fewer of them")
        shape = self._reader.form.shape
        out = torch.empty(*numbers.shape, *shape, dtype=torch.uint8)
        self._reader.read(numbers.reshape(-1), out.view(-1, *shape))
        return out
