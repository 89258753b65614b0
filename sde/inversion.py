"""The inverse of the log-SNR: the time t at which λ(t) has a value, on any process."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:  # base.py imports this module
    from .base import SDE


def invert_half_log_snr(sde: "SDE", half_log_snr: Tensor) -> Tensor:
    """The time t with half_log_snr(t) = λ, in float64.

    Newton's method with λ′ = −g²/(2σ²), which holds for every process, safeguarded by bisection:
    where Newton's step leaves the bracket or does not halve the error, the bracket is halved. Every
    search therefore ends, at the latest with two neighbouring numbers of float64, of which the one
    closer in λ is taken. Arguments and errors are those of `SDE.time_of_half_log_snr`.
    """
    sde.check_finite_snr()
    lam = half_log_snr.double()
    low, high = torch.zeros_like(lam), torch.full_like(lam, sde.T)
    first, last = sde.half_log_snr(low), sde.half_log_snr(high)
    # The tolerance covers the rounding of a λ that was computed at t = 0 or t = T.
    early = lam > first + 1e-9 * (1 + first.abs())
    late = lam < last - 1e-9 * (1 + last.abs())
    outside = early | late | lam.isnan()
    if outside.any():
        raise ValueError(
            f"half_log_snr {lam[outside][0].item():.6g} lies outside "
            f"[{last.min().item():.6g}, {first.max().item():.6g}], "
            f"the range of {type(sde).__name__} on [0, T={sde.T}]"
        )
    start, t, excess = low, 0.5 * (low + high), torch.zeros_like(lam)
    rounding = 16 * torch.finfo(lam.dtype).eps * (1 + lam.abs())
    before = torch.full_like(lam, torch.inf)
    for _ in range(3000):  # twice the halvings of [0, T] down to the smallest number
        excess = sde.half_log_snr(t) - lam  # > 0 where t is too early
        if excess.isnan().any():
            where = t[excess.isnan()][0].item()
            raise ValueError(
                f"{type(sde).__name__} has no log-SNR at t={where:g}, inside [0, T={sde.T}]; "
                "its alpha(t) and sigma(t) must be > 0 there"
            )
        low, high = torch.where(excess >= 0, t, low), torch.where(excess <= 0, t, high)
        newton, middle = t + 2 * excess * (sde.sigma(t) / sde.g(t)) ** 2, 0.5 * (low + high)
        # Newton's method would only oscillate between neighbouring numbers.
        found = (excess.abs() <= rounding) | (middle <= low) | (middle >= high)
        found = found | (lam == first) | (lam == -torch.inf)
        if found.all():
            break
        inside = (newton > low) & (newton < high) & (excess.abs() <= 0.5 * before)
        before = torch.where(inside, excess.abs(), torch.inf)
        t = torch.where(found, t, torch.where(inside, newton, middle))
    if (excess.abs() > rounding).any():
        # Neighbouring times can be far apart in λ: take the nearer of the two.
        for end in (low, high):
            gap = sde.half_log_snr(end) - lam
            t = torch.where(gap.abs() < excess.abs(), end, t)
            excess = torch.where(gap.abs() < excess.abs(), gap, excess)
    t = torch.where(lam == first, start, t)  # λ may be ∞ at the data
    return torch.where(lam == -torch.inf, sde.T, t)  # and −∞ where a chain ends in noise alone
