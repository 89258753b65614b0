"""Directories and zips of one's own images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .base import Split, stream
from .checks import check_condition, check_labelled
from .files import ACCEPTED, PICTURES
from .labels import classes_of, label_folders, label_listed, read_label_file
from .listing import Listing, listing, root_path
from .memory import InMemory
from .reading import Images, fill, images_of
from .split import Parting, check_fraction, held_out, part_by_name

_FOLDERS, _NUMBERED, _LISTED = "folders", "numbered_folders", "dataset.json"
_LABELLED = (
    f"set data.labels={_FOLDERS}, {_NUMBERED}, {_LISTED}, or the name of an array or a column"
)


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
            too; "dataset.json": as EDM writes it; else the name of an array of integers in the npz
            files or of a column in the Parquet files.
        test_fraction: part that is held out, in (0, 1), where no folders say it.
        seed: of the split, any integer.
        range: (lo, hi) that the network sees, lo < hi.
        dequantize: add uniform noise within the grey level's cell to training batches.
        flip: mirror half of the training images.
        condition: "label" puts the labels of a batch's images into it; None does not.

    Raises:
        FileNotFoundError: root does not exist.
        ImportError: pyarrow is not installed, and there are Parquet files.
        ValueError: fewer than 2 images, unreadable image, mixed sizes or channels, images without
            the labels that are asked for, bad setting.
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
        condition: str | None = None,
    ) -> None:
        path = root_path(root)
        check_condition(condition)
        check_labelled(path.stem, condition, labels is not None, _LABELLED)
        reading = _Reading(path, size, channels, labels, test_fraction, seed)
        super().__init__(
            path.stem,
            reading.read,
            range=range,
            levels=256,
            dequantize=dequantize,
            flip=flip,
            condition=condition,
        )
        self.report = reading.report(len(self.train), len(self.test))


class _Labels(NamedTuple):
    """Labels of all images, or None, and what the report says of them."""

    values: Tensor | None
    note: str


class _Reading:
    """One reading of a folder: its settings, and what it has to report."""

    def __init__(
        self,
        root: Path,
        size: int | None,
        channels: int | None,
        labels: str | None,
        test_fraction: float,
        seed: int,
    ) -> None:
        self.root, self.size, self.channels, self.labels = root, size, channels, labels
        self.test_fraction, self.seed = test_fraction, seed
        self.skipped: Counter[str] = Counter()
        self.odd: Counter[str] = Counter()
        self.notes: list[str] = []

    def read(self) -> tuple[Split, Split]:
        """Check the settings, list the files, then read them."""
        check_fraction(self.test_fraction)
        if self.size is not None and (type(self.size) is not int or self.size < 1):
            raise ValueError(f"size must be an integer ≥ 1 or null, got {self.size!r}")
        if self.channels not in (1, 3, None):
            raise ValueError(f"channels must be 1, 3 or null, got {self.channels!r}")
        if not isinstance(self.labels, str | None):
            raise ValueError(
                f"labels must be null, {_FOLDERS}, {_NUMBERED}, {_LISTED}, or the name of an array "
                f"or a column, got {self.labels!r}"
            )
        with listing(self.root) as found:
            self.skipped = found.skipped
            names = [file.name for file in found.files]
            many = [file.suffix not in PICTURES for file in found.files]
            parting = part_by_name(names, many)
            for part in parting.part:
                if part is None:
                    self.skipped["in neither part (not read)"] += 1
            kept = [i for i, part in enumerate(parting.part) if part is not None]
            sources = [images_of(found.files[i]) for i in kept]
            counts = torch.tensor([len(source) for source in sources], dtype=torch.int64)
            self._check_any(int(counts.sum()))
            labels = self._label(found, sources, counts, [parting.below[i] for i in kept])
            order, tests = self._order(parting, [parting.part[i] for i in kept], counts)
            samples = fill(sources, order.argsort(), self.channels, self.size, self.odd)
        if len(samples) == 1:  # said last, since the one image may be the trouble
            raise ValueError(
                f"dataset '{self.root.stem}' has 1 image under {self.root}; add at least one for "
                "the test set"
            )
        values = labels.values
        self.notes.append(labels.note)
        test, train = (
            Split(samples[part], None if values is None else values[order[part]])
            for part in (slice(tests), slice(tests, None))
        )
        return train, test

    def report(self, train: int, test: int) -> str:
        """One line: what was read from where, what was not, and the two parts."""
        skipped = self._skipped()
        odd = [f"{count} {kind}" for kind, count in self.odd.items()]
        whole = (
            f"read {train + test} images from {self.root}"
            f"{f' ({skipped})' if skipped else ''}: {train} for training, {test} for test"
            f"{''.join(f'; {note}' for note in [*self.notes, *odd] if note)}"
        )
        return whole.encode("utf-8", "replace").decode()  # names of files can be any bytes

    def _skipped(self) -> str:
        most = [f"{count} {kind}" for kind, count in self.skipped.most_common() if count]
        total = self.skipped.total()
        return f"{total} skipped: {', '.join(most)}" if most else ""

    def _check_any(self, total: int) -> None:
        if total > 0:
            return
        accepted = ", ".join(suffix[1:] for suffix in ACCEPTED)
        skipped = self._skipped()
        raise ValueError(
            f"dataset '{self.root.stem}' is empty (0 images under {self.root}; accepted: "
            f"{accepted}{f'; {skipped}' if skipped else ''}); set data.root to a directory or zip "
            "of images"
        )

    def _order(
        self, parting: Parting, parts: Sequence[str | None], counts: Tensor
    ) -> tuple[Tensor, int]:
        """Which image stands where, those of the test part first, and how many these are."""
        total = int(counts.sum())
        order = torch.randperm(total, generator=stream("split", self.seed))
        if not parting.named:
            return order, held_out(total, self.test_fraction)
        self.notes.append("the parts are those of its folders")
        test = torch.tensor([part == "test" for part in parts]).repeat_interleave(counts)[order]
        if not 0 < int(test.sum()) < total:
            raise ValueError(
                f"dataset '{self.root.stem}' has {int(test.sum())} test images of {total} under "
                f"{self.root}; add images to its folders train and test, or rename these"
            )
        return torch.cat([order[test], order[~test]]), int(test.sum())

    def _label(
        self, found: Listing, sources: Sequence[Images], counts: Tensor, folders: Sequence[str]
    ) -> _Labels:
        names = [source.file.name for source in sources]
        if self.labels is None:
            return _Labels(None, _offer(found, sources, folders))
        if self.labels in (_FOLDERS, _NUMBERED):
            numbers, classes = label_folders(folders, names, self.labels == _NUMBERED)
            shown = ", ".join(classes[:10]) + (", …" if len(classes) > 10 else "")
            note = f"{len(classes)} classes by folder ({shown})"
            return _Labels(torch.tensor(numbers).repeat_interleave(counts), note)
        if self.labels == _LISTED:
            if not found.labels:
                raise ValueError(
                    f"data.labels={_LISTED}, but there is no such file under {self.root}; add it, "
                    "or use data.labels=null"
                )
            numbers, absent = label_listed(found.labels, names)
            note = f"labels by {_LISTED}" + (f", {absent} of them of no image" if absent else "")
            return _Labels(torch.tensor(numbers).repeat_interleave(counts), note)
        return _Labels(self._own_labels(sources, self.labels), f"labels by {self.labels}")

    def _own_labels(self, sources: Sequence[Images], name: str) -> Tensor:
        """Labels that the files of many images hold themselves."""
        for source in sources:
            offered = source.label_names()
            if name not in offered:
                raise ValueError(
                    f"{source.file.source} has no labels '{name}'; allowed are null, {_FOLDERS}, "
                    f"{_NUMBERED}, {_LISTED}" + "".join(f", {other}" for other in offered)
                )
        values = np.concatenate([source.labels(name) for source in sources])
        if values.min() < 0:
            raise ValueError(
                f"the labels '{name}' under {self.root} must be integers ≥ 0, got {values.min()}; "
                "use data.labels=null"
            )
        return torch.from_numpy(values)


def _offer(found: Listing, sources: Sequence[Images], folders: Sequence[str]) -> str:
    """Which labels could be had, as a user who has them will expect to hear."""
    offers = []
    if found.labels:
        try:
            listed = any(read_label_file(file) for file in found.labels.values())
        except ValueError:  # an unrelated file of that name
            listed = False
        offers += [_LISTED] * listed
    classes = set(classes_of(folders))
    offers += [_FOLDERS] * (len(classes) > 1 and "" not in classes)
    if sources[0].label_names():
        offers += sources[0].label_names()[:5]
    return f"no labels read; there are data.labels={' or '.join(offers)}" if offers else ""
