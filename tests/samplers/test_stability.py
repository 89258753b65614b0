"""Steps that no state would survive are refused before the first evaluation."""

import math

import pytest
import torch

from scoresde.models import GaussianScore
from scoresde.samplers import (
    DDIM,
    AdaptiveSDE,
    Ancestral,
    AnnealedLangevin,
    AnnealedLangevinStep,
    EulerMaruyama,
    FixedGrid,
    KarrasGrid,
    Langevin,
    LogSNRGrid,
    NoiseAdaptive,
    ParallelPicard,
    PredictorCorrector,
    ReverseDiffusion,
    StochasticHeun,
    TorchSDE,
)
from scoresde.samplers.presets import PRESETS
from scoresde.sde import VE, VP, CosineSchedule

SHAPE = (50, 3)


def whole_cosine():
    """The cosine process up to T = 1, where α = 6e-17 and β = 5e16."""
    schedule = CosineSchedule()
    schedule.T = 1.0
    return VP(schedule=schedule)


def unused(x, t):
    raise AssertionError("a score was evaluated before the plan was refused")


def standard(sde):
    """The score of data N(0, I)."""
    return GaussianScore(sde, torch.zeros(3), torch.ones(3))


@pytest.mark.parametrize(
    "make", [Langevin, AnnealedLangevinStep, lambda r: AnnealedLangevin(snr=r)]
)
@pytest.mark.parametrize("snr, growth", [(1.0, "1"), (1.5, "3.5"), (2.0, "7"), (math.inf, "inf")])
def test_a_langevin_step_that_multiplies_errors_is_refused(make, snr, growth):
    with pytest.raises(ValueError, match=rf"snr must be < 1, got {snr}.* = {growth}; published"):
        make(snr)


def test_the_bound_of_snr_is_where_the_dynamics_diverge():
    """On N(0, σ²) fixed steps have the variance σ²/(1 − r²), which is finite for r < 1."""
    sde, r = VE(0.1, 10.0), 0.9
    times = torch.full((2,), 0.5, dtype=torch.float64)
    corrector = AnnealedLangevinStep(r, n_steps=60)
    (level,) = corrector.levels(sde, times[:1], times[1:])
    x = torch.zeros(20_000, 1, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)

    def noise(x):
        return torch.randn(x.shape, generator=generator, dtype=x.dtype)

    x, _ = corrector.step(level, lambda x, t: -x / level.sigma**2, x, noise)
    assert x.var().item() / level.sigma**2 == pytest.approx(1 / (1 - r**2), rel=0.05)


@pytest.mark.parametrize("norm", ["sample", "batch"])
@pytest.mark.parametrize("size", [0.0, 1e-30])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_score_that_vanishes_gives_finite_steps(norm, size, temperature, generator):
    sampler = PredictorCorrector(Ancestral(), Langevin(0.16, norm=norm), steps=5)
    samples = sampler(
        VP(), lambda x, t: size * x, (4, 2), generator=generator, temperature=temperature
    )
    assert samples.x.isfinite().all() and samples.x.abs().max() < 1e4


def test_batch_norms_of_an_ordinary_score_have_no_window():
    """δ = 2 (a r mean‖z‖/mean‖s‖)², to the last bit, for any small σ ‖s‖ in the plane."""
    corrector = Langevin(0.16, norm="batch")
    (level,) = corrector.levels(VP(), *torch.tensor([[0.5], [0.4]], dtype=torch.float64))
    z, s = torch.randn(6, 2), 1e-3 * torch.randn(6, 2)
    expected = 2 * (level.a * 0.16) ** 2 * (z.norm(dim=1).mean() / s.norm(dim=1).mean()).square()
    assert torch.equal(corrector.step_size(level, s, z), expected)


