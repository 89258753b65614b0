"""The reverse process, solved by the torchsde package."""

import math
import warnings
from collections import deque
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from scoresde.sde import SDE, Score, expand
from scoresde.sde.checks import check_choice, check_steps
from scoresde.sde.integrate import check_resolution
from scoresde.sde.prior import Randomness
from scoresde.sde.score import RowCache
from scoresde.sde.stopping import refuse_not_finite

from .base import Sampler
from .brownian import BrownianPaths
from .context import SamplingContext
from .grids.grid import last_time
from .solvers.predictors import EulerMaruyama
from .stability import check_plan

# The calculus of each solver, Itô's or Stratonovich's, which agree where the diffusion does not
# depend on the state. There log_ode is midpoint with (B, D, D) areas multiplied by 0. There is no
# reversible_heun: it has a second state, nothing damps its distance from the first, and the flow is
# stiff near the data. On VP, data of standard deviation 0.20 become samples of 0.34 with 200 steps
# and of 19 with 50.
CALCULUS = {
    "euler": "ito",
    "milstein": "ito",
    "srk": "ito",
    "heun": "stratonovich",
    "midpoint": "stratonovich",
    "euler_heun": "stratonovich",
}
VARIABLES = ("half_log_snr", "log_snr", "time")  # the first two are names of λ


