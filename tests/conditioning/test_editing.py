"""Editing, inversion and translation against closed forms on Gaussian data."""

import math

import pytest
import torch

from scoresde.conditioning import DDIB, ExactInversion, Inpaint, ccdf, contraction, sdedit
from scoresde.models import GaussianScore
from scoresde.samplers import (
    DDIM,
    AdaptiveSDE,
    Ancestral,
    KarrasGrid,
    LogSNRGrid,
    ParallelPicard,
    PredictorCorrector,
    ProbabilityFlowEuler,
    ProbabilityFlowODE,
    StochasticHeun,
    TorchSDE,
)
from scoresde.sde import EDM, VE, VP, SubVP, Until
from tests.conditioning.problems import PROBLEMS

V, M, GUIDE = 0.8, 0.3, 2.0


def gaussian(sde, d=1, v=V, m=M):
    return GaussianScore(sde, torch.full((d,), m).double(), torch.full((d,), v).double())


@pytest.mark.parametrize(
    "sampler",
    [
        PredictorCorrector(Ancestral(), steps=60, grid=LogSNRGrid()),
        PredictorCorrector(DDIM(), steps=60, grid=LogSNRGrid()),
        PredictorCorrector(StochasticHeun(), steps=30, grid=LogSNRGrid()),
        AdaptiveSDE(0.02, 0.02),
        ProbabilityFlowODE(1e-6, 1e-6),
        ParallelPicard(DDIM(), steps=40),
        TorchSDE(steps=100),
    ],
    ids=lambda s: type(s).__name__ + type(getattr(s, "predictor", None)).__name__,
)
def test_an_edited_sample_has_the_known_distribution(sampler):
    """Every sampler starts at ς_0: mean m + k (x_g − m), or √k, and the known variance."""
    sde, level, n = VP(), 1.2, 4000
    guide = torch.full((n, 1), GUIDE, dtype=torch.float64)
    run = sdedit(
        sampler,
        sde,
        gaussian(sde),
        guide,
        level,
        generator=torch.Generator().manual_seed(3),
    )
    k = V / (V + level**2)
    flow = isinstance(sampler, ProbabilityFlowODE | ParallelPicard) or isinstance(
        getattr(sampler, "predictor", None), DDIM
    )
    assert contraction(level, V, stochastic=not flow) == pytest.approx(k**0.5 if flow else k)
    mean = M + (k**0.5 if flow else k) * (GUIDE - M)
    variance = k * level**2 * (1 if flow else 1 + k)
    assert run.x.mean().item() == pytest.approx(mean, abs=4 * (variance / n) ** 0.5 + 0.01)
    assert run.x.var().item() == pytest.approx(variance, rel=4 * (2 / n) ** 0.5 + 0.03)


@pytest.mark.parametrize(
    "sde",
    [VP(), SubVP(), VE(), EDM(), VP().discretize(1000)],
    ids=["vp", "subvp", "ve", "edm", "ddpm"],
)
def test_runs_with_shared_noise_contract(sde):
    """Two guides at a distance of 1 end at one of v/(v + ς_0²) = 1/10, or its root."""
    level, v = 3.0, 1.0
    guides = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    steps = 300 if sde.steps is None else 250
    for predictor, expected in ((Ancestral(), 0.1), (DDIM(), 0.316)):
        ends = [
            sdedit(
                PredictorCorrector(predictor, steps=steps),
                sde,
                gaussian(sde, v=v),
                guide[None],
                level,
                seeds=[7],
            ).x
            for guide in guides
        ]
        share = (ends[1] - ends[0]).item()
        assert share == pytest.approx(expected, rel=0.06)  # of the steps' length


