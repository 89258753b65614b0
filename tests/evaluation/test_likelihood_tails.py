"""The likelihood of points far from the data, where the score is large."""

import pytest
import torch

from scoresde.evaluation import log_likelihood
from scoresde.models import GaussianMixtureScore
from scoresde.sde import VE, integrate
from tests.conftest import PROCESSES

DOUBLE = {"dtype": torch.float64}


def mixture(sde, seed):
    """Three anisotropic components in three coordinates, with axes 0.14 to 0.55 wide."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(3, 3, generator=generator, **DOUBLE)
    axes = torch.linalg.qr(torch.randn(3, 3, 3, generator=generator, **DOUBLE))[0]
    widths = 0.3 * torch.exp(-3 * torch.rand(3, 3, generator=generator, **DOUBLE))
    covariances = axes @ torch.diag_embed(widths) @ axes.mT
    weights = 0.2 + torch.rand(3, generator=generator, **DOUBLE)
    return GaussianMixtureScore(sde, weights, means, 0.5 * (covariances + covariances.mT))


def points(sde, score, factor, n, seed):
    """Points of p_eps, moved away from the mean of the data by a factor."""
    generator = torch.Generator().manual_seed(100 + seed)
    x, eps = score.sample(n, generator), torch.tensor(sde.eps, **DOUBLE)
    x = sde.perturb(x, eps, torch.randn(x.shape, generator=generator, **DOUBLE))
    mean = (score.log_weights.exp()[:, None] * score.means).sum(0)
    return mean + factor * (x - mean)


def errors(sde, score, x, rtol, **options):
    """|log p − exact| of each point, with the exact p_T instead of the prior."""
    result = log_likelihood(sde, score, x, rtol=rtol, atol=rtol, **options)
    start, end = (torch.tensor(t, **DOUBLE) for t in (sde.eps, sde.T))
    prior = sde.prior(tuple(x.shape)).log_prob(result.latent)
    ours = result.log_prob - prior + score.log_prob(result.latent, end)
    return (ours - score.log_prob(x, start)).abs()


@pytest.mark.parametrize("clock", ["t", "log_snr"])
@pytest.mark.parametrize("name", ["vp", "subvp", "ve", "edm"])
def test_points_three_times_as_far_out_are_as_exact(name, clock):
    """The error is at most 30 rtol at rtol 1e-4; without a bound on s · δ it is in the hundreds."""
    sde = PROCESSES[name]
    for seed in range(2):
        score = mixture(sde, seed)
        x = points(sde, score, 3.0, 8, seed)
        assert errors(sde, score, x, 1e-4, clock=clock).max() <= 30 * 1e-4


@pytest.mark.parametrize("method", ["bosh3", "dop853"])
def test_the_other_methods_are_as_exact_far_out(method):
    score = mixture(VE(), 1)
    x = points(VE(), score, 3.0, 6, 1)
    assert errors(VE(), score, x, 1e-3, method=method).max() <= 30 * 1e-3


def test_points_where_the_data_are_pay_little():
    """Points of p_eps take at most 5 % more than the 86.6 evaluations needed without the bound."""
    score = mixture(VE(), 0)
    x = points(VE(), score, 1.0, 20, 0)
    nfe = log_likelihood(VE(), score, x, rtol=1e-4, atol=1e-4).nfe
    assert nfe.double().mean() <= 1.05 * 86.6


def test_a_bound_of_the_effect_of_errors_acts_next_to_the_norm():
    """For y′ = −y and the quantity 10⁴ y, a bound on its error shortens the steps and is met."""
    y0, scale, bound = torch.ones(1, 1, **DOUBLE), 1e4, 1e-3
    options = {"rtol": 1e-3, "atol": 1e-3}

    def effect(t, y, slope, error):
        return scale * error

    def field(t, y, index):
        return -y

    loose, kept = (
        integrate(field, y0, 0.0, 1.0, **options, local_error=effect, local_tol=tol)
        for tol in (None, bound)
    )
    exact = torch.exp(torch.tensor(-1.0, **DOUBLE))
    assert scale * (loose.y - exact).abs() > 10 * bound
    assert scale * (kept.y - exact).abs() < 10 * bound
    assert kept.nfe > loose.nfe and kept.error < loose.error
