"""Images with integer grey values: their check, their grids, and the files that hold them."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

Array = NDArray[np.float64]
PathLike = str | os.PathLike[str]

GROUND = 80  # grey value between the images of a grid
_FRAMES_PER_SECOND, _LAST_FRAME_MS = 25, 1500


def check_images(images: ArrayLike, levels: int, name: str = "images") -> NDArray[np.uint8]:
    """Return `images` as a uint8 array (N, C, H, W) after checking them.

    Args:
        images: Grey values 0 … levels − 1, shape (N, C, H, W), dtype uint8, N ≥ 1.
        levels: Number of grey levels, 2 … 256.
        name: Name of the images in the error message.

    Raises:
        ValueError: The dtype, the shape or the grey values are wrong.
    """
    array = np.asarray(images)
    if not 2 <= levels <= 256:
        raise ValueError(f"levels ({levels}) must be in 2 … 256, the grey levels a uint8 can hold")
    if array.dtype != np.uint8 or array.ndim != 4 or array.size == 0:
        raise ValueError(
            f"{name} must be a non-empty uint8 array (N, C, H, W), got {array.dtype} "
            f"{array.shape}; map samples to grey levels first"
        )
    if array.max() >= levels:
        raise ValueError(
            f"{name} hold the grey value {array.max()}, allowed are 0 … {levels - 1}; "
            f"is levels ({levels}) right for this data set?"
        )
    return array


def tile(
    images: ArrayLike, levels: int, width: int, columns: int | None, scale: int | None, padding: int
) -> Image.Image:
    """Arrange images (N, C, H, W) in rows on a grey ground, enlarged by a whole factor.

    Where no scale is given, the picture is about `width` pixels wide; the other arguments are those
    of `save_grid`.
    """
    array = check_images(images, levels)
    count, channels, h, w = array.shape
    columns = round(count**0.5) if columns is None else columns
    if channels not in (1, 3) or columns < 1 or padding < 0 or (scale is not None and scale < 1):
        got = f"got {channels}, {columns}, {scale} and {padding}"
        raise ValueError(f"channels must be 1 or 3, columns and scale ≥ 1, padding ≥ 0; {got}")
    high, wide = h + padding, w + padding
    rows, columns = -(-count // columns), min(columns, count)
    canvas = np.full((rows * high + padding, columns * wide + padding, channels), GROUND, np.uint8)
    for n, image in enumerate(np.rint(array * (255 / (levels - 1)))):
        top, left = n // columns * high + padding, n % columns * wide + padding
        canvas[top : top + h, left : left + w] = image.transpose(1, 2, 0)
    scale = max(1, round(width / canvas.shape[1])) if scale is None else scale
    enlarged = canvas.repeat(scale, axis=0).repeat(scale, axis=1)
    return Image.fromarray(enlarged if channels == 3 else enlarged[:, :, 0])


def write_gif(
    path: PathLike, frames: int, seconds: float, show: Callable[[int], Image.Image]
) -> Path:
    """Write show(i) of evenly spaced frames i to an endless GIF that holds its last frame."""
    if not 0 < seconds < float("inf"):
        raise ValueError(f"seconds must be positive and finite, got {seconds}")
    count = min(frames, max(2, round(seconds * _FRAMES_PER_SECOND)))
    first, *rest = [show(i) for i in np.linspace(0, frames - 1, count).round().astype(int)]
    # GIF counts in hundredths of a second, and viewers slow down frames shorter than two of them.
    step = 10 * max(2, round(100 * seconds / max(1, count - 1)))
    times = [step] * (count - 1) + [_LAST_FRAME_MS]
    save = partial(first.save, append_images=rest, save_all=True, duration=times, loop=0)
    return write(path, ".gif", save)


def write(path: PathLike, suffix: str, save: Callable[..., object]) -> Path:
    """Let save(file, format=…) write a temporary file, move it to the path, return the path."""
    target = Path(path)
    if target.suffix.lower() != suffix:
        raise ValueError(f"path must end in {suffix}, the format that is written, got {target}")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        save(part, format=suffix[1:])
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return target
