"""Weighted particles: their engine by closed forms, and each method by exact posteriors."""

import math

import pytest
import torch

from scoresde.conditioning import TDS, FeynmanKac, Mask, MCGDiff, Measurement, TwoScores
from scoresde.conditioning.measurements import Operator
from scoresde.conditioning.weights import effective_size, systematic
from scoresde.models import GaussianMixtureScore, GaussianScore
from scoresde.samplers import (
    DDIM,
    Ancestral,
    FixedGrid,
    Langevin,
    LogSNRGrid,
    PredictorCorrector,
    draw,
)
from scoresde.sde import VP
from tests.conditioning.problems import PROBLEMS, floors, push
from tests.conftest import PROCESSES

SDE = VP()
END = SDE.time_of_half_log_snr(torch.tensor(0.01, dtype=torch.float64).log().neg()).item()
"""The time at which σ/α = 0.01."""

GRID = LogSNRGrid(eps=END)


def sample(sampler, problem, n, seed=0, **settings):
    settings = {"generator": torch.Generator().manual_seed(seed), **settings}
    shape = (n, *problem.operator.shape)
    return sampler(SDE, problem.score(SDE), shape, dtype=torch.float64, **settings)


# ---------------------------------------------------------------- the engine


def test_effective_size_against_closed_forms():
    """K of equal weights, 1 of a single one, and 1/Σ W² in general; factors cancel."""
    w = torch.tensor([[0.25] * 4, [1.0, 0, 0, 0], [0.5, 0.25, 0.25, 0]], dtype=torch.float64)
    found = effective_size(w.log() + torch.tensor([[3.0], [-800.0], [900.0]]))
    torch.testing.assert_close(found, torch.tensor([4, 1, 8 / 3], dtype=torch.float64))


