"""What is never data: hidden files, and what a run of this toolkit has written."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

# What a run of this toolkit writes next to its config.yaml, and how its folder is named.
_OF_A_RUN = {"result.json", "checkpoints", "metrics.csv", "likelihood", "samples.npz"}
_RUNS, _STAMP = ("outputs", "multirun"), re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d")


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or macOS's own in a zip."""
    return name.startswith((".", "__MACOSX"))


def is_output(folder: str, names: set[str]) -> bool:
    """Whether a run of this toolkit writes into this folder."""
    above, name = os.path.split(folder)
    stamped = os.path.basename(above) in _RUNS and _STAMP.match(name) is not None
    return stamped or ("config.yaml" in names and not names.isdisjoint(_OF_A_RUN))


def runs_among(names: Iterable[str]) -> set[str]:
    """The folders that runs of this toolkit write into, among the files of an archive."""
    inside: dict[str, set[str]] = {}  # what lies in each folder
    for name in names:
        parts = name.split("/")
        for i, part in enumerate(parts):
            inside.setdefault("/".join(parts[:i]), set()).add(part)
    return {folder for folder, names in inside.items() if is_output(folder, names)}


def lies_in(name: str, folders: set[str]) -> bool:
    """Whether a file of an archive lies in one of these folders, or below it."""
    if not folders:
        return False
    # Where in the name those of the folders above it end, from the topmost, "", on.
    ends = [0, *(i for i, letter in enumerate(name) if letter == "/")]
    return not folders.isdisjoint(name[:i] for i in ends)
