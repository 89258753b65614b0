"""Posterior samplers whose updates are no solver of the process, on one loop."""

import copy
import math
from abc import abstractmethod
from itertools import pairwise
from typing import NamedTuple, Self

import torch
from torch import Tensor

from scoresde.samplers import Grid, Sampler, UniformGrid
from scoresde.samplers.context import Noise, SamplingContext
from scoresde.samplers.pc import check_prior
from scoresde.sde import SDE, Score, rows
from scoresde.sde.checks import check_steps, check_switch

from .measurements import LinearOperator, Measurement
from .prediction import Prediction


class Move(NamedTuple):
    """A step between two times of a process, as numbers.

    Attributes:
        t, t_next: Times, shape () each.
        alpha, alpha_next: α at both.
        level, level_next: The relative noise ς = σ/α at both.
    """

    t: Tensor
    t_next: Tensor
    alpha: float
    alpha_next: float
    level: float
    level_next: float

    @property
    def rises(self) -> bool:
        """Whether the step goes back to more noise."""
        return self.level_next > self.level

    def ddim_std(self, eta: float) -> float:
        """η ς_u √(1 − ς_u²/ς_t²), the standard deviation of DDIM's noise in x/α."""
        return eta * self.level_next * math.sqrt(1 - (self.level_next / self.level) ** 2)


class PosteriorSampler(Sampler):
    """A sampler of p(x_0 | y) with an update of its own, the same on every process.

    The update is one of x̄ = x/α at the relative noise ς = σ/α, from D = E[x_0 | x_t] at the state:
    on a grid of the same ς, with the same noise, all processes give the same samples. Steps that
    rise again, as in time travel, are transitions of the process, x̄_u = x̄_t + √(ς_u² − ς_t²) z.

    The last step of a grid that ends with noise leads to the data, ς = 0, in its place. Where y is
    exact and linear, the samples end with H x = y: what a mask knows is equal to y in every bit.

    Args:
        measurement: y = h(x_0) + σ_y n, with a row for each sample or one for all.
        steps: Steps of the grid ≥ 1.
        grid: Rule for the times; `UniformGrid()` where not given.
        denoise: Whether the last step leads to the data, and exact measurements are met at the end;
            otherwise the state at the last time is returned.
        recompute: Whether products with the Jacobian evaluate the network again; see
            `PosteriorScore`.

    Attributes:
        products: Vector–Jacobian products of one update.

    Raises:
        ValueError: A constant out of its range.
    """

    products: int = 0

    def __init__(
        self,
        measurement: Measurement,
        steps: int,
        *,
        grid: Grid | None = None,
        denoise: bool = True,
        recompute: bool = False,
    ) -> None:
        self.measurement = measurement
        self.steps, self.grid = check_steps(steps), grid or UniformGrid()
        self.denoise = check_switch(denoise, "denoise")
        self.recompute = check_switch(recompute, "recompute")

    @abstractmethod
    def update(self, x: Tensor, prediction: Prediction, move: Move, noise: Noise) -> Tensor:
        """x̄_u, shape (B, *), from x̄_t.

        Args:
            x: x̄_t = x_t/α_t, shape (B, *).
            prediction: D = E[x_0 | x_t], with its Jacobian where `products` is not 0.
            move: The step from ς_t down to ς_u ≥ 0.
            noise: noise(x) → z, of x's shape.
        """

    def begin(self, x: Tensor, level: float) -> Tensor:
        """x̄_T, from x̄_T of the prior or of the caller; shape of x.

        Args:
            x: x̄_T = x_T/α_T, shape (B, *).
            level: ς_T.
        """
        return x

    def travel(self, steps: int) -> list[int]:
        """Numbers of the grid's times in the order in which they are visited, from 0 to N.

        Args:
            steps: Number N of steps of the grid.
        """
        return list(range(steps + 1))

    # ---------------------------------------------------------------- derived, final

    def check(self, sde: SDE, dtype: torch.dtype) -> None:
        """Raise ValueError if the grid does not fit the process, or has a level without data."""
        self.path(sde)

    def states(self, sde: SDE) -> int:
        """Number of states of a run, one more than its steps."""
        return len(self.path(sde)) + 1

    def rows(self, index: Tensor) -> Self:
        """The sampler with the measurement of some samples of the batch."""
        part = copy.copy(self)
        part.measurement = rows(self.measurement, index)
        return part

    def path(self, sde: SDE) -> list[Move]:
        """The steps of a run.

        Args:
            sde: Process.

        Raises:
            ValueError: The grid does not fit the process, or has a level with α = 0.
        """
        sde.check_signal(type(self).__name__)
        times = self.grid(sde, self.steps)
        alpha, level = sde.alpha(times).tolist(), (sde.sigma(times) / sde.alpha(times)).tolist()
        if self.denoise:
            alpha[-1], level[-1] = 1.0, 0.0
        order = pairwise(self.travel(len(times) - 1))
        return [Move(times[i], times[j], alpha[i], alpha[j], level[i], level[j]) for i, j in order]

    def run(self, sde: SDE, score: Score, x: Tensor, run: SamplingContext) -> Tensor:
        """Carry x from T to the end of the grid."""
        self._check_run(x, run)
        path = self.path(sde)
        if run.drawn:
            check_prior(sde, path[0].t)
        relative = self.begin(x / path[0].alpha, path[0].level)
        x = path[0].alpha * relative
        run.begin(len(path), x)
        for number, move in enumerate(path, 1):
            if move.rises:
                std = math.sqrt(move.level_next**2 - move.level**2)
                relative = torch.add(relative, run.noise(relative), alpha=std)
            else:
                jacobian = self.products > 0
                prediction = Prediction(sde, score, x, move.t, self.recompute, jacobian=jacobian)
                relative = self.update(relative, prediction, move, run.noise)
                run.products += self.products
            x = move.alpha_next * relative
            run.visit(number, move.t_next, x)
        return self._meet(x) if self.denoise else x

    def _check_run(self, x: Tensor, run: SamplingContext) -> None:
        """Refuse what these updates cannot do, before any work."""
        name = type(self).__name__
        run.refuse_constraint(name)
        if run.encode:
            raise ValueError(
                f"{name} follows a measurement and cannot encode; use ProbabilityFlowODE, or "
                "PredictorCorrector(DDIM())"
            )
        if run.differentiable:
            raise ValueError(
                f"{name} gives no gradients of its samples; use differentiable=False, or "
                "PredictorCorrector with a PosteriorScore whose method has no Jacobian"
            )
        self.measurement.check_samples(x)

    def _meet(self, x: Tensor) -> Tensor:
        """Samples with H x = y where y is exact; for a mask they are equal in every bit."""
        operator, y = self.measurement.operator, self.measurement.y
        if not self.measurement.exact or not isinstance(operator, LinearOperator):
            return x
        return x - operator.project(x) + operator.pinv(y.to(x))
