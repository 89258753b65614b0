"""The presets of published models, compared with a table of what was published."""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from scoresde.experiments.build import _check_numbers
from scoresde.experiments.model import make, score_model
from scoresde.experiments.settings import plain
from scoresde.models import ScoreModel
from scoresde.samplers import (
    Ancestral,
    AnnealedLangevin,
    EulerMaruyama,
    Langevin,
    PredictorCorrector,
    ReverseDiffusion,
    Sampler,
)
from scoresde.sde import SDE
from scoresde.training import EMA, Warmup
from tests.places import ROOT

FOLDER = ROOT / "conf" / "experiment"
OTHERS = {"edm", "edm_iddpm", "edm_ve", "edm_vp", "mixture", "mnist"}
DOUBLE = {"dtype": torch.float64}


@dataclass(frozen=True)
class Published:
    """What the paper and its configurations say of a model; the defaults are DDPM's.

    Attributes:
        parameters: Number of them; None where it was not published.
        process: VP, SubVP or VE.
        levels: Number of levels of the chain, or None for continuous time.
        sigma_max: Of VE.
        size: Pixels of the images along each side.
        output: What the network gives.
        descending: Whether its labels number the levels from the noisiest.
        half_sum: Whether the loss is half a sum over pixels, rather than a mean.
        predictor: Of the sampler, or None for annealed Langevin dynamics.
        variance: Of the ancestral predictor.
        steps: Of the sampler.
        snr: Of the corrector, or None for no corrector.
        n_steps: Steps of the corrector at each time.
        denoise: Whether samples end with a mean.
        crop: Pixels of the centre square that is taken of an image.
    """

    parameters: int | None
    process: str = "VP"
    levels: int | None = None
    sigma_max: float = 50.0
    size: int = 32
    output: str = "noise"
    descending: bool = False
    half_sum: bool = False
    predictor: type | None = Ancestral
    variance: str | None = None
    steps: int = 1000
    snr: float | None = None
    n_steps: int = 1
    denoise: bool = True
    batch: int = 128
    iterations: int = 1_300_000
    ema: float = 0.9999
    lr: float = 2e-4
    warmup: int = 5000
    clip: float = 1.0
    crop: int | None = None


DEEP = {"iterations": 950_000}
DISCRETE = {"levels": 1000, "output": "score", "descending": True}

DDPM = Published(35_218_947, levels=1000, variance="forward")
DDPM_256 = replace(DDPM, parameters=111_569_923, size=256, batch=64, iterations=2_400_000, lr=2e-5)
VP = Published(61_804_419, predictor=EulerMaruyama)
SUBVP = replace(VP, process="SubVP")
VE = Published(
    62_758_787,
    process="VE",
    output="score",
    half_sum=True,
    predictor=ReverseDiffusion,
    snr=0.16,
    ema=0.999,
)
VE_256 = replace(
    VE,
    parameters=65_574_421,
    size=256,
    sigma_max=348.0,
    steps=2000,
    snr=0.075,
    batch=64,
    iterations=2_400_000,
)
VE_1024 = replace(
    VE_256, parameters=105_785_880, size=1024, sigma_max=1348.0, snr=0.15, batch=8, ema=0.9999
)
NCSN = Published(
    None,
    process="VE",
    levels=10,
    sigma_max=1.0,
    output="raw_score",
    descending=True,
    half_sum=True,
    predictor=None,
    steps=10,
    snr=0.316,
    n_steps=100,
    denoise=False,
    ema=0.0,
    lr=1e-3,
    warmup=0,
    clip=float("inf"),
)
LEVELS_CIFAR10 = {"levels": 232, "steps": 232, "sigma_max": 50.0, "snr": 0.176, "n_steps": 5}
LEVELS_CELEBA = {"levels": 500, "steps": 500, "sigma_max": 90.0, "snr": 0.128, "n_steps": 5}
NCSN_CELEBA = replace(NCSN, size=64, crop=140)
NCSNV2 = replace(
    NCSN, **LEVELS_CIFAR10, output="score", descending=False, denoise=True, ema=0.999, lr=1e-4
)