class TorchSDE(Sampler):
    """Samples by torchsde's solvers on the reverse SDE, or on the probability flow (η = 0).

        dx = [f x − ½ (1 + η²) g² s(x, t)] dt + η g dw̄

    `srk` (Rößler's SRA1, 2 evaluations a step) has strong order 1.5, `heun` and `midpoint` (2),
    `euler`, `milstein` and `euler_heun` (1) have order 1, as the diffusion does not depend on the
    state. Sampling ends at eps, without a denoising step. The package draws its own noise, seeded
    by the generator. With a generator for each sample, adaptive steps solve one sample after
    another.

    Args:
        method: `euler`, `milstein`, `srk`, `heun`, `midpoint` or `euler_heun`.
        steps: Number of equal steps N ≥ 1; with adaptive steps, the first has this length.
        adaptive: Choose steps, one for the whole batch, by comparing each with two of half its
            length; kept states are then interpolated linearly between them.
        rtol: Relative tolerance > 0 of an adaptive step.
        atol: Absolute tolerance > 0 of an adaptive step.
        eta: Stochasticity η ≥ 0.
        variable: In what the steps are equal: `half_log_snr` or `log_snr` (λ), with which few steps
            suffice on any process, or `time`, which needs no inversion of λ but many steps where
            σ(t) is large.
        eps: Last time; the process's `sampling_eps` where not given.

    Raises:
        ValueError: Unknown method or variable, steps not an integer ≥ 1, tolerances not > 0 or
            finer than the state's type resolves, eta < 0, eps outside (0, T), a constraint, or
            `noise=` or `encode` with η > 0.
        ImportError: torchsde is not installed.
        RuntimeError: Adaptive steps became too short, or not a number.

    Reference: Li et al. 2020, arXiv:2001.01328; Kidger et al. 2021, arXiv:2105.13493; Rößler 2010,
    SIAM J. Numer. Anal. 48 (3).
    """

    def __init__(
        self,
        method: str = "srk",
        steps: int = 200,
        adaptive: bool = False,
        rtol: float = 1e-2,
        atol: float = 1e-2,
        eta: float = 1.0,
        variable: str = "half_log_snr",
        eps: float | None = None,
    ) -> None:
        check_choice("method", method, *CALCULUS)
        check_choice("variable", variable, *VARIABLES)
        if not (rtol > 0 and atol > 0):
            raise ValueError(f"rtol and atol must be > 0, got {rtol} and {atol}")
        if not 0 <= eta < math.inf:
            raise ValueError(f"eta must be finite and ≥ 0, got {eta}")
        self.method, self.steps, self.adaptive = method, check_steps(steps), adaptive
        self.rtol, self.atol, self.eta, self.eps, self.variable = rtol, atol, eta, eps, variable

    def check(self, sde: SDE, dtype: torch.dtype) -> None:
        """Raise ValueError if eps is not in (0, T), or rtol is finer than the type resolves."""
        _package()
        last_time(sde, self.eps)
        sde.check_signal("torchsde")
        if self.adaptive:
            check_resolution(self.rtol, dtype)
            return
        # Its methods are about as stable as Euler's steps between the same times.
        ends = torch.tensor([sde.T, last_time(sde, self.eps)], dtype=torch.float64)
        first, last = (sde.half_log_snr(ends) if self.variable != "time" else ends).tolist()
        times = torch.linspace(first, last, self.steps + 1, dtype=torch.float64)
        times = sde.time_of_half_log_snr(times) if self.variable != "time" else times
        check_plan(sde, EulerMaruyama().plan(sde, times), dtype)

    def states(self, sde: SDE) -> int | None:
        return None if self.adaptive else self.steps + 1

    def run(self, sde: SDE, score: Score, x: Tensor, run: SamplingContext) -> Tensor:
        """Carry x from T to eps, or from eps to T (`encode`)."""
        self.check(sde, run.dtype or x.dtype)
        self._refuse(run)
        ends = (sde.T, last_time(sde, self.eps))
        ends = ends[::-1] if run.encode else ends
        run.begin(None if self.adaptive else self.steps, x)
        equation = _Equation(self, sde, score, ends, run)
        clock = self._clock(equation, run.keep)
        states = self._states(equation, clock, x, run)
        run.report((equation.time(tau) for tau in clock[1:-1]), states[1:-1], states[-1])
        return states[-1]

    def _refuse(self, run: SamplingContext) -> None:
        if run.differentiable:
            raise ValueError(
                "torchsde keeps no graph here; use PredictorCorrector(SRA1()), or "
                "ProbabilityFlowODE() for the flow, with differentiable=True"
            )
        run.refuse_constraint("torchsde")
        if run.encode and self.eta > 0:
            raise ValueError("a solver that draws noise cannot encode; use TorchSDE(eta=0)")
        if run.source is not None and self.eta > 0:
            raise ValueError(
                "torchsde draws its own noise; use generator= in place of noise=, "
                "or PredictorCorrector(SRA1())"
            )

    def _clock(self, equation: "_Equation", keep: int) -> Tensor:
        """Times τ of the kept states, of which the first and the last are the ends."""
        share = torch.linspace(0, 1, max(keep, 2), dtype=torch.float64)
        if not self.adaptive:  # interpolated states between two steps would be too smooth
            share = (share * self.steps).round().unique() / self.steps
        start, end = equation.clock()
        return start + (end - start) * share

    def _states(
        self, equation: "_Equation", clock: Tensor, x: Tensor, run: SamplingContext
    ) -> Tensor:
        """States at some times τ, shape (K, B, *)."""
        source = run.generator
        if not (self.adaptive and isinstance(source, Sequence)):
            return self._solve(equation, clock, x, source)
        # A step size shared by the batch would make a sample depend on the others.
        alone = []
        for number, own in enumerate(source):
            equation.select(torch.tensor([number]))
            alone.append(self._solve(equation, clock, x[number : number + 1], [own]))
        return torch.cat(alone, 1)

    def _paths(self, clock: Tensor, dt: float, y: Tensor, source: Randomness) -> Any:
        """The Brownian paths of states y (B, D)."""
        torchsde = _package()
        if isinstance(source, Sequence):
            rows = zip(y.split(1), source, strict=True)
            return BrownianPaths([self._paths(clock, dt, row, own) for row, own in rows])
        return torchsde.BrownianInterval(
            float(clock[0]),
            float(clock[-1]),
            tuple(y.shape),
            dtype=y.dtype,
            device=y.device,
            dt=None if self.adaptive else dt,
            entropy=_entropy(source),
            levy_area_approximation="space-time" if self.method == "srk" else "none",
        )

    def _solve(self, equation: "_Equation", clock: Tensor, x: Tensor, source: Randomness) -> Tensor:
        """States at some times τ of samples that share their steps, shape (K, B, *)."""
        torchsde = _package()
        # A little longer, so that the sum of N rounded steps reaches the end.
        dt = float(clock[-1] - clock[0]) / self.steps * (1 + 1e-9)
        y = x.flatten(1)
        equation.begin(x)
        try:
            with warnings.catch_warnings():
                # torchsde would accept the step with any error.
                warnings.filterwarnings("error", message="Hitting minimum allowed step size")
                states: Tensor = torchsde.sdeint(
                    equation,
                    y,
                    clock,
                    bm=self._paths(clock, dt, y, source),
                    method=self.method,
                    dt=dt,
                    adaptive=self.adaptive,
                    rtol=self.rtol,
                    atol=self.atol,
                    dt_min=1e-7 * float(clock[-1] - clock[0]),
                )
                return states.reshape(-1, *x.shape)
        except (UserWarning, AssertionError) as error:
            raise RuntimeError(
                f"adaptive solver stopped: {error} Loosen rtol or atol, or use adaptive=False"
            ) from error


