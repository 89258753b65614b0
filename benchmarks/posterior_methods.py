"""The posterior samplers that are measured, each as a sampler, a score and a constraint."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from benchmarks.posteriors import Problem
from scoresde.conditioning import (
    DAPS,
    DDNM,
    DDRM,
    DPS,
    MMPS,
    TDS,
    DiffPIR,
    DPSSampler,
    MCGDiff,
    PiGDM,
    PiGDMSampler,
    PosteriorMethod,
    PosteriorScore,
    Proximal,
    RePaint,
    Replacement,
    SplitGibbs,
)
from scoresde.samplers import (
    DDIM,
    Ancestral,
    AnnealedLangevinStep,
    Corrector,
    KarrasGrid,
    LogSNRGrid,
    PredictorCorrector,
    Sampler,
    Solver,
)
from scoresde.samplers.context import Constraint
from scoresde.samplers.presets import sde_dpm_solver_pp
from scoresde.sde import VP, Score

SDE = VP()
END = SDE.time_of_half_log_snr(-torch.tensor(0.01, dtype=torch.float64).log()).item()
GRID = LogSNRGrid(eps=END)
"""Steps equal in λ from T to σ/α = 0.01."""


class Run(NamedTuple):
    """What a run on a problem consists of."""

    sampler: Sampler
    score: Score
    constraint: Constraint | None = None


Make = Callable[[Problem, int], Run]


@dataclass(frozen=True)
class Method:
    """A method to be measured.

    Attributes:
        name: Its name in tables.
        make: The run on a problem with N steps.
        exact, noisy: Whether it takes measurements without noise, and with it.
        affine: Whether its samples are affine in the noise where the data are Gaussian.
        particles: Particles of a sample.
        lengths: Numbers of steps at which it is measured on mixtures.
    """

    name: str
    make: Make
    exact: bool = True
    noisy: bool = True
    affine: bool = True
    particles: int = 1
    lengths: tuple[int, ...] = (100, 400)

    def takes(self, problem: Problem) -> bool:
        """Whether it can use the measurement of a problem."""
        return self.noisy if problem.std > 0 else self.exact


def steps(
    n: int, solver: Solver | None = None, corrector: Corrector | None = None
) -> PredictorCorrector:
    """N ancestral steps, or those of another solver."""
    return PredictorCorrector(solver or Ancestral(), corrector, steps=n, grid=GRID)


def variance(problem: Problem) -> float:
    """v_0, the mean variance of a coordinate of the data."""
    mean = problem.weights @ problem.means
    spread = (problem.means - mean).square() + problem.covariances.diagonal(dim1=1, dim2=2)
    return (problem.weights @ spread).mean().item()


def _score(method: Callable[[Problem], PosteriorMethod]) -> Make:
    def make(problem: Problem, n: int) -> Run:
        score = PosteriorScore(problem.score(SDE), problem.measurement, method(problem))
        return Run(steps(n), score)

    return make


def _sampler(sampler: Callable[[Problem, int], Sampler]) -> Make:
    return lambda problem, n: Run(sampler(problem, n), problem.score(SDE))


def _replaced(solver: Solver | None = None, corrector: Corrector | None = None) -> Make:
    def make(problem: Problem, n: int) -> Run:
        constraint = Replacement(problem.operator, problem.y[None])
        return Run(steps(n, solver, corrector), problem.score(SDE), constraint)

    return make


def _gibbs(solver: Callable[[], Solver]) -> Make:
    """300 rounds of n/10 steps; without noise ρ falls to 0.03."""

    def make(problem: Problem, n: int) -> Sampler:
        y = problem.measurement
        inner = PredictorCorrector(solver(), steps=n // 10, grid=KarrasGrid())
        if problem.std > 0:
            return SplitGibbs(y, inner, 300)
        return SplitGibbs(y, inner, 300, rho=0.03, decay=0.98, form="plain")

    return _sampler(make)


def _particles(count: int, lengths: tuple[int, ...] = (100,)) -> Method:
    return Method(
        f"TDS, {count} particles",
        _sampler(lambda p, n: TDS(p.measurement, count, n, grid=GRID)),
        affine=False,
        particles=count,
        lengths=lengths,
    )


CONTROL = Method("exact score of the posterior", lambda p, n: Run(steps(n), p.control(SDE)))

METHODS = [
    CONTROL,
    Method("MMPS", _score(lambda p: MMPS(len(p.matrix), "cg"))),
    Method("ΠGDM, score form, v₀ = 1", _score(lambda p: PiGDM(1.0))),
    Method("ΠGDM, score form, v₀ of the data", _score(lambda p: PiGDM(variance(p)))),
    Method("DPS, score form", _score(lambda p: DPS()), exact=False),
    Method("proximal, v₀ of the data", _score(lambda p: Proximal(variance(p)))),
    Method(
        "ΠGDM, published", _sampler(lambda p, n: PiGDMSampler(p.measurement, steps=n, grid=GRID))
    ),
    Method(
        "DPS, published, ζ 0.3",
        _sampler(lambda p, n: DPSSampler(p.measurement, 0.3, n, grid=GRID)),
        affine=False,
    ),
    Method(
        "DPS, published, ζ 1",
        _sampler(lambda p, n: DPSSampler(p.measurement, 1.0, n, grid=GRID)),
        affine=False,
    ),
    Method("DDRM", _sampler(lambda p, n: DDRM(p.measurement, steps=n, grid=GRID))),
    Method("DDNM", _sampler(lambda p, n: DDNM(p.measurement, steps=n, grid=GRID))),
    Method("DiffPIR", _sampler(lambda p, n: DiffPIR(p.measurement, steps=n, grid=GRID))),
    Method("replacement", _replaced(), noisy=False),
    Method(
        "replacement, 4 Langevin steps",
        _replaced(corrector=AnnealedLangevinStep(0.16, 4)),
        noisy=False,
    ),
    Method("RePaint, j 10, r 10", _replaced(RePaint(Ancestral(), 10, 10)), noisy=False),
    Method("RePaint, j 1, r 10", _replaced(RePaint(Ancestral(), 1, 10)), noisy=False),
    Method("DAPS, r² I, published", _sampler(lambda p, n: DAPS(p.measurement, n)), affine=False),
    Method(
        "DAPS, covariance C",
        _sampler(lambda p, n: DAPS(p.measurement, n, 1, covariance="jacobian")),
        affine=False,
    ),
    Method(
        "MCG-diff, 64 particles",
        _sampler(lambda p, n: MCGDiff(p.measurement, 64, n, grid=GRID)),
        affine=False,
        particles=64,
        lengths=(100,),
    ),
    _particles(4),
    _particles(16, (100, 400)),
    _particles(64),
    Method("split Gibbs, 300 rounds of N/10 DDIM steps", _gibbs(lambda: DDIM(1.0)), affine=False),
    Method(
        "split Gibbs, 300 rounds of N/10 second-order steps",
        _gibbs(lambda: sde_dpm_solver_pp(lower_order_final_below=0)),
        affine=False,
    ),
]
