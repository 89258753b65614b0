"""Unstable plans: steps that amplify noise, or whose terms cancel in rounding.

A step is linear in the state and the scores, and on data N(0, I) the score is −x/(α² + σ²), so
that the factor of each step is known before the first evaluation.
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
"""Largest width of a state of a plan, in widths of the process.

The coarsest plans in use, of one to five steps, reach 150; where steps are too long for a process,
each multiplies states by more than 1, and they exceed any bound."""

MOST_ROUNDING = 0.01
"""Largest rounding error of the terms of a step, in widths of the process."""


def check_plan(
    sde: SDE, plan: Plan, dtype: torch.dtype, corrector: Corrector | None = None
) -> None:
    """Refuse a plan that is unstable on data N(0, I).

    Args:
        sde: Process.
        plan: Plan.
        dtype: Type of the states.
        corrector: Corrector that works before or after the steps of the plan.

    Raises:
        ValueError: A step leads to states far wider than those of the process, or amplifies
            rounding errors.
    """
    # The rounding of types coarser than float32 is the caller's choice.
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
    """What to use where a step is refused."""
    # A grid may begin below T only where almost nothing of the data is left.
    if sde.half_log_snr(step.t).item() < -10:
        return f"use {BELOW_TOP}"
    return "use more steps, or DDIM() (sampler/predictor=ddim), whose steps may be long"


def _widths(sde: SDE, plan: Plan, corrector: Corrector | None) -> Iterator[tuple[float, float]]:
    """Width of the state after each step, and the sum of its terms' absolute values."""
    factors = _contractions(sde, plan, corrector)
    evaluated = [row.t for step in plan for row in step.rows if row.t is not None]
    spreads = iter(spread(sde, torch.stack(evaluated)).tolist() if evaluated else [])
    ends = spread(sde, plan.times).sqrt()
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


def spread(sde: SDE, t: Tensor) -> Tensor:
    """α² + σ², the variance of data N(0, I) at times t."""
    return sde.alpha(t).square() + sde.sigma(t).square()


def _contractions(sde: SDE, plan: Plan, corrector: Corrector | None) -> list[float]:
    """Factor of the corrector at each step, 1 where it does not act.

    Raises:
        ValueError: A factor above 1, as with a r > 1 where α grows with time.
    """
    levels, factors = [step.before or step.after for step in plan], list[float]()
    times = [level.t.cpu() for level in levels if level]
    if corrector is None or not times:
        return [1.0] * len(levels)
    variances = iter(spread(sde, torch.stack(times)).tolist())
    for level in levels:
        factor = corrector.contraction(level, next(variances)) if level else 1.0
        if level and abs(factor) > 1:
            raise ValueError(
                f"a Langevin step at t={level.t.item():g} multiplies an error by {abs(factor):.3g} "
                f"on {type(sde).__name__}; use snr < {1 / level.a:.3g}"
            )
        factors.append(factor**corrector.n_steps)
    return factors
