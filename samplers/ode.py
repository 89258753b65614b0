"""The probability-flow ODE, integrated with adaptive steps."""

import itertools
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from scipy.sparse import identity, kron
from torch import Tensor

from scoresde.sde import SDE, Score, integrate
from scoresde.sde.checks import check_choice
from scoresde.sde.integrate import check_resolution, error_norm
from scoresde.sde.score import RowCache
from scoresde.sde.stopping import not_finite, refuse_not_finite
from scoresde.sde.tableau import PAIRS

from .base import Sampler
from .context import SamplingContext
from .grids.grid import last_time

Ends = tuple[float, float]

IMPLICIT = ("Radau", "BDF", "LSODA")
METHODS = (*PAIRS, "RK23", "RK45", "DOP853", *IMPLICIT)

MAX_STEPS = 10_000  # of SciPy's methods; ours have the same limit
MOST_STAGES = 12  # evaluations of a step, those of DOP853; a Jacobian costs as many as coordinates

JACOBIAN_LIMIT = 4096**2  # entries; 128 MiB, and as much again for each of its factors


class ProbabilityFlowODE(Sampler):
    """Samples by the deterministic flow whose marginals are those of the SDE.

        dx/dt = f x − ½ g² s(x, t)

    `bosh3`, `dopri5` and `dop853`, of orders 3, 5 and 8, give every sample its own steps; the
    higher the order, the tighter the tolerance at which it pays. SciPy's methods take one step for
    the whole flattened batch, as the published numbers were made. Of those, `Radau`, `BDF` and
    `LSODA` are for stiff flows: they difference a Jacobian, which float64 states make cheaper.

    Args:
        rtol: Relative tolerance > 0.
        atol: Absolute tolerance > 0.
        method: `bosh3`, `dopri5` or `dop853`; SciPy's `RK23`, `RK45`, `DOP853`, `Radau`, `BDF` or
            `LSODA`.
        eps: Last time; the process's `sampling_eps` where not given.
        norm: What a sample's tolerances bound at each step of `bosh3`, `dopri5` and `dop853`: the
            `mean` of its coordinates' errors (root mean square), or their `sum`, as in likelihoods,
            with which encoding and decoding return to within a few rtol of the sample.

    Raises:
        ValueError: Unknown method or norm, tolerances not > 0 or finer than the state's type
            resolves, eps outside (0, T), a constraint, or a batch whose Jacobian is too large for
            an implicit method.
        RuntimeError: The solver did not reach the end.

    Reference: Song et al. 2021, arXiv:2011.13456 (eq. 13, section 4.3).
    """

    def __init__(
        self,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        method: str = "dopri5",
        eps: float | None = None,
        norm: str = "mean",
    ) -> None:
        check_choice("norm", norm, "mean", "sum")
        check_choice("method", method, *METHODS)
        if norm == "sum" and method not in PAIRS:
            raise ValueError(f"method {method} has no norm={norm}; use {', '.join(PAIRS)}")
        if not (rtol > 0 and atol > 0):
            raise ValueError(f"rtol and atol must be > 0, got {rtol} and {atol}")
        self.rtol, self.atol, self.method, self.eps, self.norm = rtol, atol, method, eps, norm

    def check(self, sde: SDE, dtype: torch.dtype) -> None:
        """Raise ValueError if eps is not in (0, T), or rtol is finer than the type resolves."""
        last_time(sde, self.eps)
        sde.check_signal("the probability flow")
        check_resolution(self.rtol, dtype)

    def run(self, sde: SDE, score: Score, x: Tensor, run: SamplingContext) -> Tensor:
        """Carry x from T to eps, or from eps to T (`encode`)."""
        self.check(sde, run.dtype or x.dtype)
        ends = (sde.T, last_time(sde, self.eps))
        ends = ends[::-1] if run.encode else ends
        run.refuse_constraint("an adaptive solver")
        if run.differentiable and self.method not in PAIRS:
            raise ValueError(
                f"method {self.method} is SciPy's, which keeps no graph; "
                f"use one of {', '.join(PAIRS)} with differentiable=True"
            )
        save_at = torch.linspace(*ends, run.keep, dtype=torch.float64)[1:-1]
        run.begin(None, x)
        solve = self._per_sample if self.method in PAIRS else self._scipy
        x, frames = solve(sde, score, x, ends, save_at, run)
        run.report(save_at, frames, x)
        return x

    def _per_sample(
        self, sde: SDE, score: Score, x: Tensor, ends: Ends, save_at: Tensor, run: SamplingContext
    ) -> tuple[Tensor, list[Tensor]]:
        flows = RowCache(score, lambda part: sde.reverse(part, eta=0.0))

        def field(t: Tensor, y: Tensor, index: Tensor) -> Tensor:
            state = y.reshape(-1, *x.shape[1:]).to(x.dtype)
            return flows(index).drift(state, t).flatten(1).double()

        def cause(t: Tensor, y: Tensor, index: Tensor, row: int) -> str | None:
            state = y.reshape(-1, *x.shape[1:]).to(x.dtype)
            return not_finite(y[row], flows(index).score(state, t)[row])

        solution = integrate(
            field,
            x.flatten(1).double(),
            *ends,
            rtol=self.rtol,
            atol=self.atol,
            norm=error_norm(self.rtol, self.atol, self.norm),
            tableau=PAIRS[self.method],
            save_at=save_at if len(save_at) else None,
            on_step=run.advance if run.progress else None,  # it waits for the device
            cause=cause,
        )
        frames = [] if solution.frames is None else list(solution.frames)
        x_end, *states = [y.to(x.dtype).reshape(x.shape) for y in (solution.y, *frames)]
        return x_end, states

    def _scipy(
        self, sde: SDE, score: Score, x: Tensor, ends: Ends, save_at: Tensor, run: SamplingContext
    ) -> tuple[Tensor, list[Tensor]]:
        flow, calls = sde.reverse(score, eta=0.0), itertools.count(1)
        limit = MAX_STEPS * (MOST_STAGES + (x[0].numel() if self.method in IMPLICIT else 0))

        def field(t: float, y: np.ndarray) -> np.ndarray:
            if next(calls) > limit:
                raise RuntimeError(
                    f"adaptive solver stopped: {limit} evaluations did not reach t={ends[1]:g}; "
                    f"method {self.method} is at t={t:g}; loosen rtol or atol, or use dopri5"
                )
            run.advance((t - ends[0]) / (ends[1] - ends[0]))
            state = torch.from_numpy(y).to(x).reshape(x.shape)
            time = torch.tensor(t, dtype=torch.float64)
            slope = flow.drift(state, time)
            refuse_not_finite(state, slope, t)  # SciPy would shorten its steps without end
            return slope.double().reshape(-1).cpu().numpy()

        solution = solve_ivp(
            field,
            ends,
            x.double().reshape(-1).cpu().numpy(),
            method=self.method,
            rtol=self.rtol,
            atol=self.atol,
            t_eval=[*save_at.tolist(), ends[1]],
            **_jacobian_of(x, self.method),
        )
        if not solution.success:
            raise RuntimeError(f"adaptive solver stopped: {solution.message}")
        states = [torch.from_numpy(y.copy()).to(x).reshape(x.shape) for y in solution.y.T]
        return states[-1], states[:-1]


def _jacobian_of(x: Tensor, method: str) -> dict[str, Any]:
    """Where the Jacobian of a batch can differ from 0, as options of SciPy's methods.

    Samples do not act on each other, so that it is block diagonal, and D differences give all of
    its B blocks of D × D.

    Raises:
        ValueError: An implicit method, and blocks with more entries than fit.
    """
    if method not in IMPLICIT:
        return {}
    size, dim = len(x), x[0].numel()
    if size * dim**2 > JACOBIAN_LIMIT:
        raise ValueError(
            f"method {method} needs Jacobians of {size} × {dim}² numbers, more than "
            f"{JACOBIAN_LIMIT}; use dopri5, which needs none, or smaller batches"
        )
    if method == "LSODA":
        return {"lband": dim - 1, "uband": dim - 1}
    return {"jac_sparsity": kron(identity(size), np.ones((dim, dim)), format="csc")}
