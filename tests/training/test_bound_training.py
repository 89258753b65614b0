"""Training for bounds: times in proportion to the weight, variances, dequantization."""

import math

import pytest
import torch

from scoresde.evaluation import Cells, Variational, quantized_likelihood
from scoresde.models import DequantizationFlow, GaussianScore, ScoreModel, UNet
from scoresde.sde import VE, VP, SubVP
from scoresde.sde.posterior import posterior
from scoresde.training import (
    EMA,
    DenoisingScoreMatching,
    DequantizationLoss,
    HybridLoss,
    ImportanceTimes,
    Warmup,
    fit,
)
from tests.experiments.test_run import call
from tests.experiments.test_score_split import FEW, LOOSE, TINY

DOUBLE = {"dtype": torch.float64}
CPU = torch.device("cpu")


# --- Times


@pytest.mark.parametrize("stratified", [True, False])
def test_importance_times_are_uniform_in_log_snr(process, stratified, generator):
    """For 4000 times, λ is within 0.03 of uniform everywhere (Kolmogorov–Smirnov at 0.1 %)."""
    times = ImportanceTimes(stratified)(process, 4000, generator, CPU)
    assert times.min() >= process.eps and times.max() <= process.T
    ends = process.half_log_snr(torch.tensor([process.T, process.eps], **DOUBLE))
    share = ((process.half_log_snr(times) - ends[0]) / (ends[1] - ends[0])).sort().values
    ideal = (torch.arange(4000, **DOUBLE) + 0.5) / 4000
    distance = (share - ideal).abs().max()
    assert distance < (1e-3 if stratified else 0.03)


def test_importance_times_start_where_the_density_is_wanted(process, generator):
    eps = 0.3 * process.T
    times = ImportanceTimes(eps=eps)(process, 1000, generator, CPU)
    assert eps <= times.min() < 1.05 * eps and times.max() <= process.T
    with pytest.raises(ValueError, match="eps must be in"):
        ImportanceTimes(eps=2 * process.T)(process, 10, generator, CPU)


def test_importance_times_on_a_chain_are_its_levels(generator):
    chain = VP().discretize(50)
    times = ImportanceTimes()(chain, 500, generator, CPU)
    assert torch.isin(times, chain.times).all()


@pytest.mark.parametrize(
    "sde, ratio", [(VP(), 0.1), (SubVP(), 0.1), (VE(), 1.5)], ids=["vp", "subvp", "ve"]
)
def test_importance_times_estimate_the_likelihood_weighting(sde, ratio):
    """It has the same expectation up to 2 (λ_eps − λ_T)/(T − eps), and a tenth of the variance.

    VE's g²/σ² is a constant, so that uniform times are importance times there.
    """
    wrong = GaussianScore(sde, torch.zeros(2), torch.full((2,), 0.5))
    x0 = 0.3 * torch.randn(400, 2, generator=torch.Generator().manual_seed(1), **DOUBLE)

    def losses(*arguments):
        loss = DenoisingScoreMatching(sde, *arguments)
        seeds = (torch.Generator().manual_seed(seed) for seed in range(60))
        return torch.stack([loss(wrong, x0, g) for g in seeds])

    plain, times = losses("likelihood"), losses("uniform", ImportanceTimes())
    last, first = sde.half_log_snr(torch.tensor([sde.T, sde.eps], **DOUBLE))
    scaled = times * 2 * (first - last) / (sde.T - sde.eps)
    error = math.hypot(plain.std(), scaled.std()) / math.sqrt(60)
    assert abs(plain.mean() - scaled.mean()) < 4 * error
    assert scaled.var() < ratio * plain.var()


# --- Variances


class _Model:
    """ẑ of a Gaussian distribution times a factor, and a learned share."""

    learned_variance = True

    def __init__(self, sde, share, factor=1.0):
        self.sde, self.share, self.factor = sde, share, factor
        self.distribution = GaussianScore(sde, torch.zeros(4), torch.full((4,), 0.25))

    def __call__(self, x, t, condition=None, *, predict):
        assert predict == "noise_and_share"
        sigma = self.sde.sigma(t).reshape(-1, 1)
        return -self.factor * sigma * self.distribution(x, t), self.share(t).reshape(
            -1, 1
        ).expand_as(x)


