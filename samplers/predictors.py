"""Predictors: Gaussian transitions from a time to an earlier one.

With the transition of the process between the two times, x_t = a x_s + b z, each classical
predictor is one formula for every process and every chain.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from sde import SDE, Score, expand

Noise = Callable[[Tensor], Tensor]
"""noise(x): a standard normal draw of x's shape."""


class Predictor(ABC):
    """A step from time t to t_next < t, x_next ~ N(mean, std² I)."""

    @abstractmethod
    def transition(
        self, sde: SDE, score: Score, x: Tensor, t: Tensor, t_next: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the step.

        Args:
            sde: Process.
            score: s(x, t).
            x: State at time t, shape (B, *).
            t: Time, shape ().
            t_next: Next time, 0 ≤ t_next < t, shape ().

        Returns:
            Mean, shape of x, and standard deviation, shape (); 0 for a deterministic step.
        """

    def step(
        self, sde: SDE, score: Score, x: Tensor, t: Tensor, t_next: Tensor, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """Take the step: the state at t_next and its mean (the state without the new noise)."""
        mean, std = self.transition(sde, score, x, t, t_next)
        if std == 0:  # a scalar on the CPU: no waiting for a device
            return mean, mean
        return mean + expand(std, x) * noise(x), mean


class EulerMaruyama(Predictor):
    """The Euler–Maruyama step of the reverse SDE over the grid's own interval.

        mean = x + [f x − g² s] (t_next − t),   std = g √(t − t_next)

    Reference: Song et al. 2021, arXiv:2011.13456 (appendix E).
    """

    def transition(
        self, sde: SDE, score: Score, x: Tensor, t: Tensor, t_next: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the step; see `Predictor.transition`."""
        reverse = sde.reverse(score)
        mean = x + reverse.drift(x, t) * expand(t_next - t, x)
        return mean, reverse.diffusion(t) * (t - t_next).sqrt()


class ReverseDiffusion(Predictor):
    """The reverse-diffusion step: the forward transition, reversed as the SDE is.

        mean = (2 − a) x + b² s,   std = b

    Reference: Song et al. 2021, arXiv:2011.13456 (eq. 46).
    """

    def transition(
        self, sde: SDE, score: Score, x: Tensor, t: Tensor, t_next: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the step; see `Predictor.transition`."""
        a, b = sde.transition(t_next, t)
        return expand(2 - a, x) * x + expand(b * b, x) * score(x, t), b


class Ancestral(Predictor):
    """Ancestral sampling: the posterior of the transition, with x_0 at its posterior mean.

        mean = (x + b² s)/a,   std = b σ_s/σ_t  (posterior)   or   b  (forward)

    s is t_next. `forward` is DDPM's σ² = β; `posterior` is DDPM's β̃ and the ancestral sampler of
    the VE process.

    Args:
        variance: `posterior` or `forward`.

    Raises:
        ValueError: Another variance.

    Reference: Ho et al. 2020, arXiv:2006.11239 (section 3.2); Song et al. 2021, arXiv:2011.13456
    (eq. 47 and appendix F).
    """

    def __init__(self, variance: str = "posterior") -> None:
        if variance not in ("posterior", "forward"):
            raise ValueError(f"unknown variance '{variance}'. Available: posterior, forward")
        self.variance = variance

    def transition(
        self, sde: SDE, score: Score, x: Tensor, t: Tensor, t_next: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the step; see `Predictor.transition`."""
        a, b = sde.transition(t_next, t)
        mean = (x + expand(b * b, x) * score(x, t)) / expand(a, x)
        if self.variance == "forward":
            return mean, b
        return mean, b * sde.sigma(t_next) / sde.sigma(t)


class DDIM(Predictor):
    """The non-Markovian step of DDIM, for any process.

        x̂_0 = (x + σ_t² s)/α_t,   ẑ = −σ_t s,   std = η b σ_s/σ_t,
        mean = α_s x̂_0 + √(σ_s² − std²) ẑ

    s is t_next. η = 0 is deterministic, the exponential Euler step of the probability flow;
    η = 1 is `Ancestral("posterior")`.

    Args:
        eta: η in [0, 1].

    Raises:
        ValueError: η outside [0, 1].

    Reference: Song, Meng & Ermon 2021, arXiv:2010.02502 (eq. 12, 16).
    """

    def __init__(self, eta: float = 0.0) -> None:
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must be in [0, 1], got {eta}")
        self.eta = eta

    def transition(
        self, sde: SDE, score: Score, x: Tensor, t: Tensor, t_next: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the step; see `Predictor.transition`."""
        a, b = sde.transition(t_next, t)
        sigma, sigma_next = sde.sigma(t), sde.sigma(t_next)
        std = self.eta * b * sigma_next / sigma
        # Gathered by x and s, so that two large terms do not cancel in the state's precision.
        pull = sigma.square() / a - sigma * (sigma_next.square() - std.square()).sqrt()
        return x / expand(a, x) + expand(pull, x) * score(x, t), std


class Rescale(Predictor):
    """The step that keeps x/α where it is, for correctors that do all the work themselves.

        mean = (α_s/α_t) x,   std = 0

    s is t_next. Where α = 1, as in NCSN, nothing moves.
    """

    def transition(
        self, sde: SDE, score: Score, x: Tensor, t: Tensor, t_next: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean of the step and 0; see `Predictor.transition`."""
        return expand(sde.alpha(t_next) / sde.alpha(t), x) * x, torch.zeros_like(t)


class ProbabilityFlowEuler(Predictor):
    """The Euler step of the probability-flow ODE.

        mean = x + [f x − ½ g² s] (t_next − t),   std = 0

    Reference: Song et al. 2021, arXiv:2011.13456 (eq. 13).
    """

    def transition(
        self, sde: SDE, score: Score, x: Tensor, t: Tensor, t_next: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean of the step and 0; see `Predictor.transition`."""
        flow = sde.reverse(score, eta=0.0)
        return x + flow.drift(x, t) * expand(t_next - t, x), torch.zeros_like(t)


class ProbabilityFlowHeun(Predictor):
    """Heun's second-order step of the probability-flow ODE.

        d = v(x, t),   d′ = v(x + h d, t_next),   mean = x + ½ h (d + d′),   h = t_next − t

    A last step to noiseless data, where the score does not exist, is Euler's.

    Reference: Karras et al. 2022, arXiv:2206.00364 (algorithm 1).
    """

    def transition(
        self, sde: SDE, score: Score, x: Tensor, t: Tensor, t_next: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean of the step and 0; see `Predictor.transition`."""
        flow = sde.reverse(score, eta=0.0)
        h = expand(t_next - t, x)
        d = flow.drift(x, t)
        euler = x + h * d
        if sde.sigma(t_next) == 0:
            return euler, torch.zeros_like(t)
        return x + 0.5 * h * (d + flow.drift(euler, t_next)), torch.zeros_like(t)
