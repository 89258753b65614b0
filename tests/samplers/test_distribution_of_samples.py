"""Samples of a mixture with its exact score have its distribution, not its moments alone.

The maximum mean discrepancy of 5000 samples is at most twice that between two exact sets.
"""

import pytest
import torch

from scoresde.data import Mixture
from scoresde.evaluation.metrics import maximum_mean_discrepancy, mmd_noise_floor
from scoresde.models import GaussianMixtureScore
from scoresde.samplers import (
    AnnealedLangevin,
    Langevin,
    LogSNRGrid,
    PredictorCorrector,
    ProbabilityFlowODE,
    ReverseDiffusion,
)
from scoresde.sde import VE, VP, SubVP

N = 5000
SDES = {"vp": VP(), "subvp": SubVP(), "ve": VE()}
SAMPLERS = {
    "pc": PredictorCorrector(ReverseDiffusion(), Langevin(snr=0.16), steps=500),
    "ode": ProbabilityFlowODE(),
    "ald": AnnealedLangevin(500, snr=0.3, n_steps=2, grid=LogSNRGrid()),
}


@pytest.fixture(scope="module")
def floor():
    generator = torch.Generator().manual_seed(1)
    distribution = mixture("vp")
    return mmd_noise_floor(lambda n: distribution.sample(n, generator), N)


def mixture(name):
    data = Mixture(n=1, n_test=1)
    return GaussianMixtureScore(SDES[name], data.weights, data.means, data.covariances)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("sde", SDES)
def test_samples_cannot_be_distinguished_from_exact_ones(sde, sampler, floor):
    score, generator = mixture(sde), torch.Generator().manual_seed(2)
    samples = SAMPLERS[sampler](SDES[sde], score, (N, 2), generator=generator)
    exact = score.sample(N, generator)
    assert maximum_mean_discrepancy(samples.x, exact) < 2 * floor


@pytest.mark.slow
def test_a_wrong_distribution_is_detected(floor):
    """The bound detects an error: a mean that is off by 0.15, at scale 1, exceeds it."""
    score, generator = mixture("vp"), torch.Generator().manual_seed(3)
    exact = score.sample(N, generator)
    assert maximum_mean_discrepancy(score.sample(N, generator) + 0.15, exact) > 2 * floor
