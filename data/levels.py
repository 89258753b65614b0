"""Grey levels of images: the map to the range that a network sees, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .checks import check_finite

_PIECE = 2**17  # values that are scaled at a time


class GreyLevels:
    """The grey levels k in 0..L-1 of a pixel, and their places in the range (lo, hi) of a network.

        x = lo + c (k + u),   c = (hi - lo) / L,   u ~ U[0, 1) (uniform dequantisation) or u = 1/2

    Level k owns the cell [lo + k c, lo + (k + 1) c). A density p of x therefore bounds the
    probability P of the levels, log P(k) ≥ E_u log p(x) + D log c, with D values in an image.

    Attributes:
        range: (lo, hi).
        count: L.
        cell: width c of a cell.

    Args:
        range: (lo, hi) with lo < hi, both finite.
        count: L, 2 to 256.

    Raises:
        ValueError: impossible range or number of levels, or cells too narrow for float32.

    Reference: Theis, van den Oord, Bethge 2016, arXiv:1511.01844 (section 3.1, dequantisation).
    """

    def __init__(self, range: Sequence[float], count: int = 256) -> None:
        try:
            lo, hi = (float(value) for value in range)
        except (TypeError, ValueError):
            raise ValueError(
                f"range must be a pair (lo, hi), got {range!r}; use (-1, 1) or (0, 1)"
            ) from None
        if not -math.inf < lo < hi < math.inf:
            raise ValueError(
                f"range ({lo}, {hi}) is impossible: lo must be < hi, both finite; use (-1, 1) or "
                "(0, 1)"
            )
        if not 2 <= count <= 256:
            raise ValueError(f"levels must be in 2..256, got {count}: raw images are uint8")
        self.range, self.count = (lo, hi), count
        self.cell = (hi - lo) / count
        # The part of a cell at each edge that rounding to float32 can cross.
        self._margin = torch.finfo(torch.float32).eps * max(abs(lo), abs(hi)) / self.cell
        if self._margin > 0.1:
            raise ValueError(
                f"range ({lo}, {hi}) is too narrow for {count} levels in float32; "
                "use (-1, 1) or (0, 1)"
            )

    def check(self, raw: Tensor) -> None:
        """Refuse raw samples that are not grey levels.

        Raises:
            ValueError: raw is not uint8, or has a level above L - 1.
        """
        if raw.dtype != torch.uint8:
            raise ValueError(
                f"expected raw uint8 grey levels 0..{self.count - 1}, got {raw.dtype}; "
                "pass samples of train or test"
            )
        if self.count < 256 and raw.numel() and int(raw.max()) >= self.count:
            raise ValueError(
                f"raw grey levels must be in 0..{self.count - 1}, got {int(raw.max())}"
            )

    def scale(self, raw: Tensor, generator: torch.Generator | None) -> Tensor:
        """x of raw levels k; see `Dataset.scale`."""
        self.check(raw)
        u = None
        if generator is not None:
            u = torch.rand(raw.shape, generator=generator, device=raw.device).view(-1)
        x = torch.empty(raw.shape, dtype=torch.float32, device=raw.device)
        flat, levels = x.view(-1), raw.reshape(-1)
        # The pieces fit into a processor's cache: float64 takes eight times the memory of k.
        for piece in (slice(i, i + _PIECE) for i in range(0, len(flat), _PIECE)):
            y = levels[piece].double()
            if u is None:
                y.add_(0.5)
            else:
                # Without the margin, rounding to float32 would move a few into the next cell.
                y.add_(u[piece], alpha=1 - 2 * self._margin).add_(self._margin)
            flat[piece] = y.mul_(self.cell).add_(self.range[0])
        return x

    def quantize(self, x: Tensor) -> Tensor:
        """Levels k of scaled x; see `Dataset.quantize`."""
        if not x.is_floating_point():
            raise ValueError(
                f"quantize expects scaled floating-point samples in {self.range}, got {x.dtype}; "
                "raw samples are quantized already"
            )
        check_finite(x)
        k = x.double().sub(self.range[0]).div_(self.cell).floor_()
        return k.clamp_(0, self.count - 1).to(torch.uint8)
