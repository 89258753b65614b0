"""Weighted particles: sequential Monte Carlo along the reverse process of each sample."""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from scoresde.samplers import Ancestral, Grid, Predictor, Sampler, UniformGrid
from scoresde.samplers.context import SamplingContext
from scoresde.samplers.stability import check_plan
from scoresde.sde import SDE, Score
from scoresde.sde.checks import check_count, check_steps

from .weights import Population, Weights


class Move(NamedTuple):
    """A step x_next = c x + w s(x, t) + v z of the reverse process, z ~ N(0, I).

    Attributes:
        t, t_next: Times, shape () each.
        c, w, std: Weights of the state and of the score, and v.
        first, last: Whether it is the first step of a run, or the last, which adds no noise to
            what is returned.
    """

    t: Tensor
    t_next: Tensor
    c: float
    w: float
    std: float
    first: bool
    last: bool


class Dynamics(ABC):
    """How the particles of one run move, and how their weights change.

    A step first weighs the particles where they are; then those of little weight are exchanged for
    others; then the particles move. All log-weights are float64, shape (A,), A = B K.
    """

    @abstractmethod
    def weigh(self, x: Tensor, move: Move) -> Tensor:
        """What the log-weights gain before a step, from states (A, *)."""

    @abstractmethod
    def keep(self, index: Tensor) -> None:
        """Reorder what is known of each particle; index, shape (A,)."""

    @abstractmethod
    def advance(self, x: Tensor, move: Move, z: Tensor) -> tuple[Tensor, Tensor]:
        """The states after a step, and what the log-weights gain by it.

        Args:
            x: States that were weighed, shape (A, *).
            move: The step; the last one leads to the data, x/α of what its mean is.
            z: Noise of the step, shape (A, *), and 0 in the last one.
        """


