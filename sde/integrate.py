"""Adaptive Runge–Kutta integration in which every sample of a batch has its own steps.

With one step size for a whole batch a sample's value would depend on the others. Here each sample
has its own time, step and error, and leaves the batch as soon as it has arrived, so that the cost
is the mean number of evaluations, not that of the slowest sample.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import check_floating
from .score import like
from .steps import ErrorNorm, Field, Gauge, LocalError, State, interpolate
from .stopping import Cause, exhausted, stopped
from .tableau import DORMAND_PRINCE, EmbeddedPair


@dataclass(frozen=True)
class Solution:
    """What `integrate` returns.

    Attributes:
        y: State at the last time, shape (B, D).
        nfe: Evaluations of the field that each sample took part in, shape (B,).
        error: Sum over the steps of the effects of their errors, shape (B,); 0 without a
            `local_error`. A sample that was given up has NaN here and in y.
        frames: States at the times of `save_at`, shape (K, B, D), or None.
    """

    y: Tensor
    nfe: Tensor
    error: Tensor
    frames: Tensor | None


def error_norm(rtol: float, atol: float, kind: str = "mean") -> ErrorNorm:
    """Norm of a sample's errors / (atol + rtol max(|y|, |y′|)).

    With `sum` it is their length, and the tolerance holds for the whole sample; with `mean` it is
    their root mean square, for a typical coordinate.
    """

    def norm(error: Tensor, y: Tensor, y_next: Tensor) -> Tensor:
        squares = (error / (atol + rtol * torch.maximum(y.abs(), y_next.abs()))).square()
        return (squares.mean(1) if kind == "mean" else squares.sum(1)).sqrt()

    return norm


def check_resolution(rtol: float, dtype: torch.dtype) -> None:
    """Raise a ValueError for a relative tolerance that a network of this type cannot meet.

    It must be > 0 and at least four units of rounding of the type in which the network computes;
    see `sde.precision.computing_dtype`.
    """
    if not 0 < rtol < float("inf"):
        raise ValueError(f"rtol must be > 0, got {rtol}")
    finest = 4 * torch.finfo(dtype).eps
    if rtol < finest:
        name = str(dtype).removeprefix("torch.")
        fix = f"; use dtype=float64 in Python, for the network too, or rtol ≥ {finest:.2g}"
        if finest > 1e-3:
            fix = f" of states or network; use float32 outside autocast, or rtol ≥ {finest:.2g}"
        raise ValueError(f"rtol {rtol:g} is below {name} resolution{fix}")


def integrate(
    field: Field,
    y0: Tensor,
    t0: float,
    t1: float,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    norm: ErrorNorm | None = None,
    tableau: EmbeddedPair = DORMAND_PRINCE,
    save_at: Tensor | None = None,
    max_steps: int = 10_000,
    local_error: LocalError | None = None,
    local_tol: float | None = None,
    on_step: Callable[[float], None] | None = None,
    time_of: Callable[[Tensor], Tensor] | None = None,
    cause: Cause | None = None,
    give_up: bool = False,
) -> Solution:
    """Integrate dy/dt = field from t0 to t1, forwards or backwards, with steps for each sample.

    Steps follow a proportional–integral controller (Hairer, Nørsett & Wanner 1993, II.4; Gustafsson
    1991); frames between steps are Hermite interpolants, cubic or of the pair's higher order.

    Args:
        field: dy/dt; see `Field`.
        y0: Start, shape (B, D), floating point, in whose dtype the states are computed.
        t0: Start time.
        t1: End time ≠ t0.
        rtol: Relative tolerance > 0.
        atol: Absolute tolerance > 0.
        norm: Error norm in place of the scaled root mean square of rtol and atol.
        tableau: Embedded pair, one of `sde.tableau`.
        save_at: Times between t0 and t1 at which states are kept, shape (K,).
        max_steps: Largest number of steps, accepted or not.
        local_error: Effect of the error of a step on a number; its size is summed over the steps of
            each sample.
        local_tol: Bound > 0 on the length of these parts in a step, in addition to the norm; None
            for no bound.
        on_step: Called after each step with the fraction of the interval that all samples covered.
        time_of: Time of the process at the variable of the integration, for error messages.
        cause: What is not finite where a sample stopped, for error messages.
        give_up: Whether a sample that cannot continue becomes NaN instead of raising an error.

    Raises:
        ValueError: A tolerance is not > 0, y0 is not (B, D), or the field has another shape.
        RuntimeError: The step of a sample falls below the resolution of its time, or max_steps is
            reached.
    """
    check_floating("y0", y0)
    if not (rtol > 0 and atol > 0):
        raise ValueError(f"rtol and atol must be > 0, got {rtol} and {atol}")
    if y0.ndim != 2:
        raise ValueError(f"y0 must have shape (B, D), got {tuple(y0.shape)}")
    norm = norm or error_norm(rtol, atol)
    gauge = Gauge(norm, local_error, local_tol)

    def checked(t: Tensor, y: Tensor, index: Tensor) -> Tensor:
        return like(y, field(t, y, index), "the field")

    state = State.start(checked, y0, t0, t1, norm, tableau)
    frames = None if save_at is None else y0.repeat(len(save_at), 1, 1)
    result, nfe = y0.clone(), torch.full((len(y0),), 2, device=y0.device)
    errors = torch.zeros(len(y0), dtype=torch.float64, device=y0.device)
    for _ in range(max_steps):
        if bool((lost := state.unresolved()).any()):
            if not give_up:
                row = int(lost.nonzero()[0])
                raise stopped(state.t, state.y, state.index, row, t1, time_of, cause)
            _forget(state.index[lost], result, errors, frames)
            state = state.keep(~lost)
        if len(state.index) == 0:
            return Solution(result, nfe, errors, frames)
        nfe[state.index] += len(tableau.c)
        before, accepted, slopes = state.step(checked, gauge, tableau)
        errors[state.index] += torch.where(accepted, state.size, 0)
        if save_at is not None and frames is not None:
            times = save_at.to(before.t)
            shown = interpolate(checked, tableau, frames, times, before, state, slopes)
            nfe[shown] += len(tableau.frame_c)
        arrived = accepted & (state.t == t1)
        result[state.index[arrived]] = state.y[arrived]
        state = state.keep(~arrived)
        if on_step is not None:
            on_step(float(((state.t - t0) / (t1 - t0)).min()) if len(state.index) else 1.0)
    if len(state.index) and not give_up:
        raise exhausted(state.t, state.index, t1, max_steps, time_of)
    _forget(state.index, result, errors, frames)
    return Solution(result, nfe, errors, frames)


def _forget(index: Tensor, y: Tensor, errors: Tensor, frames: Tensor | None) -> None:
    """Set the results of samples that were given up to NaN."""
    y[index] = errors[index] = torch.nan
    if frames is not None:
        frames[:, index] = torch.nan
