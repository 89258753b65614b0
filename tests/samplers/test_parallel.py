"""Parallel rounds compared with the same solver step by step."""

import pytest
import torch

from scoresde.data import Mixture
from scoresde.models import GaussianMixtureScore
from scoresde.samplers import (
    DDIM,
    Ancestral,
    ExponentialMultistep,
    ExponentialSinglestep,
    Langevin,
    LogSNRGrid,
    ParallelPicard,
    PredictorCorrector,
    RungeKutta,
    UniformGrid,
)
from scoresde.samplers.solvers.predictors import Rescale
from scoresde.sde import EDM, VE, VP

DOUBLE = {"dtype": torch.float64}
SDES = {"vp": VP(), "ve": VE(), "edm": EDM(), "ddpm": VP().discretize(1000)}
SOLVERS = {
    "ddim": DDIM(),
    "multistep": ExponentialMultistep(3),
    "corrected": ExponentialMultistep(2, corrector=True),
    "heun": RungeKutta("heun", "sigma"),
    "rk4": RungeKutta("rk4"),
    "singlestep": ExponentialSinglestep(3),
}
B = 6


def mixture(sde):
    data = Mixture(n=1, n_test=1)
    return GaussianMixtureScore(sde, data.weights, data.means, data.covariances)


def latents(sde, shape=(B, 2)):
    return sde.prior(shape).sample(torch.Generator().manual_seed(1), **DOUBLE)


def solve(sampler, sde, x, **options):
    return sampler(sde, mixture(sde), x.shape, x_init=x, **options)


@pytest.fixture(params=list(SDES))
def sde(request):
    return SDES[request.param]


@pytest.mark.parametrize("window", [None, 5, 1])
@pytest.mark.parametrize("name", SOLVERS)
def test_a_tolerance_of_zero_gives_the_sequential_samples(sde, name, window):
    """They agree to 1e-10, in no more rounds than the solver has evaluations, for any window."""
    x = latents(sde)
    sequential = solve(PredictorCorrector(SOLVERS[name], steps=12, grid=LogSNRGrid()), sde, x)
    sampler = ParallelPicard(SOLVERS[name], 12, grid=LogSNRGrid(), window=window, tolerance=1e-13)
    parallel = solve(sampler, sde, x)
    torch.testing.assert_close(parallel.x, sequential.x, rtol=1e-10, atol=1e-10)
    assert sampler.rounds <= sequential.nfe
    if window == 1:
        assert sampler.rounds == parallel.nfe == sequential.nfe


@pytest.mark.parametrize("window", [None, 25])
def test_few_rounds_replace_many_steps(sde, window):
    """100 steps of DDIM take at most 15 rounds at the default tolerance, with as small an error."""
    x = latents(sde)
    sequential = solve(PredictorCorrector(DDIM(), steps=100, grid=LogSNRGrid()), sde, x).x
    errors, rounds = [], []
    for tolerance in (0.1, 0.01, 0.001):
        sampler = ParallelPicard(DDIM(), 100, grid=LogSNRGrid(), window=window, tolerance=tolerance)
        errors.append((solve(sampler, sde, x).x - sequential).abs().max().item())
        rounds.append(sampler.rounds)
    assert rounds[0] < rounds[1] < rounds[2] and rounds[1] <= 15
    assert errors[0] < 0.3 and errors[1] < 0.05 and errors[2] < 0.005


@pytest.mark.parametrize("window", [None, 4])
def test_evaluations_and_rounds_are_counted(sde, window):
    """nfe is the mean of the rows that the score saw, rounds the calls; t has one entry per row."""
    exact, seen = mixture(sde), []

    def counting(x, t):
        assert t.shape == (len(x),)
        seen.append(len(x))
        return exact(x, t)

    sampler = ParallelPicard(DDIM(), 20, window=window)
    samples = sampler(sde, counting, (B, 2), x_init=latents(sde))
    assert samples.nfe == pytest.approx(sum(seen) / B, rel=1e-12)
    assert sampler.rounds == len(seen)
    assert seen[0] == B * (window or 20) and seen[-1] < seen[0]


