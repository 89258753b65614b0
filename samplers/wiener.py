"""Wiener paths that are sampled piece by piece, each increment given those known (a bridge)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.sde.broadcast import expand


@dataclass
class WienerPaths:
    """What is known of the Wiener paths of A samples beyond their times.

    Each path is a stack of intervals, the nearest on top, with the increment over each. The lowest
    is the unknown future: an interval of length ∞ and increment 0.

    Attributes:
        length: Lengths, shape (K, A).
        increment: Increments, shape (K, A, *).
        top: Place of the nearest interval of each path, shape (A,).
    """

    length: Tensor
    increment: Tensor
    top: Tensor

    @classmethod
    def start(cls, x: Tensor) -> "WienerPaths":
        """Unknown paths, for states x (A, *)."""
        length = torch.full((1, len(x)), torch.inf, dtype=torch.float64, device=x.device)
        return cls(length, torch.zeros_like(x)[None], torch.zeros_like(length[0], dtype=torch.long))

    def _nearest(self) -> tuple[Tensor, Tensor]:
        return self.top, torch.arange(len(self.top), device=self.top.device)

    def known(self) -> Tensor:
        """Length of the nearest interval of each path, which no step may exceed; (A,)."""
        return self.length[self._nearest()]

    def take(self, h: Tensor, z: Tensor) -> Tensor:
        """Sample the increments over the next h given the known ones, and remove them.

            w | W_L ~ N((h/L) W_L, h (1 − h/L) I)

        Args:
            h: Lengths ≤ `known()`, shape (A,).
            z: Standard normal noise, shape (A, *).
        """
        here = self._nearest()
        length, whole = self.length[here], self.increment[here]
        part = h / length  # 0 of the unknown future
        w = expand(part, z) * whole + expand((h * (1 - part)).sqrt(), z) * z
        rest = torch.where(expand(length, z).isinf(), 0, whole - w)
        self.length[here], self.increment[here] = length - h, rest
        self.top = self.top - (h == length).long()
        return w

    def put_back(self, mask: Tensor, h: Tensor, w: Tensor) -> None:
        """Return the increments w over h of the samples of a mask to their stacks."""
        if not bool(mask.any()):
            return
        self.top = self.top + mask.long()
        if int(self.top.max()) == len(self.length):
            self.length = torch.cat([self.length, torch.zeros_like(self.length[:1])])
            self.increment = torch.cat([self.increment, torch.zeros_like(self.increment[:1])])
        here = (self.top[mask], mask.nonzero()[:, 0])
        self.length[here], self.increment[here] = h[mask], w[mask]

    def keep(self, mask: Tensor) -> "WienerPaths":
        """The paths of a mask."""
        return WienerPaths(self.length[:, mask], self.increment[:, mask], self.top[mask])
