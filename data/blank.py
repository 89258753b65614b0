"""The description of images without any sample, for sampling from a trained model."""

from collections.abc import Sequence

import torch

from .base import Split
from .levels import GreyLevels
from .memory import InMemory


class Blank(InMemory):
    """The shape, range and levels of generated images, where no data are available.

    Args:
        shape: (C, H, W), each ≥ 1.
        range: (lo, hi) that the network sees.
        levels: number of grey levels of a pixel, 2 to 256.
        classes: number of classes that samples can have; None for none.

    Raises:
        ValueError: impossible shape, range or levels.
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
        super().__init__("blank", lambda: (one, one), GreyLevels(range, levels))
        self.train = self.test = one.samples[:0]
        self._classes = classes

    @property
    def classes(self) -> int | None:
        """Number of classes that samples can have; None for none."""
        return self._classes
