"""Grids: the decreasing times at which a sampler with fixed steps visits a process."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde.sde import SDE
from scoresde.sde.base import powers
from scoresde.sde.checks import check_steps, check_switch

BELOW_TOP = (
    "a grid that begins where the data can be seen, such as KarrasGrid(sigma_max=1000) "
    "(sampler/grid=karras sampler.grid.sigma_max=1000)"
)
"""What to use where α(T) is so small that steps from T coincide or cannot be computed."""


class Grid(ABC):
    """A rule that places steps + 1 decreasing times on a process."""

    @abstractmethod
    def place(self, sde: SDE, steps: int) -> Tensor:
        """Times of the process, or the levels nearest to them, as for a call."""

    def __call__(self, sde: SDE, steps: int) -> Tensor:
        """Times of the process, decreasing, float64, on the CPU, shape (steps + 1,).

        On a chain these are times of levels, and `sampling_eps` becomes 0, the data.

        Args:
            sde: Process.
            steps: Number of steps ≥ 1.

        Raises:
            ValueError: steps is not an integer ≥ 1, the grid ends outside (0, T), or the process
                has too few levels for so many different times.
        """
        check_steps(steps)
        sde.check_finite_snr()
        times = self.place(sde, steps)
        sde.check_time(times)
        if not (times.diff() < 0).all():
            raise ValueError(
                f"a grid of {steps} steps has duplicate or rising times on this process; "
                f"use fewer steps, UniformGrid() (sampler/grid=uniform), or {BELOW_TOP}"
            )
        return times


class UniformGrid(Grid):
    """Equal steps of the process's own clock.

        t_i^{1/ρ} = T^{1/ρ} + (eps^{1/ρ} − T^{1/ρ}) i/N

    ρ is the process's: 1, so that steps are equal in t, but for EDM, whose time is σ itself.

    Args:
        eps: Last time in (0, T); the process's own `sampling_eps` where not given.
    """

    def __init__(self, eps: float | None = None) -> None:
        self.eps = eps

    def place(self, sde: SDE, steps: int) -> Tensor:
        return sde.equal_times(steps, last_time(sde, self.eps))


class LogSNRGrid(Grid):
    """Equal steps in λ = log(α/σ), the natural time of the probability flow.

    Args:
        eps: Last time in (0, T); the process's own `sampling_eps` where not given.

    Reference: Lu et al. 2022, arXiv:2206.00927 (section 3.3).
    """

    def __init__(self, eps: float | None = None) -> None:
        self.eps = eps

    def place(self, sde: SDE, steps: int) -> Tensor:
        check_half_log_snr(sde, "log_snr")
        ends = torch.tensor([sde.T, last_time(sde, self.eps)], dtype=torch.float64)
        first, last = sde.half_log_snr(ends).tolist()
        times = sde.time_of_half_log_snr(
            torch.linspace(first, last, steps + 1, dtype=torch.float64)
        )
        times[0], times[-1] = ends  # exactly
        return sde.to_grid(times)


class QuadraticGrid(Grid):
    """Equal steps in √t: t_i = (√T + (√eps − √T) i/N)².

    Args:
        eps: Last time in (0, T); the process's own `sampling_eps` where not given.

    Reference: Song, Meng & Ermon 2021, arXiv:2010.02502 (appendix D.2).
    """

    def __init__(self, eps: float | None = None) -> None:
        self.eps = eps

    def place(self, sde: SDE, steps: int) -> Tensor:
        return sde.to_grid(powers(sde.T, last_time(sde, self.eps), 2.0, steps))


class KarrasGrid(Grid):
    """Equal steps in (σ/α)^{1/ρ}, so that steps grow with the noise.

        (σ/α)_i = (σ_max^{1/ρ} + (σ_min^{1/ρ} − σ_max^{1/ρ}) i/M)^ρ,   i = 0 … M

    M = N, or M = N − 1 and a last step from `sampling_eps` to the data at time 0, which removes all
    noise where σ(0) = 0.

    Args:
        rho: ρ > 0.
        sigma_min: σ/α at which the M steps end; that of eps where not given.
        sigma_max: σ/α at which they begin; that of T where not given. Below that, the prior fits
            where α² + σ² = 1; on other processes give a state of this noise as `x_init`.
        eps: Time at which the M steps end; the process's own `sampling_eps` where neither this
            nor sigma_min is given.
        to_data: Whether the last of the N steps leads to time 0.

    Raises:
        ValueError: A constant out of its range, or both sigma_min and eps.

    Reference: Karras et al. 2022, arXiv:2206.00364 (eq. 5, table 1).
    """

    def __init__(
        self,
        rho: float = 7.0,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        eps: float | None = None,
        to_data: bool = False,
    ) -> None:
        if not 0 < rho < float("inf"):
            raise ValueError(f"rho must be finite and > 0, got {rho}; the published value is 7")
        for name, sigma in (("sigma_min", sigma_min), ("sigma_max", sigma_max)):
            if sigma is not None and not 0 < sigma < float("inf"):
                raise ValueError(f"{name} must be finite and > 0, got {sigma}")
        if sigma_min is not None and sigma_max is not None and sigma_min >= sigma_max:
            raise ValueError(f"sigma_min ({sigma_min}) must be < sigma_max ({sigma_max}); swapped?")
        if sigma_min is not None and eps is not None:
            raise ValueError("got both sigma_min and eps, which both end the grid; give one")
        self.rho, self.sigma_min, self.sigma_max = rho, sigma_min, sigma_max
        self.eps, self.to_data = eps, check_switch(to_data, "to_data")

    def place(self, sde: SDE, steps: int) -> Tensor:
        if self.sigma_max is None:
            check_half_log_snr(sde, "karras")
        first = self._time(sde, "sigma_max", self.sigma_max, sde.T)
        last = self._time(sde, "sigma_min", self.sigma_min, last_time(sde, self.eps))
        ends = torch.tensor([first, last], dtype=torch.float64)
        top, bottom = torch.exp(-sde.half_log_snr(ends) / self.rho).tolist()
        roots = torch.linspace(top, bottom, steps + 1 - self.to_data, dtype=torch.float64)
        times = sde.time_of_half_log_snr(-self.rho * roots.log())
        # The exact ends; a single step to the data begins at the first.
        times[-1] = last
        times[0] = first
        return sde.to_grid(torch.cat([times, times.new_zeros(int(self.to_data))]))

    def _time(self, sde: SDE, name: str, sigma: float | None, default: float) -> float:
        """The time of a σ/α; a default where none was given."""
        if sigma is None:
            return default
        half_log_snr = -torch.tensor(sigma, dtype=torch.float64).log()
        ends = torch.exp(
            -sde.half_log_snr(torch.tensor([0.0, sde.T], dtype=torch.float64))
        ).tolist()
        if not ends[0] < sigma <= ends[1] * (1 + 1e-9):
            raise ValueError(
                f"{name} must be in ({ends[0]:g}, {ends[1]:g}], the range of σ/α on this process, "
                f"got {sigma:g}"
            )
        return sde.time_of_half_log_snr(half_log_snr).item()


class FixedGrid(Grid):
    """Times that the user gives, used as they are.

    Args:
        times: Decreasing times in [0, T], at least two.

    Raises:
        ValueError: Fewer than two times, or times that do not decrease.
    """

    def __init__(self, times: Sequence[float] | Tensor) -> None:
        self.times = torch.as_tensor(times, dtype=torch.float64)
        if self.times.ndim != 1 or len(self.times) < 2:
            raise ValueError(f"times must be at least two numbers, got {self.times.tolist()}")
        if not (self.times.diff() < 0).all():
            raise ValueError(f"times must be strictly decreasing, got {self.times.tolist()}")

    def place(self, sde: SDE, steps: int) -> Tensor:
        """The times given, which must be steps + 1."""
        if steps != len(self.times) - 1:
            raise ValueError(
                f"steps is {steps}, but the grid has {len(self.times)} times; "
                f"use steps={len(self.times) - 1}"
            )
        return self.times


def check_half_log_snr(sde: SDE, name: str) -> None:
    """Refuse a chain whose last level has λ = −∞, for a grid in λ.

    Raises:
        ValueError: The chain has such a level.
    """
    if sde.zero_terminal_snr:
        raise ValueError(
            f"grid={name} is laid out in log(alpha/sigma), which is −∞ at the last level of this "
            "chain, where alpha = 0; use UniformGrid() (sampler/grid=uniform)"
        )


def last_time(sde: SDE, eps: float | None) -> float:
    """The time at which sampling ends: eps, or the process's own `sampling_eps`.

    Raises:
        ValueError: eps is not in (0, T).
    """
    return sde.check_end(sde.sampling_eps if eps is None else eps)