class Particles(Sampler):
    """Sequential Monte Carlo, in which each sample has K weighted particles of its own.

        W ∝ exp(log W),   ESS = 1/Σ_k W_k²;   systematic resampling where ESS < K/2

    One particle of each sample is returned, by the final weights; all of them with their weights
    are in `population`. Samples are independent, and each uses its own seed alone. A callback sees
    all particles, (B, K, *); a trajectory is the path of the particle that is returned.

    Args:
        particles: K ≥ 2.
        steps: Number of steps ≥ 1.
        predictor: Step of the reverse process, which draws noise; `Ancestral()` where not given.
        grid: Rule for the times; `UniformGrid()` where not given.
        threshold: Share of K in [0, 1] below which the effective sample size leads to resampling.

    Attributes:
        population: Particles of the last run; None before it.

    Raises:
        ValueError: A number out of its range.
        TypeError: The predictor is not a `Predictor`.

    Reference: Del Moral, Doucet & Jasra 2006; Kitagawa 1996 (systematic resampling).
    """

    alone: str
    """What the method is with a single particle, as the error names it."""

    products: int = 0
    """Vector–Jacobian products of a step of one particle."""

    def __init__(
        self,
        particles: int = 64,
        steps: int = 100,
        *,
        predictor: Predictor | None = None,
        grid: Grid | None = None,
        threshold: float = 0.5,
    ) -> None:
        if check_count("particles", particles, 1) == 1:
            raise ValueError(
                f"particles must be ≥ 2, got 1: weights do not act on a single particle, which is "
                f"{self.alone}; use that"
            )
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be in [0, 1], got {threshold}; 0.5 is usual")
        predictor = Ancestral() if predictor is None else predictor
        if not isinstance(predictor, Predictor):
            raise TypeError(
                f"predictor must be a Predictor such as Ancestral(), got {predictor!r}; the steps "
                "of other solvers have no density that could be weighed"
            )
        self.particles, self.steps, self.threshold = particles, check_steps(steps), threshold
        self.predictor, self.grid = predictor, grid or UniformGrid()
        self.population: Population | None = None

    @abstractmethod
    def begin(self, sde: SDE, score: Score, index: Tensor) -> Dynamics:
        """The dynamics of a run.

        Args:
            sde: Process.
            score: s(x, t) of the B samples.
            index: Sample of each particle, int64, shape (A,).
        """

    @abstractmethod
    def check_samples(self, x: Tensor) -> None:
        """Raise ValueError if states (B, *) do not fit what is conditioned on."""

    def check(self, sde: SDE, dtype: torch.dtype) -> None:
        """Raise ValueError if the grid does not fit the process, or a step has no density."""
        self.moves(sde, dtype)

    def states(self, sde: SDE) -> int:
        """Number of states of a run, one more than its steps."""
        return self.steps + 1

    def run(self, sde: SDE, score: Score, x: Tensor, run: SamplingContext) -> Tensor:
        """Carry the particles from T to the end of the grid, and choose one of each sample."""
        refuse_options(self, run)
        self.check_samples(x)
        moves = self.moves(sde, x.dtype)
        x = self._spread(sde, x, run)
        shape, flat = x.shape, (-1, *x.shape[2:])
        sample = torch.arange(len(x), device=x.device).repeat_interleave(self.particles)
        dynamics = self.begin(sde, score, sample)
        weights = Weights(len(x), self.particles, self.threshold, x.device)
        first = self.particles * torch.arange(len(x), device=x.device)[:, None]
        run.begin(len(moves), x)
        x = x.reshape(flat)
        for number, move in enumerate(moves):
            weights.gain(dynamics.weigh(x, move))
            chosen = weights.resample(_uniform(run, x, shape[0]))
            order = (chosen + first).reshape(-1)
            x = x[order]
            dynamics.keep(order)
            run.frames = [_pick(frame, chosen) for frame in run.frames]
            z = torch.zeros_like(x) if move.last else run.noise(x.reshape(shape)).reshape(flat)
            x, gain = dynamics.advance(x, move, z)
            run.products += self.products * self.particles
            weights.gain(gain)
            run.visit(number + 1, move.t_next, x.reshape(shape))
        x = x.reshape(shape)
        self.population = weights.population(x)
        chosen = weights.choose(_uniform(run, x, shape[0]))
        run.frames = [_pick(frame, chosen)[:, 0] for frame in run.frames]
        found = weights.log.isfinite().any(1).reshape(-1, *[1] * (x.ndim - 2))
        return _pick(x, chosen)[:, 0].where(found, math.nan)

    def moves(self, sde: SDE, dtype: torch.dtype) -> list[Move]:
        """The steps of a run.

        Raises:
            ValueError: The steps have no noise, or are too long for the process.
        """
        sde.check_signal("a particle sampler")
        times = self.grid(sde, self.steps)
        check_plan(sde, self.predictor.plan(sde, times), dtype)
        t, t_next = times[:-1], times[1:]
        columns = torch.stack(self.predictor.coefficients(sde, t, t_next), 1).tolist()
        if not all(std > 0 for _, _, std in columns[:-1]):
            raise ValueError(
                "particles need steps that draw noise, whose densities are their weights, and this "
                "predictor draws none; use Ancestral() or DDIM(eta=1)"
            )
        end = len(t) - 1
        return [
            Move(t[i], t_next[i], c, w, std, i == 0, i == end)
            for i, (c, w, std) in enumerate(columns)
        ]

    def _spread(self, sde: SDE, x: Tensor, run: SamplingContext) -> Tensor:
        """K states of each sample at T, (B, K, *): the one given, or samples of the prior."""
        x = x[:, None]
        others = x.expand(-1, self.particles - 1, *x.shape[2:])
        if run.drawn:
            others = sde.prior(tuple(others.shape)).std * run.noise(others)
        return torch.cat([x, others], 1)


def refuse_options(sampler: Sampler, run: SamplingContext) -> None:
    """Refuse what samplers of conditional distributions by several passes cannot do.

    Args:
        sampler: Sampler, which the error names.
        run: The call.

    Raises:
        ValueError: Encoding, a constraint, a temperature, or gradients.
    """
    name = type(sampler).__name__
    if run.encode:
        raise ValueError(f"{name} draws noise and cannot encode; use ProbabilityFlowODE")
    run.refuse_constraint(name)
    if run.temperature != 1:
        raise ValueError(
            f"{name} samples with noise of temperature 1, got {run.temperature}; use temperature=1"
        )
    if run.differentiable:
        raise ValueError(
            f"the samples of {name} have no derivative; use differentiable=False, or a posterior "
            "score in another sampler"
        )


def _uniform(run: SamplingContext, x: Tensor, size: int) -> Tensor:
    """A uniform number of each of B samples, float64, (B, 1), from the run's noise."""
    z = run.noise(torch.zeros(size, 1, dtype=torch.float64, device=x.device))
    return torch.special.ndtr(z)


def _pick(x: Tensor, chosen: Tensor) -> Tensor:
    """The chosen particles (B, J, *) of x (B, K, *)."""
    index = chosen.reshape(*chosen.shape, *[1] * (x.ndim - 2))
    return x.gather(1, index.expand(*chosen.shape, *x.shape[2:]))
