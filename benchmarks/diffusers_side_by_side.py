"""Comparison of our solvers with the installed diffusers' schedulers, on one exact score.

python -m benchmarks.diffusers_side_by_side

Both follow the probability flow of VP (β 0.1 → 20) from T to 1e-3 on a two-dimensional mixture of
three Gaussians, from the same latents on grids of the same times, in float64. The error is the mean
distance of the end points from those of an adaptive solution at rtol 1e-12. diffusers' schedulers
get σ/α of the grid itself, since rounding to integer time steps would change their error.
"""

import argparse

if __name__ == "__main__":  # --help is answered before torch is imported
    argparse.ArgumentParser(description=__doc__).parse_args()

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.problem import Problem, mixture
from scoresde.samplers import (
    ExponentialMultistep,
    Grid,
    KarrasGrid,
    LogSNRGrid,
    OptimizedGrid,
    PredictorCorrector,
    Solver,
    UniformGrid,
)
from scoresde.samplers.presets import PRESETS

os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")  # it warns of its own deprecations

Theirs = Callable[[], Any]


def _scheduler(name: str, order: int | None = None, **settings: Any) -> Theirs:
    """A scheduler of diffusers, of an order where it has one."""
    if order is not None:
        settings["solver_order"] = order

    def make() -> Any:
        from diffusers import schedulers

        return getattr(schedulers, f"{name}Scheduler")(**settings)

    return make


_dpm = partial(_scheduler, "DPMSolverMultistep", final_sigmas_type="sigma_min")
_singlestep = partial(_scheduler, "DPMSolverSinglestep", final_sigmas_type="sigma_min")
_unipc = partial(_scheduler, "UniPCMultistep", final_sigmas_type="sigma_min")
_deis = partial(_scheduler, "DEISMultistep")


def namesakes() -> dict[str, tuple[str, Theirs]]:
    """Our preset → diffusers' scheduler of the same method; each has its own defaults."""
    return {
        "ddim": ("DPMSolverMultistep, order 1", _dpm(1)),
        "dpmpp_2m": ("DPMSolverMultistep, order 2", _dpm(2)),
        "dpmpp_3m": ("DPMSolverMultistep, order 3", _dpm(3)),
        "dpmpp_3m_corrected": ("DPMSolverMultistep, order 3", _dpm(3)),
        "unipc_1": ("UniPCMultistep, order 1", _unipc(1)),
        "unipc_2": ("UniPCMultistep, order 2", _unipc(2)),
        "unipc_3": ("UniPCMultistep, order 3", _unipc(3)),
        "deis_log_rho_2": ("DEISMultistep, order 2", _deis(2)),
        "deis_log_rho_3": ("DEISMultistep, order 3", _deis(3)),
        "ipndm_4": ("IPNDM", _scheduler("IPNDM")),
        "lms_4": ("LMSDiscrete", _scheduler("LMSDiscrete")),
        "dpmpp_2s": ("DPMSolverSinglestep, order 2", _singlestep(2, algorithm_type="dpmsolver++")),
        "dpm_solver_3": (
            "DPMSolverSinglestep, order 3",
            _singlestep(3, algorithm_type="dpmsolver"),
        ),
    }


def their_error(problem: Problem, make: Theirs, grid: Grid, steps: int) -> float:
    """Error of a scheduler of diffusers on a grid, which is given by σ/α, with noise prediction."""
    sde, times = problem.sde, grid(problem.sde, steps)
    alpha, sigma = sde.alpha(times), sde.sigma(times)
    scheduler = make()
    scheduler.set_timesteps(steps)
    scheduler.timesteps = torch.arange(steps, 0, -1)
    scheduler.num_inference_steps = steps
    in_sigma = type(scheduler).__name__.startswith("LMS")
    if hasattr(scheduler, "order_list"):
        scheduler.order_list = scheduler.get_order_list(steps)
    if hasattr(scheduler, "alphas") and hasattr(scheduler, "ets"):  # iPNDM steps in α and σ
        scheduler.alphas, scheduler.betas = alpha, sigma
    else:
        scheduler.sigmas = sigma / alpha
    x = problem.latents / alpha[0] if in_sigma else problem.latents
    for i, t in enumerate(scheduler.timesteps):
        state = (
            scheduler.scale_model_input(x, t) * (alpha[i] * (1 + (sigma[i] / alpha[i]) ** 2).sqrt())
            if in_sigma
            else x
        )
        prediction = -sigma[i] * problem.score(state, times[i])
        if hasattr(scheduler, "ets"):
            # It treats the output as that of a v-like network, so that v is computed from ẑ and x.
            prediction = (prediction - sigma[i] * x) / alpha[i]
        x = scheduler.step(prediction, t, x).prev_sample
    return problem.error(x * alpha[-1] if in_sigma else x)


def our_error(problem: Problem, solver: Solver, grid: Grid, steps: int) -> tuple[float, float]:
    """Error of a solver on a grid, and its number of evaluations."""
    sampler = PredictorCorrector(solver, steps=steps, grid=grid)
    shape = tuple(problem.latents.shape)
    samples = sampler(problem.sde, problem.score, shape, x_init=problem.latents)
    return problem.error(samples.x), samples.nfe


def best(problem: Problem, steps: int) -> None:
    """Our corrected Adams in v on steps optimized for it, compared with their best 2M."""
    solver = ExponentialMultistep(3, "v", corrector=True)
    ours, _ = our_error(problem, solver, OptimizedGrid(solver), steps)
    theirs = min(
        their_error(problem, _dpm(2, lower_order_final=final), grid, steps)
        for final in (True, False)
        for grid in (LogSNRGrid(), UniformGrid(), KarrasGrid())
    )
    print(f"  {steps:3d} evaluations: {ours:.2e}, theirs {theirs:.2e}, ratio {theirs / ours:.1f}")


def main() -> None:
    """Print the tables."""
    problem = mixture(512)
    print("Adams v 3, corrected, on optimized steps; DPMSolverMultistep 2 on its best grid")
    for steps in (5, 10, 20):
        best(problem, steps)
    for label, grid in {"uniform in λ": LogSNRGrid(), "uniform in t": UniformGrid()}.items():
        for steps in (5, 10, 20, 50):
            print(f"\n{label}, {steps} steps")
            for name, (theirs, make) in namesakes().items():
                ours, nfe = our_error(problem, PRESETS[name](), grid, steps)
                other = their_error(problem, make, grid, steps)
                left = f"  {name:20s} {ours:9.2e} ({nfe:.0f} evaluations)"
                print(f"{left}   {theirs:34s} {other:9.2e}  {other / ours:6.2f}")


if __name__ == "__main__":
    main()
