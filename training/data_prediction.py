"""The error of the data prediction: a loss that trains where there is no signal left, too."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scoresde.sde import SDE, expand
from scoresde.sde.broadcast import widened
from scoresde.sde.data_range import DataRange
from scoresde.sde.score import like

from .objective import Batch, Loss, parted, told
from .times import TimeDistribution, noisy, uniform_times

Weight = Callable[[Tensor, Tensor], Tensor]


def _v(alpha: Tensor, sigma: Tensor) -> Tensor:
    """1 + α²/σ²: the error of v counts the same at all times (SNR + 1, where α² + σ² = 1)."""
    return 1 + (alpha / sigma).square()


def _truncated(alpha: Tensor, sigma: Tensor) -> Tensor:
    """max(1, α²/σ²): the larger of the errors of data and noise."""
    return (alpha / sigma).square().clamp(min=1)


def _uniform(alpha: Tensor, sigma: Tensor) -> Tensor:
    """1."""
    return torch.ones_like(sigma)


WEIGHTS: dict[str, Weight] = {"v": _v, "truncated": _truncated, "uniform": _uniform}


class DataPrediction(Loss):
    """The weighted squared error of the data prediction D.

        E_t E_{x_0, c, z} w(t) ‖D(x_t, t | c) − x_0‖²/h²,   x_t = α(t) x_0 + σ(t) z

    Its minimum is that of denoising score matching, w σ²/α² times which it is where α > 0. Where
    α = 0, at the last level of a chain of zero terminal SNR, D is all that can be learned, and the
    error of the score vanishes whatever a network says. The model must say D itself: `data`, `v`,
    `velocity` or `edm`.

    Args:
        sde: Process.
        weighting: `v` (w = 1 + 1/σ̃²), `truncated` (w = max(1, 1/σ̃²)) or `uniform` (w = 1), where
            σ̃ = σ/(α h) is the noise next to data in [−1, 1].
        times: Distribution of t; uniform on [eps, T], or uniform levels, where not given.
        data_range: Interval of the data, whose half width is h; where not given, the data have no
            fixed range (h = 1).

    Raises:
        ValueError: Unknown weighting, or an empty range.

    Reference: Salimans & Ho 2022, arXiv:2202.00512 (section 4); Lin et al. 2024, arXiv:2305.08891
    (section 3.2).
    """

    def __init__(
        self,
        sde: SDE,
        weighting: str = "v",
        times: TimeDistribution = uniform_times,
        *,
        data_range: tuple[float, float] | None = None,
    ) -> None:
        if weighting not in WEIGHTS:
            raise ValueError(f"unknown weighting '{weighting}'. Available: {', '.join(WEIGHTS)}")
        self.sde, self.weight, self.times = sde, WEIGHTS[weighting], times
        self.half = DataRange.of(data_range).half

    def __call__(
        self, model: Any, batch: Batch | Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Estimate the loss from one draw of t and z for each sample; shape ().

        Args:
            model: Model that gives D(x, t) for `predict="denoise"`, such as a `ScoreModel`.
            batch: Data x_0, shape (B, *), floating point, with their condition; or x_0 alone.
            generator: Source of t and z, on x_0's device.
        """
        x0, condition = parted(batch)
        x, t, _ = noisy(self.sde, self.times, x0, generator)
        data = like(x0, model(x, t, *told(condition), predict="denoise"), "the data prediction")
        errors = (widened(data - x0) / self.half).square()
        weight = self.weight(self.sde.alpha(t), self.sde.sigma(t) / self.half)
        return (expand(weight, errors) * errors).mean()
