"""The likelihood compared with densities in closed form."""

import math

import numpy as np
import pytest
import torch

from scoresde.data import EightGaussians, Mixture
from scoresde.evaluation import log_likelihood
from scoresde.models import MLP, GaussianMixtureScore, GaussianScore, ScoreModel, UNet
from scoresde.samplers import ProbabilityFlowODE
from scoresde.sde import VE, VP, SubVP, expand
from tests.conftest import PROCESSES
from tests.places import SHARED

DOUBLE = {"dtype": torch.float64}
WEIGHTS = [0.3, 0.5, 0.2]
MEANS = [[-1.0, 0.5], [1.0, 1.0], [0.0, -1.0]]
COVARIANCES = [[[0.2, 0.1], [0.1, 0.3]], [[0.1, 0.0], [0.0, 0.1]], [[0.3, 0.0], [0.0, 0.05]]]


def mixture(sde):
    distributions = (torch.tensor(v, **DOUBLE) for v in (WEIGHTS, MEANS, COVARIANCES))
    return GaussianMixtureScore(sde, *distributions)


def gaussian(sde):
    """A correlated Gaussian in 16 coordinates."""
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
    """The largest |log p − exact|, with the exact p_T instead of the prior."""
    result = log_likelihood(sde, score, x, rtol=rtol, atol=rtol, **options)
    start, end = (torch.tensor(t, **DOUBLE) for t in (sde.eps, sde.T))
    prior = sde.prior(tuple(x.shape)).log_prob(result.latent)
    ours = result.log_prob - prior + score.log_prob(result.latent, end)
    return (ours - score.log_prob(x, start)).abs().max().item()


@pytest.mark.slow
def test_log_prob_is_exact_to_the_tolerance(process):
    """Every error is at most 30 rtol, and the largest of 120 samples falls as fast as rtol.

    Where steps are short enough for their errors to be estimated well, it falls faster, at most as
    rtol^1.2, because the effect of the state's error on log p is controlled.
    """
    tolerances = [1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8]
    distributions = [
        (distribution(process), points_at_eps(process, distribution(process), 60))
        for distribution in (mixture, gaussian)
    ]
    errors = [
        max(error(process, *distribution, rtol) for distribution in distributions)
        for rtol in tolerances
    ]
    assert all(e <= 30 * rtol for e, rtol in zip(errors, tolerances, strict=True))
    slope = np.polyfit(np.log10(tolerances), np.log10(errors), 1)[0]
    assert 0.85 <= slope <= 1.25


@pytest.mark.parametrize("rtol", [1e-3, 1e-5, 1e-8])
def test_log_prob_is_exact_in_many_coordinates(process, rtol):
    """The error is at most 30 rtol in 64 coordinates, for a mixture of correlated Gaussians."""
    generator = torch.Generator().manual_seed(2)
    means = 0.5 * torch.randn(3, 64, generator=generator, **DOUBLE)
    roots = torch.randn(3, 64, 64, generator=generator, **DOUBLE) / 16
    own = 0.05 * torch.diag(torch.linspace(0.2, 3, 64, **DOUBLE))
    weights = torch.tensor(WEIGHTS, **DOUBLE)
    score = GaussianMixtureScore(process, weights, means, roots @ roots.mT + own)
    assert error(process, score, points_at_eps(process, score, 6), rtol) <= 30 * rtol


@pytest.mark.parametrize("method", ["bosh3", "dop853"])
def test_other_methods_are_exact_to_the_tolerance(process, method):
    """The error is at most 50 rtol: steps of order 3 are many, and their errors add."""
    score = gaussian(process)
    x = points_at_eps(process, score, 20)
    assert error(process, score, x, 1e-4, method=method) <= 50 * 1e-4


@pytest.mark.parametrize("name", ["vp", "subvp", "ve"])
def test_prior_mismatch_is_small(name):
    """With the prior itself, log p is off by its difference from p_T: 0.03 nats at most for VE."""
    sde = PROCESSES[name]
    score = mixture(sde)
    x = points_at_eps(sde, score, 50)
    ours = log_likelihood(sde, score, x).log_prob
    exact = score.log_prob(x, torch.tensor(sde.eps, **DOUBLE))
    torch.testing.assert_close(ours, exact, rtol=0, atol=0.05)


def test_hutchinson_is_exact_for_an_isotropic_gaussian(process):
    """The Jacobian is a multiple of I, so that any Rademacher probe gives its trace."""
    score = GaussianScore(process, torch.zeros(9), torch.full((9,), 0.5))
    x = points_at_eps(process, score, 6).reshape(6, 1, 3, 3)
    exact = log_likelihood(process, score, x, rtol=1e-6, atol=1e-6).log_prob
    estimate = log_likelihood(process, score, x, rtol=1e-6, atol=1e-6, divergence="hutchinson")
    torch.testing.assert_close(estimate.log_prob, exact, rtol=0, atol=1e-4)


