"""Half precision: states and networks in it, and tolerances that it cannot meet."""

from functools import partial

import pytest
import torch
from torch import nn

from scoresde.evaluation import Cells, elbo, log_likelihood, quantized_likelihood, variational_bound
from scoresde.evaluation.divergence import choose_divergence, score_and_divergence
from scoresde.evaluation.seeding import Draws
from scoresde.models import MLP, GaussianScore, ScoreModel, UNet
from scoresde.samplers import (
    DDIM,
    AdaptiveSDE,
    AnalyticVariance,
    Ancestral,
    AnnealedLangevin,
    AnnealedLangevinStep,
    EDMHeun,
    ExponentialMultistep,
    Langevin,
    LogSNRGrid,
    NoiseAdaptive,
    ParallelPicard,
    PredictorCorrector,
    ProbabilityFlowODE,
    ReverseDiffusion,
    RungeKutta,
    TorchSDE,
)
from scoresde.samplers.presets import unipc
from scoresde.sde import EDM, VE, VP
from scoresde.sde.precision import computing_dtype
from scoresde.training import DenoisingScoreMatching
from tests.conftest import CHAINS, PROCESSES

HALVES = [torch.float16, torch.bfloat16]
WIDE = {"ve": VE(0.01, 378.0), "edm": EDM(sigma_max=500.0), "ncsn": VE(0.01, 378.0).discretize(60)}
GRID = {"steps": 12, "grid": LogSNRGrid()}
SAMPLERS = {
    "reverse_diffusion": PredictorCorrector(ReverseDiffusion(), **GRID),
    "pc": PredictorCorrector(ReverseDiffusion(), Langevin(), **GRID),
    "ald_step": PredictorCorrector(DDIM(), AnnealedLangevinStep(0.1), **GRID),
    "ancestral": PredictorCorrector(Ancestral(), **GRID),
    "dpmpp": PredictorCorrector(ExponentialMultistep(2), **GRID),
    "unipc": PredictorCorrector(unipc(2), **GRID),
    "heun": PredictorCorrector(RungeKutta("heun", "sigma"), **GRID),
    "edm": PredictorCorrector(EDMHeun(churn=5.0), **GRID),
    "ald": AnnealedLangevin(12, 0.1, 1, grid=LogSNRGrid()),
    "ode": ProbabilityFlowODE(0.01, 1e-3),
    "adaptive_sde": AdaptiveSDE(0.05),
    "parallel": ParallelPicard(DDIM(), 12, grid=LogSNRGrid()),
    "noise_adaptive": NoiseAdaptive(DDIM(1.0), None, 12, grid=LogSNRGrid()),
    "torchsde": TorchSDE(steps=12),
}


def gaussian(sde):
    return GaussianScore(sde, torch.full((2,), 0.3), torch.full((2,), 0.36))


