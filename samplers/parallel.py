"""Parallel sampling: evaluations of many steps in one call of the network."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from scoresde.sde import SDE, Score, rows
from scoresde.sde.broadcast import expand
from scoresde.sde.checks import check_steps

from .base import Sampler
from .context import SamplingContext
from .grids.grid import Grid, UniformGrid
from .solvers.plan import Plan, Row
from .solvers.solver import Solver
from .stability import check_plan


class ParallelPicard(Sampler):
    """A deterministic solver whose evaluations are iterated in parallel (Picard iteration).

        y_e = L_e(x_T, k_0, …, k_{e−1}),   k_e = p_e y_e + q_e s(y_e, t_e),   e = 0, 1, …

    The points y_e of a plan are linear in the evaluations before them. Each round evaluates the
    score at a window of points in one call and then computes all points with the new k. The first
    point of the window and its k are exact; each further point is settled when it and all before
    it have moved by less than the tolerance,

        mean((y_e^{new} − y_e)²) ≤ tolerance² σ(t_e)²,

    and the window slides past those. A sample thus needs at most as many rounds as the solver has
    evaluations, and mostly far fewer, but more evaluations in all. Every sample has its own window
    and leaves the batch when its last point is settled. With tolerance 0 the samples are those of
    `PredictorCorrector(predictor)`, up to rounding.

    Attributes:
        rounds: Successive calls of the score in the last run.

    Args:
        predictor: Solver that draws no noise, of any order.
        steps: Number of steps ≥ 1.
        grid: Rule for the times; `UniformGrid()` where not given.
        window: Most points of a sample evaluated at once, or None for all of them. The points and
            evaluations of all steps are kept in memory, whatever the window.
        tolerance: τ ≥ 0, of the movement of a point in units of its noise.

    Raises:
        ValueError: A setting out of its range, a solver that draws noise, or a constraint.
        TypeError: The predictor is not a solver.

    Reference: Shih et al. 2023, arXiv:2305.16317 (algorithm 1).
    """

    def __init__(
        self,
        predictor: Solver,
        steps: int = 50,
        *,
        grid: Grid | None = None,
        window: int | None = None,
        tolerance: float = 0.01,
    ) -> None:
        if not isinstance(predictor, Solver):
            raise TypeError(
                f"predictor must be a Solver, got {predictor!r}; a corrector draws noise, "
                "and parallel rounds follow a deterministic path"
            )
        if not 0 <= tolerance < float("inf"):
            raise ValueError(f"tolerance must be finite and ≥ 0, got {tolerance}")
        self.predictor, self.steps = predictor, check_steps(steps)
        self.grid, self.tolerance = grid or UniformGrid(), tolerance
        self.window = None if window is None else check_steps(window, "window")
        self.rounds = 0

    def check(self, sde: SDE, dtype: torch.dtype) -> None:
        """Raise ValueError if the grid does not fit the process, or the solver draws noise."""
        sde.check_signal("a parallel solver")
        check_plan(sde, self._plan(sde, self.grid(sde, self.steps)), dtype)

    def states(self, sde: SDE) -> int:
        return len(self._plan(sde, self.grid(sde, self.steps))) + 1

    def run(self, sde: SDE, score: Score, x: Tensor, run: SamplingContext) -> Tensor:
        """Carry x from T to the end of the grid, or from data to T (`encode`)."""
        run.refuse_constraint("a parallel solver")
        sde.check_signal("a parallel solver")
        times = self.grid(sde, self.steps)
        plan = self._plan(sde, times[sde.sigma(times) > 0].flip(0) if run.encode else times)
        check_plan(sde, plan, x.dtype)
        run.begin(len(plan), x)
        table = _Table.of(plan)
        iteration = _Iteration(sde, table, x, self.window, self.tolerance)
        self.rounds, done = 0, 0
        while done < len(plan):
            self.rounds += iteration.evaluate(score, done)
            settled = iteration.settle(done)
            while done < len(plan) and table.ends[done + 1] <= settled:
                done += 1
                run.visit(done, plan.steps[done - 1].t_next, iteration.states[done])
        return iteration.states[-1]

    def _plan(self, sde: SDE, times: Tensor) -> Plan:
        """The predictor's steps.

        Raises:
            ValueError: The steps draw noise.
        """
        plan = self.predictor.plan(sde, times)
        if plan.draws_noise:
            raise ValueError(
                "parallel rounds follow a deterministic path, and this predictor draws noise; "
                "use DDIM(), or another solver without noise, or PredictorCorrector"
            )
        return plan


_Numbered = tuple[Row, int, list[tuple[int, float]]]


class _Table(NamedTuple):
    """Steps whose evaluations are numbered through the whole plan, e = 0 … M − 1.

    Attributes:
        plan: Plan of a solver.
        rows: Of each row of each step, the number of the next evaluation and its weights (e, w).
        ends: Numbers of the first evaluations of each step, and M, (N + 1,).
        times: t_e, float64, shape (M,).
        weights: p_e and q_e, shape (M, 2).
    """

    plan: Plan
    rows: list[list[_Numbered]]
    ends: list[int]
    times: Tensor
    weights: Tensor

    @classmethod
    def of(cls, plan: Plan) -> "_Table":
        """Number the evaluations of a plan."""
        rows, ends, evaluations = list[list[_Numbered]](), [0], list[Row]()
        for step in plan:
            rows.append([])
            for row in step.rows:
                number = len(evaluations)
                evaluations += [row] if row.t is not None else []
                newest = len(evaluations) - 1
                rows[-1].append((row, number, [(newest - lag, w) for lag, w in row.k]))
            ends.append(len(evaluations))
        times = [row.t for row in evaluations if row.t is not None]
        weights = torch.tensor([[row.p, row.q] for row in evaluations], dtype=torch.float64)
        stacked = torch.stack(times).double() if times else torch.zeros(0, dtype=torch.float64)
        return cls(plan, rows, ends, stacked, weights.reshape(-1, 2))


class _Iteration:
    """The points and evaluations of a run, M for each sample, and which are settled.

    Attributes:
        states: States between the steps, by the last evaluations.
        front: Number of the first point of each sample that is not settled, shape (B,).
        points: y_e, shape (M, B, *).
        k: k_e, shape (M, B, *).
    """

    def __init__(
        self, sde: SDE, table: _Table, x: Tensor, window: int | None, tolerance: float
    ) -> None:
        self.table, self.tolerance, self.size = table, tolerance, len(table.times)
        self.window = self.size if window is None else min(window, self.size)
        self.states = [x] * (len(table.plan) + 1)
        self.front = torch.zeros(len(x), dtype=torch.long, device=x.device)
        self.number = torch.arange(self.size, device=x.device)[:, None]
        self.times, self.weights = table.times.to(x.device), table.weights.to(x.device)
        self.alpha, self.sigma = (
            c(table.times).to(x.device)[:, None] for c in (sde.alpha, sde.sigma)
        )
        self.k = torch.zeros(self.size, *x.shape, dtype=x.dtype, device=x.device)
        # The first guess follows from data N(0, I), whose score is known.
        start = table.plan.steps[0].t
        alpha, sigma = sde.alpha(start), sde.sigma(start)
        variance = alpha.square() + sigma.square()
        self.data, self.noise = (x * expand(c / variance, x) for c in (alpha, sigma))
        self.points = self._guess(slice(None))
        for first in self._walk(0, 1):
            self.points[0] = first

    def evaluate(self, score: Score, done: int) -> int:
        """Evaluate the score in the windows, in one call; return the number of calls.

        Args:
            score: s(x, t).
            done: Number of the first step that is not settled.
        """
        part = self._reach(done)
        inside = self._inside(part)
        number, sample = inside.nonzero(as_tuple=True)
        if len(number) == 0:
            return 0
        number = number + part.start
        y = self.points[number, sample]
        s = rows(score, sample)(y, self.times[number])
        p, q = (expand(c, y) for c in self.weights[number].unbind(1))
        self.k[number, sample] = torch.addcmul(p * y, q, s)
        # Points that enter a window are guessed from x̂_0 and ẑ of its last evaluation.
        last = number == (self.front[sample] + self.window).clamp(max=self.size) - 1
        y, s, number, sample = y[last], s[last], number[last], sample[last]
        alpha, sigma = (expand(c[number, 0], y) for c in (self.alpha, self.sigma))
        self.data[sample] = torch.addcmul(y, sigma.square(), s) / alpha
        self.noise[sample] = -sigma * s
        return 1

    def settle(self, done: int) -> int:
        """Compute the points again and slide the windows; return the first number not settled.

        Args:
            done: Number of the first step that is not settled.
        """
        reach = self._reach(done)
        # The point after a window follows from it and is exact when the window is settled.
        part = slice(reach.start, min(reach.stop + 1, self.size))
        new = list(self._walk(done, part.stop))
        if not new:
            return self.size
        points, number = torch.stack(new), self.number[part]
        moved = (points - self.points[part]).flatten(2).double().square().mean(2).sqrt()
        still = (moved <= self.tolerance * self.sigma[part]) & self._inside(part)
        still = still | (number <= self.front)
        front = part.start + still.long().cumprod(0).sum(0)
        known = number <= self.front + self.window
        self.points[part] = torch.where(_lay(known, points), points, self.points[part])
        self._enter(slice(part.start, self.size), front + self.window)
        self.front = front
        return int(front.min())

    def _enter(self, part: slice, end: Tensor) -> None:
        """Guess the points that enter windows with the new ends `end`, (B,)."""
        number = self.number[part]
        fresh = (number > self.front + self.window) & (number < end)
        if bool(fresh.any()):
            guess = self._guess(part)
            self.points[part] = torch.where(_lay(fresh, guess), guess, self.points[part])

    def _reach(self, done: int) -> slice:
        """From the first evaluation of a step to the end of the furthest window."""
        return slice(self.table.ends[done], min(int(self.front.max()) + self.window, self.size))

    def _inside(self, part: slice) -> Tensor:
        """Which points of a part lie in the window of each sample, (K, B)."""
        number = self.number[part]
        return (number >= self.front) & (number < self.front + self.window)

    def _guess(self, part: slice) -> Tensor:
        """α x̂_0 + σ ẑ at the times of a part, (K, B, *)."""
        alpha, sigma = (expand(c[part, 0], self.k) for c in (self.alpha, self.sigma))
        return torch.addcmul(alpha * self.data, sigma, self.noise)

    def _walk(self, done: int, stop: int) -> Iterator[Tensor]:
        """Take the steps from number `done` on with the known evaluations, up to a point.

        Yields:
            Points y_e up to e = stop − 1.
        """
        for i in range(done, len(self.table.plan)):
            x = y = self.states[i]
            for row, number, weights in self.table.rows[i]:
                if row.t is not None:
                    if number >= stop:
                        return
                    yield y
                y = x * row.x
                for e, weight in weights:
                    y.add_(self.k[e], alpha=weight)
            self.states[i + 1] = y


def _lay(mask: Tensor, points: Tensor) -> Tensor:
    """Lay a mask (K, B) over points (K, B, *)."""
    return mask.reshape(*mask.shape, *[1] * (points.ndim - 2))
