"""Noise models by their moments and likelihoods, and estimates of their level."""

import pytest
import torch

from scoresde.conditioning import Mask, Measurement
from scoresde.conditioning.measurements import (
    AveragePooling,
    ColourMixing,
    Gaussian,
    Matrix,
    Poisson,
    detail_std,
    residual_std,
)
from scoresde.sde import rows


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def smooth(size, count):
    """Images of a few waves, (count, 1, size, size), in [−1, 1]."""
    axis = torch.linspace(0, 3, size, dtype=torch.float64)
    shift = torch.arange(count, dtype=torch.float64).reshape(count, 1, 1, 1)
    return (axis[:, None] + shift).sin() * (1.3 * axis).cos()


NOISES = {
    "gaussian": Gaussian(0.3),
    "each sample": Gaussian(torch.tensor([0.1, 0.5])),
    "each entry": Gaussian(0.1 + torch.rand(1, 3, 4, generator=torch.Generator().manual_seed(0))),
    "poisson": Poisson(0.05),
    "poisson of [0, 1]": Poisson(0.1, low=0.0),
}


@pytest.mark.parametrize("name", NOISES)
def test_moments_and_gradient(name):
    """Mean h, the stated variance, and ∇ log p(y | h) = (y − h)/Var[y | h], also in the dark."""
    noise, h = NOISES[name], random(2, 3, 4, seed=2).tanh() * 0.9
    if name == "poisson of [0, 1]":
        h = h.abs()
    variance = torch.as_tensor(noise.variance(h), dtype=h.dtype).expand_as(h)
    many = torch.stack([noise.sample(h, torch.Generator().manual_seed(i)) for i in range(4000)])
    assert ((many.mean(0) - h).abs() < 5 * (variance / 4000).sqrt()).all()
    torch.testing.assert_close(many.var(0), variance, rtol=0.2, atol=0)
    y = many[0]
    leaf = h.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(noise.log_likelihood(y, leaf).sum(), leaf)
    torch.testing.assert_close(gradient, (y - h) / variance)
    assert not noise.exact


def test_poisson_likelihood_is_that_of_counts():
    """Differences of log p(y | h) are those of torch's distribution; below black it is tangent."""
    noise, h = Poisson(0.02), random(4, 6, seed=3).tanh() * 0.9
    y = noise.sample(h, torch.Generator().manual_seed(0))
    counts = (y + 1) / 0.02
    torch.testing.assert_close(counts, counts.round(), rtol=0, atol=1e-9)
    expected = torch.distributions.Poisson(noise.rate(h)).log_prob(counts.round()).sum(1)
    other = torch.distributions.Poisson(noise.rate(0.5 * h)).log_prob(counts.round()).sum(1)
    found = noise.log_likelihood(y, h) - noise.log_likelihood(y, 0.5 * h)
    torch.testing.assert_close(found, expected - other)
    black = torch.tensor([[-1.1]], dtype=torch.float64, requires_grad=True)
    bright = noise.log_likelihood(torch.tensor([[0.0]], dtype=torch.float64), black)
    (gradient,) = torch.autograd.grad(bright.sum(), black)
    assert gradient.item() == pytest.approx(49.9 / 0.1 / 0.02 + 1 / 0.02 * (0.1 / 0.1), rel=0.01)
    assert noise.variance(black).item() == pytest.approx(0.02**2 * 0.1)


@pytest.mark.parametrize("std", [0.02, 0.1, 0.5])
def test_level_of_smooth_images(std):
    """The median of the details of 1024 patches has a standard error of 3.6 %; five are allowed."""
    clean = smooth(64, 2)
    found = detail_std(clean + std * random(2, 1, 64, 64))
    assert found.shape == (2,)
    torch.testing.assert_close(found, torch.full((2,), std, dtype=torch.float64), rtol=0.18, atol=0)
    each = torch.tensor([1.0, 3.0], dtype=torch.float64).reshape(2, 1, 1, 1)
    scaled = detail_std(each * random(2, 1, 64, 64))
    torch.testing.assert_close(scaled, torch.tensor([1.0, 3.0]).double(), rtol=0.18, atol=0)
    assert (detail_std(clean[..., :63, :61]) < 0.01).all()  # odd sizes lose their last row


