"""The analytic scores compared with automatic differentiation, Monte Carlo and each other."""

import math

import pytest
import torch

from scoresde.models import GaussianMixtureScore, GaussianScore

DOUBLE = {"dtype": torch.float64}
WEIGHTS = torch.tensor([0.3, 0.5, 0.2], **DOUBLE)
MEANS = torch.tensor([[-1.0, 0.5], [1.0, 1.0], [0.0, -1.0]], **DOUBLE)
COVARIANCES = torch.tensor(
    [[[0.2, 0.1], [0.1, 0.3]], [[0.1, 0.0], [0.0, 0.1]], [[0.3, -0.05], [-0.05, 0.05]]], **DOUBLE
)


def mixture(sde):
    return GaussianMixtureScore(sde, WEIGHTS, MEANS, COVARIANCES)


def log_density_by_hand(sde, x, t):
    """log Σ_k w_k N(x; α μ_k, α² Σ_k + σ² I), computed with torch's own normal distribution."""
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    parts = [
        w.log()
        + torch.distributions.MultivariateNormal(
            alpha * m, alpha**2 * c + sigma**2 * torch.eye(2, **DOUBLE)
        ).log_prob(x)
        for w, m, c in zip(WEIGHTS, MEANS, COVARIANCES, strict=True)
    ]
    return torch.stack(parts, 1).logsumexp(1)


@pytest.mark.parametrize("share", [1e-3, 0.2, 0.6, 1.0])
def test_score_is_the_gradient_of_the_log_density(sde, share):
    t = torch.tensor(sde.eps + share * (sde.T - sde.eps), **DOUBLE)
    x = (torch.randn(40, 2, **DOUBLE) * 1.5).requires_grad_()
    log_density = log_density_by_hand(sde, x, t)
    (gradient,) = torch.autograd.grad(log_density.sum(), x)
    score = mixture(sde)
    torch.testing.assert_close(score.log_prob(x, t), log_density, rtol=1e-10, atol=1e-10)
    # The score grows like 1/σ² where σ is small; 1e-9 relative leaves room for its rounding.
    torch.testing.assert_close(score(x, t), gradient, rtol=1e-9, atol=1e-9)


def test_times_of_samples_and_one_time_agree(sde):
    x, t = torch.randn(5, 2, **DOUBLE), torch.linspace(0.2, 0.9, 5, **DOUBLE) * sde.T
    score = mixture(sde)
    each = torch.cat([score(x[i : i + 1], t[i]) for i in range(5)])
    torch.testing.assert_close(score(x, t), each, rtol=1e-12, atol=1e-12)


def test_denoiser_is_the_posterior_mean(process):
    """E[x_0 | x_t], from 400000 samples of the data weighted by the kernel, agrees to 3 %."""
    score, t = mixture(process), torch.tensor(0.4 * process.T, **DOUBLE)
    x0 = score.sample(400_000, torch.Generator().manual_seed(1))
    x = process.alpha(t) * torch.tensor([[0.4, 0.1]], **DOUBLE)
    distance = (x - process.alpha(t) * x0).square().sum(1) / process.sigma(t) ** 2
    weights = (-0.5 * distance).softmax(0)
    expected = (weights[:, None] * x0).sum(0)
    torch.testing.assert_close(score.denoise(x, t)[0], expected, rtol=0.03, atol=0.03)


def test_samples_have_the_moments_of_the_distribution(generator):
    score = mixture(_any_process())
    x = score.sample(200_000, generator)
    mean = (WEIGHTS[:, None] * MEANS).sum(0)
    second = sum(
        w * (c + torch.outer(m, m)) for w, m, c in zip(WEIGHTS, MEANS, COVARIANCES, strict=True)
    )
    error = 5 * 2 / math.sqrt(200_000)  # five standard errors at size 2
    torch.testing.assert_close(x.mean(0), mean, rtol=0, atol=error)
    torch.testing.assert_close(x.T @ x / len(x), second, rtol=0, atol=error)


