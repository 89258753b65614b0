"""Solvers with fixed steps: whatever its order, each is a table of numbers.

Every score is linear in nothing but itself, so one step of any Runge–Kutta, multistep, exponential
or stochastic method on dx = [f x − ½ (1 + η²) g² s] dt + η g dw̄ is a few linear combinations of
the state, of evaluations and of noise. A solver computes their weights in float64 before the first
evaluation; one short loop, `advance`, carries them all out, and waits for no device.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from scoresde.sde import SDE, Score
from scoresde.sde.score import denoise

Noise = Callable[[Tensor], Tensor]
"""noise(x): a standard normal draw of x's shape."""

Column = Tensor | float
"""One number for each step, shape (N,), or one for all."""

Memory = deque[Tensor]
"""Evaluations of a run, newest first."""


@dataclass(frozen=True)
class Stage:
    """One evaluation, if any, and the linear combination after it, as columns over N steps.

        k_0 = p y + q s(y, t) or D(y, t),   y ← c x + Σ_j w_j k_j + Σ_i d_i z_i

    y is what the stage before left (the state itself in the first stage), x the state at the start
    of the step, k_j the j-th evaluation before the newest, z_i the i-th draw of the step.

    Args:
        x: c.
        k: w_0, w_1, …, newest evaluation first; they may reach back into earlier steps.
        z: d_0, d_1, …
        t: Times of the evaluation, (N,), or None for a stage without one.
        p: p.
        q: q.
        data: Whether the evaluation is the data prediction D(y, t), which there is where α = 0 too.
    """

    x: Column
    k: Sequence[Column] = ()
    z: Sequence[Column] = ()
    t: Tensor | None = None
    p: Column = 0.0
    q: Column = 1.0
    data: bool = False


class Row(NamedTuple):
    """One stage of one step; weights that are 0 are left out."""

    t: Tensor | None
    p: float
    q: float
    x: float
    k: tuple[tuple[int, float], ...]
    z: tuple[tuple[int, float], ...]
    data: bool = False


class Step(NamedTuple):
    """A step from time t to t_next, shape () each."""

    t: Tensor
    t_next: Tensor
    rows: tuple[Row, ...]


def tabulate(times: Tensor, *stages: Stage) -> list[Step]:
    """Turn columns into steps.

    Args:
        times: Times between which the N steps go, float64, shape (N + 1,).
        stages: Stages of each step, in order.

    Raises:
        ValueError: A weight is not finite: the process has no such step.
    """
    n = len(times) - 1
    table = [_rows(stage, n) for stage in stages]
    steps = []
    for i, (t, t_next) in enumerate(pairwise(times.unbind())):
        rows = tuple(rows[i] for rows in table)
        if not all(_finite(row) for row in rows):
            raise ValueError(
                f"this solver has no step from t={t.item():g} to t={t_next.item():g}: "
                "its weights are not finite there; use another solver, such as DDIM() "
                "(sampler/predictor=ddim), or a grid that begins below T, such as "
                "KarrasGrid(sigma_max=1000) (sampler/grid=karras sampler.grid.sigma_max=1000)"
            )
        steps.append(Step(t, t_next, rows))
    return steps


