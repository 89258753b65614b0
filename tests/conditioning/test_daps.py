"""Decoupled annealing against exact posteriors."""

import pytest
import torch

from scoresde.conditioning import DAPS, LangevinDraw, Measurement
from scoresde.conditioning.measurements import Operator
from scoresde.samplers import FixedGrid, LogSNRGrid, draw
from tests.conditioning.moments import push_noisy
from tests.conditioning.problems import PROBLEMS, floors, wasserstein
from tests.conditioning.test_particles import END, SDE, sample
from tests.conftest import PROCESSES

GRID = LogSNRGrid(eps=END)


def pushed(sampler, problem, score):
    """Moments of the samples from the prior, for a Gaussian problem."""

    class Run:
        def __init__(self, noise):
            self.noise = noise

    def step(x, noise):
        shape = (len(x), *problem.operator.shape)
        return sampler(
            SDE, score, shape, x_init=x.reshape(shape), noise=noise, dtype=torch.float64
        ).x.flatten(1)

    return push_noisy(step, torch.zeros(16).double(), torch.eye(16).double())


@pytest.mark.parametrize("name", ["G0", "G1"])
def test_the_covariance_makes_a_gaussian_prior_exact(name):
    """Each level samples p(x_0 | x_t, y); what is left is the error of the prior at T."""
    problem = PROBLEMS[name]
    sampler = DAPS(problem.measurement, 1, 1, covariance="jacobian", grid=GRID)
    exact = pushed(sampler, problem, problem.score(SDE))
    assert wasserstein(*exact, problem) < 0.01
    isotropic = pushed(DAPS(problem.measurement, 20, 1, grid=GRID), problem, problem.score(SDE))
    assert wasserstein(*isotropic, problem) > 0.03


@pytest.mark.parametrize(
    ("name", "covariance", "most", "least"),
    [
        ("P0", "jacobian", 2.5, 0.0),
        ("M0", "isotropic", 6.0, 1.5),
        ("P1", "isotropic", 12.0, 3.0),
    ],
)
def test_levels_of_the_table(name, covariance, most, least):
    """100 levels: near the floor with C, and several floors away with r² I."""
    problem = PROBLEMS[name]
    sampler = DAPS(problem.measurement, 100, 1, covariance=covariance, grid=GRID)
    run = sample(sampler, problem, 500, seed=1)
    assert least < floors(run.x, problem, SDE) < most
    assert run.nfe == 101
    assert run.products == (202 if covariance == "jacobian" else 0)


def test_every_process_gives_the_same_samples():
    """On one grid of ς and with the same noise, to rounding; the flow has several steps."""
    levels, found = torch.tensor([15, 3, 0.8, 0.2], dtype=torch.float64), []
    for sde in PROCESSES.values():
        if (-sde.half_log_snr(torch.tensor(sde.T).double())).exp() < 15:
            continue
        grid = FixedGrid(sde.time_of_half_log_snr(-levels.log()))
        x = 15 * torch.randn(5, 2, generator=torch.Generator().manual_seed(1)).double()
        x = sde.alpha(grid.times[0]) * x
        for options in ({"flow_steps": 1}, {"flow_steps": 1, "covariance": "jacobian"}):
            sampler = DAPS(PROBLEMS["P1"].measurement, 3, grid=grid, **options)
            run = sampler(sde, PROBLEMS["P1"].score(sde), (5, 2), x_init=x, seeds=range(5))
            found.append(run.x)
    assert len(found) >= 8
    for i, x in enumerate(found[2:]):
        torch.testing.assert_close(x, found[i % 2], rtol=0, atol=1e-8)


def test_samples_follow_their_rows():
    """Each sample has its own seed and measurement; the flow takes its steps to the data."""
    problem, score = PROBLEMS["P1"], PROBLEMS["P1"].score(SDE)
    y = torch.tensor([[0.3], [-0.5], [0.9]], dtype=torch.float64)
    sampler = DAPS(Measurement(problem.operator, y, problem.std), 5, 4)
    whole = sampler(SDE, score, (3, 2), seeds=[5, 6, 7], trajectory=7)
    parts = draw(sampler, SDE, score, (3, 2), 2, seeds=[5, 6, 7])
    torch.testing.assert_close(whole.x, parts.x)
    assert whole.nfe == 6 * 4
    assert len(whole.trajectory) == 7


class Square(Operator):
    """h(x) = x²."""

    def __call__(self, x):
        return x.square()


def test_a_measurement_that_is_not_linear():
    """|x₁| = |x₂| = 1 roughly: samples lie near the four points."""
    measurement = Measurement(Square((2,), (2,)), torch.ones(1, 2).double(), 0.1)
    sampler = DAPS(measurement, 20, 1, langevin=LangevinDraw(60, 2e-4, 2e-4), grid=GRID)
    x = sample(sampler, PROBLEMS["P1"], 100).x
    assert (x.abs() - 1).abs().mean() < 0.15


def test_bad_input_is_refused():
    measurement = PROBLEMS["P1"].measurement
    with pytest.raises(ValueError, match="flow_steps must be 1, got 5"):
        DAPS(measurement, covariance="jacobian")
    with pytest.raises(ValueError, match="unknown covariance"):
        DAPS(measurement, covariance="full")
    with pytest.raises(ValueError, match="std is 0"):
        DAPS(Measurement(Square((2,), (2,)), torch.ones(1, 2)))
    with pytest.raises(TypeError, match="linear operator, got Square"):
        DAPS(Measurement(Square((2,), (2,)), torch.ones(1, 2), 0.1), 5, 1, covariance="jacobian")
    with pytest.raises(ValueError, match="variance must be a number > 0"):
        DAPS(measurement, variance=0.0)
    with pytest.raises(ValueError, match="draws noise and cannot encode"):
        DAPS(measurement).encode(SDE, PROBLEMS["P1"].score(SDE), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="must have 3 rows"):
        y = torch.zeros(2, 1).double()
        sample(DAPS(Measurement(PROBLEMS["P1"].operator, y, 0.1), 3, 1), PROBLEMS["P1"], 3)
