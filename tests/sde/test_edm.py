"""EDM as one more configuration: its table, its loss and its times, and the min-SNR weighting."""

import math

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import nn

from scoresde.models import GaussianScore, ScoreModel
from scoresde.sde import EDM, VE, VP, expand
from scoresde.training import DenoisingScoreMatching, LogNormalTimes
from tests.conftest import CHAINS, PROCESSES
from tests.places import ROOT

DOUBLE = {"dtype": torch.float64}
CONF = ROOT / "conf"
CPU = torch.device("cpu")


def edm_row(sigma, sigma_data):
    """c_skip, c_out, c_in, c_noise of the column EDM."""
    total = sigma**2 + sigma_data**2
    scale = sigma * sigma_data / total.sqrt()
    return sigma_data**2 / total, scale, 1 / total.sqrt(), 0.25 * sigma.log()


def vp_row(sigma, label):
    """The columns VP and iDDPM, whose label is (M − 1) t, or the number of the level."""
    one = torch.ones_like(sigma)
    return one, -sigma, 1 / (sigma**2 + 1).sqrt(), label


def ve_row(sigma):
    one = torch.ones_like(sigma)
    return one, sigma, one, (sigma / 2).log()


class Spy(nn.Module):
    """A network that records its inputs."""

    def forward(self, x, c_noise):
        self.x, self.c_noise = x, c_noise
        return torch.cos(3 * x)


@pytest.mark.parametrize("name", ["edm", "edm_vp", "edm_ve", "edm_iddpm"])
def test_preconditioning_is_that_of_the_table(name):
    """D = c_skip x + c_out F(c_in x; c_noise) at every σ, for x, σ and D of data in [−1, 1]."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=[f"experiment={name}"])
    sde = instantiate(cfg.sde, _convert_="all")
    (low, high), t = sde.data_range, torch.linspace(sde.eps, sde.T, 40, **DOUBLE)
    half, middle = (high - low) / 2, (high + low) / 2
    if name == "edm_iddpm":
        t = sde.times[::25]
    net, sigma = Spy(), sde.sigma(t) / (sde.alpha(t) * half)
    skip, out, c_in, c_noise = {
        "edm": lambda: edm_row(sigma, cfg.model.sigma_data),
        "edm_vp": lambda: vp_row(torch.expm1(0.5 * 19.9 * t**2 + 0.1 * t).sqrt(), 999 * t),
        "edm_ve": lambda: ve_row(0.02 * 5000**t),
        "edm_iddpm": lambda: vp_row(sigma, torch.arange(0, 1000, 25, **DOUBLE)),
    }[name]()
    kind = {key: value for key, value in cfg.model.items() if key != "net"}
    model = ScoreModel(net, sde, data_range=sde.data_range, **kind)
    x = sigma[:, None] * torch.randn(40, 5, **DOUBLE)  # EDM's: data in [−1, 1] and noise
    denoised = model.denoise(expand(sde.alpha(t), x) * (half * x + middle), t)
    expected = skip[:, None] * x + out[:, None] * torch.cos(3 * c_in[:, None] * x)
    torch.testing.assert_close(net.x, c_in[:, None] * x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(net.c_noise, c_noise, rtol=1e-12, atol=1e-12)
    bound = 1e-12 * (1 + sigma[:, None])  # D is a difference of terms of size σ
    assert ((denoised - middle) / half - expected).abs().le(bound).all()


@pytest.mark.parametrize("data_range", [None, (0.0, 1.0), (-1.0, 1.0)])
@pytest.mark.parametrize("name", ["edm", "vp", "ve", "ddpm"])
def test_edm_loss_is_the_published_one(name, data_range, generator):
    """λ(σ) ‖D − y‖² with D and y in [−1, 1] and λ = (σ² + σ_d²)/(σ σ_d)², by hand, per sample."""
    sde, sigma_data = (PROCESSES | CHAINS)[name], 0.7
    half = 0.5 if data_range == (0.0, 1.0) else 1.0
    model = ScoreModel(Spy(), sde, "edm", data_range=data_range, sigma_data=sigma_data)
    x0 = torch.rand(16, 3, generator=generator, **DOUBLE)
    times = LogNormalTimes(data_range=data_range)
    loss = DenoisingScoreMatching(sde, "edm", times, sigma_data=sigma_data, data_range=data_range)
    for i in range(16):  # one by one, so that no sum hides an error
        seed = torch.Generator().manual_seed(i)
        value = loss(model, x0[i : i + 1], seed)
        seed = torch.Generator().manual_seed(i)
        t = times(sde, 1, seed, CPU)
        z = torch.randn(1, 3, generator=seed, **DOUBLE)
        denoised = model.denoise(sde.perturb(x0[i : i + 1], t, z), t)
        sigma = (sde.sigma(t) / sde.alpha(t)) / half
        weight = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
        error = ((denoised - x0[i : i + 1]) / half).square().mean()
        torch.testing.assert_close(value, (weight * error).squeeze(), rtol=1e-9, atol=0)


def test_edm_loss_weighs_every_output_the_same(process, generator):
    """w out² = 1, so that the loss is the plain error of the network's own output."""
    t = LogNormalTimes()(process, 200, generator, CPU)
    x = torch.randn(200, 1, generator=generator, **DOUBLE)
    flat, raised = (ScoreModel(net, process, "edm", sigma_data=0.6) for net in (Zero(), One()))
    out = (raised.noise(x, t) - flat.noise(x, t)).squeeze(1)
    weight = DenoisingScoreMatching(process, "edm", sigma_data=0.6).weight(process, t)
    torch.testing.assert_close(weight * out.square(), torch.ones_like(t), rtol=1e-9, atol=0)