def test_systematic_resampling_against_closed_forms():
    """Particle k appears ⌊K W_k⌋ or ⌈K W_k⌉ times, and K W_k times on average over u."""
    w = torch.tensor([[0.05, 0.6, 0.25, 0.1]], dtype=torch.float64)
    u = (torch.arange(1000, dtype=torch.float64) + 0.5)[:, None] / 1000
    chosen = systematic(w.expand(1000, 4), u)
    counts = torch.nn.functional.one_hot(chosen, 4).sum(1)
    assert ((counts >= (4 * w).floor()) & (counts <= (4 * w).ceil())).all()
    torch.testing.assert_close(counts.double().mean(0), 4 * w[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", [TDS, MCGDiff])
def test_samples_depend_on_their_own_seeds_and_measurements(method):
    """Each sample has its own particles, weights and measurement, in batches of any size."""
    problem, score = PROBLEMS["P1"], PROBLEMS["P1"].score(SDE)
    y = torch.tensor([[0.3], [-0.5], [0.9]], dtype=torch.float64)
    sampler = method(Measurement(problem.operator, y, problem.std), 8, 12)
    whole = sampler(SDE, score, (3, 2), seeds=[5, 6, 7], trajectory=3)
    parts = draw(sampler, SDE, score, (3, 2), 2, seeds=[5, 6, 7])
    torch.testing.assert_close(whole.x, parts.x)
    alone = sampler.rows(torch.tensor([2]))(SDE, score, (1, 2), seeds=[7])
    torch.testing.assert_close(whole.x[2:], alone.x)
    assert whole.nfe == 8 * 12
    assert whole.products == (8 * 12 if method is TDS else 0)
    torch.testing.assert_close(whole.trajectory[-1], whole.x)


def test_the_population_holds_what_is_returned():
    """Weights sum to 1, the sample is one of the particles, and x_init starts all of them."""
    problem = PROBLEMS["P1"]
    sampler = TDS(problem.measurement, 16, 10, grid=GRID, threshold=0.9)
    start, seen, score = torch.zeros(4, 2).double(), [], problem.score(SDE)

    def watch(step, t, x):
        seen.append(x.clone())

    run = sampler(SDE, score, (4, 2), x_init=start, trajectory=11, callback=watch)
    population = sampler.population
    assert [x.shape for x in seen] == [(4, 16, 2)] * 10
    torch.testing.assert_close(population.log_weights.exp().sum(1), torch.ones(4).double())
    assert (population.x == run.x[:, None]).all(2).any(1).all()
    torch.testing.assert_close(population.sizes[-1], effective_size(population.log_weights))
    assert population.resampled.any()
    assert (population.resampled == (population.sizes[:-1] < 0.9 * 16)).all()
    # The trajectory is the path of the particle that is returned: its states were all visited.
    assert (run.trajectory[0] == start).all()
    for frame, particles in zip(run.trajectory[1:], seen, strict=True):
        assert (particles == frame[:, None]).all(2).any(1).all()


@pytest.mark.parametrize("kind", ["tds", "exact", "mcg", "mcg_exact", "fkc"])
def test_every_process_gives_the_same_samples(kind):
    """On one grid of ς and with the same noise, x/α is the same to rounding."""
    exact = Measurement(Mask(torch.tensor([True, False])), torch.tensor([[0.4]]).double())
    noisy = PROBLEMS["P1"].measurement
    levels = torch.tensor([15, 7, 3, 1.5, 0.8, 0.4, 0.2, 0.1, 0.05], dtype=torch.float64)
    found = []
    for sde in PROCESSES.values():
        if (-sde.half_log_snr(torch.tensor(sde.T).double())).exp() < 15:
            continue
        grid = FixedGrid(sde.time_of_half_log_snr(-levels.log()))
        sampler = {
            "tds": lambda g: TDS(noisy, 4, 8, grid=g),
            "exact": lambda g: TDS(exact, 4, 8, grid=g),
            "mcg": lambda g: MCGDiff(noisy, 4, 8, grid=g),
            "mcg_exact": lambda g: MCGDiff(exact, 4, 8, grid=g),
            "fkc": lambda g: FeynmanKac(4, 8, grid=g),
        }[kind](grid)
        score = PROBLEMS["P1"].score(sde)
        if kind == "fkc":
            score = TwoScores(score.given(torch.tensor([1])), score, 2.0)
        x = 15 * torch.randn(5, 2, generator=torch.Generator().manual_seed(1)).double()
        x = sde.alpha(grid.times[0]) * x
        found.append(sampler(sde, score, (5, 2), x_init=x, seeds=range(5)).x)
    assert len(found) >= 4
    for x in found[1:]:
        torch.testing.assert_close(x, found[0], rtol=0, atol=1e-8)  # times are found to 1e-12


def test_a_chain_ends_at_the_data(generator):
    """On a chain the last step has no noise, and weights stay finite."""
    chain = SDE.discretize(40)
    mask = Measurement(Mask(torch.tensor([True, False])), torch.tensor([[-0.2]]))
    score = PROBLEMS["P0"].score(chain)
    for sampler in (TDS(mask, 4, 40), MCGDiff(mask, 4, 40)):
        run = sampler(chain, score, (6, 2), generator=generator)
        torch.testing.assert_close(run.x[:, 0], torch.full((6,), -0.2), rtol=0, atol=1e-6)
        assert sampler.population.log_weights.isfinite().all()


class Square(Operator):
    """h(x) = x²."""

    def __call__(self, x):
        return x.square()


# ---------------------------------------------------------------- TDS and MCG-diff


def chain_moments(steps, score, dim):
    """Mean and covariance of the unconditional samples of N steps, for a Gaussian score."""
    predictor, times = Ancestral(), GRID(SDE, steps)
    mean, covariance = torch.zeros(dim).double(), torch.eye(dim).double()
    for i in range(steps):
        t, u = times[i], times[i + 1]
        _, std = predictor.transition(SDE, score, torch.zeros(1, dim).double(), t, u)
        mean, covariance = push(
            lambda x, t=t, u=u: predictor.transition(SDE, score, x, t, u)[0], mean, covariance
        )
        covariance = covariance + std.square() * torch.eye(dim) * (i < steps - 1)
    alpha = SDE.alpha(times[-1])
    return mean / alpha, covariance / alpha**2


def test_the_evidence_is_unbiased():
    """E exp(log Ẑ) is p(y) of the chain of N steps, which is known for Gaussian data."""
    score = GaussianScore(
        SDE, torch.tensor([0.3, -0.2]), torch.tensor([[0.6, 0.3], [0.3, 0.4]]).double()
    )
    problem, steps = PROBLEMS["P1"], 8
    mean, covariance = chain_moments(steps, score, 2)
    H, y = problem.matrix, problem.y
    spread = (H @ covariance @ H.T).item() + problem.std**2
    true = -0.5 * ((y - H @ mean).square().item() / spread + math.log(2 * math.pi * spread))
    sampler = TDS(problem.measurement, 8, steps, grid=GRID)
    sampler(SDE, score, (1500, 2), dtype=torch.float64, seeds=range(1500))
    ratio = (sampler.population.log_evidence - true).exp()
    error = ratio.std() / len(ratio) ** 0.5
    assert error < 0.02
    assert abs(ratio.mean() - 1) < 4 * error


@pytest.fixture(scope="module")
def chain():
    """Unconditional samples of 15 steps on the data of P1."""
    problem = PROBLEMS["P1"]
    plain = PredictorCorrector(Ancestral(), steps=15, grid=GRID)
    return sample(plain, problem, 40_000).x / SDE.alpha(torch.tensor(END))


SQUARED = Measurement(Square((2,), (2,)), torch.tensor([[0.5, 1.0]], dtype=torch.float64), 0.8)


@pytest.mark.parametrize("kind", ["linear", "not_linear", "function"])
def test_tds_samples_the_posterior_of_its_chain(kind, chain):
    """Its limit are the unconditional samples of the chain, weighted by p(y | x_0)."""
    linear = PROBLEMS["P1"].measurement

    def near(x0):
        return -0.3 * (x0[:, 0] - 0.5).square() + x0[:, 1].sin()

    given, log_likelihood = {
        "linear": (linear, linear.log_likelihood),
        "not_linear": (SQUARED, SQUARED.log_likelihood),
        "function": (near, near),
    }[kind]
    weights = log_likelihood(chain).softmax(0)
    sampler = TDS(given, 64, 15, grid=GRID)
    x = sample(sampler, PROBLEMS["P1"], 500, seed=1).x
    for power in (1, 2):
        error = (x**power).var(0) / 500 + weights.square().sum() * (chain**power).var(0)
        difference = (x**power).mean(0) - weights @ chain**power
        assert (difference / error.sqrt()).abs().max() < 4
    evidence = (sampler.population.log_evidence.exp() / log_likelihood(chain).exp().mean()).log()
    constant = 0.5 * math.log(2 * math.pi * 0.2**2) if kind == "linear" else 0.0
    assert (evidence + constant).exp().mean() == pytest.approx(1, abs=0.06)


def floors_of(make, name, n=1024, seed=3):
    """Distance of a sampler's samples to the posterior of a problem, in floors.

    Args:
        make: Function of the measurement that returns the sampler.
        name: Name of the problem.
        n: Number of samples; those of the published table are 1024 to 4096.
        seed: Seed of all of them.
    """
    problem = PROBLEMS[name]
    return floors(sample(make(problem.measurement), problem, n, seed).x, problem, SDE)


@pytest.mark.parametrize(("method", "name"), [(TDS, "P0"), (TDS, "P1"), (MCGDiff, "P0")])
def test_particles_are_near_the_floor(method, name):
    """64 particles of 100 steps are as near as the exact score, within 1.5 floors."""
    assert floors_of(lambda y: method(y, 64, 100, grid=GRID), name, n=128) < 1.5


def test_measured_coordinates_are_a_product_of_gaussians():
    """A step of MCG-diff from one state: precision 1/v² + 1/ς_u² in x/α, and the mean of both."""
    measurement = Measurement(Mask(torch.tensor([True, False])), torch.tensor([[0.7]]).double())
    sampler = MCGDiff(measurement, 2, 6, grid=GRID)
    move = sampler.moves(SDE, torch.float64)[3]
    score = PROBLEMS["P0"].score(SDE)
    x, z = torch.zeros(3, 2).double(), torch.tensor([[0, 0], [1, 0], [0, 1.0]]).double()
    dynamics = sampler.begin(SDE, score, torch.zeros(3).long())
    dynamics.weigh(x, move)
    out = dynamics.advance(x, move, z)[0] / SDE.alpha(move.t_next)
    level, std = (v / SDE.alpha(move.t_next) for v in (SDE.sigma(move.t_next), move.std))
    mean = move.w * score(x, move.t)[0] / SDE.alpha(move.t_next)
    precision = 1 / std**2 + 1 / level**2
    torch.testing.assert_close(out[0, 0], (mean[0] / std**2 + 0.7 / level**2) / precision)
    torch.testing.assert_close(out[1, 0] - out[0, 0], precision**-0.5)
    torch.testing.assert_close(out[2, 1] - out[0, 1], std)


def test_known_pixels_are_exact():
    """With σ_y = 0 samples fit the measurement to rounding."""
    problem = PROBLEMS["M0"]
    for sampler in (TDS(problem.measurement, 4, 10), MCGDiff(problem.measurement, 4, 10)):
        x = sample(sampler, problem, 8).x
        assert problem.measurement.residual(x).abs().max() < 1e-14


# ---------------------------------------------------------------- correction of guidance


def pushed(sampler, score, weighted=True):
    """Variance of the samples on the line and log evidence, exactly, as K → ∞.

    A Gaussian N(0, P) with weights exp(q x²) is N(0, 1/(1/P − 2 q)).
    """
    variance, log_evidence = 1.0, 0.0
    dynamics = sampler.begin(SDE, score, torch.arange(1))
    one = torch.ones(1, 1, dtype=torch.float64)
    for move in sampler.moves(SDE, torch.float64):
        dynamics.weigh(one, move)
        slope, gain = dynamics.advance(one, move, torch.zeros_like(one))
        if weighted:
            tilted = 1 / (1 / variance - 2 * gain.item())
            log_evidence, variance = log_evidence + 0.5 * math.log(tilted / variance), tilted
        variance = slope.item() ** 2 * variance + (0 if move.last else move.std**2)
    return variance, log_evidence


def on_the_line(variance):
    return lambda x, t: -x / (SDE.alpha(t) ** 2 * variance + SDE.sigma(t) ** 2)


def guided(scale):
    """Guidance of N(0, 1) by N(0, ½)."""
    return TwoScores(on_the_line(0.5), on_the_line(1.0), scale, SDE)


@pytest.mark.parametrize(("scale", "tilt"), [(2.0, 1 / 3), (4.0, 0.2)])
def test_the_correction_samples_the_tilt(scale, tilt):
    """Within 2 % with 1000 steps, and within 0.2 % where the error of first order is removed.

    The evidence is ∫ N(x; 0, ½)^w N(x; 0, 1)^{1−w} dx.
    """
    found = [pushed(FeynmanKac(2, n, grid=GRID), guided(scale)) for n in (500, 1000)]
    (coarse, _), (fine, evidence) = found
    assert fine == pytest.approx(tilt, rel=0.02)
    assert 2 * fine - coarse == pytest.approx(tilt, rel=0.004)
    true = 0.5 * math.log(tilt * 0.5**-scale)
    assert evidence == pytest.approx(true, rel=0.01)


def test_guidance_without_the_correction_samples_something_else():
    """The SDE has variance .2917 and the flow .2500, both within 1 %."""
    found = [pushed(FeynmanKac(2, n, grid=GRID), guided(2.0), False)[0] for n in (500, 1000)]
    assert 2 * found[1] - found[0] == pytest.approx(0.2917, rel=0.01)
    times, x = GRID(SDE, 1000), torch.ones(1, 1, dtype=torch.float64)
    for i in range(1000):
        x, _ = DDIM().transition(SDE, guided(2.0), x, times[i], times[i + 1])
    assert x.square().item() == pytest.approx(0.25, rel=0.01)


def test_particles_have_the_moments_of_the_correction():
    """20 000 particles of 50 steps against the moments of the same steps: standard error 1 %."""
    sampler = FeynmanKac(20_000, 50, grid=GRID)
    sampler(SDE, guided(4.0), (1, 1), dtype=torch.float64, seeds=[0])
    population = sampler.population
    variance = population.log_weights.exp() @ population.x[0].square()
    exact, evidence = pushed(FeynmanKac(2, 50, grid=GRID), guided(4.0))
    assert variance.item() == pytest.approx(exact, rel=0.04)
    assert population.log_evidence.item() == pytest.approx(evidence, abs=0.03)


def test_a_guided_mixture_is_corrected():
    """Two classes N(∓1, ½): the mean of class 1 for w = 2 is −1.131, and −1.308 without weights."""
    score = GaussianMixtureScore(
        SDE, torch.ones(2), torch.tensor([[-1.0], [1.0]]), torch.full((2, 1), 0.5)
    )
    both = TwoScores(score.given(torch.tensor([0])), score, 2.0)
    sampler = FeynmanKac(4000, 250, grid=GRID)
    run = sampler(SDE, both, (1, 1), dtype=torch.float64, seeds=[0])
    population = sampler.population
    mean = (population.log_weights.exp() * population.x[..., 0]).sum().item()
    assert mean == pytest.approx(-1.131, abs=0.03)
    plain = PredictorCorrector(Ancestral(), steps=100, grid=GRID)
    x = plain(SDE, both, (4000, 1), dtype=torch.float64, seeds=None, generator=torch.Generator())
    assert x.x.mean().item() < -1.25
    assert run.nfe == 2 * 4000 * 250
    assert x.nfe == 2 * 100


def test_each_sample_has_its_own_scale():
    """A score with a scale for each sample, and one with what cannot be corrected."""

    class Several(TwoScores):
        followers = ("conditional", "unconditional", "scale")

    both = Several(on_the_line(0.5), on_the_line(1.0), 1.0, SDE)
    both.scale = torch.tensor([2.0, 4.0])
    sampler = FeynmanKac(5, 6, grid=GRID)
    x = sampler(SDE, both, (2, 1), dtype=torch.float64, seeds=[3, 4]).x
    for i in range(2):
        one = sampler(SDE, guided([2.0, 4.0][i]), (1, 1), dtype=torch.float64, seeds=[3 + i]).x
        torch.testing.assert_close(x[i : i + 1], one)
    both.rescale = 0.7
    with pytest.raises(ValueError, match="without a rescaled contrast, got 1 conditions and"):
        sampler(SDE, both, (2, 1))


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda m: TDS(m, 1), "particles must be ≥ 2, got 1.*PosteriorScore"),
        (lambda m: MCGDiff(m, 1), "particles must be ≥ 2"),
        (lambda m: FeynmanKac(1), "particles must be ≥ 2, got 1.*guided score"),
        (lambda m: TDS(m, 0), "particles must be an integer ≥ 1, got 0"),
        (lambda m: TDS(m, 4, variance=0.0), "variance must be a number > 0"),
        (lambda m: TDS(m, 4, threshold=2.0), r"threshold must be in \[0, 1\]"),
        (lambda m: TDS(Measurement(Square((2,), (2,)), torch.ones(1, 2)), 4), "std is 0"),
        (lambda m: TwoScores(on_the_line(1.0), on_the_line(1.0), -1.0, SDE), "scale must be"),
    ],
)
def test_bad_numbers_are_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(PROBLEMS["P1"].measurement)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: TDS(3.0), "Measurement or a function"),
        (
            lambda: MCGDiff(Measurement(Square((2,), (2,)), torch.ones(1, 2), 0.1)),
            "SpectralOperator, got Square",
        ),
        (lambda: FeynmanKac(4, predictor=Langevin()), "must be a Predictor"),
        (
            lambda: FeynmanKac(4, 3)(SDE, on_the_line(1.0), (1, 1)),
            "conditional, unconditional",
        ),
    ],
)
def test_bad_types_are_refused(make, sentence):
    with pytest.raises(TypeError, match=sentence):
        make()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"constraint": lambda x, t, noise: x}, "takes no constraint"),
        ({"temperature": 0.5}, "temperature 1"),
        ({"differentiable": True}, "no derivative"),
    ],
)
def test_options_that_weights_do_not_allow(options, sentence):
    problem = PROBLEMS["P1"]
    with pytest.raises(ValueError, match=sentence):
        sample(TDS(problem.measurement, 4, 3), problem, 2, **options)


def test_steps_without_noise_are_refused():
    with pytest.raises(ValueError, match="draw noise"):
        TDS(PROBLEMS["P1"].measurement, 4, 3, predictor=DDIM()).check(SDE, torch.float64)


@pytest.mark.parametrize("method", [TDS, MCGDiff])
def test_a_measurement_of_other_samples_is_refused(method):
    problem = PROBLEMS["P1"]
    measurement = Measurement(problem.operator, torch.zeros(2, 1).double(), 0.1)
    with pytest.raises(ValueError, match="must have 3 rows, or 1 for all, got 2"):
        sample(method(measurement, 4, 3), problem, 3)
