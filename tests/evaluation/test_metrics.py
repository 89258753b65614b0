"""Metrics compared with closed forms and brute force, and the classifier on real digits."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from scoresde.evaluation.features import DigitClassifier, stratified_halves
from scoresde.evaluation.metrics import (
    SampleQuality,
    class_coverage,
    confident_share,
    frechet_distance,
    maximum_mean_discrepancy,
    mmd_noise_floor,
    sample_quality,
)
from scoresde.evaluation.result import mean_and_error

LEVELS = 17


def with_moments(n, mean, root, seed):
    """Rows whose sample mean and covariance are exactly mean and root rootᵀ."""
    x = np.random.default_rng(seed).normal(size=(n, len(mean)))
    x -= x.mean(axis=0)
    white = x @ np.linalg.inv(np.linalg.cholesky(x.T @ x / (n - 1))).T
    return white @ root.T + mean


# --- Fréchet distance: float64 sums of about 1e3 terms of size 1 leave 1e-12; 1e-9 is ample.


def test_frechet_of_commuting_gaussians_is_the_distance_of_the_standard_deviations():
    a = with_moments(500, np.zeros(3), np.diag([1.0, 2.0, 0.5]), 0)
    b = with_moments(300, np.array([1.0, -2.0, 0.0]), np.diag([3.0, 0.1, 0.5]), 1)
    expected = 1 + 4 + (1 - 3) ** 2 + (2 - 0.1) ** 2
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_frechet_of_correlated_gaussians_matches_the_matrix_root():
    rng = np.random.default_rng(2)
    root_a, root_b = rng.normal(size=(2, 4, 4))
    a = with_moments(200, np.zeros(4), root_a, 3)
    b = with_moments(200, np.ones(4), root_b, 4)
    c_a, c_b = root_a @ root_a.T, root_b @ root_b.T
    # tr (C_a^½ C_b C_a^½)^½ is the sum of the roots of the eigenvalues of C_a C_b.
    cross = np.sqrt(np.linalg.eigvals(c_a @ c_b).real).sum()
    expected = 4 + np.trace(c_a) + np.trace(c_b) - 2 * cross
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("rows", [3, 20, 400])
def test_frechet_of_shifted_copies_is_the_squared_shift(rows):
    a = np.random.default_rng(rows).normal(size=(rows, 10)) @ np.diag(np.arange(10.0))
    shift = np.linspace(-1, 1, 10)
    scale = np.trace(np.cov(a.T))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-12 * scale)
    assert frechet_distance(a, a + shift) == pytest.approx(shift @ shift, abs=1e-12 * scale)


def test_frechet_of_two_lines_in_different_directions():
    # Both have rank one and their roots are orthogonal, so that the cross term vanishes.
    t = np.linspace(-1, 1, 7)[:, None]
    a, b = t * [2.0, 0.0, 0.0], t * [0.0, 3.0, 0.0]
    expected = np.var(a, axis=0, ddof=1).sum() + np.var(b, axis=0, ddof=1).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros((1, 3)), np.zeros((5, 3)), r"a must have shape \(N ≥ 2, F\), got \(1, 3\)"),
        (np.zeros((5, 3)), np.zeros((5, 2)), "a has 3 features and b 2"),
        (np.zeros((5, 3)), np.full((5, 3), np.nan), "b must be finite"),
    ],
)
def test_frechet_refuses(a, b, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(a, b)


# --- Coverage and confidence


def test_coverage_and_confidence_of_a_table_made_by_hand():
    table = [[0.95, 0.05, 0.0], [0.9, 0.0, 0.1], [0.2, 0.7, 0.1], [0.0, 0.99, 0.01]]
    np.testing.assert_array_equal(class_coverage(table), [0.5, 0.5, 0.0])
    assert confident_share(table) == 0.75
    assert confident_share(table, threshold=0.97) == 0.25
    for metric in (class_coverage, confident_share):
        with pytest.raises(ValueError, match=r"got \(0, 10\)"):
            metric(np.zeros((0, 10)))


def test_mean_and_error():
    mean, error = mean_and_error(torch.tensor([1.0, 2.0, 6.0], requires_grad=True))
    assert mean == 3.0
    assert error == pytest.approx(np.sqrt(7 / 3), rel=1e-12)
    mean, error = mean_and_error([4.0])
    assert mean == 4.0
    assert np.isnan(error)
    with pytest.raises(ValueError, match=r"got \(0,\)"):
        mean_and_error([])


# --- Maximum mean discrepancy


def brute_force_mmd(x, y, bandwidths):
    def kernel(u, v):
        return sum(np.exp(-np.sum((u - v) ** 2) / (2 * h**2)) for h in bandwidths)

    n, m = len(x), len(y)
    xx = sum(kernel(u, v) for u in x for v in x) / n**2
    yy = sum(kernel(u, v) for u in y for v in y) / m**2
    return (xx + yy - 2 * sum(kernel(u, v) for u in x for v in y) / (n * m)) ** 0.5


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_mmd_matches_two_loops_for_every_chunk(chunk):
    rng = np.random.default_rng(0)
    # The points are far from the origin, where careless distances lose digits.
    x, y = rng.normal(size=(23, 2)) + 1e4, rng.normal(0.3, 1.5, size=(31, 2)) + 1e4
    h = (0.1, 0.7, 3.0)
    expected = brute_force_mmd(x, y, h)
    assert maximum_mean_discrepancy(x, y, h, chunk) == pytest.approx(expected, abs=1e-10)


def test_mmd_bandwidths_come_from_the_median_distance_of_y():
    # The distances between points of y are 1 (thrice), 2 (twice) and 3; their lower median is 1.
    x, y = np.array([[0.5], [2.5]]), np.array([[0.0], [1.0], [2.0], [3.0]])
    expected = brute_force_mmd(x, y, (0.125, 0.25, 0.5, 1.0, 2.0))
    assert maximum_mean_discrepancy(x, y) == pytest.approx(expected, abs=1e-12)


@pytest.mark.slow
def test_mmd_is_at_its_floor_for_equal_distributions_and_above_it_for_others():
    """For equal distributions E MMD² is (2/n)(K − E k): the root is 0.1 for K = 5 and n = 500."""
    generator = torch.Generator().manual_seed(0)

    def draw(n):
        return torch.randn(n, 2, generator=generator)

    floor = mmd_noise_floor(draw, 500, pairs=20)
    values = [maximum_mean_discrepancy(draw(500), draw(500)) for _ in range(20)]
    assert max(values) < 2 * floor
    assert floor == pytest.approx(np.mean(values), rel=0.2)
    assert 0.05 < floor < (2 / 500 * 5) ** 0.5
    assert maximum_mean_discrepancy(draw(500) + 0.3, draw(500)) > 2 * floor
    x = draw(50)
    assert maximum_mean_discrepancy(x, x) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize(
    ("x", "y", "bandwidths", "message"),
    [
        (np.zeros((1, 2)), np.zeros((5, 2)), None, r"x must have shape \(N ≥ 2, \*\)"),
        (np.zeros((4, 3)), np.zeros((5, 2)), None, "points of x have 3 coordinates, of y 2"),
        (np.full((4, 2), np.inf), np.zeros((5, 2)), None, "x must be finite"),
        (np.zeros((4, 2)), np.zeros((5, 2)), None, "bandwidths must be positive"),
        (np.zeros((4, 2)), np.ones((5, 2)), (1.0, -1.0), "bandwidths must be positive"),
    ],
)
def test_mmd_refuses(x, y, bandwidths, message):
    with pytest.raises(ValueError, match=message):
        maximum_mean_discrepancy(x, y, bandwidths)


# --- The classifier and the quality of images


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    return data.images.astype(np.uint8)[:, None], data.target


@pytest.fixture(scope="module")
def halves(digits):
    return stratified_halves(digits[1], len(digits[1]), np.random.default_rng(0))


@pytest.fixture(scope="module")
def reader(digits, halves):
    (images, labels), (first, _) = digits, halves
    return DigitClassifier(LEVELS).fit(images[first], labels[first])


def test_halves_are_stratified_and_disjoint(digits, halves):
    first, second = halves
    assert sorted([*first, *second]) == list(range(len(digits[1])))
    counts = [np.bincount(digits[1][half], minlength=10) for half in halves]
    assert np.abs(counts[0] - counts[1]).max() <= 1


def test_halves_of_a_large_set_keep_the_shares():
    labels = np.repeat([3, 8], [30_000, 10_000])
    first, second = stratified_halves(labels, len(labels), np.random.default_rng(0))
    assert len(first) == len(second) == 5000
    assert len({*first, *second}) == 10_000
    assert abs(np.mean(labels[first] == 8) - 0.25) < 1e-3


@pytest.mark.slow
def test_classifier_reads_held_out_digits(digits, halves, reader):
    images, labels = digits[0][halves[1]], digits[1][halves[1]]
    assert reader.accuracy(images, labels) >= 0.97
    probabilities = reader.probabilities(images)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)
    # The share must be able to fall and to be reached, so confidence is neither low nor saturated.
    assert 0.9 <= confident_share(probabilities) <= 0.98


def test_features_reproduce_the_probabilities_through_the_last_layer(digits, reader):
    features = reader.features(digits[0][:100])
    assert features.shape == (100, 48)
    assert features.min() >= 0
    logits = features @ reader._model.coefs_[-1] + reader._model.intercepts_[-1]
    softmax = torch.as_tensor(logits).softmax(dim=1).numpy()
    np.testing.assert_allclose(softmax, reader.probabilities(digits[0][:100]), atol=1e-6)


def test_classifier_is_deterministic_and_handles_colour():
    rng = np.random.default_rng(0)
    labels = np.tile(["dark", "light"], 20)
    images = rng.integers(0, 100, (40, 3, 6, 5), dtype=np.uint8)
    images[labels == "light"] += 120
    one, two = (DigitClassifier(256, seed=3).fit(images, labels) for _ in range(2))
    np.testing.assert_array_equal(one.features(images), two.features(images))
    assert one.accuracy(images, labels) == 1
    assert list(one.classes) == ["dark", "light"]
    assert one.probabilities(images).shape == (40, 2)


def test_classifier_refuses(digits, reader):
    images, labels = digits
    with pytest.raises(RuntimeError, match=r"call fit\(images, labels\) first"):
        DigitClassifier(LEVELS).features(images)
    with pytest.raises(ValueError, match=r"grey value 16, allowed are 0 … 15"):
        DigitClassifier(16).fit(images, labels)
    with pytest.raises(ValueError, match="uint8 array"):
        reader.probabilities(images / 16)
    with pytest.raises(ValueError, match=r"\(1, 4, 8\), but the classifier was fitted on"):
        reader.probabilities(images[:, :, :4])
    with pytest.raises(ValueError, match="labels must have shape"):
        DigitClassifier(LEVELS).fit(images, labels[:-1])


@pytest.mark.slow
def test_quality_of_real_digits_is_that_of_real_digits(digits, halves, reader):
    # The same seed gives the same halves, so the samples are images that the classifier has not
    # seen.
    q = sample_quality(digits[0][halves[1]], *digits, LEVELS, seed=0)
    assert q.n == 898
    assert q.accuracy >= 0.97
    assert q.confident_ratio == pytest.approx(1, abs=1e-12)
    first, held_out = (reader.features(digits[0][half]) for half in halves)
    assert q.frechet_floor == pytest.approx(frechet_distance(held_out, first), rel=1e-9)
    assert q.frechet == pytest.approx(q.frechet_floor, rel=1e-9)
    assert sum(q.coverage) == pytest.approx(1, abs=1e-12)
    assert q.coverage_min == min(q.coverage) > 0.07
    assert SampleQuality(**json.loads(json.dumps(dataclasses.asdict(q)))) == q


@pytest.mark.slow
def test_quality_of_noise_is_far_worse(digits):
    images, labels = digits[0][:600], digits[1][:600]
    noise = np.random.default_rng(0).integers(0, LEVELS, (200, 1, 8, 8), dtype=np.uint8)
    q = sample_quality(noise, images, labels, LEVELS)
    assert q.n == 200
    assert q.confident_ratio < 0.5
    assert q.frechet > 20 * q.frechet_floor


@pytest.mark.slow
def test_quality_of_a_lost_mode_is_worse(digits):
    images, labels = digits[0][:600], digits[1][:600]
    q = sample_quality(digits[0][600:][digits[1][600:] != 3], images, labels, LEVELS)
    assert q.n == 300
    assert q.coverage_min < 0.03
    assert q.frechet > 1.5 * q.frechet_floor


@pytest.mark.slow
def test_quality_of_a_few_samples_is_finite(digits):
    q = sample_quality(digits[0][-4:], digits[0][:600], digits[1][:600], LEVELS)
    assert q.n == 4
    assert all(np.isfinite(v).all() for v in dataclasses.astuple(q))
    # There are four rows on both sides: the bias is large, but the same.
    assert 0.2 < q.frechet / q.frechet_floor < 5


def test_quality_refuses_before_training(digits):
    images, labels = digits
    with pytest.raises(ValueError, match=r"at least 2 images to have a covariance, got 1"):
        sample_quality(images[:1], images, labels, LEVELS)
    with pytest.raises(ValueError, match="both must come from the same data set"):
        sample_quality(images[:5, :, :4], images, labels, LEVELS)
    with pytest.raises(ValueError, match=r"at least 2 images each, got \{0: 9, 1: 1\}"):
        sample_quality(images[:5], images[:10], np.repeat([0, 1], [9, 1]), LEVELS)
