"""The loss of an estimator of the noise level."""

from typing import Any

import torch
from torch import Tensor

from scoresde.sde import SDE
from scoresde.sde.checks import check_floating
from scoresde.sde.score import like

from .objective import Batch, Loss, unpack


class NoiseLevelLoss(Loss):
    """The squared error of an estimate of λ, uniformly over the noise levels of a process.

        E_λ E_{x_0, z} (λ̂(x_t) − λ(t))²,   t = t(λ),   λ ~ U[λ(T), λ(ε)]

    Its minimum is λ̂ = E[λ | x_t] under that prior. λ rather than t is uniform, because samplers
    choose their steps in λ: under uniform times of VP, for example, a tenth of the training samples
    would have the lower half of the noise levels, where most steps are. On a chain t is replaced by
    the level in whose cell it falls.

    Args:
        sde: Process.

    Raises:
        ValueError: The last level of the process is noise alone, λ = −∞.

    Reference: San-Roman, Nachmani & Wolf 2021, arXiv:2104.02600 (section 3.2).
    """

    def __init__(self, sde: SDE) -> None:
        sde.check_signal("an estimator of the noise level")
        self.sde = sde
        ends = torch.tensor([sde.T, sde.eps], dtype=torch.float64)
        self._first, self._last = sde.half_log_snr(ends).tolist()

    def __call__(
        self, model: Any, batch: Batch | Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Estimate the loss from one λ and one z for each sample; see `Loss`.

        The model is an estimator λ̂(x), shape (B,); a condition is ignored.
        """
        x0, _ = unpack(batch)
        u = torch.rand(len(x0), generator=generator, dtype=torch.float64, device=x0.device)
        x, lam = self.perturb(x0, u, generator)
        return (like(lam, model(x), "the estimate") - lam).square().mean()

    def perturb(
        self, x0: Tensor, share: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Noisy states and their true λ, shapes (B, *) and (B,).

        Args:
            x0: Data, shape (B, *), floating point.
            share: Position of λ between λ(T) at 0 and λ(ε) at 1; float64, shape (B,).
            generator: Source of z, on x0's device.
        """
        check_floating("x0", x0)
        lam = self._first + (self._last - self._first) * share
        t = self.sde.to_levels(self.sde.time_of_half_log_snr(lam))
        z = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
        return self.sde.perturb(x0, t, z), self.sde.half_log_snr(t)