def random_model(sde, seed=0, **options):
    torch.manual_seed(seed)
    net = MLP((2,), width=16, depth=1, embedding_type="fourier", fourier_scale=0.2)
    nn.init.normal_(net.leave.weight, std=0.1)
    return ScoreModel(net, sde, "edm", **options).eval()


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("process", ["ve", "edm"])
def test_samplers_in_half_precision_are_near_those_in_single(process, name, dtype):
    """At σ = 378 and 500, where σ² is beyond float16, the same noise gives the same samples.

    They differ as far as the score does when the state that it receives is rounded: by 0.04 of
    their spread in float16, and 0.2 in bfloat16. Adaptive steps follow other paths to about the
    same spread, since a tolerance that half precision meets is one hundredth of the state at the
    start of a step.
    """
    sde, sampler = WIDE[process], SAMPLERS[name]
    adaptive = name in ("ode", "adaptive_sde")
    if dtype == torch.bfloat16 and adaptive:
        sampler = type(sampler)(0.05, 1e-2)
    x = sde.prior((64, 2)).sample(torch.Generator().manual_seed(0)).to(dtype)
    ends = []
    for latent in (x, x.float()):
        generator = torch.Generator().manual_seed(1)
        states = []
        watch = {"callback": lambda step, t, x, states=states: states.append(x.dtype)}
        samples = sampler(
            sde, gaussian(sde), (64, 2), x_init=latent, generator=generator, trajectory=3, **watch
        )
        assert {samples.x.dtype, samples.trajectory.dtype, *states} == {latent.dtype}
        assert samples.trajectory.isfinite().all()
        ends.append(samples.x.float())
    spread = ends[1].std()
    torch.testing.assert_close(ends[0].std(), spread, rtol=1.0 if adaptive else 0.02, atol=0)
    if not adaptive:
        bound = 0.04 if dtype == torch.float16 else 0.2
        assert (ends[0] - ends[1]).square().mean().sqrt() < bound * spread


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("process", [*WIDE, "vp"])
def test_a_half_network_under_any_state(process, dtype):
    """Over one half-precision network, float16 to float64 states have close scores.

    The network's own rounding is two or three digits; each score has its state's type.
    """
    sde = WIDE.get(process, VP())
    exact, half = random_model(sde), random_model(sde).to(dtype)
    t = torch.tensor([sde.T, 0.5 * sde.T, sde.sampling_eps], dtype=torch.float64)
    x = sde.sigma(t)[:, None] * torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    x = x.to(dtype).double()
    sigma = sde.sigma(t)[:, None]
    expected = sigma * exact(x.float(), t)
    for kind in (*HALVES, torch.float32, torch.float64):
        if kind in HALVES and kind != dtype:
            continue
        for function in (half, half.noise, half.denoise):
            assert function(x.to(kind), t).dtype == kind
        found = sigma * half(x.to(kind), t)
        torch.testing.assert_close(found.double(), expected.double(), rtol=0.02, atol=0.02)
    single = sigma * exact(x, t)  # a float32 network under a float64 state
    torch.testing.assert_close(single, expected.double(), rtol=1e-5, atol=1e-5)


def test_a_half_unet_samples_and_trains():
    net = UNet((1, 4, 4), nf=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(2,), dropout=0)
    sde = EDM(sigma_max=500.0)
    model = ScoreModel(net, sde, "edm").half()
    for dtype in (torch.float16, torch.float32):
        sampler = PredictorCorrector(DDIM(), steps=2)
        x = sampler(sde, model, (2, 1, 4, 4), dtype=dtype).x
        assert x.dtype == dtype and x.isfinite().all()
        data = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
        for weighting in ("edm", "likelihood", "uniform"):  # the first is 10⁶ at σ = 500
            loss = DenoisingScoreMatching(sde, weighting, reduce="sum")
            assert loss(model, data, torch.Generator().manual_seed(0)).isfinite()


@pytest.mark.parametrize("process", WIDE)
def test_steps_taken_by_themselves_fit_float16(process):
    """Such are the drift of the reverse SDE, a predictor's transition and Langevin steps."""
    sde, score = WIDE[process], gaussian(WIDE[process])
    t = torch.tensor(sde.T, dtype=torch.float64)
    s = torch.tensor(0.9 * sde.T, dtype=torch.float64)
    x = sde.sigma(t) * torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    x = x.half().float()
    z = torch.randn(4, 2, generator=torch.Generator().manual_seed(1)).half().float()
    predictor, langevin = ReverseDiffusion(), AnnealedLangevinStep(0.9)
    (level,) = langevin.levels(sde, t[None], s[None])

    def results(x):
        noise = lambda x: z.to(x.dtype)  # noqa: E731
        return [
            sde.reverse(score).drift(x, t),
            sde.reverse(score, 0.0).drift(x, t.expand(4)),
            predictor.transition(sde, score, x, t, s)[0],
            predictor.step(sde, score, x, t.expand(4), s.expand(4), noise)[0],
            *langevin.step(level, score, x, noise),
            *Langevin().step(level, score, x, noise),
            score(x, t),
            score.denoise(x, t),
            score.flow(x, t, s),
        ]

    for half, single in zip(results(x.half()), results(x), strict=True):
        assert half.dtype == torch.float16
        torch.testing.assert_close(half.float(), single, rtol=0.005, atol=0.01)


