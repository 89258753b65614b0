"""Where image files come from: directories, zips and single files that hold many images.

A listing says which files there are to be read, and counts what it leaves out and why. Links are
followed, but nothing is listed twice; what a run of this toolkit has written is never listed.
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
import tarfile
import zipfile
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
STACKS = (".npy", ".npz")
TABLES = (".parquet",)
ACCEPTED = (*PICTURES, *STACKS, *TABLES)
LABEL_FILE = "dataset.json"
_FOLDER = "set data.root to the directory that holds the images, or to a zip of them"
# What a run of this toolkit writes next to its config.yaml, and how its folder is named.
_OF_A_RUN = {"result.json", "checkpoints", "metrics.csv", "likelihood", "samples.npz"}
_RUNS, _STAMP = ("outputs", "multirun"), re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d")
_MAGIC = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"BM": "BMP", b"GIF8": "GIF"}


@dataclass(frozen=True)
class File:
    """A file under a root.

    Attributes:
        name: below the root, with / between the parts.
        source: what messages call it.
    """

    name: str
    source: str
    _open: Callable[[], IO[bytes]]

    @property
    def suffix(self) -> str:
        """In lower case, with its dot."""
        return posixpath.splitext(self.name)[1].lower()

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The bytes of the file.

        Raises:
            ValueError: The zip that holds it is corrupt, truncated or encrypted.
        """
        try:
            with self._open() as stream:
                yield stream
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise _broken_zip(self.source, error) from error
        except RuntimeError as error:
            if "password" not in str(error):
                raise
            raise _broken_zip(self.source, error) from error

    def read(self) -> bytes:
        """All bytes of the file."""
        with self.open() as stream:
            return stream.read()


@dataclass
class Listing:
    """What is under a root.

    Attributes:
        root: directory, zip, or file of many images.
        files: those of an accepted kind, sorted by name.
        labels: the `dataset.json` files.
        skipped: how many others there are, for each reason.
    """

    root: Path
    files: list[File] = field(default_factory=list)
    labels: dict[str, File] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)

    def sort_in(self, files: Iterable[File]) -> Listing:
        """Take the files of an accepted kind and count the others."""
        for file in files:
            if posixpath.basename(file.name) == LABEL_FILE:
                self.labels[file.name] = file
            elif file.suffix in ACCEPTED:
                self.files.append(file)
            else:
                kind = file.suffix[1:] or "without suffix"
                self.skipped[f"{kind} (not read)"] += 1
        self.files.sort(key=lambda file: file.name)
        return self


def root_path(root: object) -> Path:
    """The path that `data.root` names.

    Raises:
        ValueError: It is empty, or not a path.
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
def listing(root: Path) -> Iterator[Listing]:
    """List the files under a directory, in a zip, or the one file that holds many images.

    Args:
        root: of the images.

    Raises:
        FileNotFoundError: root does not exist.
        ValueError: root is neither a directory nor a readable file of a known kind.
    """
    found = Listing(root)
    if root.is_dir():
        yield found.sort_in(_walk(root, found.skipped))
    elif not root.exists():
        raise FileNotFoundError(
            f"data.root={root} not found; set it to a directory or a zip of images"
        )
    elif root.suffix.lower() in STACKS + TABLES:
        yield found.sort_in([File(root.name, str(root), lambda: root.open("rb"))])
    else:
        _check_zip(root)
        try:
            archive = zipfile.ZipFile(root)
        except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
            raise _broken_zip(str(root), error) from error
        with archive:
            yield found.sort_in(_unzip(root, archive, found.skipped))


def _walk(root: Path, skipped: Counter[str]) -> Iterator[File]:
    """Every file under a directory; folders that links lead to come after all others.

    So that a folder is known by its own name where both it and a link to it are there.
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
            if _of_a_run(real, {entry.name for entry in entries}):
                skipped["folders of runs (a run's own output)"] += 1
                continue
            for entry in entries:
                name = f"{prefix}{entry.name}"
                if _hidden(entry.name):
                    skipped["hidden"] += 1
                elif os.path.isdir(entry.path):  # False on a loop of links, where the entry raises
                    (later if entry.is_symlink() else pending).append((f"{name}/", entry.path))
                elif not os.path.isfile(entry.path):
                    skipped["broken links" if entry.is_symlink() else "no files"] += 1
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
    return File(name, f"{root}/{name}", lambda: open(path, "rb"))


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be listed ({error.strerror}); make it readable or move it out of "
            "data.root"
        ) from error


def _hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))


def _of_a_run(folder: str, names: set[str]) -> bool:
    """Whether a run of this toolkit writes into this folder."""
    above, name = posixpath.split(folder)
    stamped = posixpath.basename(above) in _RUNS and _STAMP.match(name) is not None
    return stamped or ("config.yaml" in names and not names.isdisjoint(_OF_A_RUN))


def _unzip(root: Path, archive: zipfile.ZipFile, skipped: Counter[str]) -> Iterator[File]:
    """Every file in a zip; of two with one name the later, as unpacking leaves it."""
    members = {m.filename.replace("\\", "/"): m for m in archive.infolist() if not m.is_dir()}
    inside: dict[str, set[str]] = {}  # what lies in each folder
    for name in members:
        parts = name.split("/")
        for i, part in enumerate(parts):
            inside.setdefault("/".join(parts[:i]), set()).add(part)
    runs = {folder for folder, names in inside.items() if _of_a_run(folder, names)}
    skipped["folders of runs (a run's own output)"] += len(runs)
    for name, member in members.items():
        if any(map(_hidden, name.split("/"))):
            skipped["hidden"] += 1
        elif stat.S_ISLNK(member.external_attr >> 16):
            skipped["links in the zip (not followed)"] += 1
        elif not runs or runs.isdisjoint(name[:i] for i in _folder_ends(name)):
            yield File(name, f"{root}/{name}", partial(archive.open, member))


def _folder_ends(name: str) -> list[int]:
    """Where in a file's name those of the folders above it end, from the topmost, "", on."""
    return [0, *(i for i, letter in enumerate(name) if letter == "/")]


def _check_zip(root: Path) -> None:
    """Refuse a file that is no zip, and say what it is instead."""
    if zipfile.is_zipfile(root):
        return
    with root.open("rb") as stream:
        start = stream.read(16)
    kind = next((name for magic, name in _MAGIC.items() if start.startswith(magic)), None)
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        kind = "WebP"
    if kind is not None:
        raise ValueError(f"data.root={root} is a single {kind} image; {_FOLDER}")
    if tarfile.is_tarfile(root):
        raise ValueError(
            f"data.root={root} is a tar archive, which is not read; unpack it and {_FOLDER}"
        )
    if root.suffix.lower() == ".zip" or start.startswith(b"PK"):
        raise _broken_zip(str(root), "it is empty" if not start else "no directory at its end")
    begins = f"begins with the bytes {start[:8].hex(' ')}" if start else "is empty (0 bytes)"
    raise ValueError(
        f"data.root={root} is a file that {begins}, expected a directory, a zip, or a file "
        f"{', '.join(STACKS + TABLES)}; {_FOLDER}"
    )


def _broken_zip(source: str, error: object) -> ValueError:
    return ValueError(
        f"{source} is corrupt, truncated or encrypted: expected a readable zip ({error}); make or "
        "download it again"
    )
