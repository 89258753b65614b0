"""Brownian paths for torchsde, one of its own for each sample."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class BrownianPaths:
    """The paths of a batch, one object of torchsde for each sample.

    torchsde seeds all paths of a batch with one number, so that a path depends on the batch. Here
    each sample has the path of its own seed.

    Args:
        paths: Brownian intervals for states (1, D), one for each of the B samples.
    """

    def __init__(self, paths: Sequence[Any]) -> None:
        self.paths = list(paths)
        first = self.paths[0]
        self.shape = (len(self.paths), *first.shape[1:])
        self.dtype, self.device = first.dtype, first.device
        self.levy_area_approximation = first.levy_area_approximation

    def __call__(self, ta: Any, tb: Any = None, **options: bool) -> Tensor | tuple[Any, ...]:
        """Increments between two times, shape (B, D), and the integrals named in the options."""
        pieces = [path(ta, tb, **options) for path in self.paths]
        if isinstance(pieces[0], Tensor):
            return torch.cat(pieces)
        return tuple(
            torch.cat(part) if isinstance(part[0], Tensor) else part[0]
            for part in zip(*pieces, strict=True)
        )
