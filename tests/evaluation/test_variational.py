"""Variational bounds compared with distributions of known entropy, and with DDPM's own formula."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm as normal_distribution

from scoresde.evaluation import Cells, elbo, variational_bound
from scoresde.evaluation.result import join
from scoresde.evaluation.seeding import Draws
from scoresde.models import GaussianMixtureScore, GaussianScore
from scoresde.sde import VP
from scoresde.sde.posterior import log_cell_probability, normal_kl, posterior

DOUBLE = {"dtype": torch.float64}
WEIGHTS = torch.tensor([0.1, 0.2, 0.3, 0.4], **DOUBLE)
CELLS = Cells(4, -1.0, 1.0)


def points(sde):
    """The exact score of a distribution on the centres of four cells: data without any spread."""
    centres = CELLS.centre(torch.arange(4))[:, None]
    return GaussianMixtureScore(sde, WEIGHTS, centres, torch.zeros(4, 1))


def bits_of(bound, k):
    """The mean bound of each value, and its standard error."""
    parts = [bound.log_prob[k[:, 0] == value] for value in range(4)]
    means = torch.stack([part.mean() for part in parts])
    return means, torch.stack([part.std() / math.sqrt(len(part)) for part in parts])


@pytest.mark.slow
def test_continuous_bound_is_the_probability_where_the_score_is_exact(process):
    """The bound is log w_k to 4 errors, since the exact reverse process leaves no gap.

    The prior's mismatch, below 0.01 nats, is added.
    """
    k = torch.arange(4).repeat(50)[:, None]
    bound = elbo(process, points(process), k, CELLS, terms=400, dtype=torch.float64)
    means, errors = bits_of(bound, k)
    assert ((means - WEIGHTS.log()).abs() < 4 * errors + 0.01).all()
    assert errors.max() < 0.1
    assert (bound.decoder < 1e-6).all()
    parts = bound.prior + bound.diffusion + bound.decoder
    torch.testing.assert_close(bound.log_prob, -parts, rtol=0, atol=0)


def test_a_bound_says_where_it_ends_and_by_which_chain():
    """Both end at the given eps with equal decoders, whose noise belongs to sample numbers."""
    sde, k = VP(), torch.arange(4)[:, None]
    settings = {"eps": 0.01, "dtype": torch.float64}
    chain = variational_bound(sde, points(sde), k, CELLS, steps=20, **settings)
    limit = elbo(sde, points(sde), k, CELLS, **settings)
    assert chain.eps == pytest.approx(0.01) and chain.times.min() > 0.01
    torch.testing.assert_close(chain.decoder, limit.decoder, rtol=1e-9, atol=1e-12)
    said = chain.summary()["vlb"]
    assert said["steps"] == 20 and said["variance"] == "posterior" and said["eps"] == chain.eps
    assert "steps" not in limit.summary()["elbo"] and limit.summary()["elbo"]["eps"] == 0.01
    twice = join([chain, chain])
    assert twice.bits_per_dim.tolist() == 2 * chain.bits_per_dim.tolist()


def test_discrete_bound_falls_to_the_continuous_one(process):
    """Of 10, 40 and 160 steps each costs less, and the last is within a fifth of log w_k."""
    k = torch.arange(4).repeat(60)[:, None]
    gaps = []
    for steps in (10, 40, 160):
        bound = variational_bound(
            process, points(process), k, CELLS, steps=steps, dtype=torch.float64
        )
        means, errors = bits_of(bound, k)
        gaps.append((WEIGHTS * (WEIGHTS.log() - means)).sum().item())
        assert gaps[-1] > -4 * (WEIGHTS * errors).norm().item() - 0.01
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.2


def test_terms_are_those_of_ddpm():
    """L_{t−1} = β²/(2 β̃ (1 − β)(1 − ᾱ)) ‖ε − ε̂‖² by the chain's own tables (Ho et al., eq. 12)."""
    chain, n = VP().discretize(100), 3
    score = GaussianScore(chain, torch.zeros(4), torch.full((4,), 0.3))
    cells = Cells(256, -1.0, 1.0)
    k = torch.randint(0, 256, (n, 4), generator=torch.Generator().manual_seed(0))
    bound = variational_bound(chain, score, k, cells, steps=100, seed=5, dtype=torch.float64)
    beta = np.linspace(0.1 / 100, 20 / 100, 100)
    bar = np.cumprod(1 - beta)
    assert bound.terms.shape == (n, 99)
    for number, i in enumerate(range(99, 0, -1)):  # from the highest level down to the second
        t = bound.times[:, number]
        z = Draws(5, range(n)).normal(f"term {number}", (4,))
        x = math.sqrt(bar[i]) * cells.centre(k) + math.sqrt(1 - bar[i]) * z
        guess = -math.sqrt(1 - bar[i]) * score(x, t)
        narrow = beta[i] * (1 - bar[i - 1]) / (1 - bar[i])
        weight = beta[i] ** 2 / (2 * narrow * (1 - beta[i]) * (1 - bar[i]))
        exact = weight * (z - guess).square().sum(1)
        torch.testing.assert_close(bound.terms[:, number], exact, rtol=1e-9, atol=0)
    # L_T = KL(q(x_T | x_0) ‖ N(0, I)), and the decoder's standard deviation is √β_1.
    mean, variance = math.sqrt(bar[-1]) * cells.centre(k), 1 - bar[-1]
    prior = 0.5 * (mean**2 + variance - 1 - math.log(variance)).sum(1)
    torch.testing.assert_close(bound.prior, prior, rtol=1e-9, atol=0)