TABLE = {
    "cifar10_ddpm": DDPM,
    "cifar10_ddpm_unconditional": replace(DDPM, parameters=None),
    "cifar10_ddpm_vp": replace(VP, parameters=35_218_947),
    "cifar10_ddpm_subvp": replace(SUBVP, parameters=35_218_947),
    "cifar10_ddpm_ve_discrete": replace(VE, parameters=35_218_947, **DISCRETE),
    "cifar10_ddpmpp_vp_discrete": replace(DDPM, parameters=61_804_419),
    "cifar10_ddpmpp_vp": VP,
    "cifar10_ddpmpp_subvp": SUBVP,
    "cifar10_ddpmpp_deep_vp": replace(VP, parameters=106_632_579, **DEEP),
    "cifar10_ddpmpp_deep_subvp": replace(SUBVP, parameters=106_632_579, **DEEP),
    "cifar10_ncsnpp_ve": VE,
    "cifar10_ncsnpp_ve_discrete": replace(VE, parameters=62_693_251, **DISCRETE),
    "cifar10_ncsnpp_deep_ve": replace(VE, parameters=107_586_947, **DEEP),
    "cifar10_ncsnpp_vp": replace(VP, parameters=62_693_251),
    "cifar10_ncsnpp_subvp": replace(SUBVP, parameters=62_693_251),
    "cifar10_ncsnpp_vp_discrete": replace(
        VP, parameters=62_693_251, levels=1000, predictor=ReverseDiffusion
    ),
    # NCSN++ deep continuous, less the 2 nf (4 nf) weights that read Fourier features of twice nf.
    "cifar10_ncsnpp_deep_vp": replace(VP, parameters=107_586_947 - 128 * 512, **DEEP),
    "cifar10_ncsnpp_deep_subvp": replace(SUBVP, parameters=107_586_947 - 128 * 512, **DEEP),
    "celeba_ncsnpp_ve_discrete": replace(
        VE, parameters=62_693_251, **DISCRETE, size=64, crop=140, sigma_max=90.0, snr=0.17
    ),
    "bedroom_256_ncsnpp_ve": replace(VE_256, sigma_max=378.0),
    "church_256_ncsnpp_ve": replace(VE_256, sigma_max=380.0),
    "celebahq_256_ncsnpp_ve": VE_256,
    "ffhq_256_ncsnpp_ve": VE_256,
    "celebahq_1024_ncsnpp_ve": VE_1024,
    "ffhq_1024_ncsnpp_ve": replace(VE_1024, half_sum=False),
    "bedroom_256_ddpm": DDPM_256,
    "church_256_ddpm": DDPM_256,
    "celebahq_256_ddpm": DDPM_256,
    "cifar10_ncsn": NCSN,
    "cifar10_ncsn_5": replace(NCSN, ema=0.999),
    "cifar10_ncsn_124": replace(NCSN, **LEVELS_CIFAR10),
    "cifar10_ncsn_1245": replace(NCSN, **LEVELS_CIFAR10, ema=0.999),
    "cifar10_ncsnv2": NCSNV2,
    "celeba_ncsn": NCSN_CELEBA,
    "celeba_ncsn_5": replace(NCSN_CELEBA, ema=0.999),
    "celeba_ncsn_124": replace(NCSN_CELEBA, **LEVELS_CELEBA),
    "celeba_ncsn_1245": replace(NCSN_CELEBA, **LEVELS_CELEBA, ema=0.999),
    "celeba_ncsnv2": replace(NCSNV2, **LEVELS_CELEBA, size=64, crop=140),
    "bedroom_128_ncsnv2": replace(
        NCSNV2,
        levels=1086,
        steps=1086,
        sigma_max=190.0,
        snr=0.095,
        n_steps=3,
        size=128,
        ema=0.9999,
        iterations=2_400_000,
    ),
}


