"""The forward process and its marginals.

Conventions of the whole toolkit, stated once:

- Time t ∈ [0, T]; data at t = 0, noise at t = T. Samplers run on decreasing times.
- State x has shape (B, *) with any number of trailing dimensions; time t has shape (B,) or ().
- α, σ, f, g are functions of t that return t's shape; `expand` lays them over a state.
- λ = log α − log σ, half the logarithm of the signal-to-noise ratio.
- Times and coefficients are float64; a state keeps its own dtype.
"""

import math
from abc import ABC, abstractmethod
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from .broadcast import expand
from .checks import check_floating
from .description import Described
from .inversion import invert_half_log_snr
from .prior import Prior
from .reverse import ReverseSDE
from .score import Score


class SDE(Described, ABC):
    """A forward process dx = f(t) x dt + g(t) dw, whose kernel p(x_t | x_0) is a Gaussian.

        p(x_t | x_0) = N(α(t) x_0, σ(t)² I),   f = α′/α,   g² = (σ²)′ − 2 f σ²

    A subclass states four functions of time, the prior, the label that networks see and the table
    of its chain; everything else is derived here. α(t) > 0 on [0, T] and 0 < σ(T) < ∞ are checked
    when a process is made, so a process whose α reaches 0 must end earlier. Only the last level of
    a chain may have α = 0.

    Attributes:
        T: Last time of the process.
        eps: Smallest time that is safe to evaluate; training and likelihood end here.
        sampling_eps: Time at which grids of samplers end by default.
        rho: ρ of the process's own clock t^{1/ρ}, in which uniform grids have equal steps.
        data_range: Interval of image data for which the constants of the process are quoted.
        steps: Number of levels of a chain; None for a process of continuous time.
        zero_terminal_snr: Whether the last level of a chain has α = 0.

    Reference: Song et al. 2021, arXiv:2011.13456 (eq. 5, appendix B).
    """

    T: float = 1.0
    eps: float = 1e-5
    sampling_eps: float = 1e-3
    rho: float = 1.0
    data_range: tuple[float, float] = (-1.0, 1.0)
    steps: int | None = None
    zero_terminal_snr: bool = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Check every process when it is made, also those of classes defined elsewhere."""
        super().__init_subclass__(**kwargs)
        if "__init__" not in vars(cls):
            return
        make = cls.__init__

        @wraps(make)
        def checked(self: SDE, *args: Any, **kwargs: Any) -> None:
            make(self, *args, **kwargs)
            if type(self).__init__ is checked:  # a derived class checks after its own constructor
                self.check_alpha()

        cls.__init__ = checked  # type: ignore[method-assign]

    def __init__(self) -> None:
        if type(self).__init__ is SDE.__init__:
            self.check_alpha()

    def __post_init__(self) -> None:
        # A dataclass gets its constructor after __init_subclass__, and the constructor calls this.
        self.check_alpha()

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Scale of the data, α(t) > 0; shape of t."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise, σ(t) ≥ 0; shape of t."""

    @abstractmethod
    def f(self, t: Tensor) -> Tensor:
        """Drift coefficient f(t) = α′/α; shape of t."""

    @abstractmethod
    def g(self, t: Tensor) -> Tensor:
        """Diffusion coefficient g(t) = √((σ²)′ − 2 f σ²); shape of t."""

    @abstractmethod
    def prior(self, shape: tuple[int, ...]) -> Prior:
        """Distribution from which sampling starts at T, over states of shape (B, *)."""

    @abstractmethod
    def label(self, t: Tensor) -> Tensor:
        """The time as networks of this process see it, the usual c_noise; shape of t."""

    @abstractmethod
    def levels(self, steps: int) -> tuple[Tensor, Tensor]:
        """Table (α_i, σ_i), i = 0 … steps − 1, of the classical chain of this process."""

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(α′(t), σ′(t)); shape of t.

            α′ = f α,   σ′ = f σ + g²/(2 σ)

        A process overrides this where f or g is infinite, or where the terms of σ′ cancel. With
        W = α σ′ − α′ σ = α g²/(2 σ) the velocity u = dx/dt of the probability flow, the data and
        the noise prediction follow from each other:

            u = α′ D + σ′ ẑ = f x − ½ g² s,   D = (σ′ x − σ u)/W,   ẑ = (α u − α′ x)/W
        """
        f, sigma = self.f(t), self.sigma(t)
        return f * self.alpha(t), f * sigma + self.g(t).square() / (2 * sigma)

    # ---------------------------------------------------------------- derived, final

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """Forward drift f(t) x; shape of x."""
        return expand(self.f(t), x) * x

    def diffusion(self, t: Tensor) -> Tensor:
        """Forward diffusion g(t); shape of t."""
        return self.g(t)

    def marginal(self, x0: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean α(t) x_0 and standard deviation σ(t) of p(x_t | x_0).

        Args:
            x0: Data, shape (B, *), floating point.
            t: Time in [0, T], shape (B,) or ().

        Raises:
            TypeError: x0 or t is not floating point.
            ValueError: t lies outside [0, T].
        """
        check_floating("x0", x0)
        self.check_time(t)
        if t.ndim and len(t) != len(x0):
            raise ValueError(f"t must have shape () or ({len(x0)},), got {tuple(t.shape)}")
        return expand(self.alpha(t), x0) * x0, expand(self.sigma(t), x0)

    def perturb(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Sample the kernel: x_t = α(t) x_0 + σ(t) z.

        Args:
            x0: Data, shape (B, *), floating point.
            t: Time in [0, T], shape (B,) or ().
            noise: Standard normal noise z, shape of x0.

        Raises:
            TypeError: x0 or t is not floating point.
            ValueError: t lies outside [0, T], or the shapes do not match.
        """
        if noise.shape != x0.shape:
            raise ValueError(
                f"noise must have x0's shape {tuple(x0.shape)}, got {tuple(noise.shape)}"
            )
        mean, std = self.marginal(x0, t)
        return mean + std * noise

    def at(self, t: float) -> tuple[float, float]:
        """α(t) and σ(t) as numbers, computed in float64."""
        time = torch.tensor(t, dtype=torch.float64)
        return self.alpha(time).item(), self.sigma(time).item()

    def half_log_snr(self, t: Tensor) -> Tensor:
        """λ(t) = log α(t) − log σ(t), falling in t; shape of t."""
        return self.alpha(t).log() - self.sigma(t).log()

    def time_of_half_log_snr(self, half_log_snr: Tensor) -> Tensor:
        """Invert λ: the time t with half_log_snr(t) = λ, in float64.

        See `inversion.py` for the method; it always ends, at the time closest in λ.

        Args:
            half_log_snr: λ between λ(T) and λ(0), any shape.

        Raises:
            ValueError: A value lies outside the range of the process, or the process has no λ.
        """
        return invert_half_log_snr(self, half_log_snr)

    def transition(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients of the kernel between two times, x_t = a x_s + b z for s ≤ t.

            a = α_t / α_s,   b² = σ_t² − a² σ_s² = −σ_t² expm1(2 (λ_t − λ_s))

        The second form of b² does not cancel when s is close to t. Where α_t = 0, a = 0 and
        b = σ_t.

        Args:
            s: Earlier time, shape (B,) or ().
            t: Later time, shape of s.
        """
        alpha_s, alpha_t, sigma_t = self.alpha(s), self.alpha(t), self.sigma(t)
        # Grouped so that the gap is exactly 0 at s = t.
        gap = (alpha_t.log() - alpha_s.log()) - (sigma_t.log() - self.sigma(s).log())
        # At s = t with α = 0 the quotient would be 0/0.
        a = torch.where(s == t, torch.ones_like(gap), alpha_t / alpha_s)
        gap = torch.where(s == t, torch.zeros_like(gap), gap)
        return a, sigma_t * (-torch.expm1(2 * gap)).sqrt()

    def reverse(self, score: Score, eta: float = 1.0) -> "ReverseSDE":
        """The process from T to 0: the reverse SDE (η = 1) or the probability flow (η = 0)."""
        return ReverseSDE(self, score, eta)

    def discretize(self, steps: int, zero_terminal_snr: bool = False) -> "SDE":
        """The chain on `steps` levels: DDPM for VP, NCSN for VE, and one for any other process.

        Arguments and errors are those of `Discretized`.
        """
        from .discrete import Discretized  # a Discretized is an SDE: it needs this module first

        return Discretized(self, steps, zero_terminal_snr)

    def to_levels(self, t: Tensor) -> Tensor:
        """The nearest times at which the process is defined: t itself in continuous time."""
        return t

    def to_grid(self, t: Tensor) -> Tensor:
        """A decreasing grid, moved to times of the process: t itself in continuous time."""
        return t

    def equal_times(self, steps: int, eps: float | None = None) -> Tensor:
        """Times equally spaced in the process's own clock t^{1/ρ}, or the levels nearest to them.

            t_i^{1/ρ} = T^{1/ρ} + (eps^{1/ρ} − T^{1/ρ}) i/N

        Args:
            steps: Number of steps N ≥ 1.
            eps: Last time in (0, T); `sampling_eps` where not given.

        Raises:
            ValueError: eps is not in (0, T), or N exceeds the number of levels of a chain.
        """
        last = self.check_end(self.sampling_eps if eps is None else eps)
        return self.to_grid(powers(self.T, last, self.rho, steps))

    def check_end(self, eps: float) -> float:
        """Return a last time of a path towards the data.

        Raises:
            ValueError: eps is not in (0, T), or the process has no λ at T.
        """
        self.check_finite_snr()
        if not 0 < eps < self.T:
            early = "the score is singular at t=0"
            late = f"the path ends there, and begins at T={self.T}; choose eps below T"
            why = late if eps >= self.T else early
            raise ValueError(f"eps must be in (0, T={self.T}), got {eps:g}: {why}")
        return eps

    def check_finite_snr(self) -> None:
        """Raise a ValueError where λ(T) is not finite: α(T) or σ(T) is 0, or not a number.

        A chain of zero terminal SNR has λ(T) = −∞ on purpose.
        """
        if self.zero_terminal_snr:
            return
        alpha, sigma = self.at(self.T)
        smallest = torch.finfo(torch.float64).tiny
        if not (smallest <= alpha < math.inf and smallest <= sigma < math.inf):
            raise ValueError(
                f"{type(self).__name__} has alpha = {alpha:g} and sigma = {sigma:g} at T={self.T:g}"
                f", where both must be finite and at least {smallest:.3g} for log(alpha/sigma) to "
                "exist; make T or the noise smaller (on VP and SubVP a smaller beta_max, or the "
                "cosine schedule, sde=vp_cosine; on a chain more levels)"
            )

    def check_alpha(self) -> None:
        """Raise a ValueError where α on [0, T] or σ(T) is not finite and > 0."""
        if not 0 < self.T < math.inf:
            raise ValueError(f"T of {type(self).__name__} must be finite and > 0, got {self.T}")
        times = torch.linspace(0, self.T, 17, dtype=torch.float64)
        alpha = self.alpha(times).detach()
        good = (alpha > 0) & alpha.isfinite()
        if self.zero_terminal_snr:
            good[-1] = alpha[-1] == 0
        if not bool(good.all()):
            worst = int((~good).nonzero()[0])
            raise ValueError(
                f"{type(self).__name__} has alpha({times[worst].item():g}) = "
                f"{alpha[worst].item():g}, and alpha(t) must be finite and > 0 on [0, T={self.T:g}]"
                "; end the process before, with a smaller T, or for a chain whose last level is "
                "noise alone use discretize(steps, zero_terminal_snr=True)"
            )
        sigma = self.sigma(times[-1]).item()
        if not 0 < sigma < math.inf:
            raise ValueError(
                f"{type(self).__name__} has sigma({self.T:g}) = {sigma:g}, and sigma must be "
                "finite and > 0 at T, where sampling starts from noise; choose another T"
            )

    def check_signal(self, who: str) -> None:
        """Refuse a chain whose last level is pure noise, on behalf of what follows the score alone.

        Raises:
            ValueError: The last level has α = 0; the error says that `who` cannot leave it.
        """
        if self.zero_terminal_snr:
            raise ValueError(
                f"{who} follows the score alone, which at the last level of this chain, where "
                "alpha = 0, says nothing of the data; leave it by a sampler with fixed steps, such "
                "as DDIM, whose first step there is one of the data prediction, or use "
                "zero_terminal_snr=false"
            )

    def check_time(self, t: Tensor) -> None:
        """Refuse a time not in [0, T]; only on the CPU, since a check would wait for a GPU."""
        check_floating("t", t)
        if t.device.type != "cpu":
            return
        outside = ~((t >= 0) & (t <= self.T))
        if outside.any():
            index = int(outside.reshape(-1).nonzero()[0])
            value = t.reshape(-1)[index].item()
            where = f" at batch index {index}" if t.ndim else ""
            raise ValueError(f"t outside [0, {self.T:g}]: {value:g}{where}")


def powers(first: float, last: float, rho: float, steps: int) -> Tensor:
    """Numbers from first to last, equally spaced in their power 1/ρ; shape (steps + 1,)."""
    roots = torch.linspace(first ** (1 / rho), last ** (1 / rho), steps + 1, dtype=torch.float64)
    numbers = roots**rho
    numbers[0], numbers[-1] = first, last  # not a rounding away from them
    return numbers
