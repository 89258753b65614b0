"""Listings of image files: in directories, zips and tars, or in single files of many images.

A listing names the files to be read, and counts the others by the reason for leaving them out.
Links are followed, but no file is listed twice; the output of runs of this toolkit is not listed.
"""

from __future__ import annotations

import os
import posixpath
import zipfile
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .files import ACCEPTED, STACKS, TABLES, File
from .output import is_hidden, is_output
from .place import Place, broken_zip
from .tars import is_tar, untar
from .zips import check_zip, unzip

LABEL_FILE = "dataset.json"
LABEL_SUFFIXES = (".cls", ".json")  # WebDataset's labels of an image of the same name
_TAR = ".tar"


@dataclass
class Listing:
    """The files under a root.

    Attributes:
        files: files of an accepted format, sorted by name.
        labels: the `dataset.json` files.
        label_files: files that can hold the label of an image of the same name, by that name.
        tars: the tars in a directory.
        skipped: number of other files, by the reason for leaving them out.
    """

    files: list[File] = field(default_factory=list)
    labels: dict[str, File] = field(default_factory=dict)
    label_files: dict[str, list[File]] = field(default_factory=dict)
    tars: list[File] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    def sort_in(self, files: Iterable[File]) -> Listing:
        """Add the files of an accepted format, and count the others."""
        for file in files:
            if posixpath.basename(file.name) == LABEL_FILE:
                self.labels[file.name] = file
            elif file.suffix in ACCEPTED:
                self.files.append(file)
            else:
                if file.suffix in LABEL_SUFFIXES:
                    self.label_files.setdefault(posixpath.splitext(file.name)[0], []).append(file)
                if file.suffix == _TAR:
                    self.tars.append(file)
                kind = file.suffix[1:] or "without suffix"
                self.skipped[f"{kind} (not read)"] += 1
        self.files.sort(key=lambda file: file.name)
        return self

    def label_files_of(self, file: File) -> Sequence[File]:
        """The files that can hold the label of an image, which share its name without suffix.

        The suffix begins at the last dot, or otherwise, as in WebDataset, at the first one.
        """
        own = self.label_files.get(posixpath.splitext(file.name)[0])
        if own is None:
            folder, _, name = file.name.rpartition("/")
            own = self.label_files.get(posixpath.join(folder, name.partition(".")[0]))
        return own or ()

    def open_tars(self) -> Listing:
        """In a directory of tars without images, list the files in the tars."""
        if self.files:
            return self
        for tar in self.tars:
            self.skipped[f"{_TAR[1:]} (not read)"] -= 1
            path = Path(tar.place.path)
            self.sort_in(untar(path, f"{tar.name}/", tar.source, self.skipped))
        return self


def root_path(root: object) -> Path:
    """The path that `data.root` names.

    Raises:
        ValueError: It is empty, the root of the file system, or not a path.
    """
    if isinstance(root, bool) or not isinstance(root, str | int | os.PathLike):
        raise ValueError(f"data.root must be a path, got {root!r}; add data.root=PATH")
    text = str(root)
    if not text.strip():
        raise ValueError(
            f"data.root must be a path, got {text!r}; is a shell variable unset? For the folder "
            "that the command runs in, say data.root=."
        )
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"data.root={text} names no home folder ({error})") from error
    if path == Path(path.anchor or "/"):
        raise ValueError(
            f"data.root={text} is the whole file system; is a shell variable unset? Name the "
            "folder of the data"
        )
    return path


@contextmanager
def listing(root: Path, tars: bool = False) -> Iterator[Listing]:
    """List the files under a directory or in a zip, or the one file that holds many images.

    Args:
        root: path of the directory or file.
        tars: whether a tar, or a directory of tars, is read as well.

    Raises:
        FileNotFoundError: root does not exist.
        ValueError: root is neither a directory nor a readable file of a known format.
    """
    found = Listing()
    if root.is_dir():
        found.sort_in(_walk(root, found.skipped))
        yield found.open_tars() if tars else found
    elif not root.exists():
        raise FileNotFoundError(
            f"data.root={root} not found; set it to a directory or a zip of images"
        )
    elif root.suffix.lower() in STACKS + TABLES:
        one = File(root.name, str(root), Place(str(root)), lambda: root.open("rb"))
        yield found.sort_in([one])
    elif tars and is_tar(root):
        yield found.sort_in(untar(root, "", str(root), found.skipped))
    else:
        check_zip(root)
        try:
            archive = zipfile.ZipFile(root)
        except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
            raise broken_zip(str(root), error) from error
        with archive:
            yield found.sort_in(unzip(root, archive, found.skipped))


def _walk(root: Path, skipped: Counter[str]) -> Iterator[File]:
    """Every file under a directory, those in linked folders after all others.

    A folder that is also the target of a link is thereby listed under its own name.
    """
    visited: set[str] = set()
    plain: list[tuple[str, str, str]] = []  # name, path, real path
    linked: list[tuple[str, str, str]] = []
    later = deque([("", str(root))])
    while later:
        pending = [later.popleft()]
        while pending:
            prefix, folder = pending.pop()
            real = os.path.realpath(folder)
            if real in visited:
                skipped["folders that are read already (linked)"] += 1
                continue
            visited.add(real)
            entries = _entries(folder)
            if is_output(real, {entry.name for entry in entries}):
                skipped["folders of runs (a run's own output)"] += 1
                continue
            for entry in entries:
                name = f"{prefix}{entry.name}"
                if is_hidden(entry.name):
                    skipped["hidden"] += 1
                elif os.path.isdir(entry.path):  # False on a loop of links, where the entry raises
                    (later if entry.is_symlink() else pending).append((f"{name}/", entry.path))
                elif not os.path.isfile(entry.path):
                    skipped["broken links" if entry.is_symlink() else "special files"] += 1
                elif entry.is_symlink():
                    linked.append((name, entry.path, os.path.realpath(entry.path)))
                else:
                    plain.append((name, entry.path, os.path.join(real, entry.name)))
    for name, path, _ in plain:
        yield _file(root, name, path)
    known = {real for _, _, real in plain} if linked else set()
    for name, path, real in sorted(linked):
        if real in known:
            skipped["files that are read already (linked)"] += 1
            continue
        known.add(real)
        yield _file(root, name, path)


def _file(root: Path, name: str, path: str) -> File:
    return File(name, f"{root}/{name}", Place(path), lambda: open(path, "rb"))


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be listed ({error.strerror}); make it readable or move it out of "
            "data.root"
        ) from error
