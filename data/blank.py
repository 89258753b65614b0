"""Images without a single sample: what drawing alone needs to know of data."""

from collections.abc import Sequence

import torch

from .base import Split
from .memory import InMemory


class Blank(InMemory):
    """The shape, range and levels of images that are drawn, where no data are at hand.

    Args:
        shape: (C, H, W), each ≥ 1.
        range: (lo, hi) that the network sees.
        levels: Number of levels of a pixel in the pictures, 2 to 256.
        classes: Number of classes that samples can have; None for none.

    Raises:
        ValueError: Impossible shape, range or levels.
    """

    def __init__(
        self,
        shape: Sequence[int],
        range: Sequence[float] = (-1.0, 1.0),
        levels: int = 256,
        classes: int | None = None,
    ) -> None:
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"shape must be (C, H, W), each ≥ 1, got {tuple(shape)}")
        one = Split(torch.zeros(1, *shape, dtype=torch.uint8), None)
        super().__init__("blank", lambda: (one, one), range=range, levels=levels)
        self.train = self.test = one.samples[:0]
        self._classes = classes

    @property
    def classes(self) -> int | None:
        """Number of classes that samples can have; None for none."""
        return self._classes