def test_gaussian_is_a_mixture_of_one(sde):
    t = torch.tensor(0.3 * sde.T, **DOUBLE)
    x = torch.randn(6, 1, 2, **DOUBLE)
    one = GaussianScore(sde, MEANS[0], COVARIANCES[0])
    same = GaussianMixtureScore(sde, WEIGHTS[:1], MEANS[:1], COVARIANCES[:1])
    assert one(x, t).shape == x.shape
    torch.testing.assert_close(one(x, t), same(x, t), rtol=0, atol=0)
    by_hand = MEANS[0] + (x[:, 0] - sde.alpha(t) * MEANS[0]) @ torch.linalg.solve(
        sde.alpha(t) ** 2 * COVARIANCES[0] + sde.sigma(t) ** 2 * torch.eye(2, **DOUBLE),
        sde.alpha(t) * COVARIANCES[0],
    )
    torch.testing.assert_close(one.denoise(x, t)[:, 0], by_hand, rtol=1e-10, atol=1e-10)


def test_diagonal_covariances_are_a_short_form(sde):
    x, t = torch.randn(7, 2, **DOUBLE), torch.tensor(0.5 * sde.T, **DOUBLE)
    variances = COVARIANCES.diagonal(dim1=1, dim2=2)
    short = GaussianMixtureScore(sde, WEIGHTS, MEANS, variances)
    long = GaussianMixtureScore(sde, WEIGHTS, MEANS, torch.diag_embed(variances))
    torch.testing.assert_close(short(x, t), long(x, t), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(short.log_prob(x, t), long.log_prob(x, t), rtol=1e-11, atol=1e-11)


def test_flow_maps_the_marginals_onto_each_other(sde):
    """log p_s(flow(x)) + log |det| = log p_t(x), and the flow back is the identity."""
    score = GaussianScore(sde, MEANS[0], COVARIANCES[0])
    t, s = (torch.tensor(u * sde.T, **DOUBLE) for u in (0.8, 0.1))
    x = torch.randn(9, 2, **DOUBLE)
    y = score.flow(x, t, s)
    torch.testing.assert_close(score.flow(y, s, t), x, rtol=1e-10, atol=1e-10)

    def log_volume(time):
        spread = sde.alpha(time) ** 2 * COVARIANCES[0] + sde.sigma(time) ** 2 * torch.eye(
            2, **DOUBLE
        )
        return 0.5 * torch.logdet(spread)

    change = log_volume(s) - log_volume(t)
    torch.testing.assert_close(
        score.log_prob(y, s) + change, score.log_prob(x, t), rtol=1e-10, atol=1e-10
    )


def _any_process():
    from scoresde.sde import VP

    return VP()


@pytest.mark.parametrize(
    "weights, means, covariances, sentence",
    [
        (torch.ones(2), torch.zeros(3, 2), torch.ones(3, 2), "expected weights"),
        (torch.ones(3), torch.zeros(3, 2), torch.ones(3, 3), "expected covariances"),
        (torch.tensor([1.0, -1.0]), torch.zeros(2, 2), torch.ones(2, 2), "weights must be > 0"),
        (torch.ones(1), torch.zeros(1, 2), -torch.ones(1, 2), "positive semi-definite"),
        (
            torch.ones(1),
            torch.zeros(1, 2),
            torch.tensor([[[1.0, 0.5], [0.0, 1.0]]]),
            "must be symmetric",
        ),
    ],
)
def test_impossible_distributions_are_refused(weights, means, covariances, sentence):
    with pytest.raises(ValueError, match=sentence):
        GaussianMixtureScore(_any_process(), weights, means, covariances)


def test_states_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"expected states of 2 coordinates, got shape \(4, 3\)"):
        mixture(_any_process())(torch.zeros(4, 3), torch.tensor(0.5))
