"""Directories and zips of one's own images, held in memory."""

from __future__ import annotations

from pathlib import Path

from .base import Split
from .checks import check_labelled
from .listing import root_path
from .memory import InMemory
from .reading import Form, fill
from .survey import LABELLED, Survey


class Folder(InMemory):
    """A directory or zip of images, all held in memory.

    Images are png, jpg, jpeg, bmp or webp of at most 8 bits per channel, npy and npz arrays of one
    image or many, and Parquet files of encoded images. Transparency is dropped. Links are followed,
    and what a run of this toolkit wrote is left out; `report` says how many files were not read.

    Folders `train` and `test` (or `val`, `valid`, `validation`) are the two parts. Without them the
    seed deals the images, in the order of their names, out to train and test at random, so that any
    leading part of either is a fair sample.

    Args:
        root: directory, searched recursively, zip, or one file npy, npz or parquet.
        size: crop the centre square and resize it, antialiased, to this many pixels, ≥ 1; None asks
            for images of equal size.
        channels: 1 or 3 converts to grey or colour; None takes what the first image has and asks
            the same of the others.
        labels: None for none; "folders": label i is the i-th folder by name, where folders named by
            four or more digits are chunks and no classes; "numbered_folders": these are classes,
            too; "dataset.json": as EDM writes it; "cls": files .cls next to the images; else the
            name of an array of integers in the npz files, of a column in the Parquet files or of an
            entry in files .json next to the images.
        test_fraction: part that is held out, in (0, 1), where no folders say it.
        seed: of the split, any integer.
        range: (lo, hi) that the network sees, lo < hi.
        dequantize: add uniform noise within the grey level's cell to training batches.
        flip: mirror half of the training images.
        crop: side of the centre square in pixels of the image, ≥ 1; None for the largest one where
            there is a size, else for no crop.
        condition: "label" puts the labels of a batch's images into it; None does not.

    Raises:
        FileNotFoundError: root does not exist.
        ImportError: pyarrow is not installed, and there are Parquet files.
        ValueError: fewer than 2 images, unreadable image, mixed sizes or channels, images without
            the labels that are asked for or smaller than the crop, bad setting.
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

        super().__init__(
            path.stem,
            read,
            range=range,
            levels=256,
            dequantize=dequantize,
            flip=flip,
            condition=condition,
        )
