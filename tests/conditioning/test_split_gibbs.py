"""Split Gibbs sampling: its stationary distribution by moments, and its chains by samples."""

import pytest
import torch

from scoresde.conditioning import LangevinDraw, Mask, Matrix, Measurement, SplitGibbs, pnp_dm
from scoresde.conditioning.local_posterior import Exact, SplitNoise
from scoresde.conditioning.measurements import LinearOperator, Operator
from scoresde.samplers import (
    DDIM,
    AdaptiveSDE,
    KarrasGrid,
    LogSNRGrid,
    PredictorCorrector,
    ProbabilityFlowODE,
    StochasticHeun,
    draw,
)
from scoresde.samplers.context import SamplingContext
from scoresde.sde import VP, Until
from tests.conditioning.moments import push_noisy
from tests.conditioning.problems import PROBLEMS, Problem, floors, wasserstein
from tests.conditioning.test_particles import SDE, floors_of, sample


def ddim(steps, grid=None):
    return PredictorCorrector(DDIM(eta=1), steps=steps, grid=grid or KarrasGrid())


RHO = 0.19
"""Below σ_y/s_max = 0.2 of G1 and P1."""


def moments_after(problem, local, rounds, rho=RHO):
    """Moments of x after some rounds, with exact samples of p(x_0 | z)."""
    prior, covariance = problem.means[0], problem.covariances[0]
    gain = covariance @ torch.linalg.inv(covariance + rho**2 * torch.eye(16).double())
    rest = covariance - gain @ covariance  # Cov[x_0 | z]
    mean, spread = prior, covariance  # a chain begins with a sample of the data
    for _ in range(rounds):
        mean, spread = push_noisy(
            lambda x, noise: local.draw(
                x.reshape(-1, 1, 4, 4), rho, problem.measurement, noise, 0.0
            ).flatten(1),
            mean,
            spread,
        )
        mean, spread = prior + gain @ (mean - prior), gain @ spread @ gain.T + rest
    return mean, spread


@pytest.mark.parametrize(("rounds", "bound"), [(20, 3e-3), (100, 1e-5)])
def test_split_noise_gives_the_exact_posterior(rounds, bound):
    """On G1 at ρ = .19: W₂ about .002 after 20 rounds, and less than 1e-5 after 100."""
    found = moments_after(PROBLEMS["G1"], SplitNoise(PROBLEMS["G1"].measurement), rounds)
    assert wasserstein(*found, PROBLEMS["G1"]) < bound


def test_the_error_of_real_steps_is_small():
    """20 steps of order 2 leave W₂ .002 on G1, and those of DDIM .07; moments of whole rounds."""
    problem, found = PROBLEMS["G1"], []
    score, rho = problem.score(SDE), torch.tensor(RHO).double()
    process = Until(SDE, SDE.time_of_half_log_snr(-rho.log()).item())
    alpha, split = SDE.alpha(torch.tensor(process.T).double()), SplitNoise(problem.measurement)
    for sampler in (SplitGibbs(problem.measurement).sampler, ddim(20)):

        def turn(x, noise, sampler=sampler):
            fields = x.reshape(-1, 1, 4, 4)
            z = split.draw(fields, RHO, problem.measurement, noise, 0.0).flatten(1)
            return sampler.run(process, score, alpha * z, SamplingContext(source=noise))

        moments = problem.moments
        for _ in range(12):
            moments = push_noisy(turn, *moments)
        found.append(wasserstein(*moments, problem))
    assert found[0] < 0.004
    assert found[1] > 0.05


def test_plain_noise_gives_the_posterior_of_more_noise():
    """The stationary distribution is the posterior for the covariance σ_y² I + ρ² H Hᵀ."""
    problem = PROBLEMS["G1"]
    found = moments_after(problem, Exact(), 150)
    noisier = Problem(
        problem.weights,
        problem.means,
        problem.covariances,
        problem.operator,
        problem.y,
        (problem.std**2 + RHO**2 / 4) ** 0.5,  # H Hᵀ = I/4
    )
    assert wasserstein(*found, noisier) < 1e-5
    assert wasserstein(*found, problem) > 0.02


