"""The order of spectral coordinates: those that are measured first."""

import torch
from torch import Tensor

from .constant import Constant


class Order:
    """Coordinates of each channel, sorted so that the measured ones of all channels come first.

    Args:
        measured: Whether a coordinate is measured, bool, shape (N,), the same for each channel.
        channels: Number C of channels ≥ 1.

    Attributes:
        count: Number R of measured coordinates of a channel.
    """

    def __init__(self, measured: Tensor, channels: int) -> None:
        self.channels, self.count = channels, int(measured.sum())
        self.size = len(measured)
        order = torch.argsort(~measured, stable=True)
        self._order, self._back = Constant(order), Constant(torch.argsort(order))

    def __call__(self, c: Tensor) -> Tensor:
        """All coordinates in order, shape (B, N C), of channels (B, C, N)."""
        return c[..., self._order(c)].mT.flatten(1)

    def measured(self, c: Tensor) -> Tensor:
        """The measured coordinates alone, shape (B, R C), of channels (B, C, N)."""
        return c[..., self._order(c)[: self.count]].mT.flatten(1)

    def inverse(self, c: Tensor) -> Tensor:
        """Channels (B, C, N) of all coordinates (B, N C), or of the measured ones with zeros."""
        missing = self.size * self.channels - c.shape[1]
        full = torch.nn.functional.pad(c, (0, missing)) if missing else c
        return full.unflatten(1, (self.size, self.channels)).mT[..., self._back(c)]

    def values(self, s: Tensor) -> Tensor:
        """A value of each measured coordinate, shape (R C,), of one for each coordinate (N,)."""
        return s[self._order.value[: self.count]].repeat_interleave(self.channels)
