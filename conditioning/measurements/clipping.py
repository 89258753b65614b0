"""Clipping: bright and dark pixels saturate, as in a photograph of high contrast."""

from collections.abc import Sequence

from torch import Tensor

from scoresde.sde.checks import check_count, check_positive

from .operator import Operator


class Clipping(Operator):
    """y = clip(gain x, low, high), whose gradient is 0 where it saturates.

    Args:
        shape: Shape of one sample.
        gain: Factor > 0; 2 is the usual test of high dynamic range.
        low, high: Range of y, −1 and 1 for data in [−1, 1].

    Raises:
        ValueError: The shape has no integers ≥ 1, the gain is not > 0, or low ≥ high.

    Reference: Zhang et al. 2025, arXiv:2407.01521 (section 4, high dynamic range).
    """

    def __init__(
        self, shape: Sequence[int], gain: float = 2.0, low: float = -1.0, high: float = 1.0
    ) -> None:
        sizes = tuple(check_count("sizes of shape", n, 1) for n in shape)
        self.gain = check_positive("gain", gain)
        if not low < high:
            raise ValueError(f"low must be below high, got {low} and {high}; swapped?")
        self.low, self.high = low, high
        super().__init__(sizes, sizes)

    def __call__(self, x: Tensor) -> Tensor:
        """clip(gain x, low, high)."""
        return (self.gain * self.check_samples(x)).clamp(self.low, self.high)

    def pinv(self, y: Tensor) -> Tensor:
        """h† y = y/gain, so that h h† h = h."""
        return self.check_measurement(y) / self.gain