def test_hutchinson_is_unbiased_for_a_correlated_gaussian():
    """At one point, the mean over 400 probes is the exact log p within four standard errors."""
    sde = VP()
    score = gaussian(sde)
    x = points_at_eps(sde, score, 1)
    exact = log_likelihood(sde, score, x, rtol=1e-4, atol=1e-4).log_prob
    many = log_likelihood(
        sde, score, x.expand(400, 16), rtol=1e-4, atol=1e-4, divergence="hutchinson", seed=5
    ).log_prob
    assert many.std() > 0.1  # the probes do differ
    assert abs(many.mean() - exact[0]) < 4 * many.std() / math.sqrt(400)


@pytest.mark.parametrize("divergence", ["exact", "hutchinson", "hutch++"])
def test_batches_change_nothing(process, divergence):
    """Splitting and permuting the batch changes each sample by the rounding of sums alone, 1e-12.

    Probes belong to the numbers of the samples, wherever these are in the batch.
    """
    score = gaussian(process)
    x = points_at_eps(process, score, 7)
    options = {"rtol": 1e-3, "atol": 1e-3, "divergence": divergence, "seed": 3}
    whole = log_likelihood(process, score, x, **options)
    split = log_likelihood(process, score, x, batch_size=3, **options)
    order = [4, 2, 6, 0, 1, 5, 3]
    shuffled = log_likelihood(process, score, x[order], sample_ids=order, **options)
    alone = log_likelihood(process, score, x[4:5], sample_ids=[4], **options)
    scale = whole.log_prob.abs().max().item()
    for other, rows in ((split, slice(None)), (shuffled, order), (alone, slice(4, 5))):
        same = {"rtol": 0, "atol": 1e-12 * scale}
        torch.testing.assert_close(other.log_prob, whole.log_prob[rows], **same)
        torch.testing.assert_close(other.latent, whole.latent[rows], rtol=0, atol=1e-11)
        assert torch.equal(other.nfe, whole.nfe[rows])


@pytest.mark.slow
def test_a_network_is_not_moved_by_the_batch_beyond_its_own_rounding():
    """A U-Net's output differs by 1e-6 between batch sizes, and log p by at most 1e-3 nats.

    log p adds up several hundred outputs in 64 coordinates; the measured difference is 5e-5.
    """
    torch.manual_seed(0)
    net = UNet((1, 8, 8), nf=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(4,), dropout=0)
    torch.nn.init.normal_(next(p for p in reversed(list(net.parameters())) if p.ndim > 1), std=0.1)
    model = ScoreModel(net, VP(), "edm")
    x = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    options = {"rtol": 1e-3, "atol": 1e-3, "divergence": "hutchinson"}
    whole = log_likelihood(VP(), model, x, **options)
    alone = [log_likelihood(VP(), model, x[i : i + 1], sample_ids=[i], **options) for i in range(5)]
    parts = torch.cat([part.log_prob for part in alone])
    torch.testing.assert_close(parts, whole.log_prob, rtol=0, atol=1e-3)


@pytest.mark.parametrize("clock", ["t", "log_snr"])
@pytest.mark.parametrize("distribution", [mixture, gaussian])
def test_the_clock_changes_nothing_but_the_steps(process, distribution, clock):
    score = distribution(process)
    x = points_at_eps(process, score, 20)
    assert error(process, score, x, 1e-5, clock=clock) <= 30 * 1e-5


@pytest.mark.parametrize("distribution", [mixture, gaussian])
def test_the_solver_estimates_its_own_error(process, distribution):
    """For nine samples in ten the estimate is at least a third of the error.

    It sums the sizes of local errors, so that it can also be larger.
    """
    score = distribution(process)
    x = points_at_eps(process, score, 40)
    result = log_likelihood(process, score, x, rtol=1e-4, atol=1e-4)
    exact = log_likelihood(process, score, x, rtol=1e-8, atol=1e-8).log_prob
    ratio = (result.log_prob - exact).abs() / result.solver_error
    assert ratio.quantile(0.9) <= 3
    assert 0.02 <= ratio.median() <= 1.5


def test_log_prob_has_a_tolerance_of_its_own():
    """A tighter tolerance of log p costs evaluations and makes it more exact."""
    score = gaussian(VP())
    x = points_at_eps(VP(), score, 20)
    exact = log_likelihood(VP(), score, x, rtol=1e-9, atol=1e-9).log_prob
    loose, tight = (
        log_likelihood(VP(), score, x, rtol=1e-2, atol=1e-2, log_prob_tol=tol)
        for tol in (1e-2, 1e-6)
    )
    assert (tight.nfe > loose.nfe).all()
    worst = [(part.log_prob - exact).abs().max() for part in (loose, tight)]
    assert worst[1] < worst[0] / 5