def test_analytic_variances_are_measured_in_float32():
    """The table measured on half-precision data is that of the same data in float32, to 1 %."""
    sde, x0 = WIDE["ve"], torch.randn(200, 2, generator=torch.Generator().manual_seed(0)).half()
    tables = []
    for data in (x0, x0.float()):
        generator = torch.Generator().manual_seed(0)
        tables.append(AnalyticVariance.fit(sde, gaussian(sde), data, generator)._table[2])
    torch.testing.assert_close(tables[0][-50:], tables[1][-50:], rtol=0.01, atol=0.02)
    assert tables[0].isfinite().all()


@pytest.mark.parametrize("divergence", ["exact", "hutchinson", "hutch++"])
@pytest.mark.parametrize("dtype", HALVES)
def test_divergences_in_half_precision_are_summed_in_single(divergence, dtype):
    """Large products of either sign with a small sum give that of the same numbers in float32.

    Products that half precision holds exactly have an exact sum; the basis of Hutch++ is rounded.
    """
    rule = choose_divergence(divergence)
    slopes = torch.tensor([-400.0, 402.0]).repeat(8)
    t, probes = torch.ones(2, dtype=torch.float64), rule.draw(Draws(0, range(2)), torch.ones(2, 16))

    def estimate(kind):
        a, x = slopes.to(dtype).to(kind), torch.ones(2, 16, dtype=kind)
        return score_and_divergence(lambda x, t: x * a, x, t, rule, probes.to(kind))[1]

    half, single = estimate(dtype), estimate(torch.float32)
    assert half.dtype == torch.float32
    bound = 400 * 16 * torch.finfo(dtype).eps if divergence == "hutch++" else 1e-3
    torch.testing.assert_close(half, single, rtol=0, atol=bound)


def test_likelihoods_and_bounds_in_half_precision():
    """A network in float16 at σ = 378 gives almost the likelihoods and bounds of float32."""
    sde, score = WIDE["ve"], gaussian(WIDE["ve"])
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    k, cells = torch.tensor([[0, 3], [2, 1]]), Cells(4)
    settings = {"rtol": 5e-3, "atol": 5e-3, "eps": 0.05}

    def results(dtype):
        return [
            log_likelihood(sde, score, x, dtype=dtype, **settings).log_prob,
            quantized_likelihood(sde, score, k, cells, dtype=dtype, **settings).log_prob,
            elbo(sde, score, k, cells, terms=4, dtype=dtype).log_prob,
            variational_bound(sde, score, k, cells, steps=20, dtype=dtype).log_prob,
        ]

    for half, single in zip(results(torch.float16), results(torch.float32), strict=True):
        torch.testing.assert_close(half, single, rtol=0.02, atol=0.05)


TOO_WIDE = EDM(sigma_max=80000.0)
X = torch.ones(3, 2)


@pytest.mark.parametrize(
    "call",
    [
        lambda score: PredictorCorrector(DDIM())(TOO_WIDE, score, (3, 2), dtype=torch.float16),
        lambda score: ProbabilityFlowODE(0.1, 0.1)(TOO_WIDE, score, (3, 2), x_init=X.half()),
        lambda score: PredictorCorrector(DDIM()).encode(TOO_WIDE, score, X.half()),
        lambda score: log_likelihood(TOO_WIDE, score, X, rtol=0.1, dtype=torch.float16),
        lambda score: log_likelihood(EDM(), score, X, rtol=0.1, dtype=torch.float16),
        lambda score: DenoisingScoreMatching(TOO_WIDE)(score, X.half()),
        lambda score: elbo(TOO_WIDE, score, X.long(), Cells(4), dtype=torch.float16),
        lambda score: variational_bound(TOO_WIDE, score, X.long(), Cells(4), dtype=torch.float16),
        lambda score: AnnealedLangevin()(VE(1e-5, 1.0), score, (3, 2), dtype=torch.float16),
    ],
)
def test_what_float16_cannot_hold_is_refused_before_the_first_step(call):
    def never(x, t):
        raise AssertionError("the score was called")

    sentence = "float16 holds at most 65504; use dtype=torch.bfloat16 or torch.float32"
    with pytest.raises(ValueError, match=sentence):
        call(never)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_wider_types_take_the_widest_process(dtype):
    """Over the same half network, the state needs the range, and the network does not."""
    model = random_model(TOO_WIDE).half()
    x = PredictorCorrector(DDIM(), steps=4)(TOO_WIDE, model, (3, 2), dtype=dtype).x
    assert x.isfinite().all() and x.dtype == dtype


