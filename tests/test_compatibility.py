"""Every combination of process, sampler and shape has the right distribution, or a clear error.

The number of steps is stated. The data are Gaussian, N(0.3, 0.6² I), so that p_eps is known; W₂
between it and the samples, taken as Gaussian in each coordinate, is √((Δ mean)² + (Δ std)²).
"""

import math

import pytest
import torch

from scoresde.models import GaussianScore
from scoresde.samplers import (
    DDIM,
    SRA1,
    AdaptiveSDE,
    AnalyticVariance,
    Ancestral,
    AnnealedLangevin,
    AnnealedLangevinStep,
    EDMHeun,
    EulerMaruyama,
    ExponentialMultistep,
    FixedGrid,
    KarrasGrid,
    Langevin,
    LogSNRGrid,
    NoiseAdaptive,
    ParallelPicard,
    PredictorCorrector,
    ProbabilityFlowEuler,
    ProbabilityFlowODE,
    QuadraticGrid,
    Restart,
    ReverseDiffusion,
    RungeKutta,
    StochasticHeun,
    TorchSDE,
    fit,
)
from scoresde.samplers.presets import PRESETS
from scoresde.sde import EDM, VE, VP, CosineSchedule, SubVP

MEAN, STD = 0.3, 0.6
SHAPES = [(4000, 2), (200, 1, 8, 8)]
SDES = {
    "vp": VP(),
    "vp_cosine": VP(schedule=CosineSchedule()),
    "ve": VE(),
    "subvp": SubVP(),
    "edm": EDM(),
    "ddpm": VP().discretize(1000),
    "ncsn": VE().discretize(232),
}
PREDICTORS = {
    **{name: make() for name, make in PRESETS.items()},
    "euler_maruyama": EulerMaruyama(),
    "reverse_diffusion": ReverseDiffusion(),
    "ancestral": Ancestral("posterior"),
    "ancestral_forward": Ancestral("forward"),
    "ancestral_analytic": Ancestral("analytic"),
    "ddim_half": DDIM(0.5),
    "flow_euler": ProbabilityFlowEuler(),
    **{
        f"{method}_{variable}": RungeKutta(method, variable)
        for method in ("euler", "midpoint", "heun", "rk4")
        for variable in ("time", "sigma")
    },
    "edm_heun": EDMHeun(),
    "edm_churn": EDMHeun(churn=20.0),
    "stochastic_heun": StochasticHeun(),
    "sra1": SRA1(),
    "restart": Restart(DDIM(), 2),
    "adams_v": ExponentialMultistep(4, "v", corrector=True),
    "adams_noise": ExponentialMultistep(4, "noise", corrector=True),
}
# On these, Euler's and Heun's methods in t are stiff where σ is large: VE's drift is −½ g² s.
STIFF = {"flow_euler", "euler_time", "heun_time", "midpoint_time"}
CORRECTORS = {
    "langevin": Langevin(0.1),
    "langevin_batch": Langevin(0.1, norm="batch"),
    "ald": AnnealedLangevinStep(0.1),
}
GRIDS = {"log_snr": LogSNRGrid(), "karras": KarrasGrid(), "quadratic": QuadraticGrid()}


def gaussian(sde, shape):
    dim = math.prod(shape[1:])
    return GaussianScore(sde, torch.full((dim,), MEAN), torch.full((dim,), STD**2))


def estimate(sde):
    """λ of a state from its mean square, which determines it to a few per cent in 64 dimensions."""

    def estimator(x):
        ends = torch.tensor([sde.T, sde.sampling_eps], dtype=torch.float64)
        lam = torch.linspace(*sde.half_log_snr(ends).tolist(), 200, dtype=torch.float64)
        t = sde.time_of_half_log_snr(lam)
        level = sde.alpha(t).square() * (MEAN**2 + STD**2) + sde.sigma(t).square()
        nearest = (level - x.flatten(1).double().square().mean(1)[:, None]).abs().argmin(1)
        return lam[nearest]

    return estimator