def test_log_prob_can_be_differentiated(process):
    """∇ log p_eps is the score to 1e-4, here with the exact p_T instead of the prior."""
    score = mixture(process)
    x = points_at_eps(process, score, 4).requires_grad_()
    result = log_likelihood(process, score, x, rtol=1e-6, atol=1e-6, differentiable=True)
    prior = process.prior(tuple(x.shape)).log_prob(result.latent)
    end = score.log_prob(result.latent, torch.tensor(process.T, **DOUBLE))
    (gradient,) = torch.autograd.grad((result.log_prob - prior + end).sum(), x)
    exact = score(x.detach(), torch.tensor(process.eps, **DOUBLE))
    scale = exact.abs().max().item()
    torch.testing.assert_close(gradient, exact, rtol=0, atol=1e-4 * scale)


@pytest.mark.slow
def test_log_prob_trains_a_network():
    """The gradient in the weights is that of finite differences."""
    torch.manual_seed(0)
    model = ScoreModel(MLP((2,), width=8, depth=1), VP(), "edm").double()
    torch.nn.init.normal_(model.net.leave.weight, std=0.3)
    x, weight = torch.randn(3, 2, **DOUBLE), model.net.leave.weight
    options = {"rtol": 1e-8, "atol": 1e-8, "eps": 0.01}

    def loss(**more):
        return log_likelihood(VP(), model, x, **options, **more).log_prob.sum()

    (gradient,) = torch.autograd.grad(loss(differentiable=True), weight)
    with torch.no_grad():
        weight[0, 0] += 1e-4
        above = loss()
        weight[0, 0] -= 2e-4
        below = loss()
    assert gradient[0, 0].item() == pytest.approx(((above - below) / 2e-4).item(), rel=1e-3)


@pytest.mark.parametrize("rtol", [1e-3, 1e-5])
def test_latents_decode_to_the_data(process, rtol):
    """After encoding and decoding, each sample is at most 10 rtol of its own size away."""
    score = gaussian(process)
    x = points_at_eps(process, score, 10)
    latent = log_likelihood(process, score, x, rtol=rtol, atol=rtol).latent
    flow = ProbabilityFlowODE(rtol, rtol, eps=process.eps, norm="sum")
    back = flow(process, score, tuple(x.shape), x_init=latent).x
    assert ((back - x).norm(dim=1) / x.norm(dim=1)).max() <= 10 * rtol


@pytest.mark.parametrize("name", ["vp", "subvp", "ve"])
@pytest.mark.parametrize("data", [Mixture, EightGaussians])
def test_mean_log_prob_of_samples_is_minus_the_entropy(name, data):
    """E −log p over 400 samples agrees with the entropy by quadrature within two standard errors.

    The contribution of eps to the entropy, and KL(p_T ‖ prior), are a hundredth of that.
    """
    sde, known = PROCESSES[name], data()
    score = GaussianMixtureScore(sde, known.weights, known.means, known.covariances)
    log_prob = log_likelihood(
        sde, score, points_at_eps(sde, score, 400), rtol=1e-4, atol=1e-4
    ).log_prob
    assert abs(log_prob.mean() + known.entropy) < 2 * log_prob.std() / 20


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
        assert len(passes) == result.nfe[0]
        assert not x.requires_grad and model.net.leave.weight.grad is None


@pytest.mark.slow
def test_density_of_a_network_integrates_to_one():
    """exp log p on a grid sums to 1, which holds for any score, trained or not."""
    sde = VP()
    torch.manual_seed(0)
    model = ScoreModel(MLP((2,), width=16, depth=1), sde, "edm").double()
    torch.nn.init.normal_(model.net.leave.weight, std=0.3)
    side = torch.linspace(-6, 6, 81, **DOUBLE)
    grid = torch.cartesian_prod(side, side)
    log_prob = log_likelihood(sde, model, grid, rtol=1e-4, atol=1e-4, eps=1e-3).log_prob
    # The sum over cells of 0.15² of a smooth density of scale 1 is exact to 1e-3.
    assert abs(log_prob.exp().sum().item() * 0.15**2 - 1) < 5e-3


TRACES = SHARED / "golden" / "sampler_traces.npz"


@pytest.mark.skipif(not TRACES.exists(), reason="golden sampler traces are absent")
@pytest.mark.parametrize("name, sde", [("vp", VP()), ("subvp", SubVP()), ("ve", VE())])
def test_bits_per_dim_reproduce_the_reference(name, sde):
    """The reference counts −log2 p/D + 7, for cells of width 2/256, whatever the range."""
    with np.load(TRACES) as traces:
        data = torch.from_numpy(traces[f"{name}/likelihood/data"])
        expected = torch.from_numpy(traces[f"{name}/likelihood/bpd"]).double()
        distribution = GaussianScore(
            sde, torch.full((64,), float(traces["mu"])), torch.full((64,), float(traces["s0"]) ** 2)
        )
    result = log_likelihood(sde, distribution, data, divergence="hutchinson")
    bits = -result.log_prob / (64 * math.log(2)) + 7
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
