"""Samples of the toy distributions, compared with the distributions themselves."""

import math

import pytest
import torch
import yaml

from scoresde import data
from scoresde.data import Checkerboard, EightGaussians, Mixture, Moons, SwissRoll
from tests.places import ROOT

CONF = ROOT / "conf" / "data"
DISTRIBUTIONS = [Moons, SwissRoll, Checkerboard, EightGaussians, Mixture]
DENSITIES = [Checkerboard, EightGaussians, Mixture]


def grid(half, nodes):
    """Midpoints of a square grid on [-half, half]², and the area of one of its cells."""
    axis = (torch.arange(nodes, dtype=torch.float64) + 0.5) * (2 * half / nodes) - half
    return torch.cartesian_prod(axis, axis), (2 * half / nodes) ** 2


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_points_have_the_declared_form(distribution):
    points = distribution(n=50, n_test=30)
    assert points.train.shape == (50, 2) and points.test.shape == (30, 2) and points.shape == (2,)
    assert points.train.dtype == points.test.dtype == torch.float32
    assert points.range is points.levels is points.cell is None
    assert points.train_labels is points.test_labels is None
    assert points.scale(points.train) is points.train
    assert points.quantize(points.train) is points.train


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_points_are_a_function_of_the_seed(distribution):
    torch.manual_seed(1)
    first = distribution(n=500, n_test=500, seed=3)
    torch.manual_seed(2)
    again, other = distribution(n=500, n_test=500, seed=3), distribution(n=500, n_test=500, seed=4)
    assert torch.equal(first.train, again.train) and torch.equal(first.test, again.test)
    assert not torch.equal(first.train, other.train)
    # Independent continuous samples share no point and have no correlation (4 / sqrt(500) = 0.18).
    for one, two in ((first.train, first.test), (first.train, other.train)):
        assert not torch.isclose(one, two).all(-1).any()
        correlation = torch.corrcoef(torch.cat([one, two], -1).T)[:2, 2:]
        assert correlation.abs().max() < 0.18


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_distribution_has_unit_scale(distribution):
    x = distribution(n=100000).train.double()
    spread = x.std(0)
    # The bound is four standard errors of a mean; the default mixture is only near unit scale.
    torch.testing.assert_close(x.mean(0), torch.zeros(2).double(), atol=4 / math.sqrt(1e5), rtol=0)
    # The variance of x² is at most 3 here, so that the error of std is sqrt(3) / 2 / sqrt(n).
    tolerance = 0.06 if distribution is Mixture else 4 * 0.87 / math.sqrt(1e5)
    torch.testing.assert_close(spread, torch.ones(2).double(), atol=tolerance, rtol=0)


def test_standardisation_is_of_the_distribution_not_of_the_sample():
    # Standardisation by the samples would make a point depend on their number.
    for distribution in (Moons, SwissRoll, Checkerboard, EightGaussians):
        one = distribution(n=1, seed=5).train
        assert one.isfinite().all() and one.abs().max() < 3


def test_moons_lie_on_two_half_circles():
    x = Moons(n=20000).train.double()
    apart, within = torch.tensor([1, 4 / math.pi - 0.5]), torch.tensor([0.5, 0.5 - 4 / math.pi**2])
    raw = x * (within + apart**2 / 4 + 0.05**2).sqrt() + torch.tensor([0.5, 0.25])
    upper = raw.norm(dim=-1) - 1
    lower = (raw - torch.tensor([1.0, 0.5])).norm(dim=-1) - 1
    nearest = torch.where(upper.abs() < lower.abs(), upper, lower)
    # The radial error of a noisy point on a unit circle is N(0, 0.05²) to second order in 0.05.
    assert abs(nearest.std().item() - 0.05) < 0.002
    assert nearest.abs().max() < 5 * 0.05
    on_upper = (upper.abs() < lower.abs()).double().mean().item()
    assert abs(on_upper - 0.5) < 4 * 0.5 / math.sqrt(20000)  # the moons cross nowhere


