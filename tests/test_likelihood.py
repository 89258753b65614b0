"""The likelihood against densities in closed form."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation import bits_per_dim, log_likelihood
from models import MLP, GaussianMixtureScore, GaussianScore, ScoreModel
from sde import VE, VP, SubVP, expand

from .conftest import PROCESSES

DOUBLE = {"dtype": torch.float64}
WEIGHTS = [0.3, 0.5, 0.2]
MEANS = [[-1.0, 0.5], [1.0, 1.0], [0.0, -1.0]]
COVARIANCES = [[[0.2, 0.1], [0.1, 0.3]], [[0.1, 0.0], [0.0, 0.1]], [[0.3, 0.0], [0.0, 0.05]]]


def mixture(sde):
    laws = (torch.tensor(v, **DOUBLE) for v in (WEIGHTS, MEANS, COVARIANCES))
    return GaussianMixtureScore(sde, *laws)


def gaussian(sde):
    """A correlated law in 16 coordinates."""
    generator = torch.Generator().manual_seed(2)
    root = torch.randn(16, 16, generator=generator, **DOUBLE) / 4
    mean = 0.3 * torch.randn(16, generator=generator, **DOUBLE)
    return GaussianScore(sde, mean, root @ root.T + 0.05 * torch.eye(16, **DOUBLE))


def points_at_eps(sde, score, n):
    generator = torch.Generator().manual_seed(3)
    x = score.sample(n, generator)
    eps = torch.tensor(sde.eps, **DOUBLE)
    return sde.perturb(x, eps, torch.randn(x.shape, generator=generator, **DOUBLE))


def error(sde, score, x, rtol, **options):
    """Largest |log p − exact|, with the exact p_T in place of the prior."""
    result = log_likelihood(sde, score, x, rtol=rtol, atol=rtol, **options)
    start, end = (torch.tensor(t, **DOUBLE) for t in (sde.eps, sde.T))
    prior = sde.prior(tuple(x.shape)).log_prob(result.latent)
    ours = result.log_prob - prior + score.log_prob(result.latent, end)
    return (ours - score.log_prob(x, start)).abs().max().item()


@pytest.mark.parametrize("law", [mixture, gaussian])
@pytest.mark.parametrize("rtol", [1e-3, 1e-4, 1e-5, 1e-6, 1e-7])
def test_log_prob_is_exact_to_the_tolerance(process, law, rtol):
    """Every sample's error is at most 30 rtol."""
    score = law(process)
    assert error(process, score, points_at_eps(process, score, 20), rtol) <= 30 * rtol


@pytest.mark.parametrize("method", ["bosh3", "dop853"])
def test_other_methods_are_exact_to_the_tolerance(process, method):
    """At most 50 rtol: more than by default, as steps of order 3 are many and their errors add."""
    score = gaussian(process)
    x = points_at_eps(process, score, 20)
    assert error(process, score, x, 1e-4, method=method) <= 50 * 1e-4


def test_error_falls_with_the_tolerance(process):
    """From 1e-4 to 1e-8 the error falls by more than 300: it does follow rtol."""
    score = mixture(process)
    x = points_at_eps(process, score, 20)
    assert error(process, score, x, 1e-8) < error(process, score, x, 1e-4) / 300


@pytest.mark.parametrize("name", ["vp", "subvp", "ve"])
def test_prior_mismatch_is_small(name):
    """With the prior itself, log p is off by what p_T differs from it: 0.03 nats at most for VE."""
    sde = PROCESSES[name]
    score = mixture(sde)
    x = points_at_eps(sde, score, 50)
    ours = log_likelihood(sde, score, x).log_prob
    exact = score.log_prob(x, torch.tensor(sde.eps, **DOUBLE))
    torch.testing.assert_close(ours, exact, rtol=0, atol=0.05)


def test_hutchinson_is_exact_for_an_isotropic_law(process):
    """The Jacobian is a multiple of I there, so any Rademacher probe gives its trace."""
    score = GaussianScore(process, torch.zeros(9), torch.full((9,), 0.5))
    x = points_at_eps(process, score, 6).reshape(6, 1, 3, 3)
    exact = log_likelihood(process, score, x, rtol=1e-6, atol=1e-6).log_prob
    estimate = log_likelihood(process, score, x, rtol=1e-6, atol=1e-6, divergence="hutchinson")
    torch.testing.assert_close(estimate.log_prob, exact, rtol=0, atol=1e-4)


def test_hutchinson_is_unbiased_for_a_correlated_law():
    """One point, 400 probes: the mean is the exact log p within four standard errors."""
    sde = VP()
    score = gaussian(sde)
    x = points_at_eps(sde, score, 1)
    exact = log_likelihood(sde, score, x, rtol=1e-4, atol=1e-4).log_prob
    generator = torch.Generator().manual_seed(5)
    many = log_likelihood(
        sde,
        score,
        x.expand(400, 16),
        rtol=1e-4,
        atol=1e-4,
        divergence="hutchinson",
        generator=generator,
    ).log_prob
    assert many.std() > 0.1  # the probes do differ
    assert abs(many.mean() - exact[0]) < 4 * many.std() / math.sqrt(400)


def test_batches_change_nothing():
    """Splitting and permuting the batch moves no sample beyond rounding."""
    sde = SubVP()
    score = mixture(sde)
    x = points_at_eps(sde, score, 7)
    whole = log_likelihood(sde, score, x)
    split = log_likelihood(sde, score, x, batch_size=3)
    order = torch.randperm(7)
    shuffled = log_likelihood(sde, score, x[order])
    torch.testing.assert_close(split.log_prob, whole.log_prob, rtol=0, atol=1e-10)
    torch.testing.assert_close(shuffled.log_prob, whole.log_prob[order], rtol=0, atol=1e-10)
    assert split.nfe == pytest.approx(whole.nfe)


