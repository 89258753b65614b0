"""One image: its bytes decoded to at most 8 bits per channel, cropped and resized."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from .files import File, image_kind
from .labels import labels_in
from .place import ZIP_OTHER, Place

Decoder = Callable[[bytes, str], Image.Image]
"""decoder(bytes, name in messages): the image that bytes encode."""

# Without this list Pillow would open a renamed file by another decoder, e.g. PostScript.
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
_MODES = {1: "L", 3: "RGB"}
_LARGE = 128  # width in pixels above which calls of Pillow cost less than copies
_ROWS = {1: "L", 3: "RGB;L"}  # Pillow's name for rows that alternate between the channels
# Markers that begin a JPEG frame, whose next byte is the number of bits.
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}

# Where Pillow looks for the orientation of an image.
_TURNS = frozenset({"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"})


class Picture:
    """A file that holds one encoded image.

    Args:
        file: file of the image.
        label_files: the files .cls or .json of the same name, which can hold its label.
    """

    def __init__(self, file: File, label_files: Sequence[File] = ()) -> None:
        self.file, self._label_files = file, label_files

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Image.Image]:
        yield decode(self.file.read(), self.file.source)

    def label_names(self) -> list[str]:
        """`cls` if there is a file .cls, and the entries of a .json that can be labels."""
        return list(self._labels())

    def labels(self, name: str) -> NDArray[Any]:
        """The label of a name, (1,): an integer, or the name of a class."""
        return np.array([self._labels()[name]])

    def place(self) -> tuple[Place, Decoder]:
        """The place of the image's bytes, and their decoder.

        Raises:
            ValueError: They are encrypted, or packed by another method than deflate.
        """
        if self.file.place.packing == ZIP_OTHER:
            raise ValueError(
                f"{self.file.source} is encrypted, or packed otherwise than by deflate, and cannot "
                "be read on demand; pack it again, or use data=folder"
            )
        return self.file.place, decode

    def _labels(self) -> dict[str, int | str]:
        return {
            name: label for file in self._label_files for name, label in labels_in(file).items()
        }


def decode(content: bytes, source: str) -> Image.Image:
    """The image in the bytes of a PNG, JPEG, BMP or WebP, upright; the first frame of an animation.

    Notes for the report are in the image's `info["notes"]`.

    Raises:
        ValueError: The bytes are not a complete image, or have more than 8 bits per channel.
    """
    if not content:
        raise ValueError(f"{source} is empty (0 bytes), expected an image; replace or remove it")
    depth = _depth(content)
    if depth > 8:
        raise ValueError(
            f"{source} has deep pixels of {depth} bits per channel, expected at most 8 (levels are "
            "uint8, and cutting bits off would lose levels silently); convert it to 8 bits"
        )
    try:
        opened = Image.open(io.BytesIO(content), formats=_FORMATS)
        opened.load()
        frames = getattr(opened, "n_frames", 1) if opened.format in ("PNG", "WEBP") else 1
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{source} is too large to be read safely ({error}); make it smaller first"
        ) from error
    except Exception as error:  # on corrupt bytes the decoders raise errors of many types
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
    """The image rotated by its EXIF orientation, or as it is stored if EXIF is unreadable."""
    if _TURNS.isdisjoint(image.info):  # reading EXIF takes a tenth of the time of a small image
        return image
    try:
        # Most images are upright, and need no copy.
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        return ImageOps.exif_transpose(image) if turned else image
    except Exception:  # the pixels are complete nevertheless
        notes.append("with unreadable EXIF data (read as stored)")
        return image


def channels_of(image: Image.Image) -> int:
    """1 for grey, 3 for colour; transparency does not count."""
    return 1 if image.mode in ("1", "L", "LA", "La") else 3


def pixels(
    image: Image.Image, channels: int, size: int | None, crop: int | None, source: str
) -> NDArray[np.uint8]:
    """The grey levels of an image, uint8 (C, H, W).

    Args:
        image: as `decode` returns it.
        channels: 1 or 3.
        size: side in pixels to which the centre square is resized; None keeps the size.
        crop: side of the centre square; None takes the largest if there is a size, else the whole.
        source: name of the image in messages.

    Raises:
        ValueError: The image is smaller than the crop.
    """
    if "transparency" in image.info:  # of single colours, which Pillow drops from RGBA alone
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
        # Pixels next to the box enter at its edges, unless a crop has removed them.
        image = image.resize((size, size), Image.Resampling.LANCZOS, box=box)
    return _planes(image, channels)


def _planes(image: Image.Image, channels: int) -> NDArray[np.uint8]:
    """The levels of a Pillow image, channels first.

    Its bytes are read by rows, or by channels for large images: a copy byte by byte would be slow.
    """
    if channels == 3 and image.width >= _LARGE:
        planes = b"".join(image.tobytes("raw", name) for name in image.mode)
        return np.frombuffer(planes, np.uint8).reshape(channels, image.height, image.width)
    rows = image.tobytes("raw", _ROWS[channels])
    shape = image.height, channels, image.width
    return np.frombuffer(rows, np.uint8).reshape(shape).transpose(1, 0, 2)


def _depth(content: bytes) -> int:
    """Bits per channel in the header of a file; BMP and WebP have at most 8."""
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
