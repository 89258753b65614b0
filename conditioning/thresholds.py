"""Thresholds of the data prediction: a wrapper that keeps D within the data's range."""

import math

import torch
from torch import Tensor

from scoresde.sde import SDE, Score
from scoresde.sde.broadcast import widened
from scoresde.sde.data_range import DataRange

from .guided import Guided, predict_data


class StaticThreshold(Guided):
    """The data prediction clipped to the range of the data.

    The score follows from the clipped D, so that ẑ is that of the state and of this D. It is for
    pixels, whose range is known, and not for latents.

    Args:
        score: s(x, t), guided or not.
        data_range: Interval (low, high) of the data.
        sde: Process, where the score does not carry one.

    Raises:
        ValueError: An empty interval.

    Reference: Saharia et al. 2022, arXiv:2205.11487 (section 2.3).
    """

    def __init__(
        self,
        score: Score,
        data_range: tuple[float, float] = (-1.0, 1.0),
        sde: SDE | None = None,
    ) -> None:
        super().__init__(score, sde)
        self.range = DataRange.of(data_range)

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """D clipped; see `Guided.denoise`."""
        data = predict_data(self.sde, self.score, x, t)
        return data.clamp(float(self.range.low), float(self.range.high))


class DynamicThreshold(Guided):
    """The data prediction clipped at a quantile of its size, and scaled back into the range.

        q = max(1, quantile_p |D̂|),   D̂ ← clip(D̂, −q, q)/q

    D̂ is D with the data's range mapped to [−1, 1], and the quantile that of the entries of one
    sample. Large guidance scales then do not saturate pixels.

    Args:
        score: s(x, t), guided or not.
        quantile: p in (0, 1]; published is 0.995.
        data_range: Interval (low, high) of the data.
        sde: Process, where the score does not carry one.

    Raises:
        ValueError: An empty interval, or p outside (0, 1].

    Reference: Saharia et al. 2022, arXiv:2205.11487 (section 2.3 and appendix A).
    """

    def __init__(
        self,
        score: Score,
        quantile: float = 0.995,
        data_range: tuple[float, float] = (-1.0, 1.0),
        sde: SDE | None = None,
    ) -> None:
        super().__init__(score, sde)
        if isinstance(quantile, bool) or not 0 < quantile <= 1:
            raise ValueError(f"quantile must be in (0, 1], got {quantile}; published is 0.995")
        self.quantile, self.range = float(quantile), DataRange.of(data_range)

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """D within its quantile; see `Guided.denoise`."""
        data = widened(predict_data(self.sde, self.score, x, t))
        middle, half = self.range.middle, self.range.half
        centred = (data - middle) / half
        bound = _quantile(centred.abs().flatten(1), self.quantile).clamp(min=1.0)
        bound = bound.reshape(-1, *[1] * (x.ndim - 1))
        return (middle + half * centred.clamp(-bound, bound) / bound).to(x.dtype)


def _quantile(values: Tensor, p: float) -> Tensor:
    """The p-quantile of each row, interpolated linearly, for rows of any length."""
    # torch.quantile refuses more than 2²⁴ entries.
    place = p * (values.shape[1] - 1)
    below = math.floor(place)
    ordered = values.sort(1).values
    above = min(below + 1, values.shape[1] - 1)
    return torch.lerp(ordered[:, below], ordered[:, above], place - below)
