"""The reverse SDE with adaptive steps, different for every sample."""

from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.sde import SDE, Score, rows
from scoresde.sde.broadcast import expand
from scoresde.sde.checks import check_steps
from scoresde.sde.integrate import check_resolution
from scoresde.sde.reverse import ReverseSDE
from scoresde.sde.score import RowCache
from scoresde.sde.stopping import not_finite

from .base import Sampler
from .context import SamplingContext
from .grids.grid import BELOW_TOP, last_time
from .wiener import WienerPaths

SHORTEST = 1e-10
"""Shortest step, as a part of T; a score that needs a shorter one is not smooth."""


class AdaptiveSDE(Sampler):
    """Samples by the reverse SDE, each with steps as long as its own error allows.

        y  = x − h a(x, t) + g(t) w,   a = f x − g² s,   w ~ N(0, h I)
        x′ = ½ (y + x − h a(y, t − h) + g(t − h) w)
        E  = rms((y − x′) / max(atol, rtol max(|y|, |y_before|))),   h ← min(t − eps, θ h E^{−r})

    The step of Heun's method, x′, is accepted where its distance E from that of Euler–Maruyama, y,
    is at most 1, and repeated with the new h otherwise. The published algorithm then samples w
    anew, which is biased, since it discards the noise with large errors: on N(0, I) at the default
    tolerances the variance of samples is too large by 69 % (VP) and 165 % (VE) in two coordinates
    and by 2 % in 64. Here the shorter w is conditioned on the longer one (a Brownian bridge) and
    the next steps use its rest, so that every sample follows one Wiener path; the variance is then
    exact to 1 %, which includes the error of the measurement.

    A rejected step costs one evaluation, an accepted one two. A sample that has arrived leaves the
    batch. Where a trajectory is kept, steps end at its times.

    Args:
        rtol: Relative tolerance > 0; the published values are 0.01 to 0.1.
        atol: Absolute tolerance > 0; 1/128 is the step of 8-bit images in [−1, 1].
        h_init: First h as a part of T, in (0, 1].
        safety: θ in (0, 1).
        r: Exponent of the controller in [0.5, 1].
        eps: Last time; the process's `sampling_eps` where not given.
        denoise: Return the posterior mean (x + σ² s)/α at the cost of one evaluation.
        max_steps: Most steps of a sample, accepted or not, before giving up.

    Raises:
        ValueError: A setting out of its range, a tolerance finer than the state's type resolves,
            eps outside (0, T), or a constraint, `noise=` or `encode`, which need fixed or
            deterministic steps.
        RuntimeError: max_steps were not enough, or steps became too short.

    Reference: Jolicoeur-Martineau et al. 2021, arXiv:2105.14080 (algorithm 1); Rackauckas & Nie
    2017, Discrete and Continuous Dynamical Systems B 22(7) (rejection sampling with memory).
    """

    def __init__(
        self,
        rtol: float = 0.01,
        atol: float = 0.0078,
        h_init: float = 0.01,
        safety: float = 0.9,
        r: float = 0.9,
        *,
        eps: float | None = None,
        denoise: bool = True,
        max_steps: int = 10_000,
    ) -> None:
        if not (0 < rtol < float("inf") and 0 < atol < float("inf")):
            raise ValueError(f"rtol and atol must be finite and > 0, got {rtol} and {atol}")
        if not 0 < h_init <= 1:
            raise ValueError(f"h_init must be in (0, 1], a part of T, got {h_init}")
        if not 0 < safety < 1:
            raise ValueError(f"safety must be in (0, 1), got {safety}; the published value is 0.9")
        if not 0.5 <= r <= 1:
            raise ValueError(f"r must be in [0.5, 1], got {r}; the published value is 0.9")
        self.rtol, self.atol, self.h_init, self.safety, self.r = rtol, atol, h_init, safety, r
        self.eps, self.denoise, self.max_steps = eps, denoise, check_steps(max_steps, "max_steps")

    def check(self, sde: SDE, dtype: torch.dtype) -> None:
        """Raise ValueError if eps is not in (0, T), or a step cannot be as short as it must be."""
        last_time(sde, self.eps)
        sde.check_signal("an adaptive solver")
        check_resolution(self.rtol, dtype)
        top = torch.tensor(sde.T, dtype=torch.float64)
        longest = 2 * (sde.sigma(top) / sde.g(top)).square().item()  # of a stable step at T
        if longest < SHORTEST * sde.T:
            raise ValueError(
                f"steps from T={sde.T:g} must be shorter than {longest:.1e} on "
                f"{type(sde).__name__}, and an adaptive step is at least {SHORTEST * sde.T:.1e}; "
                f"use PredictorCorrector() with {BELOW_TOP}"
            )

    def run(self, sde: SDE, score: Score, x: Tensor, run: SamplingContext) -> Tensor:
        """Carry x from T to eps, each sample with its own steps."""
        self.check(sde, run.dtype or x.dtype)
        _refuse(run)
        eps = last_time(sde, self.eps)
        stops = torch.linspace(sde.T, eps, max(run.keep, 2), dtype=torch.float64)[1:]
        run.begin(None, x)
        *frames, x = self._solve(RowCache(score, sde.reverse), x, stops.to(x.device), run)
        run.report(stops[:-1], frames, x)
        if self.denoise:
            t = torch.full((len(x),), eps, dtype=torch.float64, device=x.device)
            variance = expand(sde.sigma(t).square(), x)
            x = torch.addcmul(x, variance, score(x, t)) / expand(sde.alpha(t), x)
        return x

    def _solve(
        self, flows: RowCache[ReverseSDE], x: Tensor, stops: Tensor, run: SamplingContext
    ) -> list[Tensor]:
        """The states of all samples at the falling times `stops`, which are to be passed."""
        T, eps = flows.whole.sde.T, stops[-1]
        states = x.repeat(len(stops), *[1] * x.ndim)
        way = _Way.start(flows.whole, x, self.h_init * T)
        for _ in range(self.max_steps):
            flow = flows(way.index)
            self._check_resolved(way, flow)
            accepted = self._step(way, flow, stops[way.leg], run)
            landed = accepted & (way.t == stops[way.leg])
            states[way.leg[landed], way.index[landed]] = way.x[landed]
            way.leg = way.leg + landed
            under_way = way.leg < len(stops)
            way, accepted = way.keep(under_way), accepted[under_way]
            if len(way.index) == 0:
                run.advance(1.0)
                return list(states)
            if run.progress:  # it waits for the device
                run.advance(float(((T - way.t) / (T - eps)).min()))
            if bool(accepted.any()):  # only where x has moved
                flow = flows.make(rows(flows.score, way.index[accepted]))
                way.slope[accepted] = flow.drift(way.x[accepted], way.t[accepted])
        raise RuntimeError(
            f"adaptive solver stopped: {self.max_steps} steps did not reach t={eps.item():g}; "
            f"sample {int(way.index[0])} is at t={way.t[0].item():g}; loosen rtol or atol, or "
            "raise max_steps"
        )

    def _step(self, way: "_Way", flow: ReverseSDE, stop: Tensor, run: SamplingContext) -> Tensor:
        """Try one step of each sample, at most to its stop; return which were accepted."""
        slack = 1e-12 * flow.sde.T  # rounding of sums of times
        known = way.path.known()
        h = torch.minimum(torch.minimum(way.h, way.t - stop), known)
        h = torch.where(known - h <= slack, known, h)
        w = way.path.take(h, run.noise(way.x, way.index))
        t = torch.where(way.t - h - stop <= slack, stop, way.t - h)
        y, x = _trial(way, flow, t, h, w)
        error = self._error(y - x, y, way.before).detach()
        accepted = error <= 1
        way.path.put_back(~accepted, h, w)
        row = accepted.reshape(-1, *[1] * (x.ndim - 1))
        way.x, way.before = torch.where(row, x, way.x), torch.where(row, y, way.before)
        way.t = torch.where(accepted, t, way.t)
        # The clamp makes the step after one that is not finite a tenth as long.
        h_next = h * (self.safety * error ** (-self.r)).clamp(min=0.1)
        # The error of a step cut short says little about longer steps.
        cut = accepted & (h < way.h)
        way.h = torch.where(cut, torch.minimum(way.h, h_next), h_next)
        return accepted

    def _error(self, difference: Tensor, y: Tensor, before: Tensor) -> Tensor:
        """E of each sample, (A,) in float64; ∞ where it is not a number."""
        size = torch.maximum(y.abs(), before.abs())
        scaled = difference / (self.rtol * size).clamp(min=self.atol)
        error = scaled.flatten(1).double().square().mean(1).sqrt()
        return torch.where(error.isfinite(), error, torch.inf).clamp(min=1e-10)

    @staticmethod
    def _check_resolved(way: "_Way", flow: ReverseSDE) -> None:
        lost = way.h < SHORTEST * flow.sde.T
        if bool(lost.any()):
            row, why = int(lost.nonzero()[0]), None
            # The last point, or just after it, where the last steps were tried.
            for ahead in (0.0, 1e-9):
                t = (way.t - ahead * flow.sde.T).clamp(min=0.0)
                why = why or not_finite(way.x[row], flow.score(way.x, t)[row])
            raise RuntimeError(
                f"adaptive solver stopped: step below minimum at t={way.t[row].item():g}, "
                f"sample {int(way.index[row])}; {why or 'the score is not smooth there'}"
            )


