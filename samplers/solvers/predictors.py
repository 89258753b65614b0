"""Predictors: Gaussian transitions from a time to an earlier one, with one evaluation each.

(a, b) is the transition of the process between the two times, x_t = a x_s + b z, so that each
classical predictor is one formula for every process and every chain.
"""

from abc import abstractmethod

import torch
from torch import Tensor

from scoresde.sde import SDE, Score, expand
from scoresde.sde.broadcast import widened
from scoresde.sde.checks import check_choice

from ..context import Noise
from .plan import Plan, Stage, tabulate
from .solver import Solver
from .variance import AnalyticVariance

Coefficients = tuple[Tensor, Tensor, Tensor]
"""(c, w, std) of the step x_next ~ N(c x + w s(x, t), std² I)."""


class Predictor(Solver):
    """A step from time t to t_next < t, x_next ~ N(c x + w s(x, t), std² I)."""

    @abstractmethod
    def coefficients(self, sde: SDE, t: Tensor, t_next: Tensor) -> Coefficients:
        """c, w and std of the step, each of t's shape; w = 0 for a step without an evaluation.

        Args:
            sde: Process.
            t: Time, shape () or (B,).
            t_next: Next time, 0 ≤ t_next < t, shape of t.
        """

    def transition(
        self, sde: SDE, score: Score, x: Tensor, t: Tensor, t_next: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean c x + w s(x, t), shape (B, *), and standard deviation, shape of t, of the step."""
        c, w, std = self.coefficients(sde, t, t_next)
        s = widened(score(x, t))
        return (expand(c, x) * x + expand(w, s) * s).to(x.dtype), std

    def step(
        self, sde: SDE, score: Score, x: Tensor, t: Tensor, t_next: Tensor, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """The state at t_next, and its mean (the state without the new noise)."""
        mean, std = self.transition(sde, score, x, t, t_next)
        return mean + expand(std, x) * noise(x), mean

    def plan(self, sde: SDE, times: Tensor) -> Plan:
        t = times[:-1]
        c, w, std = self.coefficients(sde, t, times[1:])
        return tabulate(times, Stage(c, [w], [std], t if w.any() else None))


class EulerMaruyama(Predictor):
    """The Euler–Maruyama step of the reverse SDE over the grid's own interval.

        mean = x + [f x − g² s] (t_next − t),   std = g √(t − t_next)

    Reference: Song et al. 2021, arXiv:2011.13456 (appendix E).
    """

    def coefficients(self, sde: SDE, t: Tensor, t_next: Tensor) -> Coefficients:
        h, g = t_next - t, sde.g(t)
        return 1 + h * sde.f(t), -h * g.square(), g * (-h).sqrt()


class ReverseDiffusion(Predictor):
    """The reverse-diffusion step: the forward transition, reversed as the SDE is.

        mean = (2 − a) x + b² s,   std = b

    Reference: Song et al. 2021, arXiv:2011.13456 (eq. 46).
    """

    def coefficients(self, sde: SDE, t: Tensor, t_next: Tensor) -> Coefficients:
        a, b = sde.transition(t_next, t)
        return 2 - a, b.square(), b


class Ancestral(Predictor):
    """Ancestral sampling: the posterior of the transition, with x_0 at its posterior mean.

        mean = (x + b² s)/a,
        std² = b²  (forward),   b² σ_s²/σ_t²  (posterior),
               b² σ_s²/σ_t² + (b²/(a σ_t))² Γ(t)  (analytic)

    s is t_next. `forward` is DDPM's σ² = β; `posterior` is DDPM's β̃ and the ancestral sampler of
    the VE process. `AnalyticVariance` adds the variance Γ that x_0 has around its mean: the best
    isotropic variance, and exact for isotropic Gaussian data whatever the steps.

    Args:
        variance: `posterior`, `forward`, or `AnalyticVariance.fit(sde, score, x0)`; `analytic`
            for one that `fit(sampler, sde, score, x0)` fits before sampling.

    Raises:
        ValueError: Another variance, or an analytic one that was not fitted.

    Reference: Ho et al. 2020, arXiv:2006.11239 (section 3.2); Song et al. 2021, arXiv:2011.13456
    (eq. 47 and appendix F); Bao et al. 2022, arXiv:2201.06503 (eq. 7, 8) for `analytic`.
    """

    def __init__(self, variance: str | AnalyticVariance = "posterior") -> None:
        if variance == "analytic":
            variance = AnalyticVariance()
        if not isinstance(variance, AnalyticVariance):
            check_choice("variance", variance, "posterior", "forward", "analytic")
        self.variance = variance

    def coefficients(self, sde: SDE, t: Tensor, t_next: Tensor) -> Coefficients:
        a, b = sde.transition(t_next, t)
        sigma = sde.sigma(t)
        std = b if self.variance == "forward" else b * sde.sigma(t_next) / sigma
        if isinstance(self.variance, AnalyticVariance):
            spread = b.square() / (a * sigma)
            std = (std.square() + spread.square() * self.variance(sde, t)).sqrt()
        return 1 / a, b.square() / a, std


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

    def coefficients(self, sde: SDE, t: Tensor, t_next: Tensor) -> Coefficients:
        sigma, sigma_next = sde.sigma(t), sde.sigma(t_next)
        if self.eta == 0:  # also towards the noise, as in encoding
            a, std = sde.alpha(t) / sde.alpha(t_next), torch.zeros_like(t)
        else:
            a, b = sde.transition(t_next, t)
            std = self.eta * b * sigma_next / sigma
        # In terms of x and s, so that no large terms cancel in the precision of the state.
        pull = sigma.square() / a - sigma * (sigma_next.square() - std.square()).sqrt()
        return 1 / a, pull, std


class Rescale(Predictor):
    """The step that keeps x/α, for correctors without a predictor.

        mean = (α_s/α_t) x,   std = 0

    s is t_next. Where α = 1, as in NCSN, x stays.
    """

    def coefficients(self, sde: SDE, t: Tensor, t_next: Tensor) -> Coefficients:
        return sde.alpha(t_next) / sde.alpha(t), torch.zeros_like(t), torch.zeros_like(t)


class ProbabilityFlowEuler(Predictor):
    """The Euler step of the probability-flow ODE.

        mean = x + [f x − ½ g² s] (t_next − t),   std = 0

    Reference: Song et al. 2021, arXiv:2011.13456 (eq. 13).
    """

    def coefficients(self, sde: SDE, t: Tensor, t_next: Tensor) -> Coefficients:
        h = t_next - t
        return 1 + h * sde.f(t), -0.5 * h * sde.g(t).square(), torch.zeros_like(t)