def samplers(sde):
    """The samplers that are not a solver on a grid."""
    return {
        **{name: PredictorCorrector(None, c, steps=200) for name, c in CORRECTORS.items()},
        "ald": AnnealedLangevin(200, snr=0.3, n_steps=3, grid=LogSNRGrid()),
        "adaptive_sde": AdaptiveSDE(),
        **{m: ProbabilityFlowODE(1e-4, 1e-4, m) for m in ("bosh3", "dopri5", "dop853")},
        **{m: ProbabilityFlowODE(1e-4, 1e-4, m) for m in ("RK23", "RK45", "DOP853", "LSODA")},
        "parallel": ParallelPicard(DDIM(), steps=50, grid=LogSNRGrid()),
        "torchsde": TorchSDE(steps=50),
        "noise_adaptive": NoiseAdaptive(DDIM(1.0), estimate(sde), steps=100, grid=LogSNRGrid()),
    }


def distance(x):
    """W₂ per coordinate from the distribution of the data, from which p_eps differs by 0.002."""
    mean, std = x.double().mean().item(), x.double().std().item()
    return math.hypot(mean - MEAN, std - STD)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", PREDICTORS)
@pytest.mark.parametrize("process", SDES)
def test_every_predictor_on_every_process(process, name, shape, generator):
    """100 steps equal in λ give W₂ ≤ 0.06, of which 0.02 is the noise of a sample.

    Methods that expand the flow in t need more steps where it is stiff; theirs are equal in t.
    """
    sde, score = SDES[process], gaussian(SDES[process], shape)
    stiff = name in STIFF and process in ("ve", "ncsn", "edm")
    sampler = PredictorCorrector(PREDICTORS[name], steps=200 if stiff else 100, grid=LogSNRGrid())
    data = score.sample(2000, generator).reshape(2000, *shape[1:])
    fit(sampler, sde, score, data, generator)
    samples = sampler(sde, score, shape, generator=generator)
    assert samples.x.shape == shape and samples.x.isfinite().all()
    assert distance(samples.x) < (0.2 if stiff else 0.06)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", CORRECTORS)
@pytest.mark.parametrize("order", ["corrector-first", "predictor-first"])
@pytest.mark.parametrize("process", SDES)
def test_every_corrector_on_every_process(process, order, name, shape, generator):
    """Added to ancestral sampling of 200 steps, it keeps W₂ ≤ 0.06."""
    sde, score = SDES[process], gaussian(SDES[process], shape)
    sampler = PredictorCorrector(Ancestral(), CORRECTORS[name], 200, order=order, grid=LogSNRGrid())
    assert distance(sampler(sde, score, shape, generator=generator).x) < 0.06