def test_repeats_and_evaluations():
    """Three repeats cost three runs and shrink the way to the mean to k³."""
    sde, level = VP(), 1.0
    guide = torch.full((3000, 1), 3.0, dtype=torch.float64)
    sampler = PredictorCorrector(Ancestral(), steps=50, grid=LogSNRGrid())
    run = sdedit(sampler, sde, gaussian(sde), guide, level, repeats=3, seeds=range(3000))
    assert run.nfe == 150
    k = V / (V + level**2)
    assert run.x.mean().item() == pytest.approx(M + k**3 * (3 - M), abs=0.06)


def test_ccdf_keeps_the_measurement():
    """Known pixels bit for bit, and a better estimate than its start."""
    problem, sde = PROBLEMS["G0"], VP()
    known = (torch.arange(4) < 2).expand(1, 4, 4)
    y = problem.operator.pinv(problem.y[None])
    start = y.expand(64, 1, 4, 4)  # 0 in the free half
    sampler = PredictorCorrector(Ancestral(), steps=60, grid=KarrasGrid())
    run = ccdf(
        sampler,
        sde,
        problem.score(sde),
        start,
        1.5,
        Inpaint(known, y),
        generator=torch.Generator().manual_seed(0),
    )
    assert torch.equal(run.x[:, known], start[:, known])
    before, after = ((x.flatten(1).mean(0) - problem.moments[0]).norm() for x in (start, run.x))
    assert after < 0.7 * before


@pytest.mark.parametrize(
    ("sde", "iterations"), [(VP(), 10), (SubVP(), 14), (EDM(), 12)], ids=["vp", "subvp", "edm"]
)
def test_inversion_is_exact_with_iterations(sde, iterations):
    """On the mixture P there and back at N = 100: one explicit step 0.04 sd, 10 iterations 1e-9.

    The steps in λ of the other processes are longer, and take a few iterations more.
    """
    problem = PROBLEMS["P0"]
    score = problem.score(sde)
    x = score.sample(200, torch.Generator().manual_seed(0))
    size = x.std(0).norm().item()

    def error(sampler):
        back = sampler(sde, score, (200, 2), x_init=sampler.encode(sde, score, x).x).x
        return (back - x).square().sum(1).mean().sqrt().item() / size

    grid = LogSNRGrid()
    explicit = error(PredictorCorrector(DDIM(), steps=100, grid=grid))
    exact = error(ExactInversion(steps=100, grid=grid, iterations=iterations))
    assert 0.01 < explicit < 0.2
    assert exact <= 1e-9
    assert error(ExactInversion(steps=100, grid=grid, iterations=1)) > 1e-3
    euler = ExactInversion(ProbabilityFlowEuler(), 100, iterations=iterations + 6)
    assert error(euler) <= 1e-8


def test_evaluations_of_an_inversion():
    """One for each iteration of each step."""
    problem, sde = PROBLEMS["P0"], VP()
    sampler = ExactInversion(steps=20, iterations=4)
    score = problem.score(sde)
    assert sampler.encode(sde, score, score.sample(3)).nfe == 80
    assert sampler(sde, score, (3, 2)).nfe == 20


@pytest.mark.parametrize(
    "sampler",
    [ProbabilityFlowODE(1e-8, 1e-8), ExactInversion(steps=200, grid=LogSNRGrid(), iterations=15)],
    ids=["ode", "exact inversion"],
)
def test_translation_between_gaussians(sampler, process):
    """m_B + Σ_B^½ Σ_A^−½ (x − m_A) with common axes, by the spreads at both ends of a finite T."""
    a, b = gaussian(process, 2, 0.5, 0.2), gaussian(process, 2, 1.5, -0.4)
    x = a.sample(16, torch.Generator().manual_seed(0))
    bridge = DDIB(process, a, b, sampler)
    found = bridge(x)
    ends = torch.tensor([process.sampling_eps, process.T], dtype=torch.float64)
    alpha, sigma = process.alpha(ends), process.sigma(ends)
    spread = {v: (alpha**2 * v + sigma**2).sqrt() for v in (0.5, 1.5)}
    up = alpha[1] * 0.2 + spread[0.5][1] / spread[0.5][0] * (x - alpha[0] * 0.2)
    down = -alpha[0] * 0.4 + spread[1.5][0] / spread[1.5][1] * (up + alpha[1] * 0.4)
    coarse = isinstance(sampler, ExactInversion)  # of first order
    torch.testing.assert_close(found.x, down, rtol=0, atol=0.02 if coarse else 1e-6)
    assert bridge.cycle_error(x).max() <= (1e-9 if coarse else 1e-7)  # 10 tolerances


