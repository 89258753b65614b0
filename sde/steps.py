"""Steps of an embedded pair that each sample of a batch takes at its own time and length."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .tableau import EmbeddedPair

Field = Callable[[Tensor, Tensor, Tensor], Tensor]
"""field(t, y, index) = dy/dt for the samples `index` (A,) at times t (A,), y and dy/dt (A, D)."""

LocalError = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""local_error(t, y, slope, error): effect of the estimated error of a step to (t, y) on a number.

All arguments are (A, D) but t, which is (A,); the result is (A, P), a sum of P parts.
"""

ErrorNorm = Callable[[Tensor, Tensor, Tensor], Tensor]
"""norm(error, y, y_next) of each sample, (A, D) each → (A,): a step is accepted up to 1."""


@dataclass(frozen=True)
class Gauge:
    """How estimated errors are judged: by their norm, and by their effect on a number."""

    norm: ErrorNorm
    local_error: LocalError | None
    local_tol: float | None

    def __call__(
        self, error: Tensor, y: Tensor, t_next: Tensor, y_next: Tensor, slope: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Norm of the error of a step from y, accepted up to 1, and size of its effect; (A,)."""
        norm = self.norm(error, y, y_next).detach().double()
        if self.local_error is None:
            return norm, torch.zeros_like(norm)
        parts = self.local_error(t_next, y_next, slope, error).detach().double()
        size = parts.sum(1).abs()
        if self.local_tol is None:
            return norm, size
        # Their length, since their sum is small wherever parts happen to cancel.
        return torch.maximum(norm, parts.norm(dim=1) / self.local_tol), size


@dataclass
class State:
    """The A samples under way.

    Attributes:
        index: Their positions in the batch.
        t: Times.
        y: States.
        lost: Rounding error of y, which the next step adds back (Kahan 1965): sums over hundreds
            of steps stay as exact as a single one.
        slope: dy/dt.
        h: Next steps.
        error: Norms of the last errors.
        size: Effects of the last errors, by `local_error`.
        t1: Time at which they end.
    """

    index: Tensor
    t: Tensor
    y: Tensor
    lost: Tensor
    slope: Tensor
    h: Tensor
    error: Tensor
    size: Tensor
    t1: float

    @classmethod
    def start(
        cls, field: Field, y0: Tensor, t0: float, t1: float, norm: ErrorNorm, tableau: EmbeddedPair
    ) -> "State":
        """Choose each sample's first step from two evaluations (Hairer et al. 1993, II.4)."""
        index = torch.arange(len(y0), device=y0.device)
        t = torch.full((len(y0),), t0, dtype=torch.float64, device=y0.device)
        way = t1 - t0
        slope = field(t, y0, index)
        size, speed = norm(y0, y0, y0).double(), norm(slope, y0, y0).double()
        h = torch.where((size < 1e-5) | (speed < 1e-5), 1e-6, 0.01 * size / speed)
        h = torch.copysign(h.clamp(max=abs(way)), torch.tensor(way))
        # Where the slope is not finite the probe stays in place; the first step raises the error.
        probe = torch.where(h.isfinite(), h, 0)
        ahead = field(t + probe, y0 + probe.to(y0)[:, None] * slope, index)
        bend = norm(ahead - slope, y0, y0).double() / h.abs()
        fastest = torch.maximum(speed, bend).clamp(min=1e-15)
        trial = torch.where(
            fastest <= 1e-15, h.abs() * 1e-3, (0.01 / fastest) ** (1 / tableau.order)
        )
        # A probe that is not finite does not bound the first step, which shrinks if it must.
        trial = torch.where(bend.isfinite(), trial, 1e-3 * h.abs())
        h = torch.copysign(torch.minimum(100 * h.abs(), trial).clamp(max=abs(way)), h).detach()
        none = torch.zeros_like(y0)
        return cls(index, t, y0, none, slope, h, torch.full_like(h, 1e-4), torch.zeros_like(h), t1)

    def keep(self, mask: Tensor) -> "State":
        """The samples of a mask."""
        if bool(mask.all()):
            return self
        kept = {name: value[mask] for name, value in vars(self).items() if name != "t1"}
        return replace(self, **kept)

    def step(
        self, field: Field, gauge: Gauge, tableau: EmbeddedPair
    ) -> tuple["State", Tensor, list[Tensor]]:
        """Try one step for each sample; return the state before, who accepted, and the slopes."""
        before = replace(self)
        last, h = self.length()
        length = h.to(self.y)[:, None]
        step, slopes = self._stages(field, length, tableau)
        step = step + self.lost
        y_next = self.y + step
        t_next = torch.where(last, torch.full_like(self.t, self.t1), self.t + h)
        error, self.size = self._error(gauge, tableau, slopes, length, t_next, y_next)
        error = torch.where(error.isfinite(), error, torch.inf).clamp(min=1e-10)
        accepted = error <= 1
        row = accepted[:, None]
        self.t = torch.where(accepted, t_next, self.t)
        self.y = torch.where(row, y_next, self.y)
        self.lost = torch.where(row, step - (y_next - before.y), self.lost)
        self.slope = torch.where(row, slopes[-1], self.slope)
        self.h = h * self._growth(error, accepted, tableau.order)
        self.error = torch.where(accepted, error.clamp(min=1e-4), self.error)
        return before, accepted, slopes

    def _stages(
        self, field: Field, h: Tensor, tableau: EmbeddedPair
    ) -> tuple[Tensor, list[Tensor]]:
        """Change of y in a step h (A, 1) and the slopes of all stages."""
        slopes = [self.slope]
        change = torch.zeros_like(self.y)
        for c, row in zip(tableau.c, tableau.a, strict=True):
            change = h * _combine(row, slopes)
            slopes.append(field(self.t + c * h[:, 0].double(), self.y + change, self.index))
        return change, slopes

    def _error(
        self, gauge: Gauge, pair: EmbeddedPair, slopes: list[Tensor], h: Tensor, *step: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Norm and effect of the estimated error of a step h to (t, y) = `step`, (A,) each.

        With two companions the norm is e · e/√(e² + 0.01 e_coarse²), which is close to e while
        steps are too long for the asymptotic powers of h (Hairer et al. 1993, II.10).
        """
        ends = self.y, *step, slopes[-1]
        fine, size = gauge(_combine(pair.e, slopes).detach() * h, *ends)
        if not pair.e_coarse:
            return fine, size
        coarse, _ = gauge(_combine(pair.e_coarse, slopes).detach() * h, *ends)
        # Where both vanish the step is exact, and 0/0 would refuse it.
        return fine.square() / torch.hypot(fine, 0.1 * coarse).clamp(min=1e-30), size

    def _growth(self, error: Tensor, accepted: Tensor, order: int) -> Tensor:
        """Factor of the next step: PI control after success, plain control after failure."""
        integral, proportional = 0.04, 1 / order - 0.75 * 0.04
        up = 0.9 * error ** (-proportional) * self.error**integral
        down = 0.9 * error ** (-1 / order)
        return torch.where(accepted, up.clamp(0.2, 10.0), down.clamp(0.1, 0.9))

    def length(self) -> tuple[Tensor, Tensor]:
        """Which samples take their last step next, and the steps, cut to end at t1."""
        way = self.t1 - self.t
        last = (way - self.h) * way.sign() <= 1e-14 * abs(self.t1)  # h may be 0, without a sign
        return last, torch.where(last, way, self.h)

    def unresolved(self) -> Tensor:
        """Which samples have a next step that is below the resolution of the time, or NaN."""
        h, finest = self.length()[1], 1e-14 * self.t.abs().clamp(min=1e-3)
        # Not «h < finest», which is false for NaN; only a last step may be short.
        return ~(h.abs() >= finest) & ~((self.t1 - self.t).abs() <= finest)


def _combine(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    """Σ_j w_j k_j, in an order that does not depend on the batch."""
    total = weights[0] * slopes[0]
    for weight, slope in zip(weights[1:], slopes[1:], strict=True):
        if weight:
            total = torch.add(total, slope, alpha=weight)
    return total


def interpolate(
    field: Field,
    tableau: EmbeddedPair,
    frames: Tensor,
    save_at: Tensor,
    before: State,
    after: State,
    slopes: list[Tensor],
) -> Tensor:
    """Fill the frames whose times lie in the last step; return the samples that took more stages.

    y(u) = y + u (F_0 + (1 − u) (F_1 + u (F_2 + …))), of which the first three terms are the cubic
    Hermite interpolant (Hairer et al. 1993, II.6).
    """
    way = after.t - before.t  # 0 where the step was refused
    u = (save_at[:, None] - before.t) / torch.where(way == 0, torch.inf, way)
    inside = (way != 0) & (u >= 0) & (u <= 1)
    rows = inside.any(0)
    if not bool(rows.any()):
        return before.index[:0]
    index, t, y = before.index[rows], before.t[rows], before.y[rows]
    h = way[rows].to(frames)[:, None]
    k = [slope[rows] for slope in slopes]
    rise = after.y[rows] - y
    terms = [rise, h * k[0] - rise, 2 * rise - h * (k[0] + k[-1])]
    for c, row in zip(tableau.frame_c, tableau.frame_a, strict=True):
        k.append(field(t + c * way[rows], y + h * _combine(row, k), index))
    terms += [h * _combine(row, k) for row in tableau.frame_d]
    for number, (own, share) in enumerate(zip(inside[:, rows], u[:, rows].to(frames), strict=True)):
        if bool(own.any()):
            s, value = share[own, None], torch.zeros_like(y[own])
            for i in reversed(range(len(terms))):
                value = (value + terms[i][own]) * (1 - s if i % 2 else s)
            frames[number, index[own]] = y[own] + value
    return index
