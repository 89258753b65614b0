"""Class posteriors by the likelihoods of a conditional model, and their calibration."""

import math

import pytest
import torch

from scoresde.evaluation import (
    Cells,
    FlowLikelihood,
    Hutchinson,
    class_posterior,
    expected_calibration_error,
    log_likelihood,
    quantized_likelihood,
)
from scoresde.models import GaussianMixtureScore
from scoresde.sde import VP

WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
MEANS = torch.tensor([[-1, -1], [0.5, 1], [1.2, -0.6]], dtype=torch.float64)
COVARIANCES = torch.tensor(
    [[[0.30, 0.18], [0.18, 0.20]], [[0.25, -0.15], [-0.15, 0.25]], [[0.2, 0], [0, 0.1]]],
    dtype=torch.float64,
)


def mixture(sde):
    return GaussianMixtureScore(sde, WEIGHTS, MEANS, COVARIANCES)


def exact(score, x, t):
    """log w_k N(x; k) at time t, normalized; shape (B, K)."""
    return score._components(x, torch.tensor(t, dtype=torch.float64))[0].log_softmax(1)


def points(score, n=12):
    return score.sample(n, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("rtol", [1e-3, 1e-6])
def test_posteriors_of_a_mixture(process, rtol):
    """They are exact to 30 rtol for the exact p_T, and with the prior to what it differs from p_T.

    The bound of each log p is 30 rtol, and of a difference of two of them twice that.
    """
    score, x = mixture(process), points(mixture(process))
    found = class_posterior(
        log_likelihood, process, score, x, classes=3, prior=WEIGHTS, rtol=rtol, atol=rtol
    )
    assert found.log_prob.shape == (12, 3) and found.nfe.shape == (12,)
    latent = found.likelihood.latent
    labels = torch.arange(3).repeat(12)
    top = score.log_prob(latent, torch.tensor(process.T, dtype=torch.float64), labels)
    shift = (top - process.prior((36, 2)).log_prob(latent)).reshape(12, 3)
    true = exact(score, x, process.eps)
    ours = (found.log_likelihood + shift + WEIGHTS.log()).log_softmax(1)
    assert (ours - true).abs().max() <= 60 * rtol
    assert (found.log_prob - true).abs().max() <= 2 * shift.abs().max() + 60 * rtol
    assert torch.equal(found.label, found.prob.argmax(1))


def test_the_prior_of_classes():
    """Posteriors for two priors differ by their logarithms, up to the normalization."""
    sde = VP()
    score, x = mixture(sde), points(mixture(sde))
    equal, unequal = (
        class_posterior(log_likelihood, sde, score, x, classes=3, prior=prior, rtol=1e-3, atol=1e-3)
        for prior in (None, torch.tensor([1.0, 2.0, 5.0]))
    )
    shift = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64).log()
    torch.testing.assert_close(unequal.log_prob, (equal.log_prob + shift).log_softmax(1))
    torch.testing.assert_close(unequal.log_prior.exp().sum(), torch.ones(()).double())


def test_samples_do_not_depend_on_the_batch():
    """With probes, a sample alone and in parts of the batch is the same as among others."""
    sde = VP()
    score, x = mixture(sde), points(mixture(sde), 4)
    settings = {"classes": 3, "divergence": Hutchinson(2, "gaussian"), "rtol": 1e-3, "atol": 1e-3}
    whole = class_posterior(log_likelihood, sde, score, x, **settings)
    parts = class_posterior(log_likelihood, sde, score, x, **settings, batch_size=5)
    alone = class_posterior(log_likelihood, sde, score, x[2:3], **settings, sample_ids=[2])
    torch.testing.assert_close(parts.log_prob, whole.log_prob)
    torch.testing.assert_close(alone.log_prob, whole.log_prob[2:3])
    assert whole.error.shape == (4, 3) and (whole.error > 0).all()
    assert (whole.solver_error >= 0).all()