@pytest.mark.parametrize("window", [None, 3])
def test_samples_do_not_depend_on_their_neighbours(sde, window):
    """Each has its own window: alone or in a batch, at a loose tolerance, it agrees to 1e-10."""
    x, sampler = latents(sde), ParallelPicard(DDIM(), 15, window=window, tolerance=0.1)
    whole = solve(sampler, sde, x).x
    alone = torch.cat([solve(sampler, sde, x[i : i + 1]).x for i in range(B)])
    torch.testing.assert_close(alone, whole, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["ddim", "corrected", "heun"])
def test_encoding_is_parallel_too(sde, name):
    """Latents of data are those of the sequential path, and lead back to the data."""
    score, x0 = mixture(sde), 0.5 * torch.randn(B, 2, **DOUBLE)
    sampler = ParallelPicard(SOLVERS[name], 15, tolerance=1e-13, grid=LogSNRGrid(0.01))
    sequential = PredictorCorrector(SOLVERS[name], steps=15, grid=LogSNRGrid(0.01))
    ours, theirs = (s.encode(sde, score, x0).x for s in (sampler, sequential))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("keep", [2, 5])
def test_steps_are_reported_in_order_once_they_are_settled(sde, keep):
    """Callback and trajectory are those of the sequential sampler, at a fine tolerance."""
    x, reports = latents(sde), {}
    samplers = {
        "parallel": ParallelPicard(ExponentialMultistep(3), 10, tolerance=1e-13, window=4),
        "sequential": PredictorCorrector(ExponentialMultistep(3), steps=10),
    }
    for name, sampler in samplers.items():
        seen = []
        samples = solve(
            sampler, sde, x, trajectory=keep, callback=lambda *step, seen=seen: seen.append(step)
        )
        reports[name] = (samples.trajectory, seen)
    ours, theirs = reports["parallel"], reports["sequential"]
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-10, atol=1e-10)
    assert [(i, float(t)) for i, t, _ in ours[1]] == [(i, float(t)) for i, t, _ in theirs[1]]
    for (*_, a), (*_, b) in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_images_and_single_precision(sde):
    """Images (B, C, H, W) in float32 are within the tolerance of the sequential samples."""

    def score(x, t):
        variance = (0.25 * sde.alpha(t).square() + sde.sigma(t).square()).to(x)
        return -x / variance.reshape(-1, *[1] * (x.ndim - 1)) if t.ndim else -x / variance

    x = latents(sde, (3, 1, 8, 8)).float()
    grid = LogSNRGrid()
    ours = ParallelPicard(DDIM(), 30, grid=grid)(sde, score, x.shape, x_init=x).x
    theirs = PredictorCorrector(DDIM(), steps=30, grid=grid)(sde, score, x.shape, x_init=x).x
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.05)


def test_a_plan_without_evaluations_needs_no_round():
    x, sampler = latents(VP()), ParallelPicard(Rescale(), 4)
    samples = solve(sampler, VP(), x)
    assert sampler.rounds == samples.nfe == 0
    theirs = solve(PredictorCorrector(Rescale(), steps=4), VP(), x).x
    torch.testing.assert_close(samples.x, theirs, rtol=1e-12, atol=0)


def sample(sampler, **options):
    return sampler(VP(), None, (3, 2), **options)


@pytest.mark.parametrize(
    "call, error, sentence",
    [
        (lambda: ParallelPicard(Langevin()), TypeError, "must be a Solver.*a corrector draws"),
        (lambda: ParallelPicard(DDIM(), 0), ValueError, "steps must be an integer ≥ 1, got 0"),
        (lambda: ParallelPicard(DDIM(), window=0), ValueError, "window must be an integer ≥ 1"),
        (lambda: ParallelPicard(DDIM(), tolerance=-1), ValueError, "must be finite and ≥ 0, got"),
        (
            lambda: sample(ParallelPicard(Ancestral())),
            ValueError,
            r"this predictor draws noise; use DDIM\(\)",
        ),
        (
            lambda: sample(ParallelPicard(DDIM()), constraint=lambda x, t, noise: x),
            ValueError,
            "a parallel solver takes no constraint; use PredictorCorrector",
        ),
        (
            lambda: sample(ParallelPicard(DDIM(), 5, grid=UniformGrid(2.0))),
            ValueError,
            r"eps must be in \(0, T=1\.0\), got 2",
        ),
    ],
)
def test_wrong_inputs_are_named(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call()
