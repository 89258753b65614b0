"""One image: its bytes decoded, with at most 8 bits per channel, and brought to a size."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from .files import File, image_kind
from .labels import labels_beside
from .place import ZIP_OTHER, Place

Decoder = Callable[[bytes, str], Image.Image]
"""Makes an image of bytes, and of what messages call them."""

# Naming the decoders keeps Pillow from handing a renamed file to another one, e.g. PostScript.
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
_MODES = {1: "L", 3: "RGB"}
_LARGE = 128  # pixels of a row from which on calls of Pillow's cost less than copies
_ROWS = {1: "L", 3: "RGB;L"}  # Pillow's name for one row of each channel in turn
# Markers that begin a JPEG frame, whose next byte is the number of bits.
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}

# Where Pillow looks for the orientation of an image.
_TURNS = frozenset({"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"})


class Picture:
    """A file that holds one encoded image.

    Args:
        file: of the image.
        beside: the files of its name that can hold its label, .cls or .json.
    """

    def __init__(self, file: File, beside: Sequence[File] = ()) -> None:
        self.file, self._beside = file, beside

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Image.Image]:
        yield decode(self.file.read(), self.file.source)

    def label_names(self) -> list[str]:
        """`cls` where there is a file .cls, and the names of a .json that can be labels."""
        return list(self._labels())

    def labels(self, name: str) -> NDArray[Any]:
        """The label of that name, (1,): an integer, or the name of a class."""
        return np.array([self._labels()[name]])

    def place(self) -> Place:
        """Where the bytes of the image stand."""
        if self.file.place.packing == ZIP_OTHER:
            raise ValueError(
                f"{self.file.source} is encrypted, or packed otherwise than by deflate, and cannot "
                "be read on demand; pack it anew, or use data=folder"
            )
        return self.file.place

    def decoder(self) -> Decoder:
        """What makes an image of the bytes at its place."""
        return decode

    def _labels(self) -> dict[str, int | str]:
        return {name: label for file in self._beside for name, label in labels_beside(file).items()}


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
    if _TURNS.isdisjoint(image.info):  # to ask costs as much as a tenth of a small image
        return image
    try:
        # Most images stand upright, and need no copy.
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        return ImageOps.exif_transpose(image) if turned else image
    except Exception:  # the pixels are whole all the same
        notes.append("with unreadable EXIF data (read as stored)")
        return image


def channels_of(image: Image.Image) -> int:
    """1 for grey, 3 for colour; transparency is no channel."""
    return 1 if image.mode in ("1", "L", "LA", "La") else 3


def pixels(
    image: Image.Image, channels: int, size: int | None, crop: int | None, source: str
) -> NDArray[np.uint8]:
    """The grey levels of an image, uint8 (C, H, W).

    Args:
        image: as `decode` returns it.
        channels: 1 or 3.
        size: resize the centre square to this many pixels; None leaves its size.
        crop: side of the centre square; None for the largest where there is a size, else no crop.
        source: what messages call the image.

    Raises:
        ValueError: The image is smaller than the crop.
    """
    if "transparency" in image.info:  # of single colours: only as RGBA does Pillow drop it unasked
        image = image.convert("RGBA")
    if image.mode != _MODES[channels]:
        image = image.convert(_MODES[channels])
    side = crop or min(image.size)
    if side > min(image.size):
        raise ValueError(
            f"{source} is {image.width}x{image.height}, too small for data.crop={crop}; remove it, "
            "or use a smaller crop"
        )
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    if crop is not None and side < max(image.size):
        image, box = image.crop(box), (0, 0, side, side)
    if size is not None and (size, size) != image.size:
        # What lies next to the box enters at its edges; of a crop nothing is left there.
        image = image.resize((size, size), Image.Resampling.LANCZOS, box=box)
    return _planes(image, channels)


def _planes(image: Image.Image, channels: int) -> NDArray[np.uint8]:
    """The levels of an image of Pillow's, channels first.

    Its bytes are taken by rows, or of large images by channels, so that no copy moves single bytes.
    """
    if channels == 3 and image.width >= _LARGE:
        planes = b"".join(image.tobytes("raw", name) for name in image.mode)
        return np.frombuffer(planes, np.uint8).reshape(channels, image.height, image.width)
    rows = image.tobytes("raw", _ROWS[channels])
    shape = image.height, channels, image.width
    return np.frombuffer(rows, np.uint8).reshape(shape).transpose(1, 0, 2)


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
