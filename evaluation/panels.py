"""Pictures of images in rows, each column with a title: what was given, and what became of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor

from .images import Array, PathLike, write

_INK, _HIDDEN = "#22303c", (0.953, 0.788, 0.663)
_SIDE, _GAP, _TITLE, _NAMES = 1.0, 0.05, 0.3, 0.55  # inches
_MOST_ROWS, _MOST_COLUMNS = 12, 14


class Column(NamedTuple):
    """A column of pictures.

    Attributes:
        title: Its title.
        images: Images, shape (N, C, H, W), C = 1 or 3, of any range.
        low, high: Values that are black and white.
        hidden: Pixels of which nothing is known, bool, (H, W), shown in a colour.
        heat: Whether the values are a quantity and no grey, such as a standard deviation; their
            range is then part of the title.
    """

    title: str
    images: Tensor
    low: float
    high: float
    hidden: Tensor | None = None
    heat: bool = False


def save_panels(
    columns: Sequence[Column], path: PathLike, rows: Sequence[str] | None = None
) -> Path:
    """Write columns of images next to each other to a PNG file, at most 12 rows and 14 columns.

    Args:
        columns: Columns with as many images each.
        path: File name that ends in .png.
        rows: Names of the rows.

    Raises:
        ValueError: There is no column, the numbers of images differ, or the file ending is wrong.
    """
    columns = list(columns)[:_MOST_COLUMNS]
    counts = {len(column.images) for column in columns}
    if len(counts) != 1:
        raise ValueError(f"columns must have as many images each, got {sorted(counts)}")
    count = min(counts.pop(), _MOST_ROWS)
    high, wide = columns[0].images.shape[2:]
    down, right = (_SIDE * n / max(high, wide) for n in (high, wide))
    left, top = (_NAMES if rows else _GAP), (_TITLE if any(c.title for c in columns) else _GAP)
    size = left + len(columns) * (right + _GAP), top + count * (down + _GAP)
    figure = Figure(figsize=size, dpi=160)
    # One pair of axes in inches, from the upper left corner.
    axes = figure.add_axes((0, 0, 1, 1), frame_on=False, xticks=[], yticks=[])
    text: dict[str, Any] = {"fontsize": 7, "color": _INK}
    for j, column in enumerate(columns):
        x = left + j * (right + _GAP)
        axes.text(x + right / 2, top - _GAP, _title(column), ha="center", va="bottom", **text)
        for i in range(count):
            y = top + i * (down + _GAP)
            colours = _colours(column, column.images[i].detach().cpu().double().numpy())
            extent = (x, x + right, y + down, y)
            axes.imshow(colours, extent=extent, interpolation="nearest")
    for i, name in enumerate(list(rows or ())[:count]):
        middle = top + i * (down + _GAP) + down / 2
        axes.text(left - _GAP, middle, name, ha="right", va="center", **text)
    axes.set(xlim=(0, size[0]), ylim=(size[1], 0), aspect="auto")
    return write(path, ".png", figure.savefig)


def _title(column: Column) -> str:
    return f"{column.title}\n{column.low:.2g} to {column.high:.2g}" if column.heat else column.title


def _colours(column: Column, image: Array) -> Array:
    """Red, green and blue in [0, 1] of an image (C, H, W), shape (H, W, 3)."""
    share = np.clip((image - column.low) / ((column.high - column.low) or 1.0), 0, 1)
    if column.heat:
        return np.asarray(colormaps["magma"](share.mean(0)))[..., :3]
    colours = np.broadcast_to(share, (3, *share.shape[1:])).transpose(1, 2, 0).copy()
    if column.hidden is not None:
        colours[column.hidden.cpu().numpy()] = _HIDDEN
    return colours
