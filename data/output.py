"""Files that are never data: hidden ones, and the output of runs of this toolkit."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator

# Files that a run writes next to its config.yaml, and the names of the folders of runs.
_OF_A_RUN = {"result.json", "checkpoints", "metrics.csv", "likelihood", "samples.npz"}
_RUNS, _STAMP = ("outputs", "multirun"), re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d")


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or was added to a zip by macOS."""
    return name.startswith((".", "__MACOSX"))


def is_output(folder: str, names: set[str]) -> bool:
    """Whether a folder of this path, which holds these names, is that of a run."""
    above, name = os.path.split(folder)
    stamped = os.path.basename(above) in _RUNS and _STAMP.match(name) is not None
    return stamped or ("config.yaml" in names and not names.isdisjoint(_OF_A_RUN))


def visible(names: Collection[str], skipped: Counter[str]) -> Iterator[str]:
    """The names of an archive's files that can be data; the others are counted as skipped."""
    runs = runs_among(names)
    skipped["folders of runs (a run's own output)"] += len(runs)
    for name in names:
        if any(map(is_hidden, name.split("/"))):
            skipped["hidden"] += 1
        elif not lies_in(name, runs):
            yield name


def runs_among(names: Iterable[str]) -> set[str]:
    """The folders of runs among the files of an archive."""
    inside: dict[str, set[str]] = {}  # the names in each folder
    for name in names:
        parts = name.split("/")
        for i, part in enumerate(parts):
            inside.setdefault("/".join(parts[:i]), set()).add(part)
    return {folder for folder, names in inside.items() if is_output(folder, names)}


def lies_in(name: str, folders: set[str]) -> bool:
    """Whether a file of an archive lies in or below one of these folders."""
    if not folders:
        return False
    # Positions at which the paths of the folders above it end; that of the root, "", at 0.
    ends = [0, *(i for i, letter in enumerate(name) if letter == "/")]
    return not folders.isdisjoint(name[:i] for i in ends)
