"""The convergence order of every solver, measured against exact distributions.

`pytest -m orders` prints the table. Nothing depends on Monte Carlo. Bounds are one-sided: a solver
may be better than its order, and an error that changes its sign somewhere looks like a higher one.
"""

import math

import pytest
import torch

from benchmarks.convergence import PROCESSES, gaussian, moments, problem, run, slopes, weak_error
from scoresde.samplers import (
    DDIM,
    SRA1,
    Ancestral,
    EDMHeun,
    EulerMaruyama,
    ExponentialMultistep,
    ExponentialSinglestep,
    LogSNRGrid,
    ProbabilityFlowEuler,
    ReverseDiffusion,
    RungeKutta,
    StochasticHeun,
    UniformGrid,
)
from scoresde.samplers.presets import PRESETS, dpm_solver_pp, unipc

pytestmark = pytest.mark.orders

# Bounds for the orders 1, 2, 3, 4: what a correct implementation reaches at these step counts.
FIRST, SECOND, THIRD, UNIPC, FOURTH = 0.9, 1.85, 2.8, 3.4, 3.8

ODE = {
    "flow Euler": (ProbabilityFlowEuler(), FIRST),
    "DDIM": (DDIM(), FIRST),
    "Euler in σ": (RungeKutta("euler", "sigma"), FIRST),
    "Heun in t": (RungeKutta("heun", "time"), SECOND),
    "Heun in σ": (RungeKutta("heun", "sigma"), SECOND),
    "midpoint in t": (RungeKutta("midpoint", "time"), SECOND),
    "midpoint in σ": (RungeKutta("midpoint", "sigma"), SECOND),
    "RK4 in t": (RungeKutta("rk4", "time"), FOURTH),
    "RK4 in σ": (RungeKutta("rk4", "sigma"), FOURTH),
    "EDM Heun": (EDMHeun(), SECOND),
    **{f"Adams {k} 1": (ExponentialMultistep(1, k), FIRST) for k in ("noise", "data", "v")},
    **{f"Adams {k} 2": (ExponentialMultistep(2, k), SECOND) for k in ("noise", "data", "v")},
    **{f"Adams {k} 3": (ExponentialMultistep(3, k), THIRD) for k in ("noise", "data", "v")},
    **{
        f"Adams {k} 3 corrected": (ExponentialMultistep(3, k, corrector=True), UNIPC)
        for k in ("noise", "data", "v")
    },
    **{f"exponential RK {k} 2": (ExponentialSinglestep(2, k), SECOND) for k in ("data", "v")},
    **{f"exponential RK {k} 3": (ExponentialSinglestep(3, k), THIRD) for k in ("data", "v")},
    "DPM-Solver-1": (PRESETS["dpm_solver_1"](), FIRST),
    "DPM-Solver-2": (PRESETS["dpm_solver_2"](), SECOND),
    "DPM-Solver-3": (PRESETS["dpm_solver_3"](), THIRD),
    "DPM-Solver++ 2S": (PRESETS["dpmpp_2s"](), SECOND),
    "DPM-Solver++ 2M": (PRESETS["dpmpp_2m"](), SECOND),
    "DPM-Solver++ 3M": (PRESETS["dpmpp_3m"](), SECOND),
    "DPM-Solver++ 3M corrected": (PRESETS["dpmpp_3m_corrected"](), THIRD),
    "UniPC-1": (PRESETS["unipc_1"](), SECOND),
    "UniPC-2": (PRESETS["unipc_2"](), THIRD),
    "UniPC-3": (PRESETS["unipc_3"](), SECOND),
    "UniPC-3 of one order": (unipc(3, lower_order_final_below=0), UNIPC),
    "DEIS-tAB 2": (PRESETS["deis_2"](), SECOND),
    "DEIS-tAB 3": (PRESETS["deis_3"](), THIRD),
    "DEIS log ρ 2": (PRESETS["deis_log_rho_2"](), SECOND),
    "DEIS log ρ 3": (PRESETS["deis_log_rho_3"](), THIRD),
    "LMS": (PRESETS["lms_4"](), THIRD),  # its first steps are of order 1
    "iPNDM 2": (PRESETS["ipndm_2"](), SECOND),
    "iPNDM 4": (PRESETS["ipndm_4"](), SECOND),
    "PNDM": (PRESETS["pndm"](), SECOND),
}


