"""The split into train and test: by the names of files, or by a fraction that is held out."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from typing import NamedTuple

_KINDS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
_KINDS |= dict.fromkeys(("val", "valid", "validation"), "validation")
_NAMED = re.compile(rf"({'|'.join(_KINDS)})(?=[-_.])", re.IGNORECASE)


class Parting(NamedTuple):
    """The part of each file by its name.

    Attributes:
        part: "train", "test", or None for a file in neither.
        below: the folder of each file without that of its part, "" for the root.
        named: whether names decided; if not, every part is "train".
    """

    part: list[str | None]
    below: list[str]
    named: bool


def part_by_name(names: Sequence[str], many: Sequence[bool]) -> Parting:
    """Find the parts by folders named train and test, or by files of many images named so.

    The parts are train and test, or train and val, valid or validation, if folders of the top level
    have these names or names of files of many images begin with them, such as
    `train-00000-of-00002.parquet`. Next to test, validation is in neither part. A folder that holds
    all others does not count as a level. Deeper folders decide only if every file is in one. Names
    are paths below the root, with / between their parts.
    """
    paths = [name.split("/")[:-1] for name in names]
    common = len(posixpath.commonprefix(paths))
    folders = [path[common:] for path in paths]
    # A file whose name begins with that of a part counts as a folder of this name.
    marks = [
        [*folder, begin[1]] if one and (begin := _NAMED.match(posixpath.basename(name))) else folder
        for folder, name, one in zip(folders, names, many, strict=True)
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
    return _KINDS.get(name.lower())


def check_fraction(test_fraction: float) -> None:
    """Refuse a fraction that is not in (0, 1)."""
    if not isinstance(test_fraction, int | float) or not 0 < test_fraction < 1:
        raise ValueError(
            f"test_fraction must be in (0, 1), got {test_fraction!r}; 0.1 holds out a tenth"
        )


def held_out(total: int, test_fraction: float) -> int:
    """Size of the test part: the nearest count that leaves a sample in both parts."""
    return min(max(round(total * test_fraction), 1), total - 1)