class Zero(nn.Module):
    def forward(self, x, c_noise):
        return torch.zeros_like(x)


class One(nn.Module):
    def forward(self, x, c_noise):
        return torch.ones_like(x)


def test_min_snr_weight_is_the_published_one(sde):
    """The weight is min(SNR, γ)/SNR, SNR = α²/σ²; SNR is a quarter of that for data in [0, 1]."""
    t = sde.to_levels(torch.linspace(sde.eps, sde.T, 101, **DOUBLE)[1:])
    snr = (sde.alpha(t) / sde.sigma(t)).square()
    for gamma, data_range, ratio in ((None, None, snr), (2.0, (0.0, 1.0), snr / 4)):
        loss = DenoisingScoreMatching(sde, "min_snr", gamma=gamma, data_range=data_range)
        expected = ratio.clamp(max=gamma or 5.0) / ratio
        torch.testing.assert_close(loss.weight(sde, t), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("data_range", [None, (0.0, 1.0)])
def test_noise_is_log_normal_on_every_process(sde, data_range, generator):
    """Quantiles of ln σ̃ are those of N(−1.2, 1.2²), as far as the process reaches."""
    t = LogNormalTimes(data_range=data_range)(sde, 20_000, generator, CPU)
    assert t.dtype == torch.float64 and t.min() >= sde.eps and t.max() <= sde.T
    half = 1.0 if data_range is None else 0.5
    ends = torch.tensor([sde.eps, sde.T], **DOUBLE)
    low, high = (-sde.half_log_snr(ends) - math.log(half)).tolist()
    spread = (-sde.half_log_snr(t) - math.log(half)).sort().values
    quantiles = torch.linspace(0.02, 0.98, 25, **DOUBLE)
    expected = (-1.2 + 1.2 * math.sqrt(2) * torch.erfinv(2 * quantiles - 1)).clamp(low, high)
    # The bound is five standard errors of a quantile; a level of a coarse chain represents its
    # whole cell.
    density = torch.exp(-0.5 * ((expected + 1.2) / 1.2) ** 2) / (1.2 * math.sqrt(2 * math.pi))
    bound = 5 * (quantiles * (1 - quantiles) / 20_000).sqrt() / density
    if len(t.unique()) < 2000:
        bound = bound + (-sde.half_log_snr(sde.times)).diff().max()
        assert torch.isin(t, sde.times).all()
    assert ((spread[(quantiles * 20_000).long()] - expected).abs() <= bound).all()


def test_times_of_one_seed_repeat():
    first, second = (
        LogNormalTimes(0.5, 0.3)(VP(), 9, torch.Generator().manual_seed(4), CPU) for _ in range(2)
    )
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    z = torch.randn(9, generator=torch.Generator().manual_seed(4), **DOUBLE)
    torch.testing.assert_close(-VP().half_log_snr(first), 0.5 + 0.3 * z, rtol=0, atol=1e-12)


def test_exact_score_has_the_smallest_edm_loss(process, generator):
    """Weights and times move no minimum: a score that is off has a larger loss."""
    mean, variance = torch.tensor([0.4, -0.2], **DOUBLE), torch.tensor([0.5, 2.0], **DOUBLE)
    x0 = mean + variance.sqrt() * torch.randn(50_000, 2, generator=generator, **DOUBLE)
    exact = GaussianScore(process, mean, variance)
    loss = DenoisingScoreMatching(process, "edm", LogNormalTimes())

    def value(factor):
        return loss(lambda x, t: factor * exact(x, t), x0, torch.Generator().manual_seed(1))

    assert value(1.0) < min(value(0.9), value(1.1))


def test_infinite_log_snr_is_the_time_of_the_data():
    """λ(0) = ∞ on EDM and VP, whose inverse is 0; VE begins with noise and refuses it."""
    infinite = torch.tensor([math.inf, 0.0], **DOUBLE)
    for sde in (EDM(), VP()):
        t = sde.time_of_half_log_snr(infinite)
        assert t[0] == 0 and abs(sde.half_log_snr(t[1]).item()) < 1e-12
    for value in (math.inf, -math.inf, math.nan):
        with pytest.raises(ValueError, match="lies outside"):
            VE().time_of_half_log_snr(torch.tensor(value, **DOUBLE))


@pytest.mark.parametrize(
    "call, sentence",
    [
        (
            lambda: DenoisingScoreMatching(VP(), "uniform", sigma_data=0.5),
            r"weighting 'uniform' has no sigma_data, got 0\.5; leave it out, or use weighting=edm$",
        ),
        (
            lambda: DenoisingScoreMatching(VP(), "edm", gamma=5.0),
            r"weighting 'edm' has no gamma, got 5\.0; .* use weighting=min_snr",
        ),
        (
            lambda: DenoisingScoreMatching(VP(), "likelihood", data_range=(0.0, 1.0)),
            "weighting 'likelihood' has no data_range, .* use weighting=edm or min_snr",
        ),
        (
            lambda: DenoisingScoreMatching(VP(), "edm", sigma_data=0.0),
            r"sigma_data must be finite and > 0, got 0\.0",
        ),
        (lambda: DenoisingScoreMatching(VP(), "min_snr", gamma=-1.0), "gamma must be finite and"),
        (lambda: DenoisingScoreMatching(VP(), "edm", data_range=(1.0, 0.0)), "data_range must be"),
        (lambda: LogNormalTimes(math.nan), "mean of log-normal times must be finite, got nan"),
        (lambda: LogNormalTimes(std=0.0), r"std of log-normal times must be .* > 0, got 0\.0"),
        (lambda: LogNormalTimes(data_range=(0.0, 0.0)), "data_range must be"),
        (lambda: EDM(80.0, 0.002), r"sigma_min \(80\.0\) must be < sigma_max \(0\.002\); swapped"),
        (lambda: EDM(0.0), r"must be finite and > 0, got 0\.0 and 80\.0"),
        (lambda: EDM(rho=0.0), r"rho must be finite and > 0, got 0\.0"),
    ],
)
def test_wrong_settings_are_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
