"""Plans: the steps of a solver as a table of numbers, and the state that is carried along them.

A step of any Runge–Kutta, multistep, exponential or stochastic method on
dx = [f x − ½ (1 + η²) g² s] dt + η g dw̄ is linear in the state, the evaluations of the score and
the noise. A solver computes the weights in float64 before the first evaluation; `State.predict`
carries out all methods and does not wait for the device.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from scoresde.sde import Score
from scoresde.sde.score import denoise

from ..context import SamplingContext
from ..langevin import Corrector, Level

Column = Tensor | float
"""One number for each step, shape (N,), or one for all."""

Memory = deque[Tensor]
"""Evaluations of a run, newest first."""


@dataclass(frozen=True)
class Stage:
    """One evaluation, if any, and the linear combination after it, as columns over N steps.

        k_0 = p y + q s(y, t) or D(y, t),   y ← c x + Σ_j w_j k_j + Σ_i d_i z_i

    y is the result of the stage before (the state itself in the first stage), x the state at the
    start of the step, k_j the j-th evaluation before the newest, z_i the i-th noise of the step.

    Args:
        x: c.
        k: w_0, w_1, …, newest evaluation first; they may reach back into earlier steps.
        z: d_0, d_1, …
        t: Times of the evaluation, (N,), or None for a stage without one.
        p: p.
        q: q.
        data: Whether the evaluation is the data prediction D(y, t), which exists where α = 0 too.
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

    def evaluate(self, score: Score, y: Tensor, t: Tensor) -> Tensor:
        """k_0 = p y + q s(y, t), or D(y, t)."""
        if self.data:
            return denoise(score, y, t)
        s = score(y, t)
        if self.p:
            return torch.add(y if self.p == 1 else y * self.p, s, alpha=self.q)
        return s if self.q == 1 else s * self.q

    def combine(self, x: Tensor, memory: Memory, spare: Tensor | None) -> Tensor:
        """c x + Σ_j w_j k_j, written over `spare` where there is one."""
        terms = self.k
        if terms and terms[0][1] == 1:
            mean = torch.add(memory[terms[0][0]], x, alpha=self.x, out=spare)
            terms = terms[1:]
        else:
            mean = torch.mul(x, self.x, out=spare)
        for lag, weight in terms:
            mean.add_(memory[lag], alpha=weight)
        return mean


class Step(NamedTuple):
    """A step from time t to t_next, shape () each, and where a corrector works around it."""

    t: Tensor
    t_next: Tensor
    rows: tuple[Row, ...]
    before: Level | None = None
    after: Level | None = None


@dataclass(frozen=True)
class Plan:
    """The steps of a run in order; the sum of two plans is the first, then the second."""

    steps: tuple[Step, ...] = ()

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def __add__(self, other: "Plan") -> "Plan":
        return Plan(self.steps + other.steps)

    @property
    def times(self) -> Tensor:
        """Times between which the steps go, shape (N + 1,)."""
        return torch.stack([self.steps[0].t, *(step.t_next for step in self)])

    @property
    def depth(self) -> int:
        """How many evaluations the steps look back to, the newest included."""
        lags = [lag for step in self for row in step.rows for lag, _ in row.k]
        return max(lags, default=0) + 1

    @property
    def draws_noise(self) -> bool:
        """Whether any step is random."""
        return any(row.z for step in self for row in step.rows)

    @property
    def is_multistep(self) -> bool:
        """Whether any step uses evaluations of the steps before it."""
        for step in self:
            fresh = 0
            for row in step.rows:
                fresh += row.t is not None
                if any(lag >= fresh for lag, _ in row.k):
                    return True
        return False


class State:
    """The state x of a run along a plan.

    Attributes:
        x: State, shape (B, *).
        mean: The state without the noise of the last update, shape (B, *).

    Args:
        plan: Plan that the run follows.
        score: s(x, t).
        x: State at the start of the first step, shape (B, *).
        run: The run's noise, its constraint, and what it reports and keeps.
    """

    def __init__(self, plan: Plan, score: Score, x: Tensor, run: SamplingContext) -> None:
        self.x = self.mean = x
        self._score, self._run, self._step = score, run, 0
        self._memory = Memory(maxlen=plan.depth)
        self._spare: Tensor | None = None
        run.begin(len(plan), x)

    def predict(self, step: Step) -> None:
        """Take a step, stage by stage: y ← c x + Σ_j w_j k_j + Σ_i d_i z_i (see `Stage`)."""
        if not step.rows:
            return
        graph = torch.is_grad_enabled()  # a graph that is kept needs fresh memory
        spare = None if graph else self._spare
        x = y = mean = self.x
        draws: list[Tensor] = []
        for row in step.rows:
            if row.t is not None:
                self._memory.appendleft(row.evaluate(self._score, y, row.t))
            y = mean = row.combine(x, self._memory, spare)
            spare, known = None, len(draws)
            for i, weight in row.z:
                if i < known:
                    mean.add_(draws[i], alpha=weight)  # an evaluation has used it: not last noise
                else:
                    draws.append(self._run.noise(x))
                    kept = graph or row is not step.rows[-1]
                    y = torch.add(y, draws[i], alpha=weight, out=None if kept else draws[i])
        # Fresh memory costs more than arithmetic, and only this object refers to a mean that has
        # had noise added.
        self._spare = mean if mean is not y else None
        self.x, self.mean = self._run.constrain(y, step.t_next), mean

    def correct(self, corrector: Corrector | None, level: Level | None) -> None:
        """Take the Langevin steps of a corrector at a level, if there are both."""
        if corrector is None or level is None:
            return
        x, self.mean = corrector.step(level, self._score, self.x, self._run.noise)
        self.x = self._run.constrain(x, level.t)

    def arrive(self, step: Step) -> None:
        """Report and keep the state at the end of a step."""
        self._step += 1
        self._run.visit(self._step, step.t_next, self.x)


def tabulate(times: Tensor, *stages: Stage) -> Plan:
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
    return Plan(tuple(steps))


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
