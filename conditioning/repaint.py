"""RePaint: sampling that goes back up in noise, so that free and known parts come to agree."""

from functools import cache
from itertools import pairwise

from torch import Tensor

from scoresde.samplers import Solver
from scoresde.samplers.solvers.plan import Plan, Stage, Step, tabulate
from scoresde.sde import SDE
from scoresde.sde.checks import check_steps


class RePaint(Solver):
    """A single-step solver whose path goes back up, r times over every `jump` steps.

        x_t = a x_u + b z,   (a, b) the transition from u up to t,   then the solver from t to u

    With `Inpaint` as the constraint, samples converge to the posterior as r and the number of
    steps grow, with a bias that falls as 1/r; at equal evaluations jump = 1 is the best in the
    measured cases. It costs N + (r − 1) j (⌈N/j⌉ − 1) evaluations.

    Args:
        solver: Solver with one evaluation a step, such as `Ancestral()`.
        jump: Steps j ≥ 1 that a move goes back up; published is 10 with 250 steps.
        resamplings: r ≥ 1, how often each part of the path is taken; published is 10.

    Raises:
        ValueError: A number out of its range; a multistep solver, when it plans.
        TypeError: solver is not a Solver.

    Reference: Lugmayr et al. 2022, arXiv:2201.09865 (eq. 8, algorithm 1, appendix B for jumps).
    """

    def __init__(self, solver: Solver, jump: int = 10, resamplings: int = 10) -> None:
        if not isinstance(solver, Solver):
            raise TypeError(f"solver must be a Solver, got {solver!r}")
        self.solver = solver
        self.jump, self.resamplings = (
            check_steps(jump, "jump"),
            check_steps(resamplings, "resamplings"),
        )

    def plan(self, sde: SDE, times: Tensor) -> Plan:
        """The steps of the grid with the moves back up; see `Solver.plan`."""
        steps = self.solver.plan(sde, times)
        if steps.is_multistep or len(steps) != len(times) - 1:
            raise ValueError(
                "RePaint repeats single steps, and this solver remembers earlier ones or has steps "
                "of its own; use RePaint(Ancestral()) (sampler/predictor=ancestral)"
            )

        @cache
        def move(here: int, there: int) -> tuple[Step, ...]:
            if there > here:
                return steps.steps[here:there]
            a, b = sde.transition(times[here], times[there])
            return tabulate(times[[here, there]], Stage(a, (), [b])).steps

        path = schedule(len(steps), self.jump, self.resamplings)
        return Plan(tuple(step for ends in pairwise(path) for step in move(*ends)))


def schedule(steps: int, jump: int, resamplings: int) -> list[int]:
    """Numbers of the times between which the path goes, from 0 to N; it goes up where they fall.

    Before the last step and at every `jump` steps above it, the path goes back up by `jump` steps,
    r − 1 times, except where it would leave the grid.

    Args:
        steps: Number of steps N.
        jump: Steps of a move up.
        resamplings: r.
    """
    turns = list(range(0, steps - jump, jump))  # levels above that before the last step
    path, last = [0], steps - 1
    for level in reversed(turns):
        path.append(last - level)
        path += [last - level - jump, last - level] * (resamplings - 1)
    return [*path, steps] if path[-1] != steps else path
