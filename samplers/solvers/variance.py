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
    """An analytic variance was evaluated before it was fitted."""


class AnalyticVariance:
    """The variance that x_0 has around its mean given x_t, measured on data.

        Γ(t) = 1 − σ² E‖s‖²/D,   Var[x_0 | x_t] ≈ (σ/α)² Γ

    Γ is estimated as the least loss, E‖z + σ s‖²/D, which is equal to it: at large noise the
    difference of 1 and σ² E‖s‖²/D would lose digits.

    Raises:
        ValueError: Values before the fit, or a process that has a level with α = 0.

    Reference: Bao et al. 2022, arXiv:2201.06503 (eq. 7 and 8).
    """

    def __init__(self) -> None:
        self._table: tuple[float, float, Tensor] | None = None

    @classmethod
    def fit(
        cls, sde: SDE, score: Score, x0: Tensor, generator: torch.Generator | None = None
    ) -> Self:
        """The variance of a score at 100 noise levels of a process, from data x0, shape (B, *)."""
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
        first, last = sde.half_log_snr(ends).tolist()
        lam = torch.linspace(first, last, 100, dtype=torch.float64)
        losses, data = [], widened(x0)
        for t in sde.time_of_half_log_snr(lam):
            z = standard_normal(tuple(x0.shape), generator, data.dtype, x0.device)
            s = like(z, score(sde.perturb(data, t, z).to(x0.dtype), t))
            losses.append((z + expand(sde.sigma(t), s) * s).double().square().mean().item())
        self._table = first, last, torch.tensor(losses, dtype=torch.float64).log()

    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        """Γ at times t, shape of t, linear in (λ, log Γ) between the levels of the fit."""
        sde.check_signal("variance=analytic")
        if self._table is None:
            raise NotFitted(
                "variance=analytic is fitted on data x0; use "
                "Ancestral(AnalyticVariance.fit(sde, score, x0)), or variance=posterior"
            )
        first, last, table = self._table
        lam, table = sde.half_log_snr(t), table.to(t.device)
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
    """Fit the analytic variance of a sampler, where it has one, such as of `Ancestral("analytic")`.

    The arguments are those of `AnalyticVariance.fit`.
    """
    for part in vars(sampler).values():
        if isinstance(part, AnalyticVariance):
            part.measure(sde, score, x0, generator)
        elif isinstance(part, Sampler | Solver):
            fit(part, sde, score, x0, generator)
