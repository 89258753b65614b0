"""Which samples are held out: a fraction of them, or those that their names put apart."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

_TRAIN, _TEST = ("train", "training"), ("test", "testing")
_VALIDATION = ("val", "valid", "validation")
_NAMED = re.compile(r"(train|training|test|testing|val|valid|validation)(?=[-_.])", re.IGNORECASE)


class Parting(NamedTuple):
    """What the names of files say of their part.

    Attributes:
        part: of each file: "train", "test", or None where it is in neither.
        below: the folder of each file without that of its part, "" for the topmost.
        named: whether the names say it; if not, every part is "train".
    """

    part: list[str | None]
    below: list[str]
    named: bool


def part_by_name(names: Sequence[str], many: Sequence[bool]) -> Parting:
    """Read the parts off folders named train and test, or off files of many images named so.

    Train, with test or else with val, valid or validation, are the parts where folders of the top
    level are called so, or files of many images begin so (`train-00000-of-00002.parquet`); with
    both test and validation, the latter is in neither part. A folder that holds all others counts
    as no level. Deeper folders are the parts only where every file lies in one of them.

    Args:
        names: of the files below the root, with / between the parts.
        many: whether each is a file of many images.
    """
    paths = [name.split("/") for name in names]
    common = 0
    while paths and all(
        len(path) > common + 1 and path[common] == paths[0][common] for path in paths
    ):
        common += 1
    folders = [path[common:-1] for path in paths]
    # A file's own name stands for a folder where it begins with the name of a part.
    marks = [
        [*folder, begin[1]] if one and (begin := _NAMED.match(path[-1])) else folder
        for folder, path, one in zip(folders, paths, many, strict=True)
    ]
    for level in range(max(map(len, marks), default=0)):
        kinds = [_kind(mark[level]) if level < len(mark) else None for mark in marks]
        held_out = "test" if "test" in kinds else "validation"
        everywhere = None not in kinds or level == 0
        if "train" in kinds and held_out in kinds and everywhere:
            part = {"train": "train", held_out: "test"}
            below = ["/".join(f[:level] + f[level + 1 :]) for f in folders]
            return Parting([part.get(kind or "") for kind in kinds], below, True)
    return Parting(["train"] * len(names), ["/".join(folder) for folder in folders], False)


def _kind(name: str) -> str | None:
    if name.endswith(".tar") and (begin := _NAMED.match(name)):  # train-00000-of-00128.tar
        name = begin[1]
    for kind, names in (("train", _TRAIN), ("test", _TEST), ("validation", _VALIDATION)):
        if name.lower() in names:
            return kind
    return None


def check_fraction(test_fraction: float) -> None:
    """Refuse a fraction that leaves no sample on one side."""
    if not isinstance(test_fraction, int | float) or not 0 < test_fraction < 1:
        raise ValueError(
            f"test_fraction must be in (0, 1), got {test_fraction!r}; 0.1 holds out a tenth"
        )


def held_out(total: int, test_fraction: float) -> int:
    """Size of the test part: the nearest count that leaves a sample on either side."""
    return min(max(round(total * test_fraction), 1), total - 1)
