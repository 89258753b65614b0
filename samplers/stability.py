"""Plans that cannot be carried out: steps that blow noise up, or whose terms cancel in rounding.

A step is linear in the state and the scores, and on data N(0, I) the score is −x/(α² + σ²): what a
plan does to a state is then known, in plain numbers, before the first evaluation.
"""

from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor

from scoresde.sde import SDE

from .grids.grid import BELOW_TOP
from .langevin import Corrector
from .solvers.plan import Plan, Step

MOST_GROWTH = 1e3
"""Widest state, in widths of the process, that a plan may lead through.

The coarsest plans of methods in use, of one to five steps, reach 150; those whose steps are too
long for a process multiply states by more than 1 in every step, and pass any bound."""

MOST_ROUNDING = 0.01
"""Largest error of rounding, in widths of the process, that the terms of a step may leave."""


def check_plan(
    sde: SDE, plan: Plan, dtype: torch.dtype, corrector: Corrector | None = None
) -> None:
    """Refuse a plan that no state would survive.

    Args:
        sde: Process.
        plan: Plan.
        dtype: Type of the states.
        corrector: Corrector that works before or after the steps of the plan.

    Raises:
        ValueError: A step leads to states far wider than the process has, or multiplies rounding
            errors until nothing else is left.
    """
    # Where states are coarser than float32, their own rounding is what was asked for.
    rounding = min(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    for step, (width, terms) in zip(plan, _widths(sde, plan, corrector), strict=True):
        if width <= MOST_GROWTH and terms * rounding <= MOST_ROUNDING:
            continue
        way = f"the step from t={step.t.item():g} to t={step.t_next.item():g}"
        name = type(sde).__name__
        if width <= MOST_GROWTH:
            kind = str(dtype).removeprefix("torch.")
            wrong = (
                f"{way} multiplies errors, those of {kind}'s rounding too, by {terms:.1e} on {name}"
            )
        else:
            wrong = f"{way} is too long for this method on {name}: states become {width:.1e} times "
            wrong += "as wide as the process"
        raise ValueError(f"{wrong}; {_instead(sde, step)}")


def _instead(sde: SDE, step: Step) -> str:
    """What can be done about a step."""
    # Only where next to nothing is left of the data does a grid lose by beginning at T.
    if sde.log_snr(step.t).item() < -10:
        return f"use {BELOW_TOP}"
    return "use more steps, or DDIM() (sampler/predictor=ddim), whose steps may be long"


def _widths(sde: SDE, plan: Plan, corrector: Corrector | None) -> Iterator[tuple[float, float]]:
    """Widths of the state after each step, and of all its terms without their signs."""
    factors = _contractions(sde, plan, corrector)
    evaluated = [row.t for step in plan for row in step.rows if row.t is not None]
    spreads = iter(_spread(sde, torch.stack(evaluated)).tolist() if evaluated else [])
    ends = _spread(sde, plan.times).sqrt()
    y, scale = ends[0].item(), ends.max().item()
    memory = deque[tuple[float, float]](maxlen=plan.depth)
    for step, factor in zip(plan, factors, strict=True):
        x = y = y * factor
        terms = abs(y)
        for row in step.rows:
            if row.t is not None:
                pull = row.q / next(spreads)
                memory.appendleft(((row.p - pull) * y, (abs(row.p) + abs(pull)) * abs(y)))
            y = row.x * x + sum(w * memory[lag][0] for lag, w in row.k)
            terms = max(terms, abs(row.x * x) + sum(abs(w) * memory[lag][1] for lag, w in row.k))
        yield abs(y) / scale, terms / scale


def _spread(sde: SDE, t: Tensor) -> Tensor:
    """α² + σ², the variance of data N(0, I) at times t."""
    return sde.alpha(t).square() + sde.sigma(t).square()


def _contractions(sde: SDE, plan: Plan, corrector: Corrector | None) -> list[float]:
    """By which the corrector multiplies a state at each step, 1 where it does nothing.

    Raises:
        ValueError: It is a growth, as a r > 1 where α grows with time.
    """
    levels, factors = [step.before or step.after for step in plan], list[float]()
    times = [level.t.cpu() for level in levels if level]
    if corrector is None or not times:
        return [1.0] * len(levels)
    variances = iter(_spread(sde, torch.stack(times)).tolist())
    for level in levels:
        factor = corrector.contraction(level, next(variances)) if level else 1.0
        if level and abs(factor) > 1:
            raise ValueError(
                f"a Langevin step at t={level.t.item():g} multiplies an error by {abs(factor):.3g} "
                f"on {type(sde).__name__}; use snr < {1 / level.a:.3g}"
            )
        factors.append(factor**corrector.n_steps)
    return factors
