"""Adaptive Runge–Kutta integration in which every sample of a batch has its own steps.

One step size for a whole batch would make a sample's value depend on its neighbours. Here each
sample carries its own time, step and error, and leaves the batch as soon as it has arrived, so
that the mean number of evaluations is paid, not that of the slowest sample.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import check_floating

Field = Callable[[Tensor, Tensor, Tensor], Tensor]
"""field(t, y, index) = dy/dt for the samples `index` (A,) at times t (A,), y and dy/dt (A, D)."""

ErrorNorm = Callable[[Tensor, Tensor, Tensor], Tensor]
"""norm(error, y, y_next) of each sample, (A, D) each → (A,): a step is accepted up to 1."""


@dataclass(frozen=True)
class Tableau:
    """An explicit embedded Runge–Kutta pair whose last stage is the first of the next step.

    Args:
        c: Nodes of the stages after the first.
        a: Weights of the earlier stages in each of those stages; the last row is the solution.
        e: Weights of the difference between the solution and its embedded companion.
        order: Order of the solution.
    """

    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    e: tuple[float, ...]
    order: int


DORMAND_PRINCE = Tableau(
    c=(1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    a=(
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    e=(71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
    order=5,
)
"""Dormand & Prince 1980, the 5(4) pair that is also SciPy's RK45."""


@dataclass(frozen=True)
class Solution:
    """What `integrate` returns.

    Attributes:
        y: State at the last time, shape (B, D).
        nfe: Evaluations of the field that each sample took part in, shape (B,).
        frames: States at the times of `save_at`, shape (K, B, D), or None.
    """

    y: Tensor
    nfe: Tensor
    frames: Tensor | None


def scaled(error: Tensor, y: Tensor, y_next: Tensor, rtol: float, atol: float) -> Tensor:
    """error / (atol + rtol max(|y|, |y′|)), elementwise."""
    return error / (atol + rtol * torch.maximum(y.abs(), y_next.abs()))


def scaled_rms(rtol: float, atol: float) -> ErrorNorm:
    """The usual norm: root mean square over a sample of the scaled error."""

    def norm(error: Tensor, y: Tensor, y_next: Tensor) -> Tensor:
        return scaled(error, y, y_next, rtol, atol).square().mean(1).sqrt()

    return norm


def check_resolution(rtol: float, dtype: torch.dtype) -> None:
    """Refuse a tolerance that is not > 0, or that a network of this type cannot meet.

    Raises:
        ValueError: rtol is not > 0, or is below four units of the type's rounding.
    """
    if not 0 < rtol < float("inf"):
        raise ValueError(f"rtol must be > 0, got {rtol}")
    if rtol < 4 * torch.finfo(dtype).eps:
        name = str(dtype).removeprefix("torch.")
        raise ValueError(f"rtol {rtol:g} is below {name} resolution; use dtype=float64")


def integrate(
    field: Field,
    y0: Tensor,
    t0: float,
    t1: float,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    norm: ErrorNorm | None = None,
    tableau: Tableau = DORMAND_PRINCE,
    save_at: Tensor | None = None,
    max_steps: int = 10_000,
    on_step: Callable[[float], None] | None = None,
) -> Solution:
    """Integrate dy/dt = field from t0 to t1, forwards or backwards, with steps for each sample.

    Steps follow a proportional–integral controller (Hairer, Nørsett & Wanner 1993, II.4; Gustafsson
    1991); frames between steps are cubic Hermite interpolants.

    Args:
        field: dy/dt, as `Field` says.
        y0: Start, shape (B, D), floating point; its dtype is that of the arithmetic.
        t0: Start time.
        t1: End time ≠ t0.
        rtol: Relative tolerance > 0.
        atol: Absolute tolerance > 0.
        norm: Error norm in place of the scaled root mean square of rtol and atol.
        tableau: Embedded pair.
        save_at: Times between t0 and t1 at which states are kept, shape (K,).
        max_steps: Most steps, accepted or not, before giving up.
        on_step: Called after each round with the share of the way that all samples have gone.

    Raises:
        ValueError: A tolerance is not > 0, or y0 is not (B, D).
        RuntimeError: A sample's step falls below what its time can resolve, or steps run out.
    """
    check_floating("y0", y0)
    if not (rtol > 0 and atol > 0):
        raise ValueError(f"rtol and atol must be > 0, got {rtol} and {atol}")
    if y0.ndim != 2:
        raise ValueError(f"y0 must have shape (B, D), got {tuple(y0.shape)}")
    norm = norm or scaled_rms(rtol, atol)
    state = _State.start(field, y0, t0, t1, norm, tableau)
    frames = None if save_at is None else y0.repeat(len(save_at), 1, 1)
    result, nfe = y0.clone(), torch.full((len(y0),), 2, device=y0.device)
    for _ in range(max_steps):
        if len(state.index) == 0:
            return Solution(result, nfe, frames)
        nfe[state.index] += len(tableau.c)
        before, accepted = state.step(field, norm, tableau)
        if save_at is not None and frames is not None:
            _interpolate(frames, save_at.to(before.t), before, state, accepted)
        arrived = accepted & (state.t == t1)
        result[state.index[arrived]] = state.y[arrived]
        state = state.keep(~arrived)
        if on_step is not None:
            on_step(float(((state.t - t0) / (t1 - t0)).min()) if len(state.index) else 1.0)
    raise RuntimeError(
        f"adaptive solver stopped: {max_steps} steps did not reach t={t1:g}; "
        f"sample {int(state.index[0])} is at t={state.t[0].item():g}; loosen rtol or atol"
    )


