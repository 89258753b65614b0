"""A file of images: its name, its bytes, and what kind it is.

Nothing is unpacked to disk, and nothing from a file is executed.
"""

from __future__ import annotations

import posixpath
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from .place import Place, broken_zip

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
STACKS = (".npy", ".npz")
TABLES = (".parquet",)
ACCEPTED = (*PICTURES, *STACKS, *TABLES)
# Bytes that identify an image's format: their position in the file, their value, the format.
_MAGIC = (
    (0, b"\x89PNG", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"BM", "BMP"),
    (8, b"WEBP", "WebP"),
    (0, b"GIF8", "GIF"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (4, b"ftypheic", "HEIC"),
    (4, b"ftypavif", "AVIF"),
)


@dataclass(frozen=True, slots=True)
class File:
    """A file under a root.

    Attributes:
        name: path below the root, with / between its parts.
        source: name in messages.
        place: location of its bytes, by which they are found again without a listing.
    """

    name: str
    source: str
    place: Place
    _open: Callable[[], IO[bytes]]

    @property
    def suffix(self) -> str:
        """Suffix of the name, in lower case and with its dot."""
        return posixpath.splitext(self.name)[1].lower()

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The bytes of the file.

        Raises:
            ValueError: The zip that holds it is corrupt, truncated, encrypted, or packed by a
                method that Python does not know.
        """
        try:
            with self._open() as stream:
                yield stream
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise broken_zip(self.source, error) from error
        except NotImplementedError as error:
            raise ValueError(
                f"{self.source} is packed by a method that Python cannot unpack ({error}); pack it "
                "again"
            ) from error
        except RuntimeError as error:
            if "password" not in str(error):
                raise
            raise ValueError(
                f"{self.source} is encrypted, expected a zip without a password; pack it again"
            ) from error

    def read(self) -> bytes:
        """All bytes of the file."""
        with self.open() as stream:
            return stream.read()


def image_kind(start: bytes) -> str | None:
    """The image format that a file's first bytes indicate, if any."""
    return next((name for i, magic, name in _MAGIC if start[i:].startswith(magic)), None)
