"""The exact posteriors of the test problems, by the figures that are known of them."""

from itertools import pairwise

import pytest
import torch

from scoresde.samplers import Ancestral, LogSNRGrid, PredictorCorrector
from scoresde.sde import VP
from tests.conditioning.problems import PROBLEMS, floors, push, wasserstein


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("P0", [0.579, 0.415, 0.006]),
        ("P1", [0.065, 0.273, 0.662]),
        ("M0", [0.863, 0.137, 0.0]),
        ("M1", [0.790, 0.210, 0.0]),
    ],
)
def test_posterior_weights(name, weights):
    """They are known to three decimals."""
    found = PROBLEMS[name].posterior[0]
    torch.testing.assert_close(found, torch.tensor(weights, dtype=torch.float64), rtol=0, atol=6e-4)


@pytest.mark.parametrize(("name", "size"), [("G0", 1.4797), ("G1", 1.1608)])
def test_posterior_size(name, size):
    """The √trace of the posterior covariance is known to four decimals."""
    assert PROBLEMS[name].size == pytest.approx(size, abs=6e-5)


@pytest.mark.parametrize(
    ("name", "steps", "distance"),
    [("G0", 20, 0.199), ("G0", 100, 0.050), ("G1", 20, 0.197), ("G1", 100, 0.045)],
)
def test_ancestral_steps_with_the_exact_score(name, steps, distance):
    """Steps equal in λ to σ/α = 0.01; the distance is known to about a unit of its last digit."""
    problem, sde = PROBLEMS[name], VP()
    end = sde.time_of_half_log_snr(torch.tensor(0.01, dtype=torch.float64).log().neg()).item()
    times = LogSNRGrid(eps=end)(sde, steps)
    score, predictor = problem.control(sde), Ancestral()
    mean, covariance = torch.zeros(16), torch.eye(16)
    mean, covariance = mean.double(), covariance.double()
    for t, t_next in pairwise(times.unbind()):
        _, std = predictor.transition(sde, score, torch.zeros(1, 16).double(), t, t_next)

        def step(x, t=t, t_next=t_next):
            return predictor.transition(sde, score, x, t, t_next)[0]

        mean, covariance = push(step, mean, covariance)
        covariance = covariance + std.square() * torch.eye(16)
    alpha = sde.alpha(times[-1])
    assert wasserstein(mean / alpha, covariance / alpha**2, problem) == pytest.approx(
        distance, abs=1.5e-3
    )


def test_samples_of_the_exact_score_are_near_the_floor():
    """The control of P1 with 200 steps is within 2 floors; samples of the data are not."""
    problem, sde = PROBLEMS["P1"], VP()
    sampler = PredictorCorrector(Ancestral(), steps=200, grid=LogSNRGrid())
    run = sampler(
        sde,
        problem.control(sde),
        (2000, 2),
        dtype=torch.float64,
        seeds=None,
        generator=torch.Generator().manual_seed(0),
    )
    assert floors(run.x, problem, sde) < 2
    assert floors(problem.score(sde).sample(2000), problem, sde) > 8