def test_classes_share_the_probes_of_a_sample():
    """Two equal classes have bitwise equal likelihoods, which own probes would not give."""
    sde = VP()
    twice = torch.tensor([0, 0])
    score = GaussianMixtureScore(sde, torch.ones(2), MEANS[twice], COVARIANCES[twice])
    settings = {"classes": 2, "divergence": "hutchinson", "rtol": 1e-3, "atol": 1e-3}
    found = class_posterior(log_likelihood, sde, score, points(score, 3), **settings)
    assert torch.equal(found.log_likelihood[:, 0], found.log_likelihood[:, 1])
    assert found.prob.unique().tolist() == [0.5]


def test_quantized_values_by_both_functions():
    """The settings as a `FlowLikelihood` and as arguments, of values in cells."""
    sde, cells = VP(), Cells(16, -3.0, 3.0)
    score = mixture(sde)
    k = cells.value(points(score, 3)).long().clamp(0, 15)
    flow = FlowLikelihood(rtol=1e-3, atol=1e-3, log_prob_tol=1e-3)
    ours = class_posterior(flow, sde, score, k, cells, classes=3)
    settings = {"rtol": 1e-3, "atol": 1e-3, "clock": "half_log_snr", "log_prob_tol": 1e-3}
    theirs = class_posterior(quantized_likelihood, sde, score, k, cells, classes=3, **settings)
    torch.testing.assert_close(ours.log_prob, theirs.log_prob, rtol=0, atol=1e-4)
    assert ours.likelihood.cells is cells and ours.error.isnan().all()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"classes": 1}, "classes must be an integer ≥ 2"),
        ({"classes": 3, "prior": torch.ones(2)}, r"shape \(3,\), one number for each class"),
        ({"classes": 3, "prior": torch.tensor([1.0, 0.0, 1.0])}, "leave out a class"),
        ({"classes": 5}, "labels must be in 0 … 2"),
        ({"classes": 3, "sample_ids": [1]}, "sample_ids must name each of 12"),
    ],
)
def test_refusals(settings, words):
    sde = VP()
    with pytest.raises(ValueError, match=words):
        class_posterior(log_likelihood, sde, mixture(sde), points(mixture(sde)), **settings)


def test_calibration_error_of_known_bins():
    """Two bins of confidences 0.9 and 0.6 with accuracies 3/4 and 1: (4 · 0.15 + 2 · 0.4)/6."""
    prob = torch.tensor([[0.9, 0.1]] * 4 + [[0.4, 0.6]] * 2)
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    assert expected_calibration_error(prob, labels) == pytest.approx(1.4 / 6, abs=1e-7)
    assert expected_calibration_error(prob, labels, bins=1) == pytest.approx(0.2 / 6, abs=1e-7)


def test_calibration_error_of_a_power():
    """For p^a/(p^a + (1 − p)^a) in the place of p ~ U(½, 1) it is |E[p_a] − E[p]|, since a > 1.

    E[p_a] for a = 2 is ∫ 2 p²/(p² + (1 − p)²) dp over (½, 1) = ½ + ½ log 2. A fine grid has it to
    the share of samples that a class of integer counts leaves, 1/200.
    """
    p = 0.5 + (torch.arange(200, dtype=torch.float64) + 0.5) / 400
    sharp = p**2 / (p**2 + (1 - p) ** 2)
    count = 200
    right = (torch.arange(count) + 0.5) / count < p[:, None]  # a share p of each is right
    prob = torch.stack([sharp, 1 - sharp], 1).repeat_interleave(count, 0)
    error = expected_calibration_error(prob, (~right).long().flatten())
    assert error == pytest.approx(0.5 + 0.5 * math.log(2) - 0.75, abs=5e-3)
    own = torch.stack([p, 1 - p], 1).repeat_interleave(count, 0)
    assert expected_calibration_error(own, (~right).long().flatten()) < 5e-3


@pytest.mark.parametrize(
    ("prob", "labels", "error", "words"),
    [
        (torch.ones(2, 2) / 2, torch.zeros(3).long(), ValueError, "must have shapes"),
        (torch.ones(2, 2), torch.zeros(2).long(), ValueError, "sum to 1"),
        (torch.ones(2, 2) / 2, torch.zeros(2), TypeError, "labels must be integers"),
        (torch.ones(2, 2) / 2, torch.tensor([0, 2]), ValueError, "labels must be in 0 … 1"),
    ],
)
def test_calibration_refusals(prob, labels, error, words):
    with pytest.raises(error, match=words):
        expected_calibration_error(prob, labels)