def loss_of(sde, share, weight=1.0, factor=1.0, steps=40):
    x0 = 0.5 * torch.randn(20_000, 4, generator=torch.Generator().manual_seed(1), **DOUBLE)
    generator = torch.Generator().manual_seed(2)
    return HybridLoss(sde, weight, steps)(_Model(sde, share, factor), x0, generator)


@pytest.mark.parametrize("sde", [VP(), VE(), VP().discretize(40)], ids=["vp", "ve", "ddpm"])
def test_the_best_variance_is_that_of_the_step(sde):
    """For Gaussian data it is the posterior variance plus c_0² Var(x_0 | x_t), a minimum of L."""
    sde_levels = HybridLoss(sde, 1.0, 40).levels

    def best(t):
        number = torch.searchsorted(-sde_levels, -t)
        s = sde_levels[number + 1]
        distribution, wide = posterior(sde, s, t), sde.transition(s, t)[1].square()
        alpha, noise = sde.alpha(t), sde.sigma(t).square()
        left = 0.25 * noise / (alpha.square() * 0.25 + noise)  # Var(x_0 | x_t)
        variance = distribution.variance + distribution.c_0.square() * left
        return (variance.log() - distribution.variance.log()) / (
            wide.log() - distribution.variance.log()
        )

    lowest = loss_of(sde, best)
    for shift in (-0.2, 0.2):
        assert loss_of(sde, lambda t, shift=shift: best(t) + shift) > lowest


def test_the_bound_trains_the_variance_alone():
    """The gradient of the noise is that of L_simple for every weight of the bound."""
    gradients = []
    for weight in (0.0, 10.0):
        factor = torch.tensor(0.8, **DOUBLE, requires_grad=True)
        share = torch.tensor(0.4, **DOUBLE, requires_grad=True)
        loss = loss_of(VP(), lambda t, share=share: share.expand_as(t), weight, factor)
        loss.backward()
        gradients.append((factor.grad.item(), share.grad.item()))
    assert gradients[0][0] == pytest.approx(gradients[1][0], rel=1e-12)
    assert gradients[0][1] == 0 and gradients[1][1] != 0


def test_a_network_with_a_variance():
    """The first half of its doubled channels is ẑ, the second a share in [0, 1]."""
    torch.manual_seed(0)
    net = UNet((1, 8, 8), nf=4, ch_mult=(1, 2), num_res_blocks=1, dropout=0, out_channels=2)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    model = ScoreModel(net, VP(), learned_variance=True)
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([0.1, 0.5, 1.0], **DOUBLE)
    noise, share = model.noise_and_share(x, t)
    raw = net(x, 999 * t.float())
    torch.testing.assert_close(noise, raw[:, :1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(share, ((raw[:, 1:] + 1) / 2).clamp(0, 1), rtol=1e-5, atol=1e-5)
    assert model(x, t).shape == x.shape
    torch.testing.assert_close(model.variance_share(x, t), share, rtol=0, atol=0)
    plain = ScoreModel(UNet((1, 8, 8), nf=4, ch_mult=(1,), num_res_blocks=1), VP())
    with pytest.raises(ValueError, match="this model has no variance of its own"):
        plain.noise_and_share(x, t)


# --- Dequantization


def flow_with_weights(shape=(2, 2, 2), seed=0):
    torch.manual_seed(seed)
    flow = DequantizationFlow(shape, 16, width=4, depth=3).double()
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return flow


def test_the_density_of_a_dequantization_is_its_jacobian():
    """log q = log N(z) − log|det ∂u/∂z|, with the determinant by automatic differentiation."""
    flow = flow_with_weights()
    k = torch.randint(0, 16, (1, 2, 2, 2), generator=torch.Generator().manual_seed(0))
    z = torch.randn(1, 2, 2, 2, generator=torch.Generator().manual_seed(1), **DOUBLE)
    u, log_q = flow(k, z)
    assert ((u > 0) & (u < 1)).all()
    jacobian = torch.autograd.functional.jacobian(lambda z: flow(k, z)[0].flatten(), z)
    _, log_det = torch.linalg.slogdet(jacobian.reshape(8, 8))
    log_normal = -0.5 * (z.square().sum() + 8 * math.log(2 * math.pi))
    torch.testing.assert_close(log_q[0], log_normal - log_det, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_a_trained_dequantization_is_closer_than_a_uniform_one():
    """For data in the middle of their cells, at most a fifth of the uniform gap is left."""
    sde, cells = VP(), Cells(4, -1.0, 1.0)
    spread = cells.width / 8
    score = GaussianScore(sde, torch.full((4,), -0.25), torch.full((4,), spread**2))
    k = torch.ones(64, 1, 2, 2, dtype=torch.long)
    torch.manual_seed(0)
    flow = DequantizationFlow((1, 2, 2), 4, width=8, depth=2)
    loss = DequantizationLoss(sde, score, cells)
    x0 = cells.centre(k).float()
    optimizer, ema = torch.optim.Adam(flow.parameters(), 1e-2), EMA(flow, 0.9)
    schedule = Warmup(1, "none", 300)
    generator = torch.Generator().manual_seed(0)
    for _ in fit(
        flow,
        loss,
        lambda step: x0,
        optimizer,
        ema,
        steps=300,
        schedule=schedule,
        generator=generator,
    ):
        pass
    gaps = []
    for rule in ("uniform", Variational(ema.model)):
        result = quantized_likelihood(
            sde, score, k, cells, dequantization=rule, rtol=1e-4, atol=1e-4
        )
        gaps.append(-result.log_prob.mean().item())  # log P = 0, but for 6e-5 in the tails
    assert gaps[1] < gaps[0] / 5
    assert gaps[1] > -0.1  # the prior differs from p_T by this in four coordinates


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: DequantizationFlow((4,), 16), r"needs images \(C, H, W\), got \(4,\)"),
        (lambda: DequantizationFlow((1, 2, 2), 1), "levels must be an integer ≥ 2, got 1"),
        (
            lambda: flow_with_weights()(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)),
            r"expected images \(2, 2, 2\) for this flow, got \(1, 2, 2\)",
        ),
        (lambda: HybridLoss(VP(), -1), "weight must be finite and ≥ 0, got -1"),
        (lambda: HybridLoss(VP(), steps=1), "steps must be an integer ≥ 2, got 1"),
        (lambda: HybridLoss(VP()).check(object()), "add model.learned_variance=true"),
        (lambda: DequantizationLoss(VP(), None, Cells(4, 0.0, 0.0)), r"< high, .*got \(0.0, 0.0\)"),
    ],
)
def test_wrong_settings_are_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


