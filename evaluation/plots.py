"""Pictures of a run: grids and animations of images, the loss, and laws in the plane.

Every function writes one file, making its folder if missing, and returns its path. It appears
complete or not at all: it is written beside its place and then moved. No pyplot, no global state.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from PIL import Image
from scipy.ndimage import median_filter
from torch import Tensor

from .features import Array, check_images

PathLike = str | os.PathLike[str]
Points = Tensor | ArrayLike
Window = tuple[Array, float]  # centre and half side of a square

_INK, _GREY, _PALE, _BLUE, _ORANGE = "#22303c", "#8a949e", "#ccd3d9", "#1f6f9f", "#e07b39"
_GRID_WIDTH, _GIF_WIDTH, _GROUND = 640, 400, 80  # pixels, pixels, grey value between images
_FRAMES_PER_SECOND, _LAST_FRAME_MS = 25, 1500
_DENSITY_GRID, _MOST_POINTS, _MOST_LINES = 160, 5000, 150


def save_grid(
    images: ArrayLike,
    path: PathLike,
    levels: int = 256,
    columns: int | None = None,
    scale: int | None = None,
    padding: int = 1,
) -> Path:
    """Write images side by side to a PNG file, row by row; v becomes round(255 v / (levels − 1)).

    Args:
        images: uint8, shape (N, C, H, W), C = 1 or 3, values 0 … levels − 1.
        path: file name ending in .png.
        levels: number of grey levels, 2 … 256.
        columns: images per row, ≥ 1; by default √N, rounded.
        scale: side of a pixel in the picture, ≥ 1; by default what gives about 640 pixels in all.
        padding: grey pixels between and around the images, ≥ 0, enlarged as the images are.

    Raises:
        ValueError: wrong dtype, shape, grey values, numbers or file ending.
    """
    picture = _tile(images, levels, _GRID_WIDTH, columns, scale, padding)
    return _write(path, ".png", picture.save)


def save_gif(
    frames: ArrayLike,
    path: PathLike,
    levels: int = 256,
    seconds: float = 4.0,
    columns: int | None = None,
) -> Path:
    """Write a trajectory of images to a GIF of their grids, its last frame held for 1.5 s.

    Args:
        frames: uint8, shape (F, N, C, H, W), F ≥ 1, C = 1 or 3, values 0 … levels − 1.
        path: file name ending in .gif.
        levels: number of grey levels, 2 … 256.
        seconds: time before the last frame, > 0; at most 25 frames are shown per second.
        columns: images per row, ≥ 1; by default √N, rounded.

    Raises:
        ValueError: wrong dtype, shape, grey values, numbers or file ending.
    """
    array = np.asarray(frames)
    if array.ndim != 5 or array.size == 0:
        raise ValueError(f"frames must have shape (F ≥ 1, N ≥ 1, C, H, W), got {array.shape}")
    tile = partial(_tile, levels=levels, width=_GIF_WIDTH, columns=columns, scale=None, padding=1)
    return _write_gif(path, len(array), seconds, lambda i: tile(array[i]))


def save_loss_curve(steps: ArrayLike, losses: ArrayLike, path: PathLike) -> Path:
    """Write the training loss and its running median, over a thirtieth of the run, to a PNG file.

    The axis is logarithmic over more than a factor of 10. Losses that are not finite are counted.

    Args:
        steps: step numbers in increasing order, shape (N,), N ≥ 0.
        losses: losses at these steps, shape (N,).
        path: file name ending in .png.

    Raises:
        ValueError: steps and losses of different shapes, or another file ending.
    """
    x, y = np.asarray(steps, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"steps and losses must have one shape (N,), got {x.shape} and {y.shape}")
    finite = np.isfinite(x) & np.isfinite(y)
    figure, (axes,) = _figure(1, (6.4, 3.6))
    axes.set(xlabel="step", ylabel="loss")
    if missing := int(np.sum(~finite)):
        axes.set_title(f"{missing} losses are not finite", fontsize=10, color=_ORANGE)
    if finite.any():
        x, y = x[finite], y[finite]
        window = max(3, len(y) // 30) | 1
        axes.plot(x, y, color=_PALE, linewidth=0.8, marker="." if len(y) < 3 else "", label="loss")
        axes.plot(x, median_filter(y, window), color=_BLUE, linewidth=1.8, label="running median")
        if y.min() > 0 and np.quantile(y, 0.99) > 10 * np.quantile(y, 0.01):
            axes.set_yscale("log")
        axes.grid(color=_PALE, linewidth=0.5, alpha=0.6)
        axes.legend(frameon=False, fontsize=9, labelcolor=_INK)
    return _write(path, ".png", figure.savefig)


def save_points(
    samples: Points,
    path: PathLike,
    *,
    reference: Points | None = None,
    log_prob: Callable[[Tensor], Tensor] | None = None,
    trajectories: Points | None = None,
) -> Path:
    """Write a row of panels with the same limits about samples in the plane to a PNG file.

    From left to right, as far as they are given: draws of the data, the density exp(log_prob), the
    paths from noise to data, the samples. Samples far outside are counted in their panel.

    Args:
        samples, reference: generated and exact draws, shapes (N, 2) and (M, 2), finite.
        path: file name ending in .png.
        log_prob: log density in nats, points (M, 2) float32 → (M,); −∞ is allowed, NaN is not.
        trajectories: states in the order of sampling, noise first, shape (F, N, 2), finite.

    Raises:
        ValueError: wrong shapes, values that are not finite, or another file ending.
    """
    points = _check_points(samples, "samples", "N")
    draws = None if reference is None else _check_points(reference, "reference", "M")
    paths = None if trajectories is None else _check_points(trajectories, "trajectories", "F, N")
    window = _window(points if draws is None else draws, points)
    outside = int((np.abs(points - window[0]) > window[1]).any(axis=1).sum())
    panels: list[tuple[str, Callable[[Axes], object]]] = []
    if draws is not None:
        panels.append(("Data", partial(_show_points, points=draws, color=_GREY)))
    if log_prob is not None:
        panels.append(("Density", partial(_show_density, log_prob=log_prob, window=window)))
    if paths is not None:
        panels.append(("Paths from noise to data", partial(_show_paths, paths=paths)))
    title = f"Samples ({outside} of {len(points)} outside)" if outside else "Samples"
    panels.append((title, partial(_show_points, points=points, color=_BLUE)))
    figure, row = _figure(len(panels), (3.5 * len(panels), 3.7))
    for axes, (title, show) in zip(row, panels, strict=True):
        axes.set_title(title, fontsize=11, color=_INK)
        show(axes)
        _set_window(axes, window)
    return _write(path, ".png", figure.savefig)


def save_points_gif(frames: Points, path: PathLike, seconds: float = 4.0) -> Path:
    """Write a trajectory of points in the plane to a GIF, its last frame held for 1.5 s.

    The window shrinks with the points, from noise of any scale down to the data.

    Args:
        frames: states in the order of sampling, shape (F, N, 2), finite.
        path: file name ending in .gif.
        seconds: time before the last frame, > 0; at most 25 frames are shown per second.

    Raises:
        ValueError: wrong shapes, values that are not finite, seconds ≤ 0, or another file ending.
    """
    states = _check_points(frames, "frames", "F, N")
    states = states[:, :: -(-states.shape[1] // _MOST_POINTS)]
    centre, half = _window(states[-1], states[-1])
    reach = np.quantile(np.abs(states - centre).max(axis=2), 0.98, axis=1).clip(half)
    halves = np.maximum.accumulate(reach[::-1])[::-1]  # never growing, so that nothing shakes
    figure, (axes,) = _figure(1, (4.4, 4.1), dpi=100)
    figure.set_layout_engine("none")  # else the frame would move with the width of its labels
    axes.set_position((0.12, 0.07, 0.85, 0.91))
    dots = _show_points(axes, states[0], _BLUE)
    canvas = FigureCanvasAgg(figure)

    def draw(i: int) -> Image.Image:
        dots.set_offsets(states[i])
        _set_window(axes, (centre, float(halves[i])))
        canvas.draw()
        return Image.fromarray(np.array(canvas.buffer_rgba())[..., :3])

    return _write_gif(path, len(states), seconds, draw)


def save_estimates(true: Tensor, estimates: Tensor, path: PathLike, name: str) -> Path:
    """Write estimates of a number against its true values to a PNG file, with the diagonal.

    Args:
        true, estimates: shape (N,), N ≥ 1.
        path: file name ending in .png.
        name: of the number, for the axes.

    Raises:
        ValueError: different shapes, or another file ending.
    """
    x, y = (v.detach().to("cpu", torch.float64).numpy() for v in (true, estimates))
    if x.ndim != 1 or x.shape != y.shape or x.size == 0:
        raise ValueError(f"true and estimates must have one shape (N,), got {x.shape}, {y.shape}")
    figure, (axes,) = _figure(1, (4.4, 4.1))
    axes.set(xlabel=f"true {name}", ylabel=f"estimated {name}")
    axes.axline((x.min(), x.min()), slope=1, color=_ORANGE, linewidth=1)
    _show_points(axes, np.stack([x, y], axis=1), _BLUE)
    return _write(path, ".png", figure.savefig)


def save_histograms(values: dict[str, Tensor], path: PathLike, name: str) -> Path:
    """Write histograms of one number in several data sets to a PNG file, on common bins.

    Args:
        values: shape (N,), N ≥ 1, of each data set, by its name; at most three.
        path: file name ending in .png.
        name: of the number, for the axis.

    Raises:
        ValueError: no data sets, more than three, an empty one, or another file ending.
    """
    parts = {label: v.detach().to("cpu", torch.float64).numpy() for label, v in values.items()}
    if not 1 <= len(parts) <= 3 or any(v.ndim != 1 or v.size == 0 for v in parts.values()):
        raise ValueError(f"values must hold one to three sets of shape (N ≥ 1,), got {len(parts)}")
    edges = np.histogram_bin_edges(np.concatenate(list(parts.values())), bins=60)
    figure, (axes,) = _figure(1, (5.6, 3.6))
    axes.set(xlabel=name, ylabel="density")
    for (label, v), color in zip(parts.items(), (_BLUE, _ORANGE, _GREY), strict=False):
        axes.hist(
            v, edges.tolist(), density=True, alpha=0.6, color=color, label=f"{label} ({v.size})"
        )
    axes.legend(frameon=False)
    return _write(path, ".png", figure.savefig)


def _tile(
    images: ArrayLike, levels: int, width: int, columns: int | None, scale: int | None, padding: int
) -> Image.Image:
    """Lay images (N, C, H, W) out in rows on a grey ground and enlarge them by whole pixels."""
    array = check_images(images, levels)
    count, channels, h, w = array.shape
    columns = round(count**0.5) if columns is None else columns
    if channels not in (1, 3) or columns < 1 or padding < 0 or (scale is not None and scale < 1):
        got = f"got {channels}, {columns}, {scale} and {padding}"
        raise ValueError(f"channels must be 1 or 3, columns and scale ≥ 1, padding ≥ 0; {got}")
    high, wide = h + padding, w + padding
    rows, columns = -(-count // columns), min(columns, count)
    canvas = np.full((rows * high + padding, columns * wide + padding, channels), _GROUND, np.uint8)
    for n, image in enumerate(np.rint(array * (255 / (levels - 1)))):
        top, left = n // columns * high + padding, n % columns * wide + padding
        canvas[top : top + h, left : left + w] = image.transpose(1, 2, 0)
    scale = max(1, round(width / canvas.shape[1])) if scale is None else scale
    enlarged = canvas.repeat(scale, axis=0).repeat(scale, axis=1)
    return Image.fromarray(enlarged if channels == 3 else enlarged[:, :, 0])


def _check_points(values: Points, name: str, leading: str) -> Array:
    points = torch.as_tensor(values).detach().to("cpu", torch.float64).numpy()
    if points.ndim != 1 + len(leading.split(",")) or points.shape[-1] != 2 or points.size == 0:
        raise ValueError(f"{name} must have shape ({leading}, 2), none empty, got {points.shape}")
    if bad := int((~np.isfinite(points)).any(axis=-1).sum()):
        raise ValueError(f"{name} must be finite, got {bad} points that are not; did it diverge?")
    return points


def _window(draws: Array, samples: Array) -> Window:
    """Return a square round nearly all of both."""
    corners = [np.quantile(draws, [0.0005, 0.9995], 0), np.quantile(samples, [0.005, 0.995], 0)]
    low, high = np.min(corners, axis=(0, 1)), np.max(corners, axis=(0, 1))
    half = 0.56 * float((high - low).max())
    return (low + high) / 2, half if half > 0 else 1.0


def _set_window(axes: Axes, window: Window) -> None:
    (x, y), half = window
    axes.set(xlim=(x - half, x + half), ylim=(y - half, y + half), aspect="equal")


def _figure(panels: int, size: tuple[float, float], dpi: int = 160) -> tuple[Figure, list[Axes]]:
    """Return a figure with a row of panels, framed thinly and labelled in one colour."""
    figure = Figure(figsize=size, dpi=dpi, layout="constrained")
    row = figure.subplots(1, panels, squeeze=False)[0].tolist()
    for axes in row:
        axes.tick_params(which="both", labelsize=9, length=3, color=_PALE, labelcolor=_INK)
        axes.spines[:].set(color=_PALE, linewidth=0.8)
    return figure, row


def _show_points(axes: Axes, points: Array, color: str) -> PathCollection:
    x, y = points[:: -(-len(points) // _MOST_POINTS)].T
    size = float(np.clip(6000 / len(x), 2.5, 14.0))
    return axes.scatter(x, y, s=size, color=color, alpha=0.45, linewidths=0)


def _show_density(axes: Axes, log_prob: Callable[[Tensor], Tensor], window: Window) -> None:
    """Draw exp(log_prob) on a grid over the window, the second coordinate along the rows."""
    (x, y), half = window
    offsets = (torch.arange(_DENSITY_GRID) + 0.5) * (2 * half / _DENSITY_GRID) - half
    grid = torch.cartesian_prod(offsets, offsets).flip(1) + torch.tensor([float(x), float(y)])
    values = log_prob(grid).detach().to("cpu", torch.float64)
    if values.shape != grid.shape[:1] or values.isnan().any():
        got = f"got {tuple(values.shape)} with {int(values.isnan().sum())} NaN"
        raise ValueError(f"log_prob must return shape ({len(grid)},) without NaN, {got}")
    density = values.exp().reshape(_DENSITY_GRID, _DENSITY_GRID).numpy()
    extent = (x - half, x + half, y - half, y + half)
    axes.imshow(density, "Blues", extent=extent, origin="lower", interpolation="bilinear")


def _show_paths(axes: Axes, paths: Array) -> None:
    lines = paths.transpose(1, 0, 2)[:: -(-paths.shape[1] // _MOST_LINES)]
    axes.add_collection(LineCollection(list(lines), colors=_BLUE, linewidths=0.5, alpha=0.4))
    for name, ends, color in (("start", lines[:, 0], _GREY), ("end", lines[:, -1], _ORANGE)):
        axes.scatter(ends[:, 0], ends[:, 1], s=6, color=color, linewidths=0, zorder=3, label=name)
    axes.legend(loc="upper right", fontsize=8, labelcolor=_INK, framealpha=1, edgecolor=_PALE)


def _write_gif(
    path: PathLike, frames: int, seconds: float, draw: Callable[[int], Image.Image]
) -> Path:
    """Write draw(i) of evenly chosen frames i to an endless GIF whose last frame is held."""
    if not 0 < seconds < float("inf"):
        raise ValueError(f"seconds must be positive and finite, got {seconds}")
    count = min(frames, max(2, round(seconds * _FRAMES_PER_SECOND)))
    first, *rest = [draw(i) for i in np.linspace(0, frames - 1, count).round().astype(int)]
    # GIF counts in hundredths of a second, and viewers slow down frames shorter than two of them.
    step = 10 * max(2, round(100 * seconds / max(1, count - 1)))
    times = [step] * (count - 1) + [_LAST_FRAME_MS]
    save = partial(first.save, append_images=rest, save_all=True, duration=times, loop=0)
    return _write(path, ".gif", save)


def _write(path: PathLike, suffix: str, save: Callable[..., object]) -> Path:
    """Let save(file, format=…) write a file beside the path, move it there, return the path."""
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
