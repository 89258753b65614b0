"""A process that ends earlier, for samplers that start from a state at an intermediate time."""

import torch
from torch import Tensor

from .base import SDE
from .prior import Prior


class Until(SDE):
    """The same process up to an earlier time T′ < T.

    Every sampler starts at the last time of its process, so that any of them carries a state at T′
    to the data with `sampler(Until(sde, t), score, shape, x_init=x_t)`; its steps then lie below
    T′. On a chain T′ is the time of a level.

    Args:
        base: Process.
        time: T′ in (sampling_eps, T].

    Raises:
        ValueError: The time is not there, or is that of the lowest level of a chain.
    """

    def __init__(self, base: SDE, time: float) -> None:
        if isinstance(time, bool) or not base.sampling_eps < time <= base.T:
            raise ValueError(
                f"a process can end in ({base.sampling_eps:g}, {base.T:g}], got {time:g}: sampling "
                "needs noise at its start and a step to take"
            )
        self.base = base
        self.T = base.to_levels(torch.tensor(time, dtype=torch.float64)).item()
        self.eps, self.sampling_eps, self.rho = base.eps, base.sampling_eps, base.rho
        self.data_range, self.steps = base.data_range, base.steps
        self.zero_terminal_snr = base.zero_terminal_snr and base.T == self.T
        if self.sampling_eps >= self.T:
            raise ValueError(
                f"time={time:g} is that of the lowest level of this chain; choose one further up"
            )

    def alpha(self, t: Tensor) -> Tensor:
        """α of the base."""
        return self.base.alpha(t)

    def sigma(self, t: Tensor) -> Tensor:
        """σ of the base."""
        return self.base.sigma(t)

    def f(self, t: Tensor) -> Tensor:
        """f of the base."""
        return self.base.f(t)

    def g(self, t: Tensor) -> Tensor:
        """g of the base."""
        return self.base.g(t)

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(α′, σ′) of the base."""
        return self.base.rates(t)

    def prior(self, shape: tuple[int, ...]) -> Prior:
        """N(0, (α² + σ²) I) at T′, the distribution of noised data N(0, I)."""
        end = torch.tensor(self.T, dtype=torch.float64)
        variance = self.alpha(end).square() + self.sigma(end).square()
        return Prior(shape, variance.sqrt().item())

    def label(self, t: Tensor) -> Tensor:
        """The label of the base."""
        return self.base.label(t)

    def levels(self, steps: int) -> tuple[Tensor, Tensor]:
        """The table of the base."""
        return self.base.levels(steps)

    def to_levels(self, t: Tensor) -> Tensor:
        """The nearest times at which the base is defined."""
        return self.base.to_levels(t)

    def to_grid(self, t: Tensor) -> Tensor:
        """A decreasing grid, moved to times of the base.

        Raises:
            ValueError: The chain has fewer levels up to T′ than the grid has steps.
        """
        times = self.base.to_grid(t)
        if times[0] > self.T:
            raise ValueError(
                f"a grid of {len(t) - 1} steps does not fit on the levels of this chain up to "
                f"t={self.T:g}; use fewer steps, or start at a higher noise level"
            )
        return times
