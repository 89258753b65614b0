"""One image: its bytes decoded, with at most 8 bits per channel, and brought to a size."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from .files import File, image_kind

# Naming the decoders keeps Pillow from handing a renamed file to another one, e.g. PostScript.
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
_MODES = {1: "L", 3: "RGB"}
# Markers that begin a JPEG frame, whose next byte is the number of bits.
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


class Picture:
    """A file that holds one encoded image."""

    def __init__(self, file: File) -> None:
        self.file = file

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Image.Image]:
        yield decode(self.file.read(), self.file.source)

    def label_names(self) -> list[str]:
        """An image has no label of its own."""
        return []

    def labels(self, name: str) -> NDArray[np.int64]:
        """Nothing else than an error, since there are no labels."""
        raise ValueError(f"{self.file.source} is an image, which holds no labels '{name}'")


def decode(content: bytes, source: str) -> Image.Image:
    """The image in a file's bytes, upright; of an animation, the first frame.

    What a report should say of it is in `info["notes"]`.

    Args:
        content: of a PNG, JPEG, BMP or WebP file.
        source: what messages call it.

    Raises:
        ValueError: The bytes are no complete image, or have more than 8 bits per channel.
    """
    if not content:
        raise ValueError(f"{source} is empty (0 bytes), expected an image; replace or remove it")
    depth = _depth(content)
    if depth > 8:
        raise ValueError(
            f"{source} has deep pixels of {depth} bits per channel, expected at most 8 (levels are "
            "uint8, and cutting bits off would lose levels unseen); convert it to 8 bits"
        )
    try:
        opened = Image.open(io.BytesIO(content), formats=_FORMATS)
        opened.load()
        frames = getattr(opened, "n_frames", 1) if opened.format in ("PNG", "WEBP") else 1
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{source} is too large to be read safely ({error}); make it smaller first"
        ) from error
    except Exception as error:  # on bad bytes the decoders raise a dozen unrelated types
        why: object = error
        if isinstance(error, UnidentifiedImageError):
            kind = image_kind(content[:16])
            begins = f"it begins with the bytes {content[:8].hex(' ')}"
            why = begins if kind is None else f"it is a {kind} image, or begins like one"
        raise ValueError(
            f"{source} is corrupt, truncated or not what its name says: expected a complete image "
            f"({why}); replace or remove it"
        ) from error
    notes = ["animated (first frame read)"] * (frames > 1)
    image = _upright(opened, notes)
    if image.mode.startswith(("I", "F")):
        raise ValueError(
            f"{source} has deep pixels (Pillow mode {image.mode}), expected at most 8 bits per "
            "channel; convert it to 8 bits"
        )
    image.info["notes"] = notes
    return image


def _upright(image: Image.Image, notes: list[str]) -> Image.Image:
    """The image turned as its EXIF data say; where they cannot be read, as it is stored."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # the pixels are whole all the same
        notes.append("with unreadable EXIF data (read as stored)")
        return image


def channels_of(image: Image.Image) -> int:
    """1 for grey, 3 for colour; transparency is no channel."""
    return 1 if image.mode in ("1", "L", "LA", "La") else 3


def pixels(image: Image.Image, channels: int, size: int | None) -> NDArray[np.uint8]:
    """The grey levels of an image, uint8 (H, W, C).

    Args:
        image: as `decode` returns it.
        channels: 1 or 3.
        size: crop the centre square and resize it to this many pixels; None leaves it as it is.
    """
    if "transparency" in image.info:  # of single colours: only as RGBA does Pillow drop it unasked
        image = image.convert("RGBA")
    image = image.convert(_MODES[channels])
    if size is not None:
        image = _square(image, size)
    return np.asarray(image).reshape(image.height, image.width, channels)


def _square(image: Image.Image, size: int) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.LANCZOS, box=box)


def _depth(content: bytes) -> int:
    """Bits per channel by the file's own header; BMP and WebP have no more than 8."""
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        header = content.find(b"IHDR", 0, 64)
        return content[header + 12] if 0 < header < len(content) - 12 else 8
    if not content.startswith(b"\xff\xd8"):
        return 8
    place = 2
    while place + 4 < len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if marker in _FRAMES:
            return content[place + 4]
        if marker == 0xFF:  # padding
            place += 1
        else:
            place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return 8