def test_variances_between_the_two():
    """The share 0 gives the posterior's variance and 1 the step's own, the best for wide data."""
    sde = VP().discretize(50)
    cells = Cells(256, -4.0, 4.0)
    score = GaussianScore(sde, torch.zeros(4), torch.ones(4))
    generator = torch.Generator().manual_seed(0)
    k = (128 + 32 * torch.randn(40, 4, generator=generator)).long().clamp(0, 255)

    def bound(variance):
        return variational_bound(
            sde, score, k, cells, steps=50, variance=variance, dtype=torch.float64
        ).diffusion

    narrow, wide = bound("posterior"), bound("forward")
    for share, other in ((0.0, narrow), (1.0, wide)):
        same = bound(lambda x, t, share=share: torch.full_like(x, share))
        torch.testing.assert_close(same, other, rtol=1e-9, atol=1e-9)
    assert wide.mean() < narrow.mean()


@pytest.mark.slow
def test_some_terms_estimate_all(process):
    """One term in each of ten parts of 200 steps estimates the sum, to four of its errors."""
    k = torch.arange(4).repeat(100)[:, None]
    options = {"steps": 200, "dtype": torch.float64}
    some = variational_bound(process, points(process), k, CELLS, terms=10, **options)
    every = variational_bound(process, points(process), k, CELLS, **options)
    assert some.terms.shape == (400, 10)
    difference = some.diffusion.mean() - every.diffusion.mean()
    spread = math.hypot(some.diffusion.std(), every.diffusion.std()) / 20
    assert abs(difference) < 4 * spread
    assert (every.error == 0).all() and (some.error > 0).any()


@pytest.mark.parametrize("method", [elbo, variational_bound])
def test_bounds_belong_to_samples(process, method):
    """Permuted or alone, samples have the same bounds."""
    k = torch.tensor([[0], [1], [2], [3], [2]])
    whole = method(process, points(process), k, CELLS, terms=3, seed=2, dtype=torch.float64)
    order = [4, 0, 3, 2, 1]
    options = {"terms": 3, "seed": 2, "dtype": torch.float64}
    other = method(process, points(process), k[order], CELLS, sample_ids=order, **options)
    torch.testing.assert_close(other.log_prob, whole.log_prob[order], rtol=1e-9, atol=1e-9)


def test_posterior_is_bayes_rule(process):
    """q(x_s | x_t, x_0) ∝ q(x_t | x_s) q(x_s | x_0), by precisions and their means."""
    s, t = (torch.tensor(v * process.T, **DOUBLE) for v in (0.3, 0.7))
    distribution = posterior(process, s, t)
    a, b = process.transition(s, t)
    alpha, sigma = process.alpha(s), process.sigma(s)
    precision = a**2 / b**2 + 1 / sigma**2
    torch.testing.assert_close(distribution.variance, 1 / precision, rtol=1e-9, atol=0)
    torch.testing.assert_close(distribution.c_t, a / b**2 / precision, rtol=1e-9, atol=0)
    torch.testing.assert_close(distribution.c_0, alpha / sigma**2 / precision, rtol=1e-9, atol=0)


def test_kl_of_normal_distributions():
    one, other = (torch.distributions.Normal(m, s) for m, s in ((0.3, 0.5), (-0.2, 1.4)))
    exact = torch.distributions.kl_divergence(one, other)
    ours = normal_kl(one.mean, one.variance, other.mean, other.variance)
    torch.testing.assert_close(ours, exact, rtol=1e-6, atol=0)


def test_cell_probabilities_far_from_the_mean():
    """SciPy agrees from the middle to 30 standard deviations on either side, open ends included."""
    edges = torch.linspace(-30, 30, 61, **DOUBLE)
    low, high = edges[:-1], edges[1:]
    ours = log_cell_probability(low, high, torch.zeros(()).double(), torch.ones(()).double())
    side = torch.minimum(low, -high).numpy()  # this is the mirror image in the lower tail
    upper, lower = normal_distribution.logcdf(side + 1), normal_distribution.logcdf(side)
    exact = torch.from_numpy(upper + np.log1p(-np.exp(lower - upper)))
    torch.testing.assert_close(ours, exact, rtol=1e-9, atol=1e-12)
    low[0], high[-1] = -torch.inf, torch.inf
    shifted = log_cell_probability(
        low, high, torch.tensor(0.3).double(), torch.tensor(2.0).double()
    )
    assert shifted.exp().sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda k: elbo(VP(), never, k, CELLS, terms=0), "terms must be an integer ≥ 1, got 0"),
        (lambda k: elbo(VP(), never, k, CELLS, eps=2.0), r"eps must be in \(0, T=1"),
        (lambda k: elbo(VP(), never, k + 9, CELLS), "values must be in 0 … 3, got 9 … 9"),
        (lambda k: variational_bound(VP(), never, k, CELLS, steps=1), "steps must be an integer"),
        (
            lambda k: variational_bound(VP(), never, k, CELLS, steps=5, terms=9),
            "terms must be in 1 … 5, the steps between levels, got 9",
        ),
        (lambda k: variational_bound(VP(), never, k, CELLS, eps=2.0), r"eps must be in \(0, T=1"),
        (
            lambda k: elbo(VP(), never, k, CELLS, sample_ids=[1, 2, 3]),
            "name each of 2 samples, got 3",
        ),
        (
            lambda k: variational_bound(VP(), never, k, CELLS, sample_ids=[]),
            "2 samples, got 0 numbers",
        ),
        (
            lambda k: variational_bound(VP(), never, k, CELLS, variance="beta"),
            "unknown variance 'beta'. Available: posterior, forward",
        ),
    ],
)
def test_wrong_input_is_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(torch.zeros(2, 1, dtype=torch.long))


def never(x, t):
    raise AssertionError("the score was called")