def test_swiss_roll_lies_on_its_spiral():
    x = SwissRoll(n=20000).train.double()
    mean = torch.tensor([2, 2 / (3 * math.pi)]).double()
    second = (9.75 * math.pi**2 + torch.tensor([-0.5, 0.5]).double()) / 2
    raw = x * (second - mean**2 + 0.5**2).sqrt() + mean
    radius, angle = raw.norm(dim=-1), torch.atan2(raw[:, 1], raw[:, 0])
    # On the spiral the radius is the angle, up to whole turns; t is uniform on [1.5 pi, 4.5 pi].
    off = torch.remainder(radius - angle + math.pi, 2 * math.pi) - math.pi
    assert off.abs().max() < 5.5 * 0.5 and abs(off.std().item() - 0.5) < 0.01
    uniform = ((radius / math.pi - 1.5) / 3).clamp(0, 1).sort().values
    ranks = (torch.arange(20000) + 0.5) / 20000
    # Kolmogorov's 99.9 % bound, 1.95 / sqrt(n), and the noise's mean reach over the two ends.
    assert (uniform - ranks).abs().max() < 1.95 / math.sqrt(20000) + 0.5 * 0.4 / (3 * math.pi)


@pytest.mark.parametrize("distribution", DENSITIES)
def test_density_integrates_to_one(distribution):
    x, area = grid(4.5, 600)
    total = distribution(n=1, n_test=1).log_prob(x).exp().sum().item() * area
    # Smooth densities have spectral accuracy. The board has a band of half a grid cell along 32
    # edges, 1 / 6 each.
    tolerance = 1e-9 if distribution is not Checkerboard else 32 * 0.866 * (9 / 600) / 2 / 6
    assert abs(total - 1) < tolerance


@pytest.mark.parametrize("distribution", DENSITIES)
def test_entropy_is_that_of_the_density_on_a_grid(distribution):
    points = distribution(n=1, n_test=1)
    x, area = grid(4.5, 600)
    log_prob = points.log_prob(x)
    p = log_prob.exp()
    entropy = -torch.where(p > 0, p * log_prob, 0.0).sum().item() * area
    tolerance = (
        2e-5 if distribution is not Checkerboard else 0.04 * math.log(6)
    )  # of the mass, as above
    assert abs(points.entropy - entropy) < tolerance


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("distribution", DENSITIES)
def test_mean_log_prob_of_samples_is_minus_the_entropy(distribution, seed):
    points = distribution(seed=seed)
    for x in (points.train, points.test):
        log_prob = points.log_prob(x)
        error = log_prob.std().item() / math.sqrt(len(x))
        assert abs(log_prob.mean().item() + points.entropy) < 4 * error + 1e-12


def test_entropy_of_one_gaussian_is_closed_form():
    one = Mixture([1.0], [[3.0, -2.0]], [[0.5, 2.0]], n=1, n_test=1)
    # Quadrature of a quadratic against a Gaussian is exact but for rounding.
    assert one.entropy == pytest.approx(math.log(2 * math.pi * math.e * 0.5 * 2.0), abs=1e-12)


@pytest.mark.parametrize("distribution", [EightGaussians, Mixture])
def test_log_prob_is_the_mixture_of_the_attributes(distribution):
    points = distribution(n=1000, n_test=1)
    assert points.weights.dtype == points.means.dtype == points.covariances.dtype == torch.float64
    normals = torch.distributions.MultivariateNormal(points.means, points.covariances)
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(points.weights), normals
    )
    x = points.train.double()
    # These are two float64 evaluations of the same sum.
    torch.testing.assert_close(points.log_prob(x), mixture.log_prob(x), atol=1e-10, rtol=1e-10)


