"""The images that a run restores or edits: the first of the test data, or a user's own file."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from scoresde.data import GreyLevels
from scoresde.data.picture import decode, pixels
from scoresde.sde.checks import check_count, check_switch

from ..condition import labels_to_draw

if TYPE_CHECKING:
    from ..parts import Parts


class Images(NamedTuple):
    """Images with what is known of them.

    Attributes:
        x: In the range of the network, shape (N, C, H, W).
        labels: Their classes, int64, (N,), where the network is told them.
    """

    x: Tensor
    labels: Tensor | None


def check_source(images: Any, samples: Any, image: Any, resize: Any) -> None:
    """Raise ValueError if the settings of a source are of another kind."""
    check_count("images", images, 1)
    check_count("samples", samples, 1)
    check_switch(resize, "resize")
    if not isinstance(image, str | None):
        raise ValueError(f"image must be the path of an image, got {image!r}")


def check_images(parts: "Parts[Any]") -> None:
    """Raise ValueError if the data are not images."""
    data = parts.data
    if data.levels is None or len(data.shape) != 3:
        raise ValueError(
            f"this conditioning needs images, and data={data.name} are points; use data=digits or "
            "data=folder, or guide a class by conditioning=classifier_free"
        )


def images_of(parts: "Parts[Any]", count: int, image: str | None, resize: bool) -> Images:
    """The images that a run starts from.

    Args:
        parts: Parts of the run.
        count: Number of test images.
        image: A file in their place.
        resize: Whether the centre square of the file may be resized.

    Raises:
        ValueError: The data are points, or too few, or the file does not fit them.
        FileNotFoundError: There is no such file.
    """
    check_images(parts)
    data = parts.data
    if image is not None:
        x = read_image(image, data.shape, data.range or (-1.0, 1.0), resize)
        return Images(x.to(parts.device), labels_to_draw(parts.cfg.condition, parts.model, 1))
    if not len(data.test):
        raise ValueError(
            f"task={parts.task.name} has no test images here; add conditioning.image=FILE, or use "
            "task=generate with data=…"
        )
    if count > len(data.test):
        raise ValueError(
            f"conditioning.images is {count}, and data={data.name} has {len(data.test)} test "
            "images; use fewer, or conditioning.image=FILE"
        )
    x = data.scale(data.test[:count]).to(parts.device)
    return Images(x, data.test_labels[:count] if data.condition else None)  # type: ignore[index]


def read_image(
    path: str, shape: tuple[int, ...], span: tuple[float, float], resize: bool = False
) -> Tensor:
    """A file as an image of a network, shape (1, C, H, W), float32.

    Colour becomes grey, or grey colour, as the network has it.

    Args:
        path: PNG, JPEG, BMP or WebP.
        shape: (C, H, W) of the network's images.
        span: Range of the network's data.
        resize: Whether the centre square may be resized to H × W.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no image, or of another size.
    """
    channels, height, width = shape
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"there is no image at {path}")
    if channels not in (1, 3):
        raise ValueError(f"an image file has 1 or 3 channels, and the network takes {channels}")
    opened = decode(file.read_bytes(), str(file))
    if opened.size != (width, height):
        if not resize or height != width:
            fix = "add conditioning.resize=true" if height == width else "crop it to that size"
            raise ValueError(
                f"{path} is {opened.width} × {opened.height} pixels, and an image of {width} × "
                f"{height} is needed; {fix}"
            )
        raw = pixels(opened, channels, height, None, str(file))
    else:
        raw = pixels(opened, channels, None, None, str(file))
    return GreyLevels(span).scale(torch.from_numpy(raw.copy())[None], None)