def test_one_network_pass_gives_drift_and_divergence():
    """The forward passes are as many as the evaluations."""
    sde, passes = VP(), []
    model = ScoreModel(MLP((2,), width=16, depth=1), sde)
    torch.nn.init.normal_(model.net.leave.weight, std=0.1)
    model.net.register_forward_hook(lambda *_: passes.append(1))
    for divergence in ("exact", "hutchinson"):
        passes.clear()
        x = torch.randn(1, 2)
        result = log_likelihood(sde, model, x, rtol=1e-3, atol=1e-3, divergence=divergence)
        assert len(passes) == result.nfe
        assert not x.requires_grad and model.net.leave.weight.grad is None


def test_density_of_a_network_integrates_to_one():
    """exp log p on a grid sums to 1: holds for any score, trained or not."""
    sde = VP()
    torch.manual_seed(0)
    model = ScoreModel(MLP((2,), width=16, depth=1), sde, "edm").double()
    torch.nn.init.normal_(model.net.leave.weight, std=0.3)
    side = torch.linspace(-6, 6, 81, **DOUBLE)
    grid = torch.cartesian_prod(side, side)
    log_prob = log_likelihood(sde, model, grid, rtol=1e-4, atol=1e-4, eps=1e-3).log_prob
    # A sum over cells of 0.15² of a smooth density of scale 1 is exact to 1e-3.
    assert abs(log_prob.exp().sum().item() * 0.15**2 - 1) < 5e-3


def test_bits_per_dim_of_a_uniform_law():
    """A uniform density over the range spends log2(levels) bits on each coordinate."""
    for levels, (low, high) in ((17, (-1.0, 1.0)), (256, (0.0, 1.0)), (256, (-1.0, 1.0))):
        log_prob = torch.full((3,), -64 * math.log(high - low), **DOUBLE)
        bits = bits_per_dim(log_prob, 64, (high - low) / levels)
        torch.testing.assert_close(bits, torch.full((3,), math.log2(levels), **DOUBLE))
    with pytest.raises(ValueError, match="cell must be a width > 0, got 0"):
        bits_per_dim(torch.zeros(1), 64, 0.0)


def test_bits_per_dim_bound_the_code_length_of_a_discrete_law():
    """P of a mixture rounded to 17 levels is known: E_u bits ≥ −log2 P, cell by cell."""
    centres = -1 + 2 * (torch.arange(17, **DOUBLE) + 0.5) / 17
    moments = torch.tensor([[-0.5, 0.1], [0.4, 0.3]], **DOUBLE)
    laws = [torch.distributions.Normal(mean, std) for mean, std in moments]

    def log_density(x):
        return torch.stack([law.log_prob(x) for law in laws]).logsumexp(0) - math.log(2)

    edges = torch.stack([centres - 1 / 17, centres + 1 / 17])
    masses = sum(law.cdf(edges[1]) - law.cdf(edges[0]) for law in laws) / 2
    u = (torch.arange(4000, **DOUBLE) + 0.5) / 4000
    x = -1 + 2 * (torch.arange(17, **DOUBLE)[:, None] + u) / 17
    bits = bits_per_dim(log_density(x).flatten(), 1, 2 / 17).reshape(17, -1).mean(1)
    assert (bits >= -masses.log2() - 1e-9).all()
    assert (bits + masses.log2()).max() > 1e-3  # a bound, not an equality


TRACES = Path(__file__).resolve().parents[2] / "shared" / "golden" / "sampler_traces.npz"


@pytest.mark.skipif(not TRACES.exists(), reason="golden sampler traces are absent")
@pytest.mark.parametrize("name, sde", [("vp", VP()), ("subvp", SubVP()), ("ve", VE())])
def test_bits_per_dim_reproduce_the_reference(name, sde):
    """The reference counts −log2 p/D + 7 whatever the range: cells of width 2/256."""
    with np.load(TRACES) as traces:
        data = torch.from_numpy(traces[f"{name}/likelihood/data"])
        expected = torch.from_numpy(traces[f"{name}/likelihood/bpd"]).double()
        law = GaussianScore(
            sde, torch.full((64,), float(traces["mu"])), torch.full((64,), float(traces["s0"]) ** 2)
        )
    result = log_likelihood(sde, law, data, divergence="hutchinson")
    bits = bits_per_dim(result.log_prob, 64, 2 / 256)
    torch.testing.assert_close(bits, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "change, kind, sentence",
    [
        ({"x": torch.full((2, 2), math.nan)}, ValueError, "x contains NaN/Inf"),
        ({"x": torch.zeros(2, 2, dtype=torch.int64)}, TypeError, "x must be floating point"),
        ({"divergence": "trace"}, ValueError, "unknown divergence 'trace'. Available: exact"),
        ({"method": "RK45"}, ValueError, "unknown method 'RK45'. Available: bosh3, dopri5, dop853"),
        ({"rtol": 1e-12}, ValueError, "rtol 1e-12 is below float32 resolution; use dtype=float64"),
        ({"rtol": -1.0}, ValueError, r"rtol must be > 0, got -1\.0"),
        ({"eps": 0.0}, ValueError, r"eps must be in \(0, T=1\.0\), got 0: the score is singular"),
        ({"x": torch.zeros(1, 5000)}, ValueError, "at most 4096 coordinates, got 5000; use"),
    ],
)
def test_wrong_input_is_refused(change, kind, sentence):
    arguments = {"x": torch.zeros(2, 2)} | change
    x = arguments.pop("x")
    with pytest.raises(kind, match=sentence):
        log_likelihood(VP(), lambda x, t: -expand(1 / (1 + t), x) * x, x, **arguments)
