"""Pictures of a run: grids and animations of images, the loss, and points in the plane.

Every function writes one file, creates its folder if necessary, and returns its path. The file is
written under a temporary name and then moved, so that it is never incomplete.
"""

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

from .images import Array, PathLike, tile, write, write_gif

Points = Tensor | ArrayLike
Window = tuple[Array, float]  # centre and half the side of a square

_INK, _GREY, _PALE, _BLUE, _ORANGE = "#22303c", "#8a949e", "#ccd3d9", "#1f6f9f", "#e07b39"
_GRID_WIDTH, _GIF_WIDTH = 640, 400  # pixels
_DENSITY_GRID, _MOST_POINTS, _MOST_LINES = 160, 5000, 150


def save_grid(
    images: ArrayLike,
    path: PathLike,
    levels: int = 256,
    columns: int | None = None,
    scale: int | None = None,
    padding: int = 1,
) -> Path:
    """Write images to a PNG file, row by row; v becomes round(255 v / (levels − 1)).

    Args:
        images: uint8, shape (N, C, H, W), C = 1 or 3, values 0 … levels − 1.
        path: File name that ends in .png.
        levels: Number of grey levels, 2 … 256.
        columns: Images per row, ≥ 1; √N, rounded, by default.
        scale: Factor by which images are enlarged, ≥ 1; a width of about 640 pixels by default.
        padding: Grey pixels between and around the images, ≥ 0, before the enlargement.

    Raises:
        ValueError: The dtype, the shape, a grey value, a number or the file ending is wrong.
    """
    return write(path, ".png", tile(images, levels, _GRID_WIDTH, columns, scale, padding).save)


def save_gif(
    frames: ArrayLike,
    path: PathLike,
    levels: int = 256,
    seconds: float = 4.0,
    columns: int | None = None,
) -> Path:
    """Write a trajectory of images to a GIF of their grids, whose last frame is held for 1.5 s.

    Args:
        frames: uint8, shape (F, N, C, H, W), F ≥ 1, C = 1 or 3, values 0 … levels − 1.
        path: File name that ends in .gif.
        levels: Number of grey levels, 2 … 256.
        seconds: Time before the last frame, > 0; at most 25 frames are shown per second.
        columns: Images per row, ≥ 1; √N, rounded, by default.

    Raises:
        ValueError: The dtype, the shape, a grey value, a number or the file ending is wrong.
    """
    array = np.asarray(frames)
    if array.ndim != 5 or array.size == 0:
        raise ValueError(f"frames must have shape (F ≥ 1, N ≥ 1, C, H, W), got {array.shape}")
    grid = partial(tile, levels=levels, width=_GIF_WIDTH, columns=columns, scale=None, padding=1)
    return write_gif(path, len(array), seconds, lambda i: grid(array[i]))