def advance(
    step: Step,
    score: Score,
    x: Tensor,
    memory: Memory,
    noise: Noise,
    spare: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Take one step: the new state, and its mean (the state without noise that no one evaluated).

    Args:
        step: Step of a plan.
        score: s(x, t).
        x: State at the start of the step, shape (B, *).
        memory: Evaluations so far, to which those of this step are added.
        noise: Draws z of x's shape, tensors that are nobody else's.
        spare: Tensor of x's shape that may be overwritten: fresh memory costs more than arithmetic.
            A graph that is kept needs fresh memory.
    """
    graph = torch.is_grad_enabled()
    spare = None if graph else spare
    y = mean = x
    draws: list[Tensor] = []
    for row in step.rows:
        if row.t is not None:
            if row.data:  # it is what the step is stated by
                k = denoise(score, y, row.t)
            else:
                k = score(y, row.t)
                if row.p:
                    k = torch.add(y if row.p == 1 else y * row.p, k, alpha=row.q)
                elif row.q != 1:
                    k = k * row.q
            memory.appendleft(k)
        terms = row.k
        if terms and terms[0][1] == 1:
            y = mean = torch.add(memory[terms[0][0]], x, alpha=row.x, out=spare)
            terms = terms[1:]
        else:
            y = mean = torch.mul(x, row.x, out=spare)
        spare = None
        for lag, weight in terms:
            mean.add_(memory[lag], alpha=weight)
        known = len(draws)
        for i, weight in row.z:
            if i < known:
                mean.add_(draws[i], alpha=weight)  # evaluations have seen it: it is no last noise
            else:
                draws.append(noise(x))
                kept = graph or row is not step.rows[-1]
                y = torch.add(y, draws[i], alpha=weight, out=None if kept else draws[i])
    return y, mean


class NotCalibrated(ValueError):
    """A method that measures something on data was asked for its steps before it could."""


class Solver(ABC):
    """A method with fixed steps for the reverse SDE or the probability flow."""

    @abstractmethod
    def plan(self, sde: SDE, times: Tensor) -> list[Step]:
        """The steps between the times of a grid, computed before the first evaluation.

        Args:
            sde: Process.
            times: Times of the process, float64, on the CPU, shape (N + 1,), falling; rising ones
                carry data to latents, where a method draws no noise.

        Raises:
            ValueError: The method has no such steps on this process.
        """

    def calibrate(  # noqa: B027 — most methods have nothing to measure
        self, sde: SDE, score: Score, x0: Tensor, generator: torch.Generator | None = None
    ) -> None:
        """Measure on data what the method needs to know beside the process, if anything.

        Args:
            sde: Process.
            score: s(x, t).
            x0: Data, shape (B, *).
            generator: Source of noise.
        """


def denoising_step(sde: SDE, times: Tensor) -> list[Step]:
    """The step to noiseless data: their posterior mean, α′ (x + σ² s)/α.

    The score does not exist on noiseless data, so methods of any order end a chain like this.

    Args:
        sde: Process.
        times: Last two times, shape (2,), of which the second has σ = 0.
    """
    alpha, sigma = sde.alpha(times), sde.sigma(times)
    ratio = alpha[1:] / alpha[:-1]
    return tabulate(times, Stage(ratio, [ratio * sigma[:-1].square()], t=times[:-1]))


def up_to_data(sde: SDE, times: Tensor, steps: Callable[[SDE, Tensor], list[Step]]) -> list[Step]:
    """Plan with `steps` as far as there is noise, and with `denoising_step` from there.

    Args:
        sde: Process.
        times: Times of the process, shape (N + 1,).
        steps: Plan between times that all have σ > 0.
    """
    if sde.sigma(times[-1]) > 0:
        return steps(sde, times)
    head = steps(sde, times[:-1]) if len(times) > 2 else []
    return head + denoising_step(sde, times[-2:])


def from_noise_alone(
    sde: SDE, times: Tensor, steps: Callable[[SDE, Tensor], list[Step]]
) -> list[Step]:
    """Plan with `steps`, but for a first step that leaves a level with α = 0, where there is one.

        x_s = α_s D(x_T, T) + (σ_s/σ_T) x_T

    The state there is independent of the data: it is the noise that the state at s needs, whatever
    method goes on from there, and D is all that there is to be known. It is the step of DDIM.

    Args:
        sde: Process.
        times: Times of the process, shape (N + 1,).
        steps: Plan between times that all have α > 0.

    Reference: Lin et al. 2024, arXiv:2305.08891 (section 3.3); Song, Meng & Ermon 2021,
    arXiv:2010.02502 (eq. 12).
    """
    if sde.alpha(times[0]) > 0:
        return steps(sde, times)
    alpha, sigma = sde.alpha(times[1]), sde.sigma(times[:2])
    first = Stage((sigma[1] / sigma[0]).item(), [alpha], t=times[:1], q=0.0, data=True)
    rest = steps(sde, times[1:]) if len(times) > 2 else []
    return tabulate(times[:2], first) + rest


def depth(steps: Sequence[Step]) -> int:
    """How many evaluations a plan looks back to, its newest included."""
    lags = [lag for step in steps for row in step.rows for lag, _ in row.k]
    return max(lags, default=0) + 1


def is_multistep(steps: Sequence[Step]) -> bool:
    """Whether any step uses evaluations of the steps before it."""
    for step in steps:
        fresh = 0
        for row in step.rows:
            fresh += row.t is not None
            if any(lag >= fresh for lag, _ in row.k):
                return True
    return False


def draws_noise(steps: Sequence[Step]) -> bool:
    """Whether any step of a plan is random."""
    return any(row.z for step in steps for row in step.rows)


def _rows(stage: Stage, n: int) -> list[Row]:
    x, p, q = (_numbers(column, n) for column in (stage.x, stage.p, stage.q))
    k, z = ([_numbers(column, n) for column in columns] for columns in (stage.k, stage.z))
    times = [None] * n if stage.t is None else stage.t.unbind()
    return [
        Row(times[i], p[i], q[i], x[i], _sparse(k, i), _sparse(z, i), stage.data) for i in range(n)
    ]


def _numbers(column: Column, n: int) -> list[float]:
    return column.tolist() if isinstance(column, Tensor) and column.ndim else [float(column)] * n


def _sparse(columns: list[list[float]], i: int) -> tuple[tuple[int, float], ...]:
    return tuple((j, column[i]) for j, column in enumerate(columns) if column[i] != 0)


def _finite(row: Row) -> bool:
    weights = [row.p, row.q, row.x, *(w for _, w in row.k), *(w for _, w in row.z)]
    return all(abs(w) < float("inf") for w in weights)
