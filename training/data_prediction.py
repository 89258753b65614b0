"""The error of the data prediction, a loss that trains even where no signal is left."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scoresde.sde import SDE, expand
from scoresde.sde.broadcast import widened
from scoresde.sde.checks import check_choice
from scoresde.sde.data_range import DataRange
from scoresde.sde.score import like

from .objective import Batch, Loss, optional, unpack
from .times import TimeDistribution, noisy, uniform_times

Weight = Callable[[Tensor, Tensor], Tensor]


def _v(alpha: Tensor, sigma: Tensor) -> Tensor:
    """1 + α²/σ²: the error of v has the same weight at all times (SNR + 1, if α² + σ² = 1)."""
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

    Where α > 0 it is w σ²/α² times the loss of denoising score matching, and has the same minimum.
    At the last level of a chain with zero terminal SNR, where α = 0, only D can be learned: there
    the error of the score is zero for every network. The model must therefore predict D directly,
    with the parameterization `data`, `v`, `velocity` or `edm`.

    Args:
        sde: Process.
        weighting: `v` (w = 1 + 1/σ̃²), `truncated` (w = max(1, 1/σ̃²)) or `uniform` (w = 1), where
            σ̃ = σ/(α h) is the noise level relative to data in [−1, 1].
        times: Distribution of t; by default uniform on [eps, T], or uniform levels of a chain.
        data_range: Interval of the data, of width 2 h; None if the data have no fixed range
            (h = 1).

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
        self.sde, self.times = sde, times
        self.weight = WEIGHTS[check_choice("weighting", weighting, *WEIGHTS)]
        self.half = DataRange.of(data_range).half

    def __call__(
        self, model: Any, batch: Batch | Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Estimate the loss from one t and one z for each sample; see `Loss`.

        The model gives D(x, t) for `predict="denoise"`, as a `ScoreModel` does.
        """
        x0, condition = unpack(batch)
        x, t, _ = noisy(self.sde, self.times, x0, generator)
        data = like(x0, model(x, t, *optional(condition), predict="denoise"), "the data prediction")
        errors = (widened(data - x0) / self.half).square()
        weight = self.weight(self.sde.alpha(t), self.sde.sigma(t) / self.half)
        return (expand(weight, errors) * errors).mean()