@dataclass(frozen=True)
class Preset:
    """A preset and the parts that it builds, with the network on the meta device."""

    published: Published
    cfg: DictConfig
    sde: SDE
    model: ScoreModel
    loss: Any
    sampler: Sampler


@pytest.fixture(scope="module", params=TABLE)
def preset(request: pytest.FixtureRequest) -> Preset:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", overrides=[f"experiment={request.param}"])
    _check_numbers(cfg)
    published = TABLE[request.param]
    sde = make(cfg.sde)
    images: Any = SimpleNamespace(shape=(3, published.size, published.size), range=sde.data_range)
    with torch.device("meta"):
        model = score_model(plain(cfg.model), sde, images.shape, images.range)
    return Preset(published, cfg, sde, model, make(cfg.loss, sde=sde), make(cfg.sampler))


def test_every_preset_is_in_the_table() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(TABLE) | OTHERS


def test_every_preset_is_documented_once() -> None:
    lines = (ROOT / "docs" / "presets.md").read_text().splitlines()
    documented = [line.split("`")[1] for line in lines if line.startswith("| `")]
    assert sorted(documented) == sorted(TABLE)


def test_the_process(preset: Preset) -> None:
    """σ at both ends, and all tables of a chain, follow the published formulas."""
    published, sde = preset.published, preset.sde
    base = sde if published.levels is None else preset.sde.base
    assert type(base).__name__ == published.process
    assert sde.steps == published.levels
    t = torch.linspace(0.1, 1, 10, **DOUBLE)
    if published.process == "VE":
        alpha = torch.ones_like(t)
        sigma = 0.01 * (published.sigma_max / 0.01) ** t
    else:
        alpha = torch.exp(-0.25 * t**2 * (20 - 0.1) - 0.5 * t * 0.1)
        sigma = 1 - alpha**2 if published.process == "SubVP" else (1 - alpha**2).sqrt()
    torch.testing.assert_close(base.alpha(t), alpha, rtol=1e-12, atol=0)
    torch.testing.assert_close(base.sigma(t), sigma, rtol=1e-12, atol=0)
    if published.levels is None:
        return
    n, times = published.levels, sde.times
    if published.process == "VE":
        sigmas = torch.logspace(-2, torch.tensor(published.sigma_max).log10().item(), n, **DOUBLE)
        torch.testing.assert_close(sde.sigma(times), sigmas, rtol=1e-6, atol=0)
    else:
        kept = (1 - torch.linspace(0.1 / n, 20 / n, n, **DOUBLE)).cumprod(0)
        torch.testing.assert_close(sde.alpha(times), kept.sqrt(), rtol=1e-12, atol=0)
        torch.testing.assert_close(sde.sigma(times), (1 - kept).sqrt(), rtol=1e-9, atol=0)


def test_the_network(preset: Preset) -> None:
    """Its size and output are as published, and it takes images and labels of the run."""
    published, model = preset.published, preset.model
    if published.parameters is not None:
        assert sum(p.numel() for p in model.parameters()) == published.parameters
    assert model.parameterization == published.output
    assert model.c_noise == ("descending" if published.descending else "process")
    x = torch.empty(2, 3, published.size, published.size, device="meta")
    if published.output == "raw_score":  # the network reads labels, which do not exist on meta
        assert model.net.num_levels == published.levels
        return
    assert model.net(x, torch.zeros(2, device="meta")).shape == x.shape