def test_level_of_what_no_sample_explains():
    """Six cameras of the same three channels: three mixtures are free, whatever the image."""
    operator = ColourMixing((3, 16, 16), random(6, 3))
    x = 10 * random(2, 3, 16, 16, seed=1)
    assert (residual_std(operator, operator(x)) < 1e-12).all()
    y = Measurement.of(operator, x, 0.2, torch.Generator().manual_seed(0)).y
    error = 5 / (2 * 3 * 256) ** 0.5
    torch.testing.assert_close(
        residual_std(operator, y), torch.full((2,), 0.2, dtype=torch.float64), rtol=error, atol=0
    )
    with pytest.raises(ValueError, match="explains every measurement"):
        residual_std(AveragePooling((1, 4, 4), 2), random(1, 1, 2, 2))
    with pytest.raises(ValueError, match="details need images"):
        detail_std(random(2, 5))


def test_a_measurement_has_any_noise():
    """Its likelihood and variance are those of the noise at h(x_0), and levels follow the rows."""
    operator, x = AveragePooling((1, 4, 4), 2), 0.5 * random(3, 1, 4, 4).tanh()
    plain = Measurement.of(operator, x, 0.1, torch.Generator().manual_seed(0))
    assert (plain.std, plain.variance(x)) == (0.1, pytest.approx(0.01))
    levels = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64)
    each = Measurement(operator, plain.y, Gaussian(levels))
    expected = plain.log_likelihood(x) * (0.1 / levels).square()
    torch.testing.assert_close(each.log_likelihood(x), expected)
    assert each.variance(x).shape == (3, 1, 1, 1)
    index = torch.tensor([2, 0])
    part = rows(each, index)
    torch.testing.assert_close(part.log_likelihood(x[index]), expected[index])
    one = Measurement(operator, plain.y[:1], Gaussian(levels))  # one y for all
    torch.testing.assert_close(one.variance(x), each.variance(x))
    photons = Measurement.of(operator, x, Poisson(0.01), torch.Generator().manual_seed(0))
    torch.testing.assert_close(photons.variance(x), 0.01 * (operator(x) + 1))
    torch.testing.assert_close(rows(photons, index).variance(x[index]), photons.variance(x)[index])
    for measurement in (each, photons):
        with pytest.raises(ValueError, match="needs one σ_y for all measurements"):
            _ = measurement.std
    for measurement in (plain, photons, rows(each, index)):
        measurement.check_samples(x[: len(measurement.y)])
        with pytest.raises(ValueError, match="a measurement of 1 samples must have 1 rows"):
            measurement.check_samples(x[:1])
    photons.check_noisy("DPS")
    with pytest.raises(ValueError, match="DPS divides by the noise of the measurement"):
        Measurement(operator, plain.y).check_noisy("DPS")
    some = Measurement(operator, plain.y, Gaussian(torch.tensor([0.1, 0.0, 0.1])))
    with pytest.raises(ValueError, match="DPS divides by the noise"):
        some.check_noisy("DPS")


@pytest.mark.parametrize("solver", ["mask", "matrix"])
def test_a_measured_level_solves_as_a_known_one(solver):
    """Variances of noise objects go to `solve` as they are."""
    operator = Mask(torch.arange(6) < 4) if solver == "mask" else Matrix(random(4, 6))
    y = random(2, 4)
    known = operator.solve(y, prior=1.0, noise=0.04)
    for std in (0.2, torch.full((2,), 0.2), torch.full((2, 4), 0.2), torch.full((1, 4), 0.2)):
        noise = Measurement(operator, y, Gaussian(std)).variance(random(2, 6))
        torch.testing.assert_close(
            operator.solve(y, prior=1.0, noise=noise), known, rtol=1e-6, atol=0
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gaussian(-0.1), "std must be a finite number ≥ 0, got -0.1"),
        (lambda: Gaussian(torch.tensor([0.1, -0.1])), "std must be a finite number ≥ 0"),
        (lambda: Gaussian(float("nan")), "std must be a finite number ≥ 0"),
        (lambda: Poisson(0.0), "gain must be a number > 0, got 0.0"),
        (lambda: Poisson(-2 / 255), "gain must be a number > 0"),
        (lambda: Poisson(0.1, dark=0.0), "dark must be a number > 0"),
        (lambda: Poisson(0.1, low=float("-inf")), "low must be a finite number"),
        (
            lambda: Measurement(Mask(torch.arange(4) < 2), random(3, 2), Gaussian(torch.ones(2))),
            r"std must be a number or a tensor of shape \(3, 1, …\)",
        ),
    ],
)
def test_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