def save_loss_curve(steps: ArrayLike, losses: ArrayLike, path: PathLike) -> Path:
    """Write the training loss and its running median over a thirtieth of the run to a PNG file.

    The axis is logarithmic where losses differ by more than a factor of 10. Losses that are not
    finite are counted in the title.

    Args:
        steps: Step numbers in increasing order, shape (N,), N ≥ 0.
        losses: Losses at these steps, shape (N,).
        path: File name that ends in .png.

    Raises:
        ValueError: The shapes of steps and losses differ, or the file ending is wrong.
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
    return write(path, ".png", figure.savefig)


def save_points(
    samples: Points,
    path: PathLike,
    *,
    reference: Points | None = None,
    log_prob: Callable[[Tensor], Tensor] | None = None,
    trajectories: Points | None = None,
) -> Path:
    """Write samples in the plane to a PNG file, as a row of panels with the same limits.

    The panels show, from left to right and where they are given: samples of the data, the density
    exp(log_prob), the paths from noise to data, and the generated samples, with the number of those
    outside the limits.

    Args:
        samples: Generated samples, shape (N, 2), finite.
        path: File name that ends in .png.
        reference: Samples of the data, shape (M, 2), finite.
        log_prob: Log-density in nats, points (M, 2) float32 → (M,); −∞ is allowed, NaN is not.
        trajectories: States in the order of sampling, noise first, shape (F, N, 2), finite.

    Raises:
        ValueError: A shape or the file ending is wrong, or a value is not finite.
    """
    points = _check_points(samples, "samples", "N")
    data = None if reference is None else _check_points(reference, "reference", "M")
    paths = None if trajectories is None else _check_points(trajectories, "trajectories", "F, N")
    window = _window(points if data is None else data, points)
    outside = int((np.abs(points - window[0]) > window[1]).any(axis=1).sum())
    panels: list[tuple[str, Callable[[Axes], object]]] = []
    if data is not None:
        panels.append(("Data", partial(_show_points, points=data, color=_GREY)))
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
    return write(path, ".png", figure.savefig)


def save_points_gif(frames: Points, path: PathLike, seconds: float = 4.0) -> Path:
    """Write a trajectory of points in the plane to a GIF, whose last frame is held for 1.5 s.

    The limits shrink with the points, from noise of any scale to the data.

    Args:
        frames: States in the order of sampling, shape (F, N, 2), finite.
        path: File name that ends in .gif.
        seconds: Time before the last frame, > 0; at most 25 frames are shown per second.

    Raises:
        ValueError: The shape, `seconds` or the file ending is wrong, or a value is not finite.
    """
    states = _check_points(frames, "frames", "F, N")
    states = states[:, :: -(-states.shape[1] // _MOST_POINTS)]
    centre, half = _window(states[-1], states[-1])
    reach = np.quantile(np.abs(states - centre).max(axis=2), 0.98, axis=1).clip(half)
    halves = np.maximum.accumulate(reach[::-1])[::-1]  # they never grow, so that nothing shakes
    figure, (axes,) = _figure(1, (4.4, 4.1), dpi=100)
    figure.set_layout_engine("none")  # otherwise the frame moves with its labels
    axes.set_position((0.12, 0.07, 0.85, 0.91))
    dots = _show_points(axes, states[0], _BLUE)
    canvas = FigureCanvasAgg(figure)

    def show(i: int) -> Image.Image:
        dots.set_offsets(states[i])
        _set_window(axes, (centre, float(halves[i])))
        canvas.draw()
        return Image.fromarray(np.array(canvas.buffer_rgba())[..., :3])

    return write_gif(path, len(states), seconds, show)


def save_estimates(true: Tensor, estimates: Tensor, path: PathLike, name: str) -> Path:
    """Write estimates of a quantity against its true values to a PNG file, with the diagonal.

    Args:
        true: True values, shape (N,), N ≥ 1.
        estimates: Estimates of them, shape (N,).
        path: File name that ends in .png.
        name: Name of the quantity, for the axes.

    Raises:
        ValueError: The shapes differ, or the file ending is wrong.
    """
    x, y = (v.detach().to("cpu", torch.float64).numpy() for v in (true, estimates))
    if x.ndim != 1 or x.shape != y.shape or x.size == 0:
        raise ValueError(f"true and estimates must have one shape (N,), got {x.shape}, {y.shape}")
    figure, (axes,) = _figure(1, (4.4, 4.1))
    axes.set(xlabel=f"true {name}", ylabel=f"estimated {name}")
    axes.axline((x.min(), x.min()), slope=1, color=_ORANGE, linewidth=1)
    _show_points(axes, np.stack([x, y], axis=1), _BLUE)
    return write(path, ".png", figure.savefig)


def save_bins(
    edges: list[float], values: dict[str, list[float]], path: PathLike, name: str
) -> Path:
    """Write quantities that are ≥ 0, each in the same intervals of another, to a PNG file.

    Args:
        edges: Ends of the n ≥ 1 intervals, rising.
        values: The n values of each quantity by its name, each with a panel of its own.
        path: File name that ends in .png.
        name: Name of the quantity that has the intervals, for the axes.

    Raises:
        ValueError: A quantity has not n values, or the file ending is wrong.
    """
    if any(len(one) != len(edges) - 1 for one in values.values()) or not values:
        raise ValueError(f"{len(edges) - 1} intervals need as many values of each quantity")
    figure, panels = _figure(len(values), (3.8 * len(values), 3.2))
    for axes, (label, heights) in zip(panels, values.items(), strict=True):
        axes.stairs(np.asarray(heights), edges, fill=True, alpha=0.8, color=_BLUE)
        axes.set(xlabel=name, ylabel=label, ylim=(0, None))
    return write(path, ".png", figure.savefig)


def save_histograms(values: dict[str, Tensor], path: PathLike, name: str) -> Path:
    """Write histograms of one quantity in up to three data sets to a PNG file, with equal bins.

    Args:
        values: Values of each data set by its name, shape (N,), N ≥ 1.
        path: File name that ends in .png.
        name: Name of the quantity, for the axis.

    Raises:
        ValueError: There is no data set, one is empty, there are more than three, or the file
            ending is wrong.
    """
    parts = {label: v.detach().to("cpu", torch.float64).numpy() for label, v in values.items()}
    if not 1 <= len(parts) <= 3 or any(v.ndim != 1 or v.size == 0 for v in parts.values()):
        raise ValueError(f"values must hold one to three sets of shape (N ≥ 1,), got {len(parts)}")
    edges = np.histogram_bin_edges(np.concatenate(list(parts.values())), bins=60)
    figure, (axes,) = _figure(1, (5.6, 3.6))
    axes.set(xlabel=name, ylabel="density")
    for (label, v), color in zip(parts.items(), (_BLUE, _ORANGE, _GREY), strict=False):
        label = f"{label} ({v.size})"
        axes.hist(v, edges.tolist(), density=True, alpha=0.6, color=color, label=label)
    axes.legend(frameon=False)
    return write(path, ".png", figure.savefig)


def _check_points(values: Points, name: str, leading: str) -> Array:
    points = torch.as_tensor(values).detach().to("cpu", torch.float64).numpy()
    if points.ndim != 1 + len(leading.split(",")) or points.shape[-1] != 2 or points.size == 0:
        raise ValueError(f"{name} must have shape ({leading}, 2), none empty, got {points.shape}")
    if bad := int((~np.isfinite(points)).any(axis=-1).sum()):
        raise ValueError(f"{name} must be finite, got {bad} points that are not; did it diverge?")
    return points


def _window(data: Array, samples: Array) -> Window:
    """A square that holds nearly all points of both."""
    corners = [np.quantile(data, [0.0005, 0.9995], 0), np.quantile(samples, [0.005, 0.995], 0)]
    low, high = np.min(corners, axis=(0, 1)), np.max(corners, axis=(0, 1))
    half = 0.56 * float((high - low).max())
    return (low + high) / 2, half if half > 0 else 1.0


def _set_window(axes: Axes, window: Window) -> None:
    (x, y), half = window
    axes.set(xlim=(x - half, x + half), ylim=(y - half, y + half), aspect="equal")


def _figure(panels: int, size: tuple[float, float], dpi: int = 160) -> tuple[Figure, list[Axes]]:
    """A figure with a row of panels that have thin frames and labels of one colour."""
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
    """Show exp(log_prob) on a grid over the window, with the second coordinate upwards."""
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
