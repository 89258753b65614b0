"""Quantization as in JPEG: cosine coefficients of blocks, rounded."""

from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde.sde.checks import check_choice, check_count

from .checks import check_image
from .constant import Constant
from .operator import Operator
from .pooling import cosine_basis

BLOCK = 8


class JPEG(Operator):
    """Cosine coefficients of blocks of 8 × 8 pixels, rounded to multiples of JPEG's tables.

    y has the shape of the image, with the coefficients of each block in its place, in units of the
    data; colours are brightness and two colour differences, none of them subsampled. Nothing is
    rounded to bytes, so that the decoder h† satisfies h h† h = h.

    Args:
        shape: Shape of one image, (1, H, W) or (3, H, W), with H and W divisible by 8.
        quality: 1, coarse, to 100, fine, as of libjpeg.
        gradient: That of rounding, whose own is 0 almost everywhere: straight-through takes 1, and
            soft 3 (c − round c)², that of c ↦ round c + (c − round c)³. The values are the same.
        low, high: Range of the data, which becomes 0 to 255.

    Raises:
        ValueError: The shape is no such shape, the quality is not in 1 … 100, the gradient is
            unknown, or low ≥ high.

    Reference: ITU-T T.81, 1992 (annexes A and K); Shin & Song 2017 (soft rounding).
    """

    def __init__(
        self,
        shape: Sequence[int],
        quality: int = 50,
        gradient: str = "straight-through",
        low: float = -1.0,
        high: float = 1.0,
    ) -> None:
        channels, height, width = check_image(shape)
        if channels not in (1, 3) or height % BLOCK or width % BLOCK:
            raise ValueError(
                f"shape must be (1 or 3, H, W) with H and W divisible by {BLOCK}, got "
                f"{(channels, height, width)}; crop the images"
            )
        self.quality = check_count("quality", quality, 1)
        if self.quality > 100:
            raise ValueError(f"quality must be in 1 … 100, got {quality}")
        self.gradient = check_choice("gradient", gradient, "straight-through", "soft")
        if not low < high:
            raise ValueError(f"low must be below high, got {low} and {high}; swapped?")
        super().__init__((channels, height, width), (channels, height, width))
        grey = (high - low) / 255
        self._middle = low + 128 * grey
        names = ("brightness", "colour", "colour")[:channels]
        tables = torch.stack([quantization_table(name, self.quality) for name in names])
        tiles = (1, height // BLOCK, width // BLOCK)
        self._steps = Constant(grey * tables.repeat(tiles))
        self._basis = Constant(cosine_basis(BLOCK))
        colours = COLOURS if channels == 3 else torch.ones(1, 1, dtype=torch.float64)
        self._colours = Constant(colours)
        self._back = Constant(torch.linalg.inv(colours))

    def __call__(self, x: Tensor) -> Tensor:
        """The rounded coefficients, shape (B, *shape)."""
        pixels = self.check_samples(x) - self._middle
        mixed = torch.einsum("kc,bchw->bkhw", self._colours(x), pixels)
        steps = self._steps(x)
        return steps * self._round(self._transformed(mixed, self._basis(x)) / steps)

    def pinv(self, y: Tensor) -> Tensor:
        """h† y, the image of coefficients; shape (B, *shape)."""
        mixed = self._transformed(self.check_measurement(y), self._basis(y).T)
        return torch.einsum("kc,bchw->bkhw", self._back(y), mixed) + self._middle

    def _transformed(self, x: Tensor, basis: Tensor) -> Tensor:
        """The transform of each block along both axes."""
        blocks = x.unflatten(3, (-1, BLOCK)).unflatten(2, (-1, BLOCK))
        return torch.einsum("bchiwj,ki,lj->bchkwl", blocks, basis, basis).reshape(x.shape)

    def _round(self, c: Tensor) -> Tensor:
        rounded = c.detach().round()
        soft = c if self.gradient == "straight-through" else (c - rounded) ** 3
        return rounded + (soft - soft.detach())


def quantization_table(name: str, quality: int) -> Tensor:
    """Steps of rounding of each coefficient, in grey levels of 255, (8, 8), float64.

    Args:
        name: brightness or colour.
        quality: 1 … 100.

    Reference: ITU-T T.81, 1992 (tables K.1, K.2), scaled as libjpeg does.
    """
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((TABLES[name] * scale + 50) // 100).clamp(1, 255).double()


def _table(*rows: str) -> Tensor:
    return torch.tensor([[int(entry) for entry in row.split()] for row in rows])


TABLES = {
    "brightness": _table(
        "16 11 10 16 24 40 51 61",
        "12 12 14 19 26 58 60 55",
        "14 13 16 24 40 57 69 56",
        "14 17 22 29 51 87 80 62",
        "18 22 37 56 68 109 103 77",
        "24 35 55 64 81 104 113 92",
        "49 64 78 87 103 121 120 101",
        "72 92 95 98 112 100 103 99",
    ),
    "colour": _table(
        "17 18 24 47 99 99 99 99",
        "18 21 26 66 99 99 99 99",
        "24 26 56 99 99 99 99 99",
        "47 66 99 99 99 99 99 99",
        *["99 99 99 99 99 99 99 99"] * 4,
    ),
}
# Brightness and the differences of blue and of red from it, by their weights in ITU-R BT.601.
COLOURS = torch.tensor(
    [
        [0.299, 0.587, 0.114],
        [-0.299 / 1.772, -0.587 / 1.772, 0.5],
        [0.5, -0.587 / 1.402, -0.114 / 1.402],
    ],
    dtype=torch.float64,
)
