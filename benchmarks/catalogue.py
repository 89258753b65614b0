"""The solvers that are measured, and their steps for a number of evaluations."""

from collections.abc import Callable
from dataclasses import dataclass

from scoresde.samplers import (
    DDIM,
    SRA1,
    Ancestral,
    EDMHeun,
    EulerMaruyama,
    ExponentialMultistep,
    ExponentialSinglestep,
    LogSNRGrid,
    OptimizedGrid,
    PredictorCorrector,
    ProbabilityFlowEuler,
    ReverseDiffusion,
    RungeKutta,
    Sampler,
    Solver,
    StochasticHeun,
)
from scoresde.samplers.grids.optimized import MOST_STEPS
from scoresde.samplers.presets import PRESETS


@dataclass(frozen=True)
class Entry:
    """A solver to be measured.

    Attributes:
        name: Its name in tables.
        solver: Function that constructs it.
        per_step: Evaluations of a step.
        start: Additional evaluations of a start-up.
        stochastic: Whether it draws noise.
        optimized: Whether it runs on steps optimized for it instead of steps equal in λ.
    """

    name: str
    solver: Callable[[], Solver]
    per_step: int = 1
    start: int = 0
    stochastic: bool = False
    optimized: bool = False

    def sampler(self, budget: int) -> Sampler | None:
        """The sampler that uses at most `budget` evaluations; None if that is not enough."""
        steps = (budget - self.start) // self.per_step
        if steps < 1 or (self.optimized and steps > MOST_STEPS):
            return None
        solver = self.solver()
        grid = OptimizedGrid(solver) if self.optimized else LogSNRGrid()
        return PredictorCorrector(solver, steps=steps, grid=grid)


def _adams_v() -> Solver:
    return ExponentialMultistep(3, "v", corrector=True)


ENTRIES = [
    Entry("DDIM", DDIM),
    Entry("flow, Euler in t", ProbabilityFlowEuler),
    Entry("flow, Heun in t", lambda: RungeKutta("heun", "time"), 2),
    Entry("EDM Heun", EDMHeun, 2),
    Entry("midpoint in σ", lambda: RungeKutta("midpoint", "sigma"), 2),
    Entry("RK4 in σ", lambda: RungeKutta("rk4", "sigma"), 4),
    Entry("DPM-Solver-2", PRESETS["dpm_solver_2"], 2),
    Entry("DPM-Solver-3", PRESETS["dpm_solver_3"], 3),
    Entry("DPM-Solver++ 2S", PRESETS["dpmpp_2s"], 2),
    Entry("DPM-Solver++ 2M", PRESETS["dpmpp_2m"]),
    Entry("DPM-Solver++ 3M", PRESETS["dpmpp_3m"]),
    Entry("DPM-Solver++ 3M corrected", PRESETS["dpmpp_3m_corrected"]),
    Entry("UniPC-1", PRESETS["unipc_1"]),
    Entry("UniPC-2", PRESETS["unipc_2"]),
    Entry("UniPC-3", PRESETS["unipc_3"]),
    Entry("DEIS-tAB 3", PRESETS["deis_3"]),
    Entry("DEIS log ρ 2", PRESETS["deis_log_rho_2"]),
    Entry("DEIS log ρ 3", PRESETS["deis_log_rho_3"]),
    Entry("iPNDM 3", PRESETS["ipndm_3"]),
    Entry("iPNDM 4", PRESETS["ipndm_4"]),
    Entry("PNDM", PRESETS["pndm"], start=9),
    Entry("LMS", PRESETS["lms_4"]),
    Entry("Adams noise 4, corrected", lambda: ExponentialMultistep(4, "noise", corrector=True)),
    Entry("Adams v 3, corrected", _adams_v),
    Entry("DDIM, optimized steps", DDIM, optimized=True),
    Entry("iPNDM 3, optimized steps", PRESETS["ipndm_3"], optimized=True),
    Entry("3M corrected, optimized steps", PRESETS["dpmpp_3m_corrected"], optimized=True),
    Entry("Adams v 3, corrected, optimized steps", _adams_v, optimized=True),
    Entry("Euler–Maruyama", EulerMaruyama, stochastic=True),
    Entry("reverse diffusion", ReverseDiffusion, stochastic=True),
    Entry("ancestral", Ancestral, stochastic=True),
    Entry("SDE-DPM-Solver++ 2M", PRESETS["sde_dpmpp_2m"], stochastic=True),
    Entry("SA-Solver", PRESETS["sa_solver"], stochastic=True),
    Entry("stochastic Heun", StochasticHeun, 2, stochastic=True),
    Entry("SRA1", SRA1, 2, stochastic=True),
    Entry(
        "exponential midpoint, noise",
        lambda: ExponentialSinglestep(2, "noise", tau=1.0),
        2,
        stochastic=True,
    ),
    Entry("EDM Heun with churn", lambda: EDMHeun(churn=10.0), 2, stochastic=True),
]
