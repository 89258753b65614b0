"""Zips of images, listed without unpacking them, and advice on files that are not zips."""

from __future__ import annotations

import stat
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from .files import STACKS, TABLES, File, image_kind
from .output import visible
from .place import ZIP_DEFLATED, ZIP_OTHER, ZIP_STORED, Place, broken_zip

_PACKINGS = {zipfile.ZIP_STORED: ZIP_STORED, zipfile.ZIP_DEFLATED: ZIP_DEFLATED}
_ENCRYPTED = 1  # bit of a member's flags
_FOLDER = "set data.root to the directory that holds the images, or to a zip of them"


def unzip(root: Path, archive: zipfile.ZipFile, skipped: Counter[str]) -> Iterator[File]:
    """Every file in a zip; of two with the same name the later, as after unpacking."""
    members = {m.filename.replace("\\", "/"): m for m in archive.infolist() if not m.is_dir()}
    for name in visible(members, skipped):
        member = members[name]
        if stat.S_ISLNK(member.external_attr >> 16):
            skipped["links in the zip (not followed)"] += 1
        else:
            encrypted = member.flag_bits & _ENCRYPTED
            packing = ZIP_OTHER if encrypted else _PACKINGS.get(member.compress_type, ZIP_OTHER)
            sizes = member.compress_size, packing, member.file_size
            place = Place(str(root), member.header_offset, *sizes, member.CRC)
            yield File(name, f"{root}/{name}", place, partial(archive.open, member))


def check_zip(root: Path) -> None:
    """Refuse a file that is not a zip, and say what it is instead."""
    if zipfile.is_zipfile(root):
        return
    with root.open("rb") as stream:
        start = stream.read(16)
    kind = image_kind(start)
    if kind is not None:
        raise ValueError(f"data.root={root} is a single {kind} image; {_FOLDER}")
    if tarfile.is_tarfile(root):
        raise ValueError(
            f"data.root={root} is a tar archive, which is not read; unpack it and {_FOLDER}; "
            "data=streamed reads tars"
        )
    if root.suffix.lower() == ".zip" or start.startswith(b"PK"):
        raise broken_zip(str(root), "it is empty" if not start else "no directory at its end")
    begins = f"begins with the bytes {start[:8].hex(' ')}" if start else "is empty (0 bytes)"
    raise ValueError(
        f"data.root={root} is a file that {begins}, expected a directory, a zip, or a file "
        f"{', '.join(STACKS + TABLES)}; {_FOLDER}"
    )
