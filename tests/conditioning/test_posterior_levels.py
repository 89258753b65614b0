"""The bias of every method that is affine, by its exact moments after N steps.

With a Gaussian prior a linear method maps states by A x + B z + c, whose moments are pushed through
all steps without sampling; the distance to the exact posterior is then its bias and nothing else.
"""

from itertools import pairwise

import pytest
import torch

from scoresde.conditioning import (
    DDNM,
    DDRM,
    DPS,
    MMPS,
    DDNMProjection,
    DiffPIR,
    Mask,
    Measurement,
    PiGDM,
    PiGDMSampler,
    PosteriorScore,
    Prediction,
    Proximal,
)
from scoresde.models import GaussianScore
from scoresde.samplers import Ancestral, LogSNRGrid
from scoresde.sde import VP
from tests.conditioning.problems import PROBLEMS, push, wasserstein

SDE = VP()
END = SDE.time_of_half_log_snr(torch.tensor(0.01, dtype=torch.float64).log().neg()).item()
GRID = LogSNRGrid(eps=END)
STEPS = (20, 100)


def of_score(score, steps, shape):
    """Mean and covariance of x/α after ancestral steps with a score."""
    times, predictor, size = GRID(SDE, steps), Ancestral(), shape.numel()
    eye = torch.eye(size, dtype=torch.float64)
    mean, covariance = torch.zeros(size, dtype=torch.float64), eye
    for t, u in pairwise(times.unbind()):

        def step(x, t=t, u=u):
            return predictor.transition(SDE, score, x.reshape(-1, *shape), t, u)[0].flatten(1)

        std = predictor.coefficients(SDE, t, u)[2]
        mean, covariance = push(step, mean, covariance)
        covariance = covariance + std.square() * eye
    alpha = SDE.alpha(times[-1])
    return mean / alpha, covariance / alpha.square()


def of_sampler(sampler, score, shape):
    """Mean and covariance of x/α after the updates of a sampler, whose noise is pushed too."""
    path, size = sampler.path(SDE), shape.numel()
    eye, none = torch.eye(size, dtype=torch.float64), torch.zeros(size, size, dtype=torch.float64)
    first = path[0].level

    def begin(x):
        return sampler.begin(x.reshape(-1, *shape), first).flatten(1)

    mean, covariance = push(begin, none[0], first**2 * eye)
    for move in path:

        def step(both, move=move):
            x, z = (v.reshape(-1, *shape) for v in both.split(size, 1))
            jacobian = sampler.products > 0
            prediction = Prediction(SDE, score, move.alpha * x, move.t, jacobian=jacobian)
            return sampler.update(x, prediction, move, lambda _: z).flatten(1).repeat(1, 2)

        joint = torch.block_diag(covariance, eye)
        mean, covariance = push(step, torch.cat([mean, none[0]]), joint)
        mean, covariance = mean[:size], covariance[:size, :size]
    return mean, covariance


def distance(moments, problem):
    return wasserstein(*moments, problem)


SCORES = {
    ("G0", MMPS, 20): (0.199, 0.050),
    ("G1", MMPS, 20): (0.197, 0.045),
    ("G0", PiGDM, 1.0): (0.278, 0.234),
    ("G1", PiGDM, 1.0): (0.195, 0.047),
    ("G0", PiGDM, 0.52): (0.228, 0.168),
    ("G1", PiGDM, 0.52): (0.207, 0.062),
    ("G0", Proximal, 0.52): (0.399, 0.389),
    ("G1", Proximal, 0.52): (0.199, 0.089),
    ("G0", DDNMProjection, None): (0.399, 0.389),
}


@pytest.mark.parametrize("case", SCORES, ids=str)
def test_level_of_a_score(case):
    """W₂ within 2 % or 2e-3 of the known figure for 20 and for 100 ancestral steps."""
    name, method, argument = case
    problem = PROBLEMS[name]
    made = method() if argument is None else method(argument)
    score = PosteriorScore(problem.score(SDE), problem.measurement, made)
    shape = torch.Size(problem.operator.shape)
    found = [distance(of_score(score, steps, shape), problem) for steps in STEPS]
    assert found == [pytest.approx(level, rel=0.02, abs=2e-3) for level in SCORES[case]]


SAMPLERS = {
    ("G0", PiGDMSampler, ()): (0.317, 0.094),
    ("G1", PiGDMSampler, ()): (0.244, 0.255),
    ("G0", DDNM, ()): (0.339, 0.178),
    ("G0", DDRM, ()): (0.389, 0.231),
    ("G1", DDRM, ()): (0.247, 0.266),
    ("G0", DDRM, (0.0,)): (0.472, 0.486),
    ("G1", DDRM, (0.0,)): (0.363, 0.359),
}


@pytest.mark.parametrize("case", SAMPLERS, ids=str)
def test_level_of_a_sampler(case):
    """W₂ within 2 % or 2e-3 of the known figure for 20 and for 100 steps of its own."""
    name, kind, arguments = case
    problem = PROBLEMS[name]
    shape, found = torch.Size(problem.operator.shape), []
    for steps in STEPS:
        sampler = kind(problem.measurement, *arguments, steps=steps, grid=GRID, denoise=False)
        found.append(distance(of_sampler(sampler, problem.score(SDE), shape), problem))
    assert found == [pytest.approx(level, rel=0.02, abs=2e-3) for level in SAMPLERS[case]]


@pytest.mark.slow
def test_the_score_form_of_dps_needs_many_steps():
    """Its pull is stiff: W₂ is 0.12 with 1000 steps, and beyond 10⁵ with 20."""
    problem = PROBLEMS["G1"]
    score = PosteriorScore(problem.score(SDE), problem.measurement, DPS())
    shape = torch.Size(problem.operator.shape)
    assert distance(of_score(score, 20, shape), problem) > 1e5
    assert distance(of_score(score, 1000, shape), problem) == pytest.approx(0.12, abs=5e-3)


VARIANCES = [
    pytest.param(lambda y, n: DDRM(y, 0.85, steps=n, grid=GRID), 0.85**2, id="DDRM"),
    pytest.param(lambda y, n: DDRM(y, 1.0, steps=n, grid=GRID), 1.0, id="DDRM, eta 1"),
    pytest.param(lambda y, n: DDNM(y, 0.85, steps=n, grid=GRID), 0.85**2, id="DDNM"),
    pytest.param(lambda y, n: DiffPIR(y, zeta=0.3, steps=n, grid=GRID), 0.3, id="DiffPIR"),
]


@pytest.mark.parametrize("v", [0.3, 2.0])
@pytest.mark.parametrize(("make", "share"), VARIANCES)
def test_variance_of_steps_that_redraw_a_share_of_the_noise(make, share, v):
    """A coordinate that is not measured ends with v (1 + √(1 − η²))/2 as N → ∞, to 1 %.

    The error of N steps falls like 1/N, so that 2 V(2N) − V(N) is free of it.
    """
    measurement = Measurement(Mask(torch.tensor([True, False])), torch.zeros(1, 1).double())
    score = GaussianScore(SDE, torch.zeros(2), torch.full((2,), v))
    few, many = (
        of_sampler(make(measurement, steps), score, torch.Size([2]))[1][1, 1].item()
        for steps in (150, 300)
    )
    assert 2 * many - few == pytest.approx(v * (1 + (1 - share) ** 0.5) / 2, rel=0.01)
    assert many < 0.99 * v or share == 0
