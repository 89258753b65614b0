"""Adaptive steps of the reverse SDE have the exact distribution, independently of other samples."""

import math

import pytest
import torch

from scoresde.models import GaussianScore
from scoresde.samplers import AdaptiveSDE
from scoresde.samplers.context import SamplingContext
from scoresde.samplers.wiener import WienerPaths
from scoresde.sde import EDM, VE, VP, SubVP

DOUBLE = {"dtype": torch.float64}
MEAN, STD = 0.3, 0.6
SDES = {
    "vp": VP(),
    "subvp": SubVP(),
    "ve": VE(),
    "edm": EDM(),
    "ddpm": VP().discretize(1000),
}


def gaussian(sde, dim, mean=MEAN, std=STD):
    return GaussianScore(sde, torch.full((dim,), mean), torch.full((dim,), std**2))


@pytest.fixture(params=list(SDES))
def sde(request):
    return SDES[request.param]


@pytest.mark.parametrize("shape", [(6000, 2), (200, 1, 8, 8)])
def test_samples_have_the_distribution_of_the_data(sde, shape, generator):
    """Mean and std of 12000 coordinates: five standard errors are 0.028 and 0.02."""
    score = gaussian(sde, math.prod(shape[1:]))
    samples = AdaptiveSDE(0.05)(sde, score, shape, generator=generator)
    assert samples.x.shape == shape
    assert abs(samples.x.mean().item() - MEAN) < 0.03
    assert abs(samples.x.std().item() - STD) < 0.03


@pytest.mark.parametrize("name", ["vp", "ve"])
def test_rejected_steps_do_not_change_the_distribution(name, generator):
    """In two coordinates four steps in ten are rejected; new noise would add 75 % and 120 %.

    The standard error of the variance of 16000 coordinates is 1.1 %, and its bias is 2 % at most.
    """
    sde, score = SDES[name], gaussian(SDES[name], 2, 0.0, 1.0)
    samples = AdaptiveSDE(0.05, denoise=False)(sde, score, (8000, 2), generator=generator)
    eps = torch.tensor(sde.sampling_eps, **DOUBLE)
    variance = (sde.alpha(eps).square() + sde.sigma(eps).square()).item()
    assert abs(samples.x.var().item() / variance - 1) < 0.06