@pytest.mark.parametrize(
    "sampler, dtype, sentence",
    [
        (PredictorCorrector(EulerMaruyama(), steps=200), torch.float64, "too long for this method"),
        (PredictorCorrector(StochasticHeun(), steps=200), torch.float64, "too long for this meth"),
        (PredictorCorrector(PRESETS["pndm"](), steps=20), torch.float64, "too long for this meth"),
        (
            PredictorCorrector(DDIM(), steps=20),
            torch.float32,
            "errors, those of float32",
        ),
        (
            PredictorCorrector(DDIM(), steps=20),
            torch.float64,
            "errors, those of float64",
        ),
        (
            PredictorCorrector(DDIM(), steps=200, grid=LogSNRGrid()),
            torch.float32,
            "duplicate or",
        ),
        (AnnealedLangevin(20, snr=0.3), torch.float32, "too long for this method"),
        (ParallelPicard(DDIM(), 20), torch.float32, "multiplies errors"),
        (NoiseAdaptive(DDIM(), None, 20), torch.float32, "multiplies errors"),
        (AdaptiveSDE(), torch.float32, r"steps from T=1 must be shorter than 3\.9e-17 on VP"),
    ],
)
def test_a_process_that_ends_in_noise_alone_is_refused_with_what_to_use(sampler, dtype, sentence):
    """The process is the whole cosine, and the advice can be typed: KarrasGrid(sigma_max=1000)."""
    for act in (
        lambda: sampler.check(whole_cosine(), dtype),
        lambda: sampler(whole_cosine(), unused, SHAPE, dtype=dtype),
    ):
        with pytest.raises(ValueError, match=sentence) as refused:
            act()
        assert "KarrasGrid(sigma_max=1000)" in str(refused.value)


def test_torchsde_is_refused_where_its_steps_are_too_long():
    pytest.importorskip("torchsde", reason="the torchsde extra is not installed")
    with pytest.raises(ValueError, match="too long for this method"):
        TorchSDE(steps=50, variable="time")(whole_cosine(), unused, SHAPE)


@pytest.mark.parametrize("name", ["ddim", "dpm_solver_3", "dpmpp_2m", "unipc_3", "deis_3", "pndm"])
def test_what_the_sentence_says_works(name, generator):
    """The advised grid gives samples of data N(0, I) in float32, with Euler's method too."""
    sde = whole_cosine()
    for solver in (PRESETS[name](), EulerMaruyama()):
        sampler = PredictorCorrector(solver, steps=60, grid=KarrasGrid(sigma_max=1000))
        assert 0.8 < sampler(sde, standard(sde), SHAPE, generator=generator).x.std() < 1.3


def test_a_method_that_is_stable_runs_from_the_end_of_the_whole_cosine(generator):
    sde = whole_cosine()
    sampler = PredictorCorrector(ReverseDiffusion(), steps=200)
    assert 0.8 < sampler(sde, standard(sde), SHAPE, generator=generator).x.std() < 1.3


def test_steps_that_are_merely_few_are_not_refused(process):
    """Plans of one to eight steps of every method are carried out, as a dry run needs them."""
    for steps in range(1, 9):
        for solver in (EulerMaruyama(), DDIM(), ReverseDiffusion(), PRESETS["dpmpp_2m"]()):
            PredictorCorrector(solver, steps=steps).check(process, torch.float32)


def test_the_corrector_counts_in_what_steps_do():
    """Rescaling alone multiplies by 1/α(T) = 2e4; Langevin steps between keep states bounded."""
    sde = VP(0.1, 40.0)
    AnnealedLangevin(100, snr=0.3).check(sde, torch.float32)
    with pytest.raises(ValueError, match="too long for this method"):
        AnnealedLangevin(100, snr=0.001, n_steps=1).check(sde, torch.float32)


def test_a_langevin_step_that_grows_on_a_process_is_refused_there():
    """Where α rises with time, a = α_t/α_s > 1 can make a r exceed 1."""

    class Rising(VE):
        def alpha(self, t):
            return torch.exp(3 * t)

        def f(self, t):
            return torch.full_like(t, 3.0)

    sampler = PredictorCorrector(None, Langevin(0.9), 2, grid=FixedGrid([1.0, 0.5, 0.2]))
    with pytest.raises(ValueError, match=r"a Langevin step at t=1 multiplies an error by .*; use"):
        sampler.check(Rising(), torch.float64)