@pytest.mark.parametrize("name", ODE)
@pytest.mark.parametrize("process", PROCESSES)
def test_order_of_a_flow_solver(process, name, record_property):
    """The error is the distance of the ends from the exact ones on a mixture, N = 128 → 1024."""
    case, (solver, bar) = problem(process), ODE[name]
    # From N = 128 on, fourth orders reach the rounding of the reference before N = 1024.
    counts = (64, 128, 256) if bar == FOURTH else (128, 256, 512, 1024)
    errors = [case.error(run(solver, case.sde, case.score, case.latents, n)) for n in counts]
    orders = slopes(errors)
    record_property("order", (process, name, orders, errors[-1]))
    assert sorted(orders)[len(orders) // 2] >= bar, orders


def test_the_published_third_order_is_the_second():
    """As published, and in three libraries, 3M converges like 2M; corrected, it does not."""
    case = problem("vp")
    orders = {}
    for published, solver in ((True, dpm_solver_pp(3)), (False, PRESETS["dpmpp_3m_corrected"]())):
        ends = [run(solver, case.sde, case.score, case.latents, n) for n in (256, 512)]
        errors = [case.error(x) for x in ends]
        (orders[published],) = slopes(errors)
    assert orders[True] == pytest.approx(2.0, abs=0.1)
    assert orders[False] > THIRD


SDES = {
    "Euler–Maruyama": (EulerMaruyama(), FIRST),
    "reverse diffusion": (ReverseDiffusion(), FIRST),
    "ancestral, posterior": (Ancestral("posterior"), FIRST),
    "ancestral, forward": (Ancestral("forward"), FIRST),
    "DDIM η = 1": (DDIM(1.0), FIRST),
    "DDIM η = ½": (DDIM(0.5), FIRST),
    "SDE-DPM-Solver++ 1": (PRESETS["sde_dpmpp_1"](), FIRST),
    "SDE-DPM-Solver++ 2M": (PRESETS["sde_dpmpp_2m"](), SECOND),
    "SA-Solver": (PRESETS["sa_solver"](), SECOND),
    "Adams data 3, τ = 1": (ExponentialMultistep(3, "data", tau=1.0), SECOND),
    "Adams v 2 corrected, τ = ½": (ExponentialMultistep(2, "v", tau=0.5, corrector=True), SECOND),
    "stochastic Heun": (StochasticHeun(), SECOND),
    "SRA1": (SRA1(), SECOND),
    "exponential midpoint, data": (ExponentialSinglestep(2, "data", tau=1.0), SECOND),
    "exponential midpoint, noise": (ExponentialSinglestep(2, "noise", tau=1.0), SECOND),
    "exponential midpoint, v": (ExponentialSinglestep(2, "v", tau=1.0), SECOND),
    "EDM Heun with churn": (EDMHeun(churn=20.0), SECOND),
}


@pytest.mark.parametrize("name", SDES)
@pytest.mark.parametrize("process", PROCESSES)
def test_weak_order(process, name, record_property):
    """The error is W₂ between the exact distribution of a run from p_T and p_eps of a Gaussian."""
    (solver, bar), sde = SDES[name], PROCESSES[process]
    errors = [weak_error(solver, sde, n) for n in (128, 256, 512)]
    orders = slopes(errors)
    record_property("order", (process, name, orders, errors[-1]))
    assert max(orders) >= bar and min(orders) >= bar - 0.05, orders


def brownian(steps: int, seed: int):
    """Increments of a Wiener process over equal steps of length 1, and its mean over each step.

    They are in the form of SRA1's noise: W = z_1 and ∫(W_s − W_0) ds = ½ (z_1 + z_2/√3).
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, steps, 64, 2, generator=generator, dtype=torch.float64)


def coarsen(z):
    """The same path in steps twice as long, in units of the longer step."""
    first, second = z[:, 0::2], z[:, 1::2]
    (w1, w2), root = (first[0], second[0]), math.sqrt(2)
    area1, area2 = (0.5 * (half[0] + half[1] / math.sqrt(3)) for half in (first, second))
    area = (area1 + w1 + area2) / (2 * root)  # ∫ over the longer step, scaled by its length^{3/2}
    increment = (w1 + w2) / root
    return torch.stack([increment, math.sqrt(3) * (2 * area - increment)])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, solver, n_noise, bar",
    [
        ("Euler–Maruyama", EulerMaruyama(), 1, 0.9),
        ("stochastic Heun", StochasticHeun(), 1, 0.9),
        ("SRA1", SRA1(), 2, 1.35),
    ],
)
@pytest.mark.parametrize("process", ["vp", "subvp", "ve"])
def test_strong_order(process, name, solver, n_noise, bar, record_property):
    """The error is the median distance from a run of SRA1 with 4096 steps on the same Wiener path.

    On EDM's process, equal steps in t do not resolve times near σ = 0.002.
    """
    sde, z = PROCESSES[process], brownian(4096, seed=5)
    score, x = gaussian(sde), sde.prior((64, 2)).sample(torch.Generator().manual_seed(1))
    x = x.double()

    def end(solver, z, n_noise):
        queue = iter([z[i, n] for n in range(z.shape[1]) for i in range(n_noise)])
        noise = lambda x: next(queue)  # noqa: E731
        return run(solver, sde, score, x, z.shape[1], grid=UniformGrid(0.05), noise=noise)

    exact, errors = end(SRA1(), z, 2), []
    while z.shape[1] > 64:
        z = coarsen(z)
        if z.shape[1] <= 512:
            errors.append((end(solver, z, n_noise) - exact).norm(dim=1).median().item())
    orders = slopes(errors[::-1])
    record_property("order", (process, f"{name}, strong", orders, errors[0]))
    assert sum(orders) / len(orders) >= bar, orders


@pytest.mark.parametrize("process", PROCESSES)
def test_moments_are_those_of_a_sample(process):
    """The computed mean and covariance are those of many runs with random noise."""
    sde, n, steps = PROCESSES[process], 20_000, 5
    generator = torch.Generator().manual_seed(0)
    mean, covariance = moments(SRA1(), sde, gaussian(sde), steps)
    alpha, sigma = sde.alpha(torch.tensor(sde.T).double()), sde.sigma(torch.tensor(sde.T).double())
    data = gaussian(sde).sample(n, generator)
    x = alpha * data + sigma * torch.randn(n, 2, generator=generator, dtype=torch.float64)

    def noise(x):
        return torch.randn(x.shape, generator=generator, dtype=torch.float64)

    ends = run(SRA1(), sde, gaussian(sde), x, steps, grid=LogSNRGrid(), noise=noise)
    # Five standard errors of a covariance are 0.05 of its scale at n = 20 000.
    scale = covariance.diagonal().max().item()
    assert (ends.mean(0) - mean).abs().max() < 0.05 * math.sqrt(scale)
    assert (ends.T.cov() - covariance).abs().max() < 0.05 * scale
