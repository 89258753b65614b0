"""The noise of measurements: Gaussian of known or estimated level, and Poisson."""

from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor

from scoresde.sde.checks import check_positive
from scoresde.sde.score import take

from .level import Level, broadcast


class Noise(ABC):
    """The distribution of a measurement y around h, its value without noise."""

    @property
    @abstractmethod
    def exact(self) -> bool:
        """Whether y = h."""

    @abstractmethod
    def variance(self, h: Tensor) -> Level:
        """Var[y | h]: a number, one for each sample, (B, 1, …), or one for each entry.

        Args:
            h: Values without noise, shape (B, *shape_out).
        """

    @abstractmethod
    def log_likelihood(self, y: Tensor, h: Tensor) -> Tensor:
        """log p(y | h) up to what depends on y alone, shape (B,), differentiable in h.

        Its gradient is (y − h)/Var[y | h].

        Args:
            y: Measurements, shape (B, *shape_out), or one row for all.
            h: Values without noise, shape (B, *shape_out).
        """

    @abstractmethod
    def sample(self, h: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """y given h, of its shape and type, drawn on the CPU so that devices agree."""

    @abstractmethod
    def rows(self, index: Tensor) -> Self:
        """The noise of some samples; see `scoresde.sde.rows`."""


class Gaussian(Noise):
    """y = h + σ_y n with n ~ N(0, I).

    Args:
        std: σ_y ≥ 0, in the units of the network's data range: a number, one for each sample, (B,),
            or one for each entry, (B, *shape_out) or (1, *shape_out).

    Raises:
        ValueError: σ_y < 0, or it is not finite.
    """

    def __init__(self, std: Level = 0.0) -> None:
        if isinstance(std, Tensor):
            wrong = not (std.isfinite() & (std >= 0)).all()
        else:
            wrong = isinstance(std, bool) or not 0 <= std < float("inf")
        if wrong:
            raise ValueError(f"std must be a finite number ≥ 0, got {std}")
        if isinstance(std, Tensor) and std.numel() == 1:
            std = float(std)
        self.std: Level = std if isinstance(std, Tensor) else float(std)

    @property
    def exact(self) -> bool:
        """Whether some σ_y = 0."""
        return not (self.std.all() if isinstance(self.std, Tensor) else self.std)

    def variance(self, h: Tensor) -> Level:
        """σ_y²."""
        if not isinstance(self.std, Tensor):
            return self.std**2
        return broadcast("std", self.std, h).square()

    def log_likelihood(self, y: Tensor, h: Tensor) -> Tensor:
        """−‖y − h‖²/(2 σ_y²); see `Noise.log_likelihood`."""
        return -(0.5 * (y.to(h) - h).square() / self.variance(h)).flatten(1).sum(1)

    def sample(self, h: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """h + σ_y n."""
        std = self.std if not isinstance(self.std, Tensor) else broadcast("std", self.std, h)
        noise = torch.randn(h.shape, generator=generator, dtype=h.dtype).to(h.device)
        return h + std * noise

    def rows(self, index: Tensor) -> Self:
        """The noise of some samples, where each has its own σ_y."""
        if not isinstance(self.std, Tensor):
            return self
        return type(self)(take(self.std, index))  # type: ignore[arg-type]


class Poisson(Noise):
    """Photons are counted: y = low + gain k with k ~ Poisson(λ), λ = (h − low)/gain.

    Its variance is gain (h − low): it has no σ_y, and suits methods that need a gradient or a
    variance for each entry.

    Args:
        gain: What one photon adds to y, > 0 in the units of the network's data range: 2/255 for
            255 photons at white in [−1, 1].
        low: The value of black, where no photon comes: −1 for data in [−1, 1].
        dark: Least λ > 0, that of black and of predictions below it.

    Raises:
        ValueError: The gain or the least rate is not > 0, or `low` is not finite.
    """

    def __init__(self, gain: float, low: float = -1.0, dark: float = 0.1) -> None:
        self.gain, self.dark = check_positive("gain", gain), check_positive("dark", dark)
        if not abs(low) < float("inf"):
            raise ValueError(f"low must be a finite number, got {low}")
        self.low = low

    @property
    def exact(self) -> bool:
        """Never."""
        return False

    def rate(self, h: Tensor) -> Tensor:
        """λ, expected photons at each entry, without the least rate."""
        return (h - self.low) / self.gain

    def variance(self, h: Tensor) -> Tensor:
        """gain² max(λ, dark), shape of h."""
        return self.gain**2 * self.rate(h).clamp(min=self.dark)

    def log_likelihood(self, y: Tensor, h: Tensor) -> Tensor:
        """Σ k log λ − λ, and its tangent below the least rate; see `Noise.log_likelihood`."""
        k, rate = self.rate(y.to(h)), self.rate(h)
        least = rate.clamp(min=self.dark)
        tangent = (k / least - 1) * (rate - least)
        return (k * least.log() - least + tangent).flatten(1).sum(1)

    def sample(self, h: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """low + gain k."""
        rate = self.rate(h).clamp(min=self.dark).cpu()
        return self.low + self.gain * torch.poisson(rate, generator=generator).to(h.device)

    def rows(self, index: Tensor) -> Self:
        """The noise itself: it is the same for all samples."""
        return self
