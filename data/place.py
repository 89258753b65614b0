"""The place of a file's bytes: a file of their own, or a part of a zip or tar."""

from __future__ import annotations

import struct
import zlib
from typing import IO, NamedTuple

# Packing of the bytes: as they are, or after the header of a zip's member, stored or deflated.
PLAIN, ZIP_STORED, ZIP_DEFLATED, ZIP_OTHER = range(4)
WHOLE = -1  # size of a file that is read to its end
UNKNOWN = -1  # checksum of bytes that are not in a zip
_HEADER = struct.Struct("<4s22xHH")  # magic number, lengths of a zip member's name and extras


class Place(NamedTuple):
    """The place of a file's bytes.

    Attributes:
        path: path of the file itself, or of the zip or tar that holds it.
        start: position of its bytes, or of the header before them in a zip.
        size: number of stored bytes; WHOLE for a file of its own.
        packing: PLAIN, ZIP_STORED, ZIP_DEFLATED or ZIP_OTHER.
        length: number of bytes after unpacking; WHOLE for a file of its own.
        crc: CRC-32 of the unpacked bytes, or UNKNOWN.
    """

    path: str
    start: int = 0
    size: int = WHOLE
    packing: int = PLAIN
    length: int = WHOLE
    crc: int = UNKNOWN


def read_place(place: Place, source: str) -> bytes:
    """The unpacked bytes of a file, read without a listing and from any thread; not of ZIP_OTHER.

    Raises:
        FileNotFoundError: The file no longer exists.
        ValueError: It cannot be read, or some of its bytes are missing.
    """
    try:
        # Without a buffer a small image takes a single call of the system.
        with open(place.path, "rb", buffering=0) as stream:
            if place.size == WHOLE:
                return stream.read()
            seek_bytes(stream, place, source)
            content = _exactly(stream, place.size)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{source} was there and is gone; put it back, and continue with resume=auto"
        ) from error
    except OSError as error:
        raise ValueError(
            f"{source} cannot be read ({error.strerror}); make it readable, and continue "
            "with resume=auto"
        ) from error
    if len(content) != place.size:
        raise ValueError(
            f"{source} is truncated: {place.size - len(content)} of its bytes are missing; replace "
            "or remove it"
        )
    return content if place.packing == PLAIN else _unpacked(content, place, source)


def seek_bytes(stream: IO[bytes], place: Place, source: str) -> None:
    """Move a stream to the first byte of a file within the zip or tar that holds it."""
    stream.seek(place.start)
    if place.packing == PLAIN:
        return
    head = _exactly(stream, _HEADER.size)
    if len(head) < _HEADER.size or not head.startswith(b"PK\3\4"):
        raise broken_zip(source, "it is not where the directory of the zip says")
    _, name, extra = _HEADER.unpack(head)
    stream.seek(name + extra, 1)


def _exactly(stream: IO[bytes], size: int) -> bytes:
    """The next `size` bytes, or all that are left; a single read may return fewer."""
    content = stream.read(size)
    while 0 < len(content) < size and (more := stream.read(size - len(content))):
        content += more
    return content


def _unpacked(content: bytes, place: Place, source: str) -> bytes:
    if place.packing == ZIP_DEFLATED:
        try:
            # One byte more than announced shows that the content is too long, without unpacking it.
            unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
            content = unpacker.decompress(content, place.length + 1)
        except zlib.error as error:
            raise broken_zip(source, error) from error
    if len(content) != place.length or zlib.crc32(content) != place.crc:
        raise broken_zip(source, "its checksum does not match")
    return content


def broken_zip(source: str, error: object) -> ValueError:
    """The error for a zip that cannot be read to its end."""
    return ValueError(
        f"{source} is corrupt, truncated or encrypted: expected a readable zip ({error}); make or "
        "download it again"
    )