class Products(LinearOperator):
    """An operator that is known by its products alone."""

    def __init__(self, operator):
        super().__init__(operator.shape, operator.shape_out)
        self.operator = operator

    def __call__(self, x):
        return self.operator(x)

    def adjoint(self, y):
        return self.operator.adjoint(y)


@pytest.mark.parametrize("kind", ["plain", "split"])
def test_products_alone_draw_as_singular_values_do(kind):
    """Conjugate gradients, and the polynomial for the root of Σ_z, to rounding."""
    problem = PROBLEMS["G1"]
    x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    found = []
    for operator in (problem.operator, Products(problem.operator)):
        generator = torch.Generator().manual_seed(1)
        measurement = Measurement(operator, problem.y[None], problem.std)

        def noise(v, generator=generator):
            return torch.randn(v.shape, generator=generator, dtype=v.dtype)

        local = Exact() if kind == "plain" else SplitNoise(measurement)
        found.append(local.draw(x, RHO, measurement, noise, 0.0))
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)


def test_langevin_steps_approach_the_exact_samples():
    """On a linear measurement: the moments of many short steps, whose error is of order δ."""
    problem = PROBLEMS["P1"]
    mean, std = torch.tensor([0.2, -0.4]).double(), 0.3
    start = torch.zeros(2).double(), torch.zeros(2, 2).double()
    exact, short = (
        push_noisy(
            lambda x, noise, local=local: local.draw(x, std, problem.measurement, noise, 0.0),
            mean,
            start[1],
        )
        for local in (Exact(), LangevinDraw(400, 1e-3, 1e-3))
    )
    torch.testing.assert_close(short[0], exact[0], rtol=0, atol=2e-4)
    torch.testing.assert_close(short[1], exact[1], rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["P1", "M1"])
def test_chains_are_near_the_floor(name):
    """Within 1.5 floors after 60 rounds of 20 steps of the reverse SDE."""
    assert floors_of(lambda y: SplitGibbs(y, rounds=60), name, n=300, seed=2) < 1.5


def test_an_exact_measurement_by_falling_rho():
    """P0 without noise: ρ falls to .05, and samples fit y to that; 300 rounds reach 2 floors."""
    problem = PROBLEMS["P0"]
    sampler = SplitGibbs(
        problem.measurement, ddim(10), rounds=90, rho=0.05, decay=0.95, form="plain"
    )
    x = sample(sampler, problem, 300, seed=1).x
    assert floors(x, problem, SDE) < 4
    assert problem.measurement.residual(x).abs().max() < 0.25


def test_one_chain_gives_many_samples():
    """They are neighbours, differ, and depend on the seed of the first; rounds are counted."""
    problem, score = PROBLEMS["P1"], PROBLEMS["P1"].score(SDE)
    y = torch.tensor([[0.3], [9.0], [-0.5], [9.0]], dtype=torch.float64)
    sampler = SplitGibbs(
        Measurement(problem.operator, y, problem.std),
        ddim(4, LogSNRGrid()),
        rounds=8,
        decay=0.5,
        per_chain=2,
        thinning=3,
    )
    assert len(sampler.levels) == 11
    assert sampler.levels[0] == 3.0
    assert sampler.levels[-4:] == [pytest.approx(0.19)] * 4
    run = sampler(SDE, score, (4, 2), seeds=[1, 2, 3, 4], trajectory=3)
    assert run.nfe == (11 + 1) * 4 / 2
    other = sampler(SDE, score, (4, 2), seeds=[1, 9, 3, 9])
    torch.testing.assert_close(run.x, other.x)
    assert ((run.x[0] - run.x[1]).abs() > 0.01).any()
    parts = draw(sampler, SDE, score, (4, 2), 2, seeds=[1, 2, 3, 4])
    torch.testing.assert_close(run.x, parts.x)
    # Longer chains go on from the same samples.
    first = SplitGibbs(sampler.measurement.rows(torch.tensor([0])), sampler.sampler, 8, decay=0.5)
    torch.testing.assert_close(first(SDE, score, (1, 2), seeds=[1]).x, run.x[:1])


