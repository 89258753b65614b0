"""Exact likelihood by the probability-flow ODE."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from tqdm import tqdm

from scoresde.sde import SDE, Evaluations, Score, expand, integrate
from scoresde.sde.broadcast import widened
from scoresde.sde.cautions import caution_training, caution_width
from scoresde.sde.checks import check_choice, check_floating, check_steps
from scoresde.sde.integrate import Solution, check_resolution, error_norm
from scoresde.sde.precision import check_range, computing_dtype
from scoresde.sde.score import RowCache
from scoresde.sde.steps import ErrorNorm
from scoresde.sde.stopping import not_finite
from scoresde.sde.tableau import PAIRS

from .divergence import ControlVariate, Divergence, choose_divergence, score_and_divergence
from .graph import check_differentiable, derivatives_allowed, ordinary
from .result import Likelihood, join, warn_failed
from .seeding import Draws, numbers_of

CLOCKS = ("t", "half_log_snr", "log_snr")  # the last two are names of λ

# The error of log p through the state that a step may have, in units of its tolerance. With 1,
# typical points of VE would take 10 % more evaluations; with 3, errors far out approach 30 rtol.
STATE_SHARE = 2.0


def log_likelihood(
    sde: SDE,
    score: Score,
    x: Tensor,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    log_prob_tol: float | None = None,
    divergence: str | Divergence = "exact",
    control_variate: ControlVariate | None = None,
    method: str = "dopri5",
    clock: str = "t",
    eps: float | None = None,
    dtype: torch.dtype | None = None,
    seed: int = 0,
    sample_ids: Sequence[int] | None = None,
    batch_size: int | None = None,
    forward_mode: bool = False,
    differentiable: bool = False,
    give_up: bool = False,
    progress: bool = False,
) -> Likelihood:
    """Log-density of the model at x, by the change of variables along the probability flow.

        v = f x − ½ g² s,   log p_eps(x) = log p_T(x_T) + ∫_eps^T ∇·v(x_t, t) dt

    Every sample has its own steps and probes and leaves the batch when it arrives, so that its
    result does not depend on the other samples. State and log p are float64, with compensated sums;
    one forward pass of the network gives drift and divergence. The density is that of p_eps, and
    log p_T is that of the prior.

    Args:
        sde: Process.
        score: s(x, t), differentiable in x; with a condition, `model.given(condition)`.
        x: Points, shape (B, *), floating point.
        rtol: Relative tolerance of the state > 0.
        atol: Absolute tolerance of the state > 0.
        log_prob_tol: Absolute tolerance of log p in nats > 0; rtol by default. In each step the
            error of the integral stays below it, and the error s · δ of log p that comes from the
            error δ of the state stays below twice the tolerance.
        divergence: `exact`, `hutchinson`, `hutch++`, or an object of `evaluation.divergence`.
        control_variate: Control variate of a stochastic divergence.
        method: `bosh3`, `dopri5` or `dop853`, embedded pairs of orders 3, 5 and 8.
        clock: Variable of the integration: `t`, or `half_log_snr` (also `log_snr`) for λ.
        eps: Time of the density; the `eps` of the process by default.
        dtype: Type of the network's input; the type of x by default.
        seed: Seed of the probes.
        sample_ids: Numbers of the samples, which determine their probes; 0 … B − 1 by default.
        batch_size: Largest number of samples at once, ≥ 1; all by default.
        forward_mode: Compute products with the Jacobian by forward-mode differentiation.
        differentiable: Keep the graph, so that log p can be differentiated in x and in the
            parameters of the score; every step stays in memory.
        give_up: Give a sample whose flow cannot be followed to T the value NaN instead of raising
            an error.
        progress: Show a progress bar on a terminal.

    Raises:
        ValueError: x is not (B, *) or holds NaN or Inf; the divergence, method or clock is unknown;
            a tolerance is not > 0 or finer than the network's type (or that of autocast) resolves;
            the type cannot hold the states; eps is outside (0, T); batch_size is not ≥ 1; there are
            more coordinates than `exact` can take; or the score has another shape.
        TypeError: x is not floating point.
        RuntimeError: The solver did not reach T.

    Reference: Song et al. 2021, arXiv:2011.13456 (eq. 39); Chen et al. 2018, arXiv:1806.07366;
    Grathwohl et al. 2019, arXiv:1810.01367 (section 3.1.1).
    """
    _check_points(x)
    check_choice("method", method, *PAIRS)
    check_choice("clock", clock, *CLOCKS)
    rule = choose_divergence(divergence).within(x[0].numel())
    rule.check(x[0].numel())
    dtype = dtype or x.dtype
    check_resolution(rtol, computing_dtype(score, x.new_empty(0, dtype=dtype)))
    end = sde.check_end(sde.eps if eps is None else eps)
    sde.check_signal("the likelihood")
    check_range(sde, dtype, end, derivatives=True)
    check_differentiable(score, x, differentiable)
    for name, tolerance in (("atol", atol), ("log_prob_tol", log_prob_tol)):
        if tolerance is not None and not 0 < tolerance < float("inf"):
            raise ValueError(f"{name} must be > 0, got {tolerance}")
    numbers = numbers_of(x, sample_ids)
    size = len(x) if batch_size is None else check_steps(batch_size, "batch_size")
    log_prob_tol = rtol if log_prob_tol is None else log_prob_tol
    estimate = partial(
        score_and_divergence,
        divergence=rule,
        control_variate=control_variate if rule.stochastic else None,
        forward_mode=forward_mode,
        differentiable=differentiable,
    )
    solve = partial(
        integrate,
        rtol=rtol,
        atol=atol,
        tableau=PAIRS[method],
        local_tol=STATE_SHARE * log_prob_tol,
        give_up=give_up,
    )
    of_state = error_norm(rtol, atol, "sum")
    ends = (end, sde.T)
    flow = _Flow(ends, clock, dtype, rule, estimate, solve, of_state, log_prob_tol, differentiable)
    caution_training(score)
    caution_width(sde, x)
    counted = Evaluations(score, len(x))
    bar = tqdm(total=len(x), disable=None if progress else True, leave=False, unit="sample")
    parts = []
    with derivatives_allowed():
        x = ordinary(x)
        for part in torch.arange(len(x)).split(size):
            draws = Draws(seed, [numbers[i] for i in part.tolist()])
            parts.append(_solve(sde, counted.rows(part), x[part.to(x.device)], draws, flow))
            bar.update(len(part))
        bar.close()
        whole = join(parts)
    if give_up:
        warn_failed(~whole.log_prob.isfinite(), numbers, "likelihood")
    return whole


@dataclass(frozen=True)
class _Flow:
    """Settings of `log_likelihood`: `estimate` gives s and ∇·s, `solve` integrates the flow."""

    ends: tuple[float, float]
    clock: str
    dtype: torch.dtype
    divergence: Divergence
    estimate: Callable[..., tuple[Tensor, Tensor]]
    solve: Callable[..., Solution]
    of_state: ErrorNorm
    log_prob_tol: float
    differentiable: bool


def _check_points(x: Tensor) -> None:
    check_floating("x", x)
    if x.ndim < 2:
        raise ValueError(
            f"x must be (B, *), samples first, got shape {tuple(x.shape)}; use x[:, None] for "
            "samples of one coordinate, x[None] for one sample"
        )
    if x.numel() == 0:
        raise ValueError(f"x must hold at least one point, got shape {tuple(x.shape)}")
    if not x.isfinite().all():
        raise ValueError("x contains NaN/Inf; the likelihood of such a point does not exist")


def _solve(sde: SDE, score: Evaluations, x: Tensor, draws: Draws, flow: _Flow) -> Likelihood:
    dim, count = x[0].numel(), flow.divergence.estimates
    probes = flow.divergence.draw(draws, x.to(flow.dtype))
    before = score.count
    with torch.set_grad_enabled(flow.differentiable):
        end = _integrate(sde, score, x, probes, flow)
        latent, estimates = end.y[:, :dim].reshape(x.shape), end.y[:, dim:]
        log_prob = sde.prior(tuple(x.shape)).log_prob(latent) + estimates.mean(1)
    spread = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    if flow.divergence.stochastic:  # a single estimate has no standard error: NaN
        deviations = estimates.detach() - estimates.detach().mean(1, keepdim=True)
        spread = (deviations.square().sum(1) / (count - 1 or torch.nan) / count).sqrt()
    named = (dim, flow.ends[0], flow.divergence.name)
    none = torch.zeros_like(spread)
    nfe = end.nfe * (score.count - before) // end.nfe.sum()
    return Likelihood(log_prob, latent.to(x.dtype), nfe, end.error, spread, none, *named)


def _integrate(sde: SDE, score: Score, x: Tensor, probes: Tensor, flow: _Flow) -> Solution:
    """Integrate [x, ∫ of each estimate of ∇·v] from eps to T."""
    dim, parts = x[0].numel(), RowCache(score, lambda part: part)
    clock = _Clock(sde, flow.clock, flow.ends)

    def field(u: Tensor, y: Tensor, index: Tensor) -> Tensor:
        t = clock.time(u)
        state = y[:, :dim].reshape(-1, *x.shape[1:]).to(flow.dtype)
        s, trace = flow.estimate(parts(index), state, t, probes=probes[index])
        weight = 0.5 * sde.g(t).square()
        s = widened(s)
        velocity = sde.drift(state, t) - expand(weight, s) * s
        change = (sde.f(t) * dim)[:, None] - weight[:, None] * trace.double()
        return clock.rate(t)[:, None] * torch.cat([velocity.flatten(1).double(), change], 1)

    def norm(error: Tensor, y: Tensor, y_next: Tensor) -> Tensor:
        # log p is a sum over coordinates, so that their errors are summed, not averaged. Its
        # tolerance is absolute, since the accuracy that is needed does not depend on its size.
        error, log_prob = error[:, :dim], error[:, dim:].mean(1)
        state = flow.of_state(error, y[:, :dim], y_next[:, :dim])
        return torch.maximum(state, log_prob.abs() / flow.log_prob_tol)

    sums = torch.zeros(len(x), flow.divergence.estimates, dtype=torch.float64, device=x.device)
    start = torch.cat([x.flatten(1).double(), sums], 1)

    def local_error(u: Tensor, y: Tensor, slope: Tensor, error: Tensor) -> Tensor:
        # An error δ of the state at t changes log p by s · δ, since s is the gradient of log p_t.
        # Far out, where s is large, this is much more than the tolerance of the state.
        t = clock.time(u)
        velocity = slope[:, :dim] / clock.rate(t)[:, None]
        weight = (0.5 * sde.g(t).square())[:, None]
        pull = sde.f(t)[:, None] * y[:, :dim] - velocity
        s = torch.where(weight > 0, pull / weight, 0)  # there is no velocity where g = 0
        return torch.cat([s * error[:, :dim], error[:, dim:].mean(1, keepdim=True)], 1)

    def cause(u: Tensor, y: Tensor, index: Tensor, row: int) -> str | None:
        t = clock.time(u)
        state = y[:, :dim].reshape(-1, *x.shape[1:]).to(flow.dtype)
        s, trace = score_and_divergence(parts(index), state, t, flow.divergence, probes[index])
        others = {"divergence of the score": trace[row], "log p": y[row, dim:]}
        return not_finite(state[row], s[row], **others)

    own = {"norm": norm, "local_error": local_error, "time_of": clock.time, "cause": cause}
    return flow.solve(field, start, *clock.ends, **own)


class _Clock:
    """The variable of an integration: t, or λ with dt/dλ = 1/λ′ = −2 σ²/g²."""

    def __init__(self, sde: SDE, name: str, ends: tuple[float, float]) -> None:
        self.sde, self.over_half_log_snr, self.ends = sde, name != "t", ends
        if self.over_half_log_snr:
            first, last = sde.half_log_snr(torch.tensor(ends, dtype=torch.float64)).tolist()
            self.ends = first, last

    def time(self, u: Tensor) -> Tensor:
        """t where the variable is u."""
        if not self.over_half_log_snr:
            return u
        # Stages may pass an end by a rounding error, where λ has no inverse.
        return self.sde.time_of_half_log_snr(u.clamp(*self.ends[::-1]))

    def rate(self, t: Tensor) -> Tensor:
        """dt/du at time t."""
        if not self.over_half_log_snr:
            return torch.ones_like(t)
        return -2 * (self.sde.sigma(t) / self.sde.g(t)).square()