def test_a_step_compares_euler_with_heun(sde):
    """In float64, y and x′ agree to 1e-12 with their formulas for the same noise."""
    steps = []

    class Spy(AdaptiveSDE):
        def _error(self, difference, y, before):
            steps.append((difference, y, before))
            return super()._error(difference, y, before)

    class Known(SamplingContext):
        def noise(self, x, index=None):
            return torch.tensor([[0.8, -1.1]], **DOUBLE)

    score, flow = gaussian(sde, 2), sde.reverse(gaussian(sde, 2))
    x, h = torch.tensor([[0.4, -1.3]], **DOUBLE), 0.25 * sde.T
    with pytest.raises(RuntimeError, match="1 steps did not reach"):
        Spy(1e9, 1e9, h_init=0.25, max_steps=1).run(sde, score, x, Known())
    t, t_next = (torch.full((1,), v, **DOUBLE) for v in (sde.T, sde.T - h))
    w = math.sqrt(h) * Known().noise(x)
    y = x - h * flow.drift(x, t) + flow.diffusion(t)[:, None] * w
    ahead = x - h * flow.drift(y, t_next) + flow.diffusion(t_next)[:, None] * w
    torch.testing.assert_close(steps[0][0], (y - ahead) / 2, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(steps[0][1], y, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(steps[0][2], x, rtol=0, atol=0)


def test_a_finer_tolerance_is_closer_to_the_distribution():
    """The variance falls short by 11 % at rtol 0.5 and is right to 1 % at 0.02 (error 0.6 %)."""
    sde, errors = VP(), []
    for rtol, atol in ((0.5, 0.5), (0.02, 0.0078)):
        generator = torch.Generator().manual_seed(4)
        sampler = AdaptiveSDE(rtol, atol, denoise=False)
        x = sampler(sde, gaussian(sde, 64), (1000, 64), generator=generator).x
        eps = torch.tensor(sde.sampling_eps, **DOUBLE)
        exact = (sde.alpha(eps) * STD).square() + sde.sigma(eps).square()
        errors.append(abs(x.var().item() / exact.item() - 1))
    assert errors[0] > 0.06 and errors[1] < 0.025


def test_pieces_of_a_path_make_up_a_wiener_process():
    """Three pieces, drawn after longer ones were put back, are independent with variance h.

    Their sum is kept.
    """
    n, generator = 40000, torch.Generator().manual_seed(5)

    def draw():
        return torch.randn(n, 1, generator=generator, **DOUBLE)

    def length(h):
        return torch.full((n,), h, **DOUBLE)

    paths, everyone = WienerPaths.start(draw()), torch.ones(n, dtype=torch.bool)
    whole = paths.take(length(1.0), draw())
    paths.put_back(everyone, length(1.0), whole)
    half = paths.take(length(0.5), draw())
    paths.put_back(everyone, length(0.5), half)
    pieces = [paths.take(length(0.2), draw())]
    for _ in range(2):  # what remains of the half, then of the whole
        pieces.append(paths.take(paths.known(), draw()))
    torch.testing.assert_close(sum(pieces), whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(pieces[0] + pieces[1], half, rtol=0, atol=1e-12)
    assert paths.known().isinf().all()
    covariance = torch.cov(torch.cat([*pieces, paths.take(length(0.7), draw())], 1).T)
    exact = torch.diag(torch.tensor([0.2, 0.3, 0.5, 0.7], **DOUBLE))
    assert (covariance - exact).abs().max() < 0.02  # four standard errors


def test_samples_do_not_depend_on_their_neighbours(sde):
    """With noise that is a function of each sample's own state, batches agree to 1e-9.

    The noise is a rough function of the state, so that rounding would grow along a path: the state
    is rounded.
    """

    class Own(SamplingContext):
        def noise(self, x, index=None):
            seed = (x.double() * 1e3).round() * 12.9898
            return (1.5 * torch.sin(seed * 78.233)).to(x)

    x = sde.prior((5, 2)).sample(torch.Generator().manual_seed(3), **DOUBLE)
    sampler, score = AdaptiveSDE(0.05), gaussian(sde, 2)
    whole = sampler.run(sde, score, x, Own())
    alone = torch.cat([sampler.run(sde, score, x[i : i + 1], Own()) for i in range(5)])
    torch.testing.assert_close(alone, whole, rtol=1e-9, atol=1e-9)


def test_evaluations_are_counted_and_those_who_have_arrived_rest(sde):
    """nfe is the mean number of rows that the score saw; the last calls see fewer of them."""
    exact, seen = gaussian(sde, 2), []

    def counting(x, t):
        assert t.shape == (len(x),)
        seen.append(len(x))
        return exact(x, t)

    generator = torch.Generator().manual_seed(0)
    samples = AdaptiveSDE(0.05, denoise=False)(sde, counting, (7, 2), generator=generator)
    assert samples.nfe == pytest.approx(sum(seen) / 7, rel=1e-12)
    assert seen[0] == 7 and seen[-1] < 7
    generator.manual_seed(0)
    denoised = AdaptiveSDE(0.05)(sde, exact, (7, 2), generator=generator)
    assert denoised.nfe == pytest.approx(samples.nfe + 1, rel=1e-12)
    eps = torch.tensor(sde.sampling_eps, **DOUBLE)
    mean = (samples.x + sde.sigma(eps) ** 2 * exact(samples.x, eps)) / sde.alpha(eps)
    torch.testing.assert_close(denoised.x, mean.float(), rtol=1e-5, atol=1e-5)


def test_a_rejected_step_costs_one_evaluation():
    """From h = T the first step is refused until it fits, at one call each after the first two."""
    exact, times = gaussian(VP(), 2), []

    def counting(x, t):
        times.append(t.item())
        return exact(x, t)

    AdaptiveSDE(h_init=1.0)(VP(), counting, (1, 2), generator=torch.Generator().manual_seed(0))
    tried = [t for t in times if t < 1.0]
    first = next(i for i in range(1, len(tried)) if tried[i] == tried[i - 1])
    assert times.count(1.0) == 1 and first >= 2
    assert tried[: first + 1] == sorted(tried[: first + 1])


def test_a_generator_repeats_a_run():
    score, runs = gaussian(VP(), 2), []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        generator = torch.Generator().manual_seed(7)
        runs.append(AdaptiveSDE(0.1)(VP(), score, (6, 2), generator=generator).x)
    torch.testing.assert_close(runs[0], runs[1], rtol=0, atol=0)


def test_temperature_scales_all_noise(generator):
    """At temperature 0 all paths are the same and lead to the mean of the data."""
    samples = AdaptiveSDE(0.05)(
        VP(), gaussian(VP(), 2), (3, 2), generator=generator, temperature=0.0
    )
    torch.testing.assert_close(samples.x, torch.full((3, 2), MEAN), rtol=0, atol=0.02)


def test_trajectory_stops_where_it_says(sde, generator):
    """Frames at equal times have the marginals of their times, to five standard errors."""
    n, times = 3000, []

    def callback(step, t, x):
        times.append(float(t))
        assert step == len(times)

    samples = AdaptiveSDE(0.1)(
        sde, gaussian(sde, 2), (n, 2), generator=generator, trajectory=4, callback=callback
    )
    assert samples.trajectory.shape == (4, n, 2)
    torch.testing.assert_close(samples.trajectory[-1], samples.x, rtol=0, atol=0)
    exact = torch.linspace(sde.T, sde.sampling_eps, 4, **DOUBLE)[1:-1]
    assert times == pytest.approx(exact.tolist(), rel=1e-12)
    std = ((sde.alpha(exact) * STD).square() + sde.sigma(exact).square()).sqrt()
    ratio = samples.trajectory[1:3].flatten(1).std(1) / std
    assert (ratio - 1).abs().max() < 5 / math.sqrt(4 * n) + 0.01


def never(x, t):
    raise AssertionError("the score was called")


def stubborn(x, t):
    return torch.full_like(x, torch.nan)


def sample(sampler=None, score=never, **options):
    return (sampler or AdaptiveSDE())(VP(), score, (3, 2), **options)


@pytest.mark.parametrize(
    "call, error, sentence",
    [
        (lambda: AdaptiveSDE(0.0), ValueError, r"rtol and atol must be finite and > 0, got 0\.0"),
        (lambda: AdaptiveSDE(0.1, -1), ValueError, "must be finite and > 0, got 0.1 and -1"),
        (lambda: AdaptiveSDE(h_init=0), ValueError, r"h_init must be in \(0, 1\], a part of T"),
        (lambda: AdaptiveSDE(safety=1.5), ValueError, r"safety must be in \(0, 1\), got 1\.5"),
        (lambda: AdaptiveSDE(r=2), ValueError, r"r must be in \[0\.5, 1\], got 2"),
        (lambda: AdaptiveSDE(max_steps=0), ValueError, "max_steps must be an integer ≥ 1, got 0"),
        (lambda: sample(AdaptiveSDE(1e-9)), ValueError, "below float32 resolution"),
        (lambda: sample(AdaptiveSDE(eps=2.0)), ValueError, r"eps must be in \(0, T=1\.0\), got 2"),
        (lambda: sample(constraint=lambda x, t, noise: x), ValueError, "takes no constraint; use"),
        (lambda: sample(noise=torch.randn_like), ValueError, "takes no noise=, since its steps"),
        (lambda: AdaptiveSDE().encode(VP(), never, torch.ones(3, 2)), ValueError, "draws noise"),
        (lambda: sample(score=stubborn), RuntimeError, r"step below minimum at t=1, sample 0"),
        (
            lambda: sample(AdaptiveSDE(max_steps=5), gaussian(VP(), 2)),
            RuntimeError,
            r"5 steps did not reach t=0\.001; sample 0 is at t=.*; loosen rtol or atol",
        ),
    ],
)
def test_wrong_inputs_are_named(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call()