OTHERS = [
    *("ald", "adaptive_sde", "bosh3", "dopri5", "dop853", "RK23", "RK45", "DOP853", "LSODA"),
    *("parallel", "torchsde", "noise_adaptive"),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("process", SDES)
def test_every_other_sampler_on_every_process(process, name, shape, generator):
    """W₂ ≤ 0.08; two coordinates determine a noise level too poorly to adapt steps to it."""
    if name == "torchsde":
        pytest.importorskip("torchsde", reason="the torchsde extra is not installed")
    if name == "noise_adaptive" and len(shape) == 2:
        pytest.skip("two coordinates do not tell their noise level")
    sde, score = SDES[process], gaussian(SDES[process], shape)
    samples = samplers(sde)[name](sde, score, shape, generator=generator)
    assert samples.x.shape == shape
    assert distance(samples.x) < 0.08


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", ["ddim", "dpmpp_3m", "unipc_3", "deis_3", "sra1", "rk4_sigma"])
@pytest.mark.parametrize("process", SDES)
def test_every_grid_on_every_process(process, name, grid, generator):
    sde, shape = SDES[process], (4000, 2)
    sampler = PredictorCorrector(PREDICTORS[name], steps=100, grid=GRIDS[grid])
    samples = sampler(sde, gaussian(sde, shape), shape, generator=generator)
    # Equal steps in √t put few of them where EDM's and VE's σ is small.
    assert distance(samples.x) < (0.5 if grid == "quadratic" and process == "edm" else 0.06)


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("name", PREDICTORS)
@pytest.mark.parametrize("process", SDES)
def test_one_step_and_two_are_finite_or_a_sentence(process, name, steps):
    """The steps lead to the default end, and on chains also to a level above the data."""
    sde, shape = SDES[process], (4, 2)
    score = gaussian(sde, shape)
    times = torch.linspace(sde.T, sde.sampling_eps, steps + 1, dtype=torch.float64)
    data = score.sample(8)
    for grid in (LogSNRGrid(), FixedGrid(times)):
        sampler = PredictorCorrector(PREDICTORS[name], steps=steps, grid=grid)
        fit(sampler, sde, score, data)
        try:
            samples = sampler(sde, score, shape)
        except ValueError as error:
            assert "; use " in str(error)  # the alternative that it advises
            continue
        assert samples.x.isfinite().all()


@pytest.mark.parametrize("shape", [(5, 2), (3, 1, 8, 8)], ids=str)
@pytest.mark.parametrize("name", [*PREDICTORS, *OTHERS])
def test_reported_evaluations_are_the_calls(name, shape):
    """nfe counts, for each sample, the evaluations in which it took part."""
    if name == "torchsde":
        pytest.importorskip("torchsde", reason="the torchsde extra is not installed")
    sde, seen = SDES["vp"], []
    exact = gaussian(sde, shape)

    def counting(x, t):
        seen.append(len(x))
        return exact(x, t)

    if name in OTHERS:
        sampler = samplers(sde)[name]
    else:
        sampler = PredictorCorrector(PREDICTORS[name], steps=7, grid=LogSNRGrid())
        fit(sampler, sde, exact, exact.sample(8).reshape(8, *shape[1:]))
    samples = sampler(sde, counting, shape)
    assert samples.nfe == pytest.approx(sum(seen) / shape[0], rel=1e-12)
    assert samples.nfe > 0


def test_the_analytic_variance_is_exact_for_isotropic_gaussians(generator):
    """Five steps are exact to the noise of 10⁵ samples, unlike with the posterior variance."""
    sde, shape = SDES["vp"], (100_000, 2)
    score, errors = gaussian(sde, shape), {}
    for variance in ("posterior", "forward", "analytic"):
        sampler = PredictorCorrector(Ancestral(variance), steps=5, grid=LogSNRGrid(), denoise=False)
        fit(sampler, sde, score, score.sample(20_000, generator), generator)
        errors[variance] = distance(sampler(sde, score, shape, generator=generator).x)
    assert errors["analytic"] < 0.01
    assert min(errors["posterior"], errors["forward"]) > 0.1


def test_the_analytic_variance_within_a_sampler_is_fitted():
    """Its values are those of a variance that was fitted before."""
    sde, shape = SDES["vp"], (4, 2)
    score = gaussian(sde, shape)

    def generator():
        return torch.Generator().manual_seed(0)

    data = score.sample(20, generator())
    variance = AnalyticVariance.fit(sde, score, data, generator())
    for make in (lambda p: PredictorCorrector(p, steps=3), lambda p: NoiseAdaptive(p, steps=3)):
        later = make(Ancestral("analytic"))
        fit(later, sde, score, data, generator())
        now = make(Ancestral(variance))
        ends = [sampler(sde, score, shape, generator=generator()).x for sampler in (later, now)]
        torch.testing.assert_close(*ends, rtol=0, atol=0)


def test_an_analytic_variance_that_was_not_fitted_is_refused():
    sde, shape = SDES["vp"], (4, 2)
    sampler = PredictorCorrector(Ancestral("analytic"), steps=3)
    with pytest.raises(ValueError, match=r"AnalyticVariance\.fit\(sde, score, x0\)"):
        sampler(sde, gaussian(sde, shape), shape)
