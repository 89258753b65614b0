"""Errors of solvers that cannot continue: at which sample and time, and what is not finite."""

from collections.abc import Callable

import torch
from torch import Tensor

Cause = Callable[[Tensor, Tensor, Tensor, int], str | None]
"""cause(t, y, index, row): a phrase that says what is not finite in a row of (A, D), or None."""


def first_not_finite(x: Tensor) -> int | None:
    """Position of the first sample of (B, *) that contains NaN or Inf, or None."""
    bad = ~x.detach().reshape(len(x), -1).isfinite().all(1)
    return int(bad.nonzero()[0]) if bool(bad.any()) else None


def refuse_not_finite(x: Tensor, slope: Tensor, t: float, first: int = 0) -> None:
    """Stop a solver of another library, which would continue, where dx/dt (B, *) is not finite.

    `first` is the position of the first sample of x in its batch.
    """
    in_slope = first_not_finite(slope)
    if in_slope is None:
        return
    in_state = first_not_finite(x)
    what, row = ("the score", in_slope) if in_state is None else ("the state", in_state)
    raise RuntimeError(f"solver stopped: {what} is not finite at t={t:g}, sample {first + row}")


def not_finite(x: Tensor, s: Tensor, **others: Tensor) -> str | None:
    """A phrase that names the value at a point that is not finite, or None."""
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
    """The error of an adaptive solver whose steps became too short for a sample.

    Args:
        t: Variables of the integration reached by the samples under way, shape (A,).
        y: Their states, shape (A, D).
        index: Their positions in the batch, shape (A,).
        row: Which of them cannot continue.
        end: End of the integration.
        time_of: Time of the process at a variable of the integration, if they differ.
        cause: What is not finite at a point; see `Cause`.
    """
    why, finest = None, (1e-14 * t.abs()).clamp(min=1e-17)
    # At the last point, or just after it, where the last steps were tried.
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
