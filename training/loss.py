"""Denoising score matching, with its weightings and times."""

from typing import Any

import torch
from torch import Tensor

from scoresde.sde import SDE, expand
from scoresde.sde.broadcast import widened
from scoresde.sde.checks import check_choice
from scoresde.sde.score import like

from .objective import Batch, Loss, optional, unpack
from .times import TimeDistribution, noisy, uniform_times
from .weighting import choose_weighting


class DenoisingScoreMatching(Loss):
    """Denoising score matching over all times of a process.

        E_t E_{x_0, c, z} w(t) ‖σ(t) s(x_t, t | c) + z‖²,   x_t = α(t) x_0 + σ(t) z

    On a continuous process the times are continuous; on a chain they are its levels, so that this
    is the loss of DDPM (over VP) and of NCSN (over VE).

    Args:
        sde: Process.
        weighting: `uniform` (w = 1), `likelihood` (w = g²/σ²), `edm` (w = 1 + σ̃²/σ_d²) or
            `min_snr` (w = min(1, γ σ̃²)), where σ̃ = σ/(α h) is the noise level relative to data
            in [−1, 1].
        times: Distribution of t; by default uniform on [eps, T].
        reduce: `mean` over coordinates, or `sum` for half the sum, the loss of the published
            models. The choice changes the effect of gradient clipping.
        sigma_data: σ_d > 0 of `edm` alone, the standard deviation of data in [−1, 1], as for
            `ScoreModel`; 0.5 by default.
        gamma: γ > 0 of `min_snr` alone; 5 by default.
        data_range: Interval of the data, of width 2 h, for `edm` and `min_snr`; None if the data
            have no fixed range (h = 1).

    Raises:
        ValueError: Unknown weighting or reduction, a constant out of its range or of another
            weighting, or a chain whose last level has α = 0.

    Reference: Vincent 2011; Song et al. 2021, arXiv:2011.13456 (eq. 7); Song et al. 2021b,
    arXiv:2101.09258 (section 4) for `likelihood`; Karras et al. 2022, arXiv:2206.00364 (table 1)
    for `edm`; Hang et al. 2023, arXiv:2303.09556 for `min_snr`.
    """

    def __init__(
        self,
        sde: SDE,
        weighting: str = "uniform",
        times: TimeDistribution = uniform_times,
        reduce: str = "mean",
        *,
        sigma_data: float | None = None,
        gamma: float | None = None,
        data_range: tuple[float, float] | None = None,
    ) -> None:
        check_choice("reduce", reduce, "mean", "sum")
        if sde.zero_terminal_snr:
            raise ValueError(
                "at the last level of this chain, where alpha = 0, the score says nothing of the "
                "data and its loss trains nothing; use DataPrediction(), or "
                "zero_terminal_snr=false"
            )
        self.sde, self.times, self.reduce = sde, times, reduce
        self.weight = choose_weighting(
            weighting, sigma_data=sigma_data, gamma=gamma, data_range=data_range
        )

    def __call__(
        self, model: Any, batch: Batch | Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Estimate the loss from one t and one z for each sample; see `Loss`.

        The model is s(x, t), or s(x, t, c) if the batch has a condition.
        """
        x0, condition = unpack(batch)
        x, t, z = noisy(self.sde, self.times, x0, generator)
        s = like(x0, model(x, t, *optional(condition)))
        residual = expand(self.sde.sigma(t), x0) * s + z
        errors = widened(residual).square().flatten(1)
        errors = errors.mean(1) if self.reduce == "mean" else 0.5 * errors.sum(1)
        return (self.weight(self.sde, t).to(errors.dtype) * errors).mean()
