"""Traces of Jacobians, exact and estimated, compared with known matrices."""

import math

import pytest
import torch

from scoresde.evaluation import Exact, GaussianControl, Hutchinson, HutchPlusPlus, log_likelihood
from scoresde.evaluation.divergence import score_and_divergence
from scoresde.evaluation.seeding import Draws
from scoresde.models import MLP, GaussianScore, ScoreModel, UNet
from scoresde.sde import VP
from tests.conftest import PROCESSES

DOUBLE = {"dtype": torch.float64}


def matrix(dim, rank=None):
    """A matrix that is not symmetric, with full or low rank."""
    generator = torch.Generator().manual_seed(1)
    if rank is None:
        return torch.randn(dim, dim, generator=generator, **DOUBLE)
    sides = torch.randn(2, dim, rank, generator=generator, **DOUBLE)
    return sides[0] @ sides[1].T


def linear(a):
    return lambda x, t: (x.flatten(1) @ a.T).reshape(x.shape)


def estimates(a, rule, n, **options):
    x = torch.ones(n, a.shape[0], **DOUBLE)
    probes = rule.draw(Draws(0, range(n)), x)
    t = torch.full((n,), 0.5, **DOUBLE)
    return score_and_divergence(linear(a), x, t, rule, probes, **options)


@pytest.mark.parametrize("forward_mode", [False, True])
@pytest.mark.parametrize("dim", [1, 7, 300])
def test_exact_is_the_trace(dim, forward_mode):
    """The 300 coordinates take two blocks."""
    a = matrix(dim)
    s, trace = estimates(a, Exact(), 3, forward_mode=forward_mode)
    torch.testing.assert_close(trace, a.trace().expand(3, 1), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(s, a.sum(1).expand(3, dim), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("forward_mode", [False, True])
@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
def test_hutchinson_has_the_mean_and_the_variance_of_its_distribution(distribution, forward_mode):
    """With 10000 probes the mean is exact to 4 standard errors, and the variances to 6 %.

    The variances are 2 ‖offdiag A‖² for Rademacher and 2 ‖A‖² for Gaussian probes.
    """
    a = matrix(5)
    _, found = estimates(a, Hutchinson(5, distribution), 2000, forward_mode=forward_mode)
    assert found.shape == (2000, 5)
    symmetric = (a + a.T) / 2
    if distribution == "rademacher":
        symmetric = symmetric - symmetric.diag().diag()
    variance = 2 * symmetric.square().sum()
    assert abs(found.mean() - a.trace()) < 4 * math.sqrt(variance / 10_000)
    assert found.var().item() == pytest.approx(variance.item(), rel=0.06)


def test_hutch_plus_plus_is_exact_for_a_matrix_of_low_rank():
    """The rank is three and the sketch has four directions, so that nothing is random."""
    a = matrix(20, rank=3)
    _, found = estimates(a, HutchPlusPlus(12), 8)
    assert found.shape == (8, 4)
    torch.testing.assert_close(found, a.trace().expand(8, 4), rtol=1e-9, atol=1e-9)


def test_hutch_plus_plus_is_unbiased_and_narrower_than_hutchinson():
    """With eigenvalues 1/i² and 12 products each, it has less than a quarter of the variance."""
    basis = torch.linalg.qr(matrix(40)).Q
    a = basis @ (1 / torch.arange(1, 41, **DOUBLE) ** 2).diag() @ basis.T
    plus, plain = (
        estimates(a, rule, 1500)[1].mean(1) for rule in (HutchPlusPlus(12), Hutchinson(12))
    )
    assert abs(plus.mean() - a.trace()) < 4 * plus.std() / math.sqrt(1500)
    assert plus.var() < plain.var() / 4


def test_control_leaves_the_expectation_and_takes_the_variance(process):
    """Nothing is left to estimate for the Gaussian itself, and for another one the difference."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(12, 12, generator=generator, **DOUBLE) / 3
    covariance = root @ root.T + 0.1 * torch.eye(12, **DOUBLE)
    score = GaussianScore(process, torch.zeros(12), covariance)
    values, vectors = torch.linalg.eigh(covariance)
    x = torch.randn(500, 12, generator=generator, **DOUBLE)
    t = torch.linspace(process.eps, process.T, 500, **DOUBLE)
    rule = Hutchinson()
    probes = rule.draw(Draws(0, range(500)), x)

    def divergence(rule, control=None):
        return score_and_divergence(score, x, t, rule, probes, control_variate=control)[1]

    exact = divergence(Exact())
    own = divergence(rule, GaussianControl(process, values, vectors))
    scale = exact.abs()
    assert ((own - exact).abs() / scale).max() < 1e-10
    other = divergence(rule, GaussianControl(process, 1.2 * values, vectors))
    plain = divergence(rule)
    assert ((other - exact).square().mean()) < (plain - exact).square().mean() / 4
    assert abs(((other - exact) / scale).mean()) < 4 * ((other - exact) / scale).std() / 500**0.5


def test_control_is_fitted_to_moments():
    """Eigenvalues of the covariance of 4000 samples are right to 10 %; images count as vectors."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.tensor([0.1, 0.5, 1.0, 2.0], **DOUBLE)
    x = (scales * torch.randn(4000, 4, generator=generator, **DOUBLE)).reshape(4000, 1, 2, 2)
    control = GaussianControl.fit(VP(), x)
    torch.testing.assert_close(control.eigenvalues, scales.square(), rtol=0.1, atol=0)
    with pytest.raises(ValueError, match="two samples or more, got 1"):
        GaussianControl.fit(VP(), x[:1])
    with pytest.raises(ValueError, match="at most 4096 coordinates, got 5000; leave it out"):
        GaussianControl.fit(VP(), torch.zeros(3, 5000))


@pytest.mark.parametrize("rule", [Exact(), Hutchinson(3), HutchPlusPlus(6)])
def test_networks_give_the_same_divergence_by_both_modes(rule):
    """A U-Net in float64 agrees to 1e-9 between one backward pass and forward passes."""
    torch.manual_seed(0)
    net = UNet((1, 4, 4), nf=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(2,), dropout=0)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model = ScoreModel(net, VP(), "edm").double()
    x, t = torch.randn(3, 1, 4, 4, **DOUBLE), torch.tensor([0.1, 0.5, 1.0], **DOUBLE)
    probes = rule.draw(Draws(0, range(3)), x)
    one, other = (
        score_and_divergence(model, x, t, rule, probes, forward_mode=mode) for mode in (False, True)
    )
    torch.testing.assert_close(one[0], other[0], rtol=0, atol=1e-9)
    # vᵀJ and Jv agree in vᵀJv but not in a sketch's range, so Hutch++ estimates differ.
    if not isinstance(rule, HutchPlusPlus):
        torch.testing.assert_close(one[1], other[1], rtol=0, atol=1e-9)
    exact = score_and_divergence(model, x, t, Exact(), probes)[1]
    if isinstance(rule, HutchPlusPlus):
        assert (one[1].mean(1) - exact[:, 0]).abs().max() < exact.abs().max()


@pytest.mark.parametrize("name", ["vp", "ve"])
def test_probes_estimate_their_own_error(name):
    """The spread of 200 samples at one point is the error that each of them states, to 20 %."""
    process = PROCESSES[name]
    generator = torch.Generator().manual_seed(4)
    root = torch.randn(8, 8, generator=generator, **DOUBLE) / 3
    score = GaussianScore(process, torch.zeros(8), root @ root.T + 0.1 * torch.eye(8, **DOUBLE))
    x = torch.full((200, 8), 0.3, **DOUBLE)
    result = log_likelihood(
        process, score, x, rtol=1e-3, atol=1e-3, divergence=Hutchinson(4), seed=1
    )
    stated = result.probe_error.square().mean().sqrt()
    assert result.log_prob.std().item() == pytest.approx(stated.item(), rel=0.2)
    alone = log_likelihood(process, score, x[:2], rtol=0.1, atol=0.1, divergence="hutchinson")
    assert alone.probe_error.isnan().all()
    exact = log_likelihood(process, score, x[:2], rtol=0.1, atol=0.1)
    assert (exact.probe_error == 0).all()


def test_more_probes_on_one_pass():
    """The network is called once per evaluation, for any number of probes."""
    passes = []
    model = ScoreModel(MLP((6,), width=16, depth=1), VP())
    torch.nn.init.normal_(model.net.leave.weight, std=0.1)
    model.net.register_forward_hook(lambda *_: passes.append(1))
    for rule in (Hutchinson(), Hutchinson(5), HutchPlusPlus(6)):
        passes.clear()
        result = log_likelihood(VP(), model, torch.randn(1, 6), rtol=0.1, atol=0.1, divergence=rule)
        assert len(passes) == result.nfe[0]


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: Hutchinson(0), "probes must be an integer ≥ 1, got 0"),
        (lambda: Hutchinson(True), "probes must be an integer ≥ 1, got True"),
        (
            lambda: Hutchinson(1, "normal"),
            "unknown distribution of probes 'normal'. Available: rademacher",
        ),
        (lambda: HutchPlusPlus(4), "probes of hutch++ must be a multiple of 3, got 4"),
        (lambda: HutchPlusPlus(2), "probes must be an integer ≥ 3, got 2"),
        (lambda: HutchPlusPlus(9).check(2), "at most 6 probes in 2 coordinates, got 9; use"),
    ],
)
def test_wrong_settings_are_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence.replace("+", r"\+")):
        call()