class _Equation:
    """A reverse process in the form of torchsde: a rising time τ, states of shape (B, D).

        dx/dτ = ± v drift,   noise √v η g,   v = |dt/dτ|

    τ = −t towards the data and τ = t towards the noise, or else τ = ± λ(t). The noise is additive
    and given by its product, so that srk needs no (B, D, D) diffusion.
    """

    noise_type = "additive"

    def __init__(
        self, sampler: TorchSDE, sde: SDE, score: Score, ends: Sequence[float], run: SamplingContext
    ) -> None:
        self.sde_type = CALCULUS[sampler.method]
        self._sde, self._parts = sde, RowCache(score, lambda part: sde.reverse(part, sampler.eta))
        self._reverse, self._ends, self._run = self._parts.whole, ends, run
        self._sign = 1.0 if ends[1] > ends[0] else -1.0
        self._warp = self._warped() if sampler.variable != "time" else None
        # torchsde evaluates the start to find its shape, srk its first stage twice, and an
        # adaptive step and its first half begin at the same state.
        self._seen: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=2)
        self.first = 0  # number of the first sample of the current solution

    def select(self, numbers: Tensor) -> None:
        """Continue with these samples of the batch alone, shape (A,)."""
        self.first = int(numbers[0])
        self._reverse = self._parts(numbers)

    def begin(self, x: Tensor) -> None:
        """Begin a solution from states x, without the evaluations of the last one."""
        self._shape = x.shape
        self._seen.clear()

    def clock(self) -> Tensor:
        """τ at both ends, shape (2,)."""
        t = torch.tensor(self._ends, dtype=torch.float64)
        return self._sign * (t if self._warp is None else -self._sde.half_log_snr(t))

    def time(self, tau: Tensor) -> Tensor:
        """t of τ; torchsde's sums can end a rounding below a chain's lowest level."""
        t = self._sign * tau
        if self._warp is not None:
            t = torch.tensor(float(self._warp(float(tau))), dtype=torch.float64)
        return t.clamp(min(self._ends), max(self._ends))

    def f(self, tau: Tensor, y: Tensor) -> Tensor:
        """Drift dx/dτ."""
        for time, state, slope in self._seen:
            if state is y and time == tau:
                return slope
        t, (start, end) = self.time(tau), self._ends
        self._run.advance(float((t - start) / (end - start)))
        state = y.reshape(self._shape)
        drift = self._reverse.drift(state, t)
        refuse_not_finite(state, drift, float(t), self.first)  # torchsde would not name the sample
        drift = drift.flatten(1)
        slope = expand(self._sign * self._rate(tau), drift) * drift
        self._seen.append((tau, y, slope))
        return slope

    def g_prod(self, tau: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Diffusion at the run's temperature, times increments v of the Brownian path."""
        t = self.time(tau)
        scale = self._run.temperature * self._rate(tau).sqrt() * self._reverse.diffusion(t)
        return expand(scale, v) * v

    def _rate(self, tau: Tensor) -> Tensor:
        """v = |dt/dτ|."""
        if self._warp is None:
            return torch.ones_like(tau)
        return torch.tensor(abs(float(self._warp(float(tau), 1))), dtype=torch.float64)

    def _warped(self) -> PchipInterpolator:
        """t(τ) by a monotone interpolant, since an inversion of λ at each stage takes milliseconds.

        The process stays exact, as v is the derivative of the interpolant.
        """
        t = torch.tensor(self._ends, dtype=torch.float64)
        first, last = (-self._sign * self._sde.half_log_snr(t)).tolist()
        tau = torch.linspace(first, last, 1025, dtype=torch.float64)
        times = self._sde.time_of_half_log_snr(-self._sign * tau)
        times[0], times[-1] = t  # not a rounding away from them
        return PchipInterpolator(tau.numpy(), times.numpy())


def _package() -> ModuleType:
    try:
        import torchsde
    except ImportError as error:
        raise ImportError(
            "TorchSDE needs the package torchsde, which is not installed; "
            'run pip install "score-sde-toolkit[torchsde]", or use sampler=pc'
        ) from error
    return torchsde


def _entropy(generator: torch.Generator | None) -> int:
    """A seed for torchsde's own random numbers, drawn from ours."""
    source = "cpu" if generator is None else generator.device
    return int(torch.randint(2**62, (), generator=generator, device=source))