def _trial(way: "_Way", flow: ReverseSDE, t: Tensor, h: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """y of Euler and Maruyama and x′ of Heun after steps h to t with increments w."""
    y = way.x - expand(h, w) * way.slope + expand(flow.diffusion(way.t), w) * w
    ahead = way.x - expand(h, w) * flow.drift(y, t) + expand(flow.diffusion(t), w) * w
    return y, 0.5 * (y + ahead)


def _refuse(run: SamplingContext) -> None:
    """Raise ValueError for what adaptive steps with noise cannot do."""
    if run.encode:
        raise ValueError(
            "encoding follows a deterministic path, and this sampler draws noise; "
            "use ProbabilityFlowODE"
        )
    run.refuse_constraint("an adaptive solver")
    if run.source is not None:
        raise ValueError(
            "an adaptive solver takes no noise=, since its steps are not those of another run; "
            "use generator=, or PredictorCorrector(EulerMaruyama())"
        )


@dataclass
class _Way:
    """The A samples that have not arrived.

    Attributes:
        index: Their numbers in the batch.
        leg: Number of the next stop of each.
        t: Times.
        h: Steps of their controllers.
        x: States.
        slope: a(x, t).
        before: y of the last step taken.
        path: Their Wiener paths beyond t.
    """

    index: Tensor
    leg: Tensor
    t: Tensor
    h: Tensor
    x: Tensor
    slope: Tensor
    before: Tensor
    path: WienerPaths

    @classmethod
    def start(cls, flow: ReverseSDE, x: Tensor, h: float) -> "_Way":
        """All samples at T."""
        index = torch.arange(len(x), device=x.device)
        t = torch.full((len(x),), flow.sde.T, dtype=torch.float64, device=x.device)
        slope = flow.drift(x, t)
        path = WienerPaths.start(x)
        return cls(index, torch.zeros_like(index), t, torch.full_like(t, h), x, slope, x, path)

    def keep(self, mask: Tensor) -> "_Way":
        """The samples of a mask."""
        if bool(mask.all()):
            return self
        index, leg, t, h = (c[mask] for c in (self.index, self.leg, self.t, self.h))
        x, slope, before = (c[mask] for c in (self.x, self.slope, self.before))
        return _Way(index, leg, t, h, x, slope, before, self.path.keep(mask))
