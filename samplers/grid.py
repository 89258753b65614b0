"""Grids: the decreasing times at which a sampler with fixed steps visits a process."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from sde import SDE
from sde.base import check_steps


class Grid(ABC):
    """A rule that places steps + 1 decreasing times on a process."""

    @abstractmethod
    def place(self, sde: SDE, steps: int) -> Tensor:
        """Times of the process, float64, on the CPU, shape (steps + 1,)."""

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
        times = self.place(sde, check_steps(steps))
        sde.check_time(times)
        if not (times.diff() < 0).all():
            raise ValueError(
                f"a grid of {steps} steps has duplicate or rising times on this process; "
                "use fewer steps, or another grid"
            )
        return times


class UniformGrid(Grid):
    """Equal steps in t: t_i = T + (eps − T) i/N.

    Args:
        eps: Last time in (0, T); the process's own `sampling_eps` where not given.
    """

    def __init__(self, eps: float | None = None) -> None:
        self.eps = eps

    def place(self, sde: SDE, steps: int) -> Tensor:
        """Times of the process, or the levels nearest to them."""
        eps = last_time(sde, self.eps)
        return sde.to_grid(torch.linspace(sde.T, eps, steps + 1, dtype=torch.float64))


class LogSNRGrid(Grid):
    """Equal steps in λ = log(α/σ), the natural time of the probability flow.

    Args:
        eps: Last time in (0, T); the process's own `sampling_eps` where not given.

    Reference: Lu et al. 2022, arXiv:2206.00927 (section 3.3).
    """

    def __init__(self, eps: float | None = None) -> None:
        self.eps = eps

    def place(self, sde: SDE, steps: int) -> Tensor:
        """Times of the process, or the levels nearest to them."""
        ends = torch.tensor([sde.T, last_time(sde, self.eps)], dtype=torch.float64)
        first, last = sde.log_snr(ends).tolist()
        times = sde.time_of_log_snr(torch.linspace(first, last, steps + 1, dtype=torch.float64))
        times[0], times[-1] = ends  # not a rounding away from them
        return sde.to_grid(times)


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


def last_time(sde: SDE, eps: float | None) -> float:
    """The time at which sampling ends: eps, or the process's own `sampling_eps`.

    Raises:
        ValueError: eps is not in (0, T).
    """
    return sde.check_end(sde.sampling_eps if eps is None else eps)