def test_mixture_draws_its_components_in_proportion():
    means = [[-50.0, 0.0], [0.0, 50.0], [50.0, 0.0]]
    x = Mixture([0.6, 0.3, 0.1], means, [1.0, 2.0, 0.5], n=20000).train.double()
    nearest = torch.cdist(x, torch.tensor(means).double()).argmin(-1)
    for k, (weight, std) in enumerate(zip([0.6, 0.3, 0.1], [1.0, 2.0, 0.5], strict=True)):
        chosen = x[nearest == k]
        assert abs(len(chosen) / 20000 - weight) < 4 * math.sqrt(weight * (1 - weight) / 20000)
        # The bound is four standard errors of a standard deviation, std / sqrt(2 n).
        torch.testing.assert_close(
            chosen.std(0),
            torch.full((2,), std).double(),
            atol=4 * std / math.sqrt(2 * len(chosen)),
            rtol=0,
        )


def test_checkerboard_density_is_zero_off_the_squares():
    board = Checkerboard(n=100000)
    assert board.log_prob(board.train).isfinite().all()
    unit = math.sqrt(3) / 2
    # Square (i, j), counted from the lower left, is filled if i + j is even; later points are off
    # the board.
    centre = torch.tensor([[0.5, 0.5], [1.5, 0.5], [1.5, 1.5], [3.5, 2.5], [4.5, 0.5], [-0.5, 1.5]])
    expected = torch.tensor([1, 0, 1, 0, 0, 0]).double() / 6
    value = board.log_prob((centre - 2) * unit).exp()
    torch.testing.assert_close(value, expected, atol=1e-15, rtol=1e-14)  # one exp of one log
    filled = torch.unique((board.train / unit + 2).floor(), dim=0, return_counts=True)[1]
    # The squares are eight equal ones, so that each count is binomial with p = 1/8.
    assert len(filled) == 8
    assert (filled / 1e5 - 1 / 8).abs().max() < 4 * math.sqrt(7 / 64 / 1e5)


@pytest.mark.parametrize("extreme", [0.0, 1 - 2**-53])
def test_no_checkerboard_point_is_rounded_off_its_square(extreme, monkeypatch):
    # These are the least and the greatest number that a float64 uniform generator can return.
    monkeypatch.setattr(torch, "rand", lambda *n, dtype, **_: torch.full(n, extreme, dtype=dtype))
    board = Checkerboard(n=200)
    assert board.log_prob(board.train).isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 0}, "n must be an integer ≥ 1, got 0"),
        ({"n_test": -1}, "n_test must be an integer ≥ 1, got -1"),
        ({"weights": [0.5, 0.4, 0.3, 0.2]}, "of sum 1"),
        ({"weights": [1.2, -0.2, 0.0, 0.0]}, "weights must be > 0"),
        ({"means": [[0.0, 0.0]]}, r"means \(K, 2\)"),
        ({"std": [0.0, 1.0, 1.0, 1.0]}, "std must be finite and > 0"),
        ({"means": [[math.nan, 0.0]] * 4}, "means finite"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Mixture(**settings)


def test_entropy_refuses_what_its_grids_cannot_resolve():
    needle = Mixture([0.5, 0.5], [[0.3, 0.2], [0.0, 0.0]], [0.01, 1.0], n=1, n_test=1)
    with pytest.raises(ValueError, match="largest std is 100 times its smallest"):
        _ = needle.entropy


@pytest.mark.parametrize("name", ["moons", "swissroll", "checkerboard", "eightgaussians"])
def test_configuration_builds_the_default_set(name):
    settings = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    assert settings.pop("condition") == "${condition.kind}"
    distribution = getattr(data, settings.pop("_target_").removeprefix("scoresde.data."))
    assert torch.equal(distribution(**settings).train, distribution().train)


def test_mixture_configuration_is_the_default():
    settings = yaml.safe_load((CONF / "mixture.yaml").read_text())
    assert settings.pop("condition") == "${condition.kind}"
    assert settings.pop("_target_") == "scoresde.data.Mixture"
    assert torch.equal(Mixture(**settings).train, Mixture().train)