def test_the_label_of_the_noisiest_level(preset: Preset) -> None:
    """It is 0 for NCSN's chains, N − 1 = 999 for DDPM's, log σ for VE, 999 for VP and sub-VP."""
    published = preset.published
    seen = []

    def net(x: torch.Tensor, c_noise: torch.Tensor) -> torch.Tensor:
        seen.append(c_noise.item())
        return x

    c_noise = preset.cfg.model.c_noise
    model = ScoreModel(net, preset.sde, published.output, c_noise=c_noise)
    model.score(torch.zeros(1, 2, **DOUBLE), torch.tensor(preset.sde.T, **DOUBLE))
    if published.descending:
        expected = 0.0
    elif published.levels is not None:
        expected = published.levels - 1.0
    elif published.process == "VE":
        expected = torch.tensor(published.sigma_max, **DOUBLE).log().item()
    else:
        expected = 999.0
    assert seen == [pytest.approx(expected, abs=1e-9)]


def test_the_loss(preset: Preset) -> None:
    """The loss is ε-matching without weights; on a chain each level has the same probability."""
    published, loss, sde = preset.published, preset.loss, preset.sde
    assert loss.sde is sde
    assert loss.reduce == ("sum" if published.half_sum else "mean")
    times = loss.times(sde, 1000, torch.Generator().manual_seed(0), torch.device("cpu"))
    torch.testing.assert_close(loss.weight(sde, times), torch.ones_like(times))
    if published.levels is not None:
        assert torch.isin(times, sde.times).all()


def test_the_sampler(preset: Preset) -> None:
    published, sampler, sde = preset.published, preset.sampler, preset.sde
    sampler.check(sde, torch.float32)
    assert sampler.denoise is published.denoise
    if published.predictor is None:
        assert type(sampler) is AnnealedLangevin
        levels, corrector = sampler.levels, sampler.corrector
    else:
        assert type(sampler) is PredictorCorrector
        levels, corrector = sampler, sampler.corrector
        assert type(sampler.predictor) is published.predictor
        assert getattr(sampler.predictor, "variance", None) == published.variance
        assert sampler.order == "corrector-first"
    assert levels.steps == published.steps
    if published.snr is None:
        assert corrector is None
    else:
        assert (corrector.snr, corrector.n_steps) == (published.snr, published.n_steps)
        assert getattr(corrector, "norm", "batch") == "batch"
        assert isinstance(corrector, Langevin) is (published.predictor is not None)
    times = levels.grid(sde, levels.steps)
    if published.levels is not None:  # every level once, and then the data
        expected = torch.cat([sde.times.flip(0), torch.zeros(1, **DOUBLE)])
    else:
        eps = 1e-5 if published.process == "VE" else 1e-3
        expected = torch.linspace(1, eps, published.steps + 1, **DOUBLE)
    torch.testing.assert_close(times, expected, rtol=0, atol=1e-12)


def test_the_optimization(preset: Preset) -> None:
    published, train = preset.published, preset.cfg.train
    optimizer = make(train.optimizer)(preset.model.parameters())
    assert type(optimizer) is torch.optim.Adam
    expected = {"lr": published.lr, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0}
    assert {name: _plain(optimizer.defaults[name]) for name in expected} == expected
    assert EMA(preset.model, train.ema_decay).decay == published.ema
    assert (train.steps, train.batch_size) == (published.iterations, published.batch)
    assert train.grad_clip == published.clip
    schedule = Warmup(train.warmup, train.decay, train.steps)
    assert schedule(published.iterations - 1) == 1
    assert train.warmup == published.warmup


def test_the_data(preset: Preset) -> None:
    """Training mirrors pixels and does not dequantize them, and CIFAR-10 has a size of its own."""
    data, size = preset.cfg.data, preset.published.size
    assert data.flip is True and data.dequantize is False and data.range is None
    if size == 32:
        assert data._target_ == "scoresde.data.CIFAR10"
    else:
        # Data that may not fit into memory are read on demand.
        kind = "Folder" if size == 64 else "Streamed"
        assert data._target_ == f"scoresde.data.{kind}"
        assert (data.size, data.channels, data.crop) == (size, 3, preset.published.crop)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
