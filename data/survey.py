"""A survey of the images under a root: their files, their two parts, and their labels.

A survey does not decode images. `Folder`, which holds them in memory, and `Streamed`, which reads
them on demand, share it and so have the same images in the same order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .base import stream
from .files import ACCEPTED, PICTURES
from .labels import classes_of, label_folders, label_listed, number_classes, read_label_file
from .listing import Listing, listing
from .reading import Images, images_of
from .split import Parting, check_fraction, held_out, part_by_name

FOLDERS, NUMBERED, LISTED = "folders", "numbered_folders", "dataset.json"
LABELLED = (
    f"set data.labels={FOLDERS}, {NUMBERED}, {LISTED}, cls, or the name of an array, column or "
    "entry of .json files"
)


class Found(NamedTuple):
    """Images in the order of their names, N in all.

    Attributes:
        sources: files, each of one image or many.
        order: positions of the test part's images, then of the train part's, int64 (N,).
        tests: number of images in the test part.
        labels: labels of the images in the order of their names, int64 (N,), or None.
    """

    sources: list[Images]
    order: Tensor
    tests: int
    labels: Tensor | None

    def part_labels(self, part: slice) -> Tensor | None:
        """Labels of the images in a slice of the order."""
        return None if self.labels is None else self.labels[self.order[part]]


class Survey:
    """One survey of a root: its settings, and the notes for its report.

    Args:
        root: directory, zip, tar, or file of many images.
        labels, test_fraction, seed: as for `Folder`.
        tars: whether tars are read.

    Raises:
        ValueError: impossible setting.
    """

    def __init__(
        self, root: Path, labels: str | None, test_fraction: float, seed: int, tars: bool = False
    ) -> None:
        check_fraction(test_fraction)
        if not isinstance(labels, str | None):
            raise ValueError(
                f"labels must be null, {FOLDERS}, {NUMBERED}, {LISTED}, or the name of an array "
                f"or a column, got {labels!r}"
            )
        self.root, self.labels, self.tars = root, labels, tars
        self.test_fraction, self.seed = test_fraction, seed
        self.skipped: Counter[str] = Counter()
        self.odd: Counter[str] = Counter()
        self.notes: list[str] = []

    @contextmanager
    def find(self) -> Iterator[Found]:
        """List the files, and find the order and the labels of their images.

        Raises:
            FileNotFoundError: root does not exist.
            ValueError: no images, or missing labels.
        """
        with listing(self.root, self.tars) as found:
            self.skipped = found.skipped
            names = [file.name for file in found.files]
            many = [file.suffix not in PICTURES for file in found.files]
            parting = part_by_name(names, many)
            kept = [i for i, part in enumerate(parting.part) if part is not None]
            self.skipped["in neither part (not read)"] += len(names) - len(kept)
            files = [found.files[i] for i in kept]
            sources = [images_of(file, found.label_files_of(file)) for file in files]
            counts = torch.tensor([len(source) for source in sources], dtype=torch.int64)
            self._check_any(int(counts.sum()))
            labels = self._label(found, sources, counts, [parting.below[i] for i in kept])
            order, tests = self._order(parting, [parting.part[i] for i in kept], counts)
            yield Found(sources, order, tests, labels)

    def check_two(self, total: int) -> None:
        """Refuse a single image, after reading it, since that may raise a more helpful error."""
        if total == 1:
            raise ValueError(
                f"dataset '{self.root.stem}' has 1 image under {self.root}; add at least one for "
                "the test set"
            )

    def report(self, train: int, test: int, verb: str = "read") -> str:
        """One line that says what was read, from where, what was skipped, and the two parts."""
        skipped = self._skipped()
        odd = [f"{count} {kind}" for kind, count in self.odd.items()]
        whole = (
            f"{verb} {train + test} images from {self.root}"
            f"{f' ({skipped})' if skipped else ''}: {train} for training, {test} for test"
            f"{''.join(f'; {note}' for note in [*self.notes, *odd] if note)}"
        )
        return whole.encode("utf-8", "replace").decode()  # names may not be valid Unicode

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
        """The order of the images, test part first, and the number of images in that part."""
        total = int(counts.sum())
        order = torch.randperm(total, generator=stream("split", self.seed))
        if not parting.named:
            return order, held_out(total, self.test_fraction)
        self.notes.insert(0, "the parts are those of its folders")
        test = torch.tensor([part == "test" for part in parts]).repeat_interleave(counts)[order]
        if not 0 < int(test.sum()) < total:
            raise ValueError(
                f"dataset '{self.root.stem}' has {int(test.sum())} test images of {total} under "
                f"{self.root}; add images to its folders train and test, or rename these"
            )
        return torch.cat([order[test], order[~test]]), int(test.sum())

    def _label(
        self, found: Listing, sources: Sequence[Images], counts: Tensor, folders: Sequence[str]
    ) -> Tensor | None:
        """Labels of all images, or None, with a note on their source for the report."""
        names = [source.file.name for source in sources]
        if self.labels is None:
            self.notes.append(_offer(found, sources, folders))
            return None
        if self.labels in (FOLDERS, NUMBERED):
            numbers, classes = label_folders(folders, names, self.labels == NUMBERED)
            self.notes.append(f"{len(classes)} classes by folder{_shown(classes)}")
            return torch.tensor(numbers).repeat_interleave(counts)
        if self.labels == LISTED:
            if not found.labels:
                raise ValueError(
                    f"data.labels={LISTED}, but there is no such file under {self.root}; add it, "
                    "or use data.labels=null"
                )
            numbers, absent = label_listed(found.labels, names)
            more = f", {absent} of them of no image" if absent else ""
            self.notes.append(f"labels by {LISTED}{more}")
            return torch.tensor(numbers).repeat_interleave(counts)
        labels = self._own_labels(sources, self.labels)
        suffix = "cls" if self.labels == "cls" else "json"
        files = [file for source in sources for file in found.label_files_of(source.file)]
        self.skipped[f"{suffix} (not read)"] -= sum(file.suffix[1:] == suffix for file in files)
        return labels

    def _own_labels(self, sources: Sequence[Images], name: str) -> Tensor:
        """Labels stored in the files of images, or in files next to an image."""
        for source in sources:
            offered = source.label_names()
            if name not in offered:
                raise ValueError(
                    f"{source.file.source} has no labels '{name}'; allowed are null, {FOLDERS}, "
                    f"{NUMBERED}, {LISTED}" + "".join(f", {other}" for other in offered)
                )
        own = np.concatenate([source.labels(name) for source in sources])
        values, classes = number_classes(own)
        if values.min() < 0:
            raise ValueError(
                f"the labels '{name}' under {self.root} must be integers ≥ 0, got {values.min()}; "
                "use data.labels=null"
            )
        kind = f"{len(classes)} classes by {name}{_shown(classes)}"
        self.notes.append(kind if classes else f"labels by {name}")
        return torch.from_numpy(values)


def _shown(classes: Sequence[str]) -> str:
    return f" ({', '.join(classes[:10])}{', …' if len(classes) > 10 else ''})"


def _offer(found: Listing, sources: Sequence[Images], folders: Sequence[str]) -> str:
    """A note on the labels that exist but are not read."""
    offers = []
    if found.labels:
        try:
            listed = any(read_label_file(file) for file in found.labels.values())
        except ValueError:  # the file is unrelated
            listed = False
        offers += [LISTED] * listed
    classes = set(classes_of(folders))
    offers += [FOLDERS] * (len(classes) > 1 and "" not in classes)
    with suppress(ValueError):  # a file next to an image is unrelated
        offers += sources[0].label_names()[:5]
    return f"no labels read; there are data.labels={' or '.join(offers)}" if offers else ""
