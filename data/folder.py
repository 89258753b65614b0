"""Directories and zips of images, held in memory."""

from __future__ import annotations

from pathlib import Path

from .base import Split
from .checks import check_labelled
from .levels import GreyLevels
from .listing import root_path
from .memory import InMemory
from .reading import Form, fill
from .survey import LABELLED, Survey


class Folder(InMemory):
    """A directory or zip of images, all held in memory.

    Images are png, jpg, jpeg, bmp or webp of at most 8 bits per channel, npy and npz arrays of one
    image or many, and Parquet files of encoded images. Transparency is dropped. Links are followed,
    and the output of runs of this toolkit is left out; `report` says how many files were not read.

    Folders `train` and `test` (or `val`, `valid`, `validation`) are the two parts. Without them a
    random permutation by the seed splits the images, so that every leading part of train and test
    is a random sample.

    Args:
        root: directory, searched recursively, zip, or one file npy, npz or parquet.
        size: crop the centre square and resize it, antialiased, to this many pixels, ≥ 1; None asks
            for images of equal size.
        channels: 1 or 3 converts to grey or colour; None expects all images to have the channels
            of the first one.
        labels: None for no labels; "folders": label i is the i-th folder by name, except folders
            named by four or more digits, which divide a set into chunks; "numbered_folders": these
            are classes, too; "dataset.json": the format of EDM; "cls": files .cls next to the
            images; otherwise the name of an array of integers in the npz files, of a column in the
            Parquet files or of an entry in files .json next to the images.
        test_fraction: fraction that is held out, in (0, 1), where no folders are the parts.
        seed: seed of the split, any integer.
        range: (lo, hi) that the network sees, lo < hi.
        dequantize: add uniform noise within the cells of grey levels to training batches.
        flip: mirror half of the training images.
        crop: side of the centre square in pixels of the image, ≥ 1; None takes the largest square
            if there is a size, and otherwise the whole image.
        condition: "label" puts the labels of a batch's images into it; None does not.

    Raises:
        FileNotFoundError: root does not exist.
        ImportError: pyarrow is not installed, and there are Parquet files.
        ValueError: fewer than 2 images, unreadable image, mixed sizes or channels, missing labels,
            an image smaller than the crop, or an impossible setting.
    """

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
    ) -> None:
        path = root_path(root)

        def read() -> tuple[Split, Split]:
            check_labelled(path.stem, condition, labels is not None, LABELLED)
            survey = Survey(path, labels, test_fraction, seed)
            form = Form(size, channels, crop)
            with survey.find() as found:
                samples = fill(found.sources, found.order.argsort(), form, survey.odd)
            survey.check_two(len(samples))
            parts = slice(found.tests, None), slice(found.tests)
            train, test = (Split(samples[part], found.part_labels(part)) for part in parts)
            self.report = survey.report(len(train.samples), len(test.samples))
            return train, test

        grey = GreyLevels(range)
        super().__init__(
            path.stem, read, grey, dequantize=dequantize, flip=flip, condition=condition
        )