@pytest.mark.parametrize("steps", [12, 232])
def test_a_hybrid_loss_takes_a_chains_own_levels(steps):
    """It leaves out the step from the lowest level to the data, without a variance to train."""
    chain = VE().discretize(steps)
    levels = HybridLoss(chain).levels
    torch.testing.assert_close(levels, chain.times.flip(0), rtol=0, atol=1e-12)
    assert len(HybridLoss(VP()).levels) == 1001


# --- The command


@pytest.mark.slow
def test_variances_and_dequantizations_are_trained_by_the_command(tmp_path, monkeypatch):
    bare = [*TINY, *FEW, "sampler=fast", "evaluate.scored=3"]
    common = [*bare, *LOOSE]
    learned = ["loss=hybrid", "model.learned_variance=true", "model.parameterization=noise"]
    learned.append("model.fourier_features=[2,3]")
    run = call(
        monkeypatch,
        tmp_path / "run",
        *common,
        *learned,
        "evaluate.bounds.vlb=4",
        "sde=ddpm",
        "sampler=ddim",
        "sampler.steps=4",
        "evaluate/likelihood=flow",
        "evaluate.bounds.elbo=true",
    )
    assert run["vlb"]["bound"] is True and run["elbo"]["terms"] == 32
    plain = call(monkeypatch, tmp_path / "plain", *bare, "evaluate/likelihood=none")
    flow = call(
        monkeypatch,
        tmp_path / "flow",
        *common,
        "task=dequantizer",
        "dequantizer.width=4",
        f"task.score={plain['run_dir']}",
    )
    assert flow["dequantization"] == "variational" and flow["uniform"]["bits_per_dim"] > 0
    result = call(
        monkeypatch,
        tmp_path / "score",
        *common,
        "task=likelihood",
        f"checkpoint={plain['run_dir']}",
        "evaluate/likelihood/dequantization=variational",
        f"evaluate.likelihood.dequantization.flow={flow['run_dir']}",
    )
    assert result["bits_per_dim"] == pytest.approx(flow["bits_per_dim"], rel=1e-5)
