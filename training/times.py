"""Distributions of the training time t."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from scoresde.sde import SDE
from scoresde.sde.checks import check_floating
from scoresde.sde.data_range import DataRange
from scoresde.sde.precision import check_range

TimeDistribution = Callable[[SDE, int, torch.Generator | None, torch.device], Tensor]
"""times(sde, n, generator, device): n times of a process, float64, shape (n,); the generator, their
source, is on the device."""


def noisy(
    sde: SDE, times: TimeDistribution, x0: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor]:
    """x_t = α(t) x_0 + σ(t) z, t and z, with one t and one z for each sample.

    Args:
        sde: Process.
        times: Distribution of t.
        x0: Data, shape (B, *), floating point.
        generator: Source of t and z, on x0's device.

    Raises:
        TypeError: x0 is not floating point.
        ValueError: The type of x0 cannot represent the states of the process.
    """
    check_floating("x0", x0)
    check_range(sde, x0.dtype, sde.eps)
    t = times(sde, len(x0), generator, x0.device)
    z = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
    return sde.perturb(x0, t, z), t, z


def uniform_times(
    sde: SDE, n: int, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """Times uniform on [eps, T] in the process's own clock t^{1/ρ}; on a chain, uniform levels.

    Arguments are those of `TimeDistribution`.
    """
    u = torch.rand(n, generator=generator, dtype=torch.float64, device=device)
    first, last = sde.T ** (1 / sde.rho), sde.eps ** (1 / sde.rho)
    t = (first + (last - first) * u) ** sde.rho  # u < 1, so that t > eps
    return sde.to_levels(t.clamp(sde.eps, sde.T))  # rounding can leave [eps, T]


class LogNormalTimes:
    """Times at which the noise level of a process is log-normal; on a chain, the nearest levels.

        ln σ̃(t) ~ N(mean, std²),   σ̃ = σ/(α h)

    h is half the width of the data range, so that σ̃ is the noise level relative to data in [−1, 1].
    It is clamped to the noise levels of the process on [eps, T].

    Args:
        mean: Mean of ln σ̃.
        std: Standard deviation of ln σ̃, > 0.
        data_range: Interval of the data; None if they have no fixed range (h = 1).

    Raises:
        ValueError: mean is not finite, std not finite and > 0, or an empty data range.

    Reference: Karras et al. 2022, arXiv:2206.00364 (table 1, section 5).
    """

    def __init__(
        self,
        mean: float = -1.2,
        std: float = 1.2,
        data_range: tuple[float, float] | None = None,
    ) -> None:
        if not -math.inf < mean < math.inf:
            raise ValueError(f"mean of log-normal times must be finite, got {mean}")
        if not 0 < std < math.inf:
            raise ValueError(f"std of log-normal times must be finite and > 0, got {std}")
        self.mean, self.std, self._log_half = mean, std, math.log(DataRange.of(data_range).half)

    def __call__(
        self, sde: SDE, n: int, generator: torch.Generator | None, device: torch.device
    ) -> Tensor:
        """Draw n times; arguments are those of `TimeDistribution`."""
        z = torch.randn(n, generator=generator, dtype=torch.float64, device=device)
        last, first = sde.half_log_snr(
            torch.tensor([sde.T, sde.eps], dtype=torch.float64, device=device)
        ).unbind()
        half_log_snr = -(self.mean + self.std * z + self._log_half).clamp(-first, -last)
        return sde.to_levels(sde.time_of_half_log_snr(half_log_snr).clamp(sde.eps, sde.T))


class ImportanceTimes:
    """Times that are uniform in λ, in proportion to the likelihood weighting.

        p(t) ∝ g²/σ² = −2 λ′

    With weighting `uniform` the loss is then that of weighting `likelihood` over uniform times, up
    to a constant, with a fraction of its variance. On a chain, the nearest levels are taken.

    Args:
        stratified: Divide λ into equal intervals, one for each sample of a batch.
        eps: First time > 0, that of the density; the process's `eps` by default.

    Raises:
        ValueError: On the first call, if eps is not in (0, T), or the process ends in noise alone.

    Reference: Song et al. 2021b, arXiv:2101.09258 (section 5.1); Kingma et al. 2021,
    arXiv:2107.00630 (appendix I.1) for the strata.
    """

    def __init__(self, stratified: bool = True, eps: float | None = None) -> None:
        self.stratified, self.eps = stratified, eps

    def __call__(
        self, sde: SDE, n: int, generator: torch.Generator | None, device: torch.device
    ) -> Tensor:
        """Draw n times; arguments are those of `TimeDistribution`."""
        u = torch.rand(n, generator=generator, dtype=torch.float64, device=device)
        if self.stratified:
            u = (torch.arange(n, device=device) + u) / n
        sde.check_signal("importance sampling of times")
        eps = sde.eps if self.eps is None else sde.check_end(self.eps)
        ends = torch.tensor([eps, sde.T], dtype=torch.float64, device=device)
        first, last = sde.half_log_snr(ends).unbind()
        times = sde.time_of_half_log_snr(torch.lerp(first, last, u)).clamp(eps, sde.T)
        return sde.to_levels(times)
