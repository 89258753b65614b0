"""The best isotropic variance of ancestral steps, fitted on data (Analytic-DPM)."""

from typing import Self

import torch
from torch import Tensor

from scoresde.sde import SDE, Score, expand
from scoresde.sde.broadcast import widened
from scoresde.sde.prior import standard_normal
from scoresde.sde.score import like

from ..base import Sampler
from .solver import Solver


class NotFitted(ValueError):
    """A variance that is fitted on data was asked for its values before."""


class AnalyticVariance:
    """The variance that x_0 has around its mean given x_t, measured on data.

        Γ(t) = 1 − σ² E‖s‖²/D,   Var[x_0 | x_t] ≈ (σ/α)² Γ

    Γ is the least loss, E‖z + σ s‖²/D, and is estimated as that: where noise is large, 1 and
    σ² E‖s‖²/D are nearly equal, and their difference would lose digits.

    Reference: Bao et al. 2022, arXiv:2201.06503 (eq. 7 and 8).
    """

    def __init__(self) -> None:
        self._table: tuple[float, float, Tensor] | None = None

    @classmethod
    def fit(
        cls, sde: SDE, score: Score, x0: Tensor, generator: torch.Generator | None = None
    ) -> Self:
        """The variance of a process and a score, measured at 100 noise levels.

        Args:
            sde: Process.
            score: s(x, t).
            x0: Data, shape (B, *).
            generator: Source of noise.

        Raises:
            ValueError: The process has a level with α = 0.
        """
        variance = cls()
        variance.measure(sde, score, x0, generator)
        return variance

    @torch.no_grad()
    def measure(
        self, sde: SDE, score: Score, x0: Tensor, generator: torch.Generator | None = None
    ) -> None:
        """Fit this variance; see `fit`."""
        sde.check_signal("variance=analytic")
        ends = torch.tensor([sde.T, sde.sampling_eps], dtype=torch.float64)
        first, last = sde.log_snr(ends).tolist()
        lam = torch.linspace(first, last, 100, dtype=torch.float64)
        losses, data = [], widened(x0)
        for t in sde.time_of_log_snr(lam):
            z = standard_normal(tuple(x0.shape), generator, data.dtype, x0.device)
            s = like(z, score(sde.perturb(data, t, z).to(x0.dtype), t))
            losses.append((z + expand(sde.sigma(t), s) * s).double().square().mean().item())
        self._table = first, last, torch.tensor(losses, dtype=torch.float64).log()

    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        """Γ at times t, shape of t, interpolated in (λ, log Γ).

        Raises:
            ValueError: It was not fitted, or the process has a level with α = 0.
        """
        sde.check_signal("variance=analytic")
        if self._table is None:
            raise NotFitted(
                "variance=analytic is fitted on data x0; use "
                "Ancestral(AnalyticVariance.fit(sde, score, x0)), or variance=posterior"
            )
        first, last, table = self._table
        lam, table = sde.log_snr(t), table.to(t.device)
        place = ((lam - first) / (last - first)).clamp(0, 1) * (len(table) - 1)
        below = place.floor().clamp(max=len(table) - 2).long()
        return torch.lerp(table[below], table[below + 1], place.double() - below).exp().to(lam)


def fit(
    sampler: Sampler | Solver,
    sde: SDE,
    score: Score,
    x0: Tensor,
    generator: torch.Generator | None = None,
) -> None:
    """Fit the analytic variance within a sampler or a solver on data, where there is one.

    Args:
        sampler: Sampler, for example one from a configuration with variance=analytic.
        sde: Process.
        score: s(x, t).
        x0: Data, shape (B, *).
        generator: Source of noise.
    """
    for part in vars(sampler).values():
        if isinstance(part, AnalyticVariance):
            part.measure(sde, score, x0, generator)
        elif isinstance(part, Sampler | Solver):
            fit(part, sde, score, x0, generator)
