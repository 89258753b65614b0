"""How solvers tell that they cannot go on: where, when, and what is not finite."""

from collections.abc import Callable

import torch
from torch import Tensor

Cause = Callable[[Tensor, Tensor, Tensor, int], str | None]
"""cause(t, y, index, row) → what is not finite in a row of (A, D), in words; None if all is."""


def first_not_finite(x: Tensor) -> int | None:
    """Number of the first sample of (B, *) that holds NaN or Inf, or None where there is none."""
    bad = ~x.detach().reshape(len(x), -1).isfinite().all(1)
    return int(bad.nonzero()[0]) if bool(bad.any()) else None


def refuse_not_finite(x: Tensor, slope: Tensor, t: float, first: int = 0) -> None:
    """Stop a solver of others, which would go on, where a slope is not finite.

    Args:
        x: State, shape (B, *).
        slope: Its derivative, shape (B, *).
        t: Time of the process.
        first: Number of the first sample of x in its batch.

    Raises:
        RuntimeError: A sample holds NaN or Inf; it says which, when, and whether its state does.
    """
    if bool(slope.detach().isfinite().all()):
        return
    in_state = first_not_finite(x)
    what = "the score" if in_state is None else "the state"
    row = first_not_finite(slope) if in_state is None else in_state
    number = first + (row or 0)
    raise RuntimeError(f"solver stopped: {what} is not finite at t={t:g}, sample {number}")


def not_finite(x: Tensor, s: Tensor, **others: Tensor) -> str | None:
    """What is not finite at a point, in words that end the sentence of an error.

    Args:
        x: State.
        s: Score at it.
        **others: Further values there, by the names that they have in an error.
    """
    for name, value in {"state": x, "score": s, **others}.items():
        if not bool(value.detach().isfinite().all()):
            return f"the {name} is not finite there"
    return None


def stopped(
    t: Tensor,
    y: Tensor,
    index: Tensor,
    row: int,
    end: float,
    time_of: Callable[[Tensor], Tensor] | None,
    cause: Cause | None,
) -> RuntimeError:
    """The error of an adaptive solver whose steps became too short for one of its samples.

    Args:
        t: Variables of the integration that the samples under way have reached, shape (A,).
        y: Their states, shape (A, D).
        index: Their numbers, shape (A,).
        row: Which of them cannot go on.
        end: Where they were going.
        time_of: Time of the process at a variable of the integration, if that is another.
        cause: What is not finite at a point, where someone can tell.
    """
    why, finest = None, (1e-14 * t.abs()).clamp(min=1e-17)
    # At the last point or just after it, where the last steps were tried.
    for ahead in (0.0, 1.0, 10.0, 100.0, 1e3):
        if cause is not None and why is None:
            why = cause(t + torch.copysign(ahead * finest, end - t), y, index, row)
    why = why or "the field is not finite or not smooth there"
    time = (time_of(t) if time_of else t)[row].item()
    return RuntimeError(
        f"adaptive solver stopped: step below minimum at t={time:g}, "
        f"sample {int(index[row])}; {why}"
    )


def exhausted(
    t: Tensor, index: Tensor, end: float, steps: int, time_of: Callable[[Tensor], Tensor] | None
) -> RuntimeError:
    """The error of an adaptive solver that ran out of steps; arguments as for `stopped`."""
    ends = torch.stack([torch.full_like(t[0], end), t[0]])
    goal, time = (time_of(ends) if time_of else ends).tolist()
    return RuntimeError(
        f"adaptive solver stopped: {steps} steps did not reach t={goal:g}; sample "
        f"{int(index[0])} is at t={time:g}; loosen rtol or atol"
    )
