"""Zips of images, listed without unpacking; and what a file that is no zip is instead."""

from __future__ import annotations

import stat
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from .files import STACKS, TABLES, File, broken_zip, image_kind
from .output import is_hidden, is_output

_FOLDER = "set data.root to the directory that holds the images, or to a zip of them"


def unzip(root: Path, archive: zipfile.ZipFile, skipped: Counter[str]) -> Iterator[File]:
    """Every file in a zip; of two with one name the later, as unpacking leaves it."""
    members = {m.filename.replace("\\", "/"): m for m in archive.infolist() if not m.is_dir()}
    inside: dict[str, set[str]] = {}  # what lies in each folder
    for name in members:
        parts = name.split("/")
        for i, part in enumerate(parts):
            inside.setdefault("/".join(parts[:i]), set()).add(part)
    runs = {folder for folder, names in inside.items() if is_output(folder, names)}
    skipped["folders of runs (a run's own output)"] += len(runs)
    for name, member in members.items():
        if any(map(is_hidden, name.split("/"))):
            skipped["hidden"] += 1
        elif stat.S_ISLNK(member.external_attr >> 16):
            skipped["links in the zip (not followed)"] += 1
        elif not runs or runs.isdisjoint(name[:i] for i in _folder_ends(name)):
            yield File(name, f"{root}/{name}", partial(archive.open, member))


def _folder_ends(name: str) -> list[int]:
    """Where in a file's name those of the folders above it end, from the topmost, "", on."""
    return [0, *(i for i, letter in enumerate(name) if letter == "/")]


def check_zip(root: Path) -> None:
    """Refuse a file that is no zip, and say what it is instead."""
    if zipfile.is_zipfile(root):
        return
    with root.open("rb") as stream:
        start = stream.read(16)
    kind = image_kind(start)
    if kind is not None:
        raise ValueError(f"data.root={root} is a single {kind} image; {_FOLDER}")
    if tarfile.is_tarfile(root):
        raise ValueError(
            f"data.root={root} is a tar archive, which is not read; unpack it and {_FOLDER}"
        )
    if root.suffix.lower() == ".zip" or start.startswith(b"PK"):
        raise broken_zip(str(root), "it is empty" if not start else "no directory at its end")
    begins = f"begins with the bytes {start[:8].hex(' ')}" if start else "is empty (0 bytes)"
    raise ValueError(
        f"data.root={root} is a file that {begins}, expected a directory, a zip, or a file "
        f"{', '.join(STACKS + TABLES)}; {_FOLDER}"
    )
