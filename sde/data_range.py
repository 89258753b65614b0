"""The interval of the data: how networks see it, and its cells where the data are quantized."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import check_count


@dataclass(frozen=True)
class DataRange:
    """The interval of the data, which networks see as [−1, 1].

        x̂ = (x − m)/h,   m = (high + low)/2,   h = (high − low)/2

    Args:
        low: Lower end.
        high: Upper end > low.

    Raises:
        ValueError: The interval is empty or not finite.
    """

    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(
                "data_range must be (low, high) with low < high, both finite, "
                f"got ({self.low}, {self.high})"
            )

    @classmethod
    def of(cls, ends: Sequence[float] | None) -> "DataRange":
        """The interval of two ends; [−1, 1], so m = 0 and h = 1, for data of no fixed range."""
        low, high = ends or (-1.0, 1.0)
        return cls(low, high)

    @property
    def middle(self) -> float:
        """Middle m of the interval."""
        return 0.5 * (self.high + self.low)

    @property
    def half(self) -> float:
        """Half the width of the interval, h."""
        return 0.5 * (self.high - self.low)


@dataclass(frozen=True)
class Cells:
    """The cells of quantized values, which tile the range of the data.

        low + h k ≤ x < low + h (k + 1),   h = (high − low)/levels

    Args:
        levels: Number of values of one coordinate ≥ 2.
        low: Lower end of the range.
        high: Upper end > low.

    Raises:
        ValueError: Fewer than two levels, or an empty range.
    """

    levels: int
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        check_count("levels", self.levels, 2)
        DataRange(self.low, self.high)

    @property
    def width(self) -> float:
        """Width h of a cell."""
        return (self.high - self.low) / self.levels

    def value(self, x: Tensor) -> Tensor:
        """Values k of the cells in which x lies, float64; shape of x."""
        return ((x.double() - self.low) / self.width).floor()

    def point(self, k: Tensor, u: Tensor | float) -> Tensor:
        """Points low + h (k + u) of the cells, u in [0, 1), float64; shape of k."""
        return self.low + self.width * (k.double() + u)

    def centre(self, k: Tensor) -> Tensor:
        """Centres of the cells of values k, float64; shape of k."""
        return self.point(k, 0.5)

    def check(self, k: Tensor) -> None:
        """Refuse values other than the integers 0 … levels − 1, shape (B, *).

        Raises:
            TypeError: k does not hold integers.
            ValueError: k has another shape, or a value that has no cell.
        """
        if k.is_floating_point() or k.is_complex() or k.dtype == torch.bool:
            raise TypeError(f"quantized data must be integers, got dtype {k.dtype}")
        if k.numel() == 0 or k.ndim < 2:
            raise ValueError(f"quantized data must have shape (B, *), got {tuple(k.shape)}")
        low, high = int(k.min()), int(k.max())
        if low < 0 or high >= self.levels:
            raise ValueError(f"values must be in 0 … {self.levels - 1}, got {low} … {high}")