@dataclass
class _State:
    """The samples still under way: their numbers, times, states, slopes, steps, last errors."""

    index: Tensor
    t: Tensor
    y: Tensor
    slope: Tensor
    h: Tensor
    error: Tensor
    t1: float

    @classmethod
    def start(
        cls, field: Field, y0: Tensor, t0: float, t1: float, norm: ErrorNorm, tableau: Tableau
    ) -> "_State":
        """Choose each sample's first step from two evaluations (Hairer et al. 1993, II.4)."""
        index = torch.arange(len(y0), device=y0.device)
        t = torch.full((len(y0),), t0, dtype=torch.float64, device=y0.device)
        way = t1 - t0
        slope = field(t, y0, index)
        size, speed = norm(y0, y0, y0).double(), norm(slope, y0, y0).double()
        h = torch.where((size < 1e-5) | (speed < 1e-5), 1e-6, 0.01 * size / speed)
        h = torch.copysign(h.clamp(max=abs(way)), torch.tensor(way))
        ahead = field(t + h, y0 + h.to(y0)[:, None] * slope, index)
        bend = norm(ahead - slope, y0, y0).double() / h.abs()
        fastest = torch.maximum(speed, bend).clamp(min=1e-15)
        trial = torch.where(
            fastest <= 1e-15, h.abs() * 1e-3, (0.01 / fastest) ** (1 / tableau.order)
        )
        h = torch.copysign(torch.minimum(100 * h.abs(), trial).clamp(max=abs(way)), h)
        return cls(index, t, y0, slope, h, torch.full_like(h, 1e-4), t1)

    def keep(self, mask: Tensor) -> "_State":
        """The samples of a mask."""
        if bool(mask.all()):
            return self
        index, t, y = self.index[mask], self.t[mask], self.y[mask]
        return _State(index, t, y, self.slope[mask], self.h[mask], self.error[mask], self.t1)

    def step(self, field: Field, norm: ErrorNorm, tableau: Tableau) -> tuple["_State", Tensor]:
        """Try one step for each sample; return the state before it and who accepted."""
        before = _State(self.index, self.t, self.y, self.slope, self.h, self.error, self.t1)
        last = (self.t1 - self.t - self.h) * self.h.sign() <= 1e-14 * abs(self.t1)
        h = torch.where(last, self.t1 - self.t, self.h)
        self._check_resolved(h)
        y_next, slopes = _stages(field, self, h.to(self.y)[:, None], tableau)
        error = norm(_combine(tableau.e, slopes) * h.to(self.y)[:, None], self.y, y_next).double()
        error = torch.where(error.isfinite(), error, torch.inf).clamp(min=1e-10)
        accepted = error <= 1
        t_next = torch.where(last, torch.full_like(self.t, self.t1), self.t + h)
        row = accepted[:, None]
        self.t = torch.where(accepted, t_next, self.t)
        self.y = torch.where(row, y_next, self.y)
        self.slope = torch.where(row, slopes[-1], self.slope)
        self.h = h * self._growth(error, accepted, tableau.order)
        self.error = torch.where(accepted, error.clamp(min=1e-4), self.error)
        return before, accepted

    def _growth(self, error: Tensor, accepted: Tensor, order: int) -> Tensor:
        """Factor of the next step: PI control after success, plain control after failure."""
        integral, proportional = 0.04, 1 / order - 0.75 * 0.04
        up = 0.9 * error ** (-proportional) * self.error**integral
        down = 0.9 * error ** (-1 / order)
        return torch.where(accepted, up.clamp(0.2, 10.0), down.clamp(0.1, 0.9))

    def _check_resolved(self, h: Tensor) -> None:
        finest = 1e-14 * self.t.abs().clamp(min=1e-3)
        # Not «h < finest», which a step that is not a number would pass; a short last step may.
        lost = ~(h.abs() >= finest) & ~((self.t1 - self.t).abs() <= finest)
        if bool(lost.any()):
            where = int(lost.nonzero()[0])
            raise RuntimeError(
                f"adaptive solver stopped: step below minimum at t={self.t[where].item():g}, "
                f"sample {int(self.index[where])}; the field is not finite or not smooth there"
            )


def _combine(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    """Σ_j w_j k_j, in an order that does not depend on the batch."""
    total = weights[0] * slopes[0]
    for weight, slope in zip(weights[1:], slopes[1:], strict=True):
        if weight:
            total = torch.add(total, slope, alpha=weight)
    return total


def _stages(
    field: Field, state: _State, h: Tensor, tableau: Tableau
) -> tuple[Tensor, list[Tensor]]:
    """Solution after a step h (A, 1) and the slopes of all stages."""
    slopes = [state.slope]
    y = state.y
    for c, row in zip(tableau.c, tableau.a, strict=True):
        y = state.y + h * _combine(row, slopes)
        slopes.append(field(state.t + c * h[:, 0].double(), y, state.index))
    return y, slopes


def _interpolate(
    frames: Tensor, save_at: Tensor, before: _State, after: _State, accepted: Tensor
) -> None:
    """Fill the frames whose times lie in a step just taken."""
    h = torch.where(accepted, after.t - before.t, torch.ones_like(after.t))
    for k, time in enumerate(save_at):
        u = (time - before.t) / h
        inside = accepted & (u >= 0) & (u <= 1)
        if not bool(inside.any()):
            continue
        s = u[inside].to(frames)[:, None]
        rise = h[inside].to(frames)[:, None]
        start, end = before.y[inside], after.y[inside]
        from_slope, to_slope = before.slope[inside] * rise, after.slope[inside] * rise
        frames[k, before.index[inside]] = (
            (1 + 2 * s) * (1 - s) ** 2 * start
            + s * (1 - s) ** 2 * from_slope
            + s**2 * (3 - 2 * s) * end
            + s**2 * (s - 1) * to_slope
        )