def test_translation_between_processes():
    """Latents of VP are those of EDM scaled to its prior: the same map up to finite T."""
    vp, edm = VP(), EDM()
    x = gaussian(vp, 2).sample(8, torch.Generator().manual_seed(0))
    sampler = ProbabilityFlowODE(1e-7, 1e-7)
    there = DDIB(vp, gaussian(vp, 2), gaussian(edm, 2), sampler, edm)
    torch.testing.assert_close(there(x).x, x, rtol=0, atol=0.02)  # α(T) of VP is e^−5
    assert there.cycle_error(x).max() < 1e-6
    assert there(x).nfe > 0 and there.reversed.reversed(x).x.equal(there(x).x)


def test_until_is_the_process_to_an_earlier_time(sde):
    """The same marginals below T′; grids of every kind begin there."""
    end = sde.T * 0.6
    part = Until(sde, end)
    assert pytest.approx(end, rel=0.02) == part.T and part.steps == sde.steps
    times = torch.linspace(part.sampling_eps, part.T, 7, dtype=torch.float64)
    for name in ("alpha", "sigma", "f", "g", "label"):
        assert torch.equal(getattr(part, name)(times), getattr(sde, name)(times))
    for grid in (KarrasGrid(), LogSNRGrid()):
        assert grid(part, 5)[0] == part.T
    end = torch.tensor(part.T, dtype=torch.float64)
    width = math.hypot(sde.alpha(end).item(), sde.sigma(end).item())
    assert part.prior((3, 2)).std == pytest.approx(width)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: sdedit(None, VP(), None, torch.zeros(1, 1), 0.0), "noise_level must be a number"),
        (lambda: sdedit(None, VP(), None, torch.zeros(1, 1), 1e9), r"noise_level must be in \("),
        (lambda: sdedit(None, VP(), None, torch.zeros(1, 1), 1.0, repeats=0), "repeats must be"),
        (lambda: contraction(1.0, -1.0), "variance must be a number > 0"),
        (lambda: Until(VP(), 2.0), r"a process can end in \(0.001, 1\], got 2"),
        (lambda: Until(VP(), 1e-4), "sampling needs noise at its start"),
        (lambda: Until(VP().discretize(30), 0.02), "the lowest level of this chain"),
        (lambda: ExactInversion(iterations=0), "iterations must be an integer ≥ 1"),
        (lambda: encode(ExactInversion(Ancestral())), "this sampler draws noise"),
        (
            lambda: DDIB(VP(), gaussian(VP()), gaussian(VP()), stochastic())(torch.ones(1, 1)),
            "draws",
        ),
        (lambda: many(), "does not fit on the levels of this chain up to"),
    ],
)
def test_refusals(make, words):
    """One sentence each, before any work."""
    with pytest.raises(ValueError, match=words):
        make()
    with pytest.raises(TypeError, match="must be a Predictor"):
        ExactInversion(StochasticHeun())


def stochastic():
    return PredictorCorrector(Ancestral(), steps=5)


def encode(sampler):
    return sampler.encode(VP(), gaussian(VP()), torch.zeros(1, 1, dtype=torch.float64))


def many():
    chain = VP().discretize(30)
    sampler = PredictorCorrector(DDIM(), steps=25)
    return sdedit(sampler, chain, gaussian(chain), torch.zeros(1, 1).double(), 0.3)
