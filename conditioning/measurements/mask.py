"""Masks: the measurement sees some entries of a sample."""

import copy
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from .constant import Constant
from .operator import SpectralOperator


class Mask(SpectralOperator):
    """The known entries of a sample, y = x[known], in their order; all singular values are 1.

    Args:
        known: True where an entry is known (1 = known, as in score_sde and DDNM; the inverse of
            Palette's and of diffusers' inpainting masks), bool, a shape that broadcasts to `shape`,
            or (B, *shape) for a mask for each sample, all with as many known entries.
        shape: Shape of one sample; that of `known` where not given.

    Raises:
        TypeError: `known` is not of type bool.
        ValueError: It does not broadcast to the shape, hides nothing or everything, or its samples
            have different numbers of known entries.
    """

    def __init__(self, known: Tensor, shape: Sequence[int] | None = None) -> None:
        if known.dtype != torch.bool:
            raise TypeError(f"known must be of type bool, got {known.dtype}; use known > 0.5")
        shape = tuple(known.shape if shape is None else shape)
        samples = known.shape[:1] if known.ndim == len(shape) + 1 else ()
        try:
            known = known.expand(*samples, *shape)
        except RuntimeError as error:
            raise ValueError(
                f"known must broadcast to the samples' shape {shape}, got {tuple(known.shape)}"
            ) from error
        flat = known.reshape(*samples, -1)
        counts = flat.sum(-1).unique().tolist()
        if len(counts) != 1:
            raise ValueError(
                f"masks of a batch must know as many entries in each sample, got {counts}; measure "
                "such samples in separate runs"
            )
        count = counts[0]
        if count in (0, flat.shape[-1]):
            raise ValueError(
                f"a mask must hide some entries and not all, got {count} of {flat.shape[-1]} "
                "known; give one that is True where an entry is known"
            )
        super().__init__(shape, (count,), torch.ones(count, dtype=torch.float64))
        self.known = known
        order = torch.argsort(~flat, stable=True)  # known entries first
        self._order, self._back_order = Constant(order), Constant(torch.argsort(order))

    def to_spectral(self, x: Tensor) -> Tensor:
        """The known entries, then the others."""
        return self._sorted(x.flatten(1), self._order(x))

    def from_spectral(self, c: Tensor) -> Tensor:
        """The entries in their places."""
        return self._sorted(c, self._back_order(c)).reshape(-1, *self.shape)

    def measure_spectral(self, y: Tensor) -> Tensor:
        """y itself."""
        return y

    def from_measure_spectral(self, c: Tensor) -> Tensor:
        """y itself."""
        return c

    def rows(self, index: Tensor) -> Self:
        """The masks of some samples; see `scoresde.sde.rows`."""
        if self.known.ndim == len(self.shape):
            return self
        part = copy.copy(self)
        part.known = self.known[index.to(self.known.device)]
        for name in ("_order", "_back_order"):
            whole = getattr(self, name).value
            setattr(part, name, Constant(whole[index.to(whole.device)]))
        return part

    def _sorted(self, c: Tensor, order: Tensor) -> Tensor:
        if order.ndim == 1:
            return c[:, order]
        if len(order) not in (1, len(c)):
            raise ValueError(
                f"a mask for each of {len(order)} samples must meet as many, got {len(c)}; give "
                "one mask for all, or run them together"
            )
        return c.gather(1, order.expand(len(c), -1))
