"""Directories, zips and tars of images that are read when they are asked for."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .ahead import Ahead
from .base import Dataset
from .checks import check_labelled, check_request
from .index import Index
from .listing import root_path
from .reading import Form
from .survey import LABELLED, Survey

AT_ONCE = 2**32  # bytes of images that one request may decode


class Streamed(Dataset):
    """Images of a directory, zip or tar, decoded when they are asked for.

    Batches are those of `Folder` with the same settings, bit by bit, and for any number of workers.
    Memory holds names and places of the images, and no more of them than a few batches. A tar, or a
    directory of tars, is read in place: by its folders, or as WebDataset writes it, with files .cls
    and .json of labels next to the images. Links within it, and names that lead out of it, are not
    followed. Arrays npy and npz are read by rows unless they are compressed.

    An image that cannot be read ends the training at its batch.

    Attributes:
        reader: of all images by their number in the order of names.

    Args:
        root: directory, searched recursively, zip, tar, directory of tars, or one file npy or npz.
        size: crop the centre square and resize it, antialiased, to this many pixels, ≥ 1; None asks
            for images of equal size.
        channels: 1 or 3 converts to grey or colour; None takes what the first image has and asks
            the same of the others.
        labels: None for none; "folders", "numbered_folders", "dataset.json", "cls", or the name of
            an array in the npz files or of an entry in files .json, as for `Folder`.
        test_fraction: part that is held out, in (0, 1), where no folders say it.
        seed: of the split, any integer.
        range: (lo, hi) that the network sees, lo < hi.
        dequantize: add uniform noise within the grey level's cell to training batches.
        flip: mirror half of the training images.
        crop: side of the centre square in pixels of the image, ≥ 1; None for the largest one where
            there is a size, else for no crop.
        condition: "label" puts the labels of a batch's images into it; None does not.
        workers: threads that read ahead of training, ≥ 0; 0 reads each batch when it is due.

    Raises:
        FileNotFoundError: root does not exist.
        ValueError: fewer than 2 images, a file whose images cannot be read one by one, an
            unreadable first image, images without the labels that are asked for, bad setting.
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
            path.stem,
            range=range,
            levels=256,
            dequantize=dequantize,
            flip=flip,
            condition=condition,
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

        Of each image its number of bytes and their CRC-32 enter, with the shape and the crop that
        images are brought to; neither names nor places nor times do. A zip's directory says the
        checksums; other files are read once. The digest is another than that of `Folder`, which is
        of pixels.
        """
        lengths, crcs = self.reader.index.sums()
        whole = hashlib.sha256(f"{self.shape} {self.reader.form.crop}\n".encode())
        parts = ((self.train, self.train_labels), (self.test, self.test_labels))
        for images, labels in parts:
            whole.update(f"{len(images)} {labels is not None}\n".encode())
            numbers = images.numbers.numpy()
            for values in (lengths[numbers], crcs[numbers], labels):
                if values is not None:
                    whole.update(np.ascontiguousarray(values, "<i8").data)
        return whole.hexdigest()

    def close(self) -> None:
        """End the threads that read ahead; a later batch starts them again."""
        self._ahead.close()

    def _raw(self, step: int, batch_size: int, seed: int) -> Tensor:
        def positions(step: int) -> Tensor:
            return self.train.numbers[self.indices(step, batch_size, seed)]

        return self._ahead.take(step, positions, self.shape, (batch_size, seed))


class Reader:
    """Decodes images by their number, and brings them to their form.

    Args:
        index: of the images.
        form: that they are brought to; the first image settles what it leaves open.

    Raises:
        ValueError: The first image cannot be read.
    """

    def __init__(self, index: Index, form: Form) -> None:
        self.index, self.form = index, form
        form.levels(*index.image(0))

    def read(self, numbers: Tensor, out: Tensor) -> None:
        """Write images into memory.

        Args:
            numbers: of the images, int64 (B,).
            out: uint8 (B, C, H, W).

        Raises:
            FileNotFoundError: The file of an image is gone.
            ValueError: An image cannot be read, or is of another form than the first.
        """
        levels = out.numpy()
        for i, number in enumerate(numbers.tolist()):
            levels[i] = self.form.levels(*self.index.image(number))


class OnDemand:
    """The raw images of a part, as a tensor that is decoded where it is asked for.

    Attributes:
        numbers: of the images in the order of names, int64 (N,).

    Args:
        name: of the data set, for messages.
        reader: of all images.
        numbers: as above.
        at_once: how many images one request may ask for.
    """

    def __init__(self, name: str, reader: Reader, numbers: Tensor, at_once: int) -> None:
        self.numbers = numbers
        self._name, self._reader, self._at_once = name, reader, at_once

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: slice | Tensor, /) -> Tensor:
        """The images of a slice, or of positions int64 (B,), uint8 (B, C, H, W).

        Raises:
            FileNotFoundError: The file of an image is gone.
            ValueError: They would take more than 4 GiB, or one of them cannot be read.
        """
        numbers = self.numbers[index]
        check_request(self._name, numbers.numel(), self._at_once, "ask for fewer of them")
        shape = self._reader.form.shape
        out = torch.empty(*numbers.shape, *shape, dtype=torch.uint8)
        self._reader.read(numbers.reshape(-1), out.view(-1, *shape))
        return out