def test_no_process_of_ours_is_too_wide_for_float16():
    for sde in (PROCESSES | CHAINS).values():
        PredictorCorrector(DDIM(), steps=2)(sde, gaussian(sde), (2, 2), dtype=torch.float16)


FINE = {
    "likelihood": lambda score: log_likelihood(VP(), score, X),
    "ode": lambda score: ProbabilityFlowODE()(VP(), score, (3, 2)),
    "encode": lambda score: ProbabilityFlowODE(1e-3, 1e-3).encode(VP(), score, X),
    "scipy": lambda score: ProbabilityFlowODE(1e-3, 1e-3, method="RK45")(VP(), score, (3, 2)),
    "adaptive_sde": lambda score: AdaptiveSDE(1e-3)(VP(), score, (3, 2)),
    "torchsde": lambda score: TorchSDE(adaptive=True, rtol=1e-3)(VP(), score, (3, 2)),
    "quantized": lambda score: quantized_likelihood(VP(), score, X.long(), Cells(4), rtol=1e-3),
}


@pytest.mark.parametrize("call", FINE)
def test_tolerances_finer_than_the_network_are_refused(call):
    """This holds for bfloat16 by autocast, whatever the score, and by the network's own weights."""
    model = random_model(VP())
    sentence = r"below bfloat16 resolution of states or network; use float32 outside autocast"
    for score in (model, model.score, partial(model), gaussian(VP())):
        with (
            torch.autocast("cpu", torch.bfloat16),
            pytest.raises(ValueError, match=sentence),
        ):
            FINE[call](score)
    with pytest.raises(ValueError, match=sentence):
        FINE[call](model.bfloat16())
    model.float().net.leave.bfloat16()  # a single layer is enough
    with pytest.raises(ValueError, match=sentence):
        FINE[call](model)


def test_float64_states_do_not_make_a_float32_network_finer():
    x, model = X.double(), random_model(VP())
    with pytest.raises(ValueError, match="rtol 1e-09 is below float32 resolution; use dtype=float"):
        log_likelihood(VP(), model, x, rtol=1e-9)
    result = log_likelihood(VP(), model, x, rtol=1e-3, atol=1e-3)
    assert result.log_prob.isfinite().all() and result.latent.dtype == torch.float64
    assert computing_dtype(model, x) == torch.float32
    assert computing_dtype(model.double(), x) == torch.float64
    assert computing_dtype(model, x.half()) == torch.float16


def test_a_half_network_is_scored_at_a_tolerance_that_it_meets():
    """With bfloat16, rtol 0.05 gives almost the log p of float32, and 1e-5 was off by 0.15 nats."""
    model = random_model(VP())
    x = torch.randn(16, 2, generator=torch.Generator().manual_seed(0))
    settings = {"rtol": 0.05, "atol": 0.05, "eps": 1e-2}
    exact = log_likelihood(VP(), model, x, **settings).log_prob
    half = log_likelihood(VP(), model.bfloat16(), x, **settings).log_prob
    torch.testing.assert_close(half, exact, rtol=0, atol=0.15)


def test_noise_that_is_given_in_another_type_is_taken_in_the_states():
    """float16 noise is used for a state that is carried in float32, and is not changed."""
    noise = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0)).half()
    kept, queue = noise.clone(), iter(noise)
    sampler = PredictorCorrector(ReverseDiffusion(), steps=4)
    x = sampler(
        VP(), gaussian(VP()), (3, 2), x_init=X.half(), noise=lambda x: next(queue), temperature=0.5
    ).x
    assert x.dtype == torch.float16 and torch.equal(noise, kept)


def test_a_constraint_sees_the_type_that_was_asked_for():
    seen = set()

    def hold(x, t, noise):
        seen.add(x.dtype)
        return x.clamp(-1, 1)

    sampler = PredictorCorrector(DDIM(), steps=3)
    x = sampler(VP(), gaussian(VP()), (3, 2), dtype=torch.bfloat16, constraint=hold).x
    assert seen == {torch.bfloat16} and x.abs().max() <= 1
