"""Tars of images, in WebDataset's format or with folders, listed without unpacking them."""

from __future__ import annotations

import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from .files import File
from .output import visible
from .place import PLAIN, Place, read_place

_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ")  # first bytes of gzip, bzip2 and xz


def is_tar(path: Path) -> bool:
    """Whether a file is a tar, compressed or not, or is named like one.

    The name decides first, since a tar that ends with an npz also looks like a zip.
    """
    return path.suffix.lower() == ".tar" or (
        not zipfile.is_zipfile(path) and tarfile.is_tarfile(path)
    )


def untar(path: Path, prefix: str, source: str, skipped: Counter[str]) -> Iterator[File]:
    """Every file in a tar; of two with the same name the later, as after unpacking.

    Links are not followed, and names that lead out of the tar are not read. The names of its files
    below the root begin with `prefix`, and messages name the tar `source`.

    Raises:
        ValueError: The file is not a complete tar, or is compressed.
    """
    places = _places(path, source, skipped)
    for name in visible(places, skipped):
        yield _file(f"{prefix}{name}", f"{source}/{name}", places[name])


def _file(name: str, source: str, place: Place) -> File:
    return File(name, source, place, lambda: BytesIO(read_place(place, source)))


def _places(path: Path, source: str, skipped: Counter[str]) -> dict[str, Place]:
    """The place of each regular file in a tar."""
    places, size = dict[str, Place](), path.stat().st_size
    try:
        with tarfile.open(path, "r:") as archive:
            while (member := archive.next()) is not None:
                # Otherwise every header would stay in memory.
                archive.members.clear()  # type: ignore[attr-defined]
                name = member.name
                while name.startswith("./"):
                    name = name[2:].lstrip("/")
                if member.isdir():
                    continue
                if member.issym() or member.islnk():
                    skipped["links in the tar (not followed)"] += 1
                elif name.startswith("/") or ".." in name.split("/"):
                    skipped["with names that lead out of the tar (not read)"] += 1
                elif not member.isreg() or member.issparse():
                    skipped["special files"] += 1
                elif member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"the bytes of {name} are not all there")
                else:
                    start, length = member.offset_data, member.size
                    places[name] = Place(str(path), start, length, PLAIN, length)
    except (tarfile.TarError, EOFError, OSError) as error:
        with path.open("rb") as stream:
            magic = stream.read(8)
        if magic.startswith(_PACKED):
            raise ValueError(
                f"{source} is a compressed tar, in which no image can be found without unpacking; "
                "decompress it to a plain tar (gunzip, xz -d, bunzip2)"
            ) from error
        why = "it is empty" if not size else error
        raise ValueError(
            f"{source} is corrupt or truncated: expected a complete tar ({why}); make or download "
            "it again"
        ) from error
    return places