def test_every_process(process):
    """Chains run on every process, and reach a measurement that is nearly exact."""
    operator = Matrix(torch.tensor([[0.8, 0.6]]))
    measurement = Measurement(operator, torch.tensor([[0.3]]), 0.2)
    sampler = SplitGibbs(measurement, ddim(5), rounds=15, decay=0.7)
    x = sampler(process, PROBLEMS["P1"].score(process), (50, 2), seeds=range(50)).x
    assert (operator(x) - 0.3).std() < 0.35


@pytest.mark.parametrize(
    "inner",
    [PredictorCorrector(StochasticHeun(), steps=6, grid=LogSNRGrid()), AdaptiveSDE()],
    ids=["heun", "adaptive"],
)
def test_any_sampler_of_the_sde_denoises(inner):
    """Samplers with fixed and with adaptive steps start at ρ."""
    problem = PROBLEMS["P1"]
    sampler = SplitGibbs(problem.measurement, inner, rounds=15, decay=0.7)
    assert floors(sample(sampler, problem, 50, seed=3).x, problem, SDE) < 2.5


def test_the_published_form():
    """PnP-DM: no split, 100 rounds of which 40 are discarded, ρ from 10 to .3."""
    sampler = pnp_dm(PROBLEMS["P1"].measurement)
    assert sampler.form == "plain"
    assert len(sampler.levels) == 100
    assert sampler.levels[0] == 10
    assert sampler.levels[-1] == 0.3
    assert sampler.per_chain == 60


class Square(Operator):
    """h(x) = x²."""

    def __call__(self, x):
        return x.square()


def test_a_measurement_that_is_not_linear():
    """|x₁| = |x₂| = 1 roughly: all samples lie near the four points."""
    measurement = Measurement(Square((2,), (2,)), torch.ones(1, 2).double(), 0.1)
    sampler = SplitGibbs(
        measurement,
        ddim(5),
        rounds=12,
        rho=0.3,
        decay=0.7,
        form="plain",
        langevin=LangevinDraw(40, 1e-3),
    )
    x = sample(sampler, PROBLEMS["P1"], 100).x
    assert (x.abs() - 1).abs().mean() < 0.3


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rho": 0.21}, r"rho \(0.21\) must be ≤ std/s_max = 0.2"),
        ({"rho": 0.0}, "rho must be finite and > 0"),
        ({"rounds": 20}, "in 27 rounds.*got rounds=20"),
        ({"decay": 1.0}, "decay must be in"),
        ({"form": "plain"}, "give rho"),
        ({"form": "split"}, "unknown form"),
        ({"per_chain": 0}, "per_chain must be an integer ≥ 1"),
        ({"thinning": 0}, "thinning must be an integer ≥ 1"),
    ],
)
def test_bad_numbers_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        SplitGibbs(PROBLEMS["P1"].measurement, **options)


def test_what_cannot_be_split_is_refused():
    with pytest.raises(ValueError, match="std is 0; use form='plain'"):
        SplitGibbs(PROBLEMS["P0"].measurement)
    with pytest.raises(TypeError, match="needs a linear operator, got Square"):
        SplitGibbs(Measurement(Square((2,), (2,)), torch.ones(1, 2), 0.1))
    measurement = PROBLEMS["P1"].measurement
    with pytest.raises(ValueError, match="draws no noise"):
        SplitGibbs(measurement, ProbabilityFlowODE()).check(SDE, torch.float64)
    with pytest.raises(ValueError, match="multiples of that, got 3"):
        sample(SplitGibbs(measurement, rounds=30, per_chain=2), PROBLEMS["P1"], 3)
    with pytest.raises(ValueError, match="above std/s_max"):
        SplitGibbs(measurement, ddim(5), rho=0.2).check(VP().discretize(147), torch.float64)
    mask = Measurement(Mask(torch.tensor([True, False])), torch.zeros(1, 1), 0.001)
    with pytest.raises(ValueError, match="must stay within sigma/alpha"):
        SplitGibbs(mask).check(SDE, torch.float64)
