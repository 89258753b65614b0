"""Predictors, correctors and grids compared with formulas, and what samplers refuse."""

import math
from functools import partial

import pytest
import torch

from scoresde.models import GaussianScore
from scoresde.samplers import (
    DDIM,
    Ancestral,
    AnnealedLangevin,
    AnnealedLangevinStep,
    EulerMaruyama,
    FixedGrid,
    Langevin,
    LogSNRGrid,
    NoiseAdaptive,
    PredictorCorrector,
    ProbabilityFlowEuler,
    ProbabilityFlowODE,
    ReverseDiffusion,
    RungeKutta,
    UniformGrid,
    draw,
)
from scoresde.sde import VE, VP, expand

DOUBLE = {"dtype": torch.float64}
MEAN, STD = 0.3, 0.6

PREDICTORS = {
    "euler_maruyama": EulerMaruyama(),
    "reverse_diffusion": ReverseDiffusion(),
    "ancestral_posterior": Ancestral("posterior"),
    "ancestral_forward": Ancestral("forward"),
    "ddim": DDIM(0.0),
    "ddim_half": DDIM(0.5),
    "flow_euler": ProbabilityFlowEuler(),
    "flow_heun": RungeKutta("heun"),
}
SAMPLERS = {
    **{name: PredictorCorrector(p, steps=200) for name, p in PREDICTORS.items()},
    "pc": PredictorCorrector(ReverseDiffusion(), Langevin(0.1), steps=200),
    "pc_paper": PredictorCorrector(
        ReverseDiffusion(), Langevin(0.1), steps=200, order="predictor-first"
    ),
    "pc_ald": PredictorCorrector(Ancestral(), AnnealedLangevinStep(0.1), steps=200),
    "pc_batch": PredictorCorrector(ReverseDiffusion(), Langevin(0.1, norm="batch"), steps=200),
    "log_snr": PredictorCorrector(DDIM(), steps=100, grid=LogSNRGrid()),
    "ode": ProbabilityFlowODE(1e-4, 1e-4),
    "ode_rk45": ProbabilityFlowODE(1e-4, 1e-4, method="RK45"),
    "ode_dop853": ProbabilityFlowODE(1e-4, 1e-4, method="DOP853"),
}


def gaussian(sde, dim):
    return GaussianScore(sde, torch.full((dim,), MEAN), torch.full((dim,), STD**2))


@pytest.mark.parametrize("shape", [(8000, 2), (300, 1, 8, 8)])
def test_annealed_langevin_has_the_distribution_of_the_data(sde, shape, generator):
    """Langevin steps alone follow 200 levels, with three steps at each, to within 0.06."""
    sampler = AnnealedLangevin(200, snr=0.3, n_steps=3, grid=LogSNRGrid())
    samples = sampler(sde, gaussian(sde, math.prod(shape[1:])), shape, generator=generator)
    # There are three evaluations at each level, the times of the grid but for the data, and one at
    # the end.
    levels = 200 + int(LogSNRGrid()(sde, 200)[-1] > 0)
    assert samples.nfe == 3 * levels + 1
    assert abs(samples.x.mean().item() - MEAN) < 0.06
    assert abs(samples.x.std().item() - STD) < 0.06


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_generator_repeats_a_run(name):
    """Equal seeds give equal samples, for any use of the global generator in between."""
    score, runs = gaussian(VP(), 2), []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        generator = torch.Generator().manual_seed(7)
        runs.append(SAMPLERS[name](VP(), score, (6, 2), generator=generator).x)
    torch.testing.assert_close(runs[0], runs[1], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["ddim", "flow_euler", "flow_heun", "ode", "log_snr"])
def test_deterministic_samplers_do_not_mix_samples(sde, name):
    """Permuting and splitting a batch of latents permutes and splits the samples, to 1e-10."""
    x_init = sde.prior((7, 2)).sample(torch.Generator().manual_seed(3), **DOUBLE)
    score, sampler = gaussian(sde, 2), SAMPLERS[name]
    whole = sampler(sde, score, (7, 2), x_init=x_init).x
    order = torch.randperm(7)
    shuffled = sampler(sde, score, (7, 2), x_init=x_init[order]).x
    torch.testing.assert_close(shuffled, whole[order], rtol=1e-10, atol=1e-10)
    alone = torch.cat([sampler(sde, score, (1, 2), x_init=x_init[i : i + 1]).x for i in range(7)])
    torch.testing.assert_close(alone, whole, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("norm, mixes", [("sample", False), ("batch", True)])
def test_langevin_norms(norm, mixes):
    """Per-sample norms keep samples apart; batch norms, kept for published numbers, do not."""
    sde, t = VP(), torch.tensor(0.5, **DOUBLE)
    x = torch.randn(3, 4, **DOUBLE) * torch.tensor([[0.1], [1.0], [5.0]], **DOUBLE)
    z = torch.randn(3, 4, **DOUBLE)
    corrector, score = Langevin(0.16, norm=norm), gaussian(sde, 4)
    (level,) = corrector.levels(sde, t[None], t[None])
    together = corrector.step(level, score, x, lambda x: z)[0]
    alone = corrector.step(level, score, x[:1], lambda x: z[:1])[0]
    assert torch.allclose(together[:1], alone, rtol=1e-12, atol=1e-12) != mixes


@pytest.mark.parametrize("norm, inflation", [("batch", 0.0), ("sample", 4 / 256)])
def test_langevin_inflates_the_variance_as_theory_says(norm, inflation, generator):
    """On N(0, I) the snr rule has δ ≈ 2 r², so that the variance of the chain is 1/(1 − r²).

    This is 2.6 % too large at r = 0.16. A sample's own norms add 4/D. The variance of 400 × 256
    coordinates has an error of 0.4 %, and the next order in 1/D and r² is as large.
    """
    sde, r = VE(), 0.16
    t = sde.time_of_half_log_snr(torch.tensor(-math.log(0.7)))  # σ = 0.7, so that no limit acts
    x = torch.randn(400, 256, generator=generator, **DOUBLE)

    def noise(x):
        return torch.randn(x.shape, generator=generator, **DOUBLE)

    corrector = Langevin(r, n_steps=150, norm=norm)
    (level,) = corrector.levels(sde, t[None], t[None])
    x, _ = corrector.step(level, lambda x, t: -x, x, noise)
    assert abs(x.var().item() - 1 / (1 - r**2) - inflation) < 0.012


def test_langevin_steps_of_points_do_not_depend_on_the_state():
    """In two coordinates a vanishing score would make δ infinite; δ is 2 (r σ)² instead."""
    sde, t = VE(), torch.tensor(0.5, **DOUBLE)
    z, s = torch.randn(5, 2, **DOUBLE), torch.randn(5, 2, **DOUBLE)
    s[0] = 1e-12
    (level,) = Langevin(0.16).levels(sde, t[None], t[None])
    delta = Langevin(0.16).step_size(level, s, z)
    constant = 2 * (0.16 * sde.sigma(t)) ** 2
    torch.testing.assert_close(delta, constant.expand(5), rtol=0.005, atol=0)


def test_ddim_with_eta_one_is_ancestral_sampling(sde):
    """Mean and standard deviation are the same for every process, to 1e-12."""
    t, s = (torch.tensor(u * sde.T, **DOUBLE) for u in (0.7, 0.4))
    x, score = torch.randn(5, 2, **DOUBLE), gaussian(sde, 2)
    for ours, theirs in zip(
        DDIM(1.0).transition(sde, score, x, t, s),
        Ancestral("posterior").transition(sde, score, x, t, s),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_ddim_is_the_published_update():
    """It is eq. 12 of DDIM on DDPM's chain, written with ᾱ as in the paper."""
    chain, eta = VP().discretize(1000), 0.4
    score, x = gaussian(chain, 2), torch.randn(4, 2, **DOUBLE)
    t, s = chain.times[700], chain.times[650]
    bar_t, bar_s = chain.alphas[700] ** 2, chain.alphas[650] ** 2
    predicted = -(1 - bar_t).sqrt() * score(x, t)
    variance = eta**2 * (1 - bar_s) / (1 - bar_t) * (1 - bar_t / bar_s)
    x0 = (x - (1 - bar_t).sqrt() * predicted) / bar_t.sqrt()
    mean = bar_s.sqrt() * x0 + (1 - bar_s - variance).sqrt() * predicted
    ours = DDIM(eta).transition(chain, score, x, t, s)
    torch.testing.assert_close(ours[0], mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours[1], variance.sqrt(), rtol=1e-9, atol=0)


def test_ancestral_is_ddpm_on_its_chain():
    """The mean is (x + β s)/√(1 − β), the std √β (forward) or √β̃ (posterior), by DDPM's table."""
    chain = VP().discretize(1000)
    score, x = gaussian(chain, 2), torch.randn(4, 2, **DOUBLE)
    t, s, i = chain.times[500], chain.times[499], 500
    beta = torch.linspace(1e-4, 0.02, 1000, **DOUBLE)
    bar = torch.cumprod(1 - beta, 0)
    mean = (x + beta[i] * score(x, t)) / (1 - beta[i]).sqrt()
    ours = Ancestral("forward").transition(chain, score, x, t, s)
    torch.testing.assert_close(ours[0], mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours[1], beta[i].sqrt(), rtol=1e-9, atol=0)
    tilde = beta[i] * (1 - bar[i - 1]) / (1 - bar[i])
    posterior = Ancestral("posterior").transition(chain, score, x, t, s)[1]
    torch.testing.assert_close(posterior, tilde.sqrt(), rtol=1e-9, atol=0)


def test_one_predictor_alone_or_one_corrector_alone():
    """The loop runs with either part; the corrector's last mean is returned."""
    sde, score, x = VE(), gaussian(VE(), 2), torch.randn(4, 2, **DOUBLE)
    only = PredictorCorrector(None, Langevin(0.1), steps=3)
    seen = []

    def callback(step, t, x):
        seen.append(x)

    samples = only(sde, score, (4, 2), x_init=x, callback=callback)
    assert samples.nfe == 3
    assert (samples.x - seen[-1]).abs().max() > 0  # the mean, not the noisy state
    assert PredictorCorrector(DDIM(), steps=3)(sde, score, (4, 2), x_init=x).nfe == 3


@pytest.mark.parametrize("keep", [2, 5])
@pytest.mark.parametrize("name", ["pc", "ddim", "ode", "ode_rk45"])
def test_trajectory_goes_from_latent_to_sample(sde, name, keep):
    x_init = sde.prior((3, 2)).sample(torch.Generator().manual_seed(0))
    samples = SAMPLERS[name](sde, gaussian(sde, 2), (3, 2), x_init=x_init, trajectory=keep)
    assert samples.trajectory.shape == (keep, 3, 2)
    torch.testing.assert_close(samples.trajectory[0], x_init, rtol=0, atol=0)
    torch.testing.assert_close(samples.trajectory[-1], samples.x, rtol=0, atol=0)


def test_trajectory_of_the_flow_is_the_exact_flow():
    """Frames of the ODE sampler lie on the closed-form flow at their times."""
    sde = VP()
    score, x = gaussian(sde, 2), torch.randn(4, 2, **DOUBLE)
    for method in ("dopri5", "RK45"):
        sampler = ProbabilityFlowODE(1e-7, 1e-7, method=method)
        frames = sampler(sde, score, (4, 2), x_init=x, trajectory=7).trajectory
        times = torch.linspace(sde.T, sde.sampling_eps, 7, **DOUBLE)
        exact = torch.stack([score.flow(x, times[0], t) for t in times])
        torch.testing.assert_close(frames, exact, rtol=0, atol=1e-3)


def test_constraint_acts_after_every_update():
    """A constraint on a coordinate is called at every time of the grid, and its value stays."""
    times = []

    def hold(x, t, noise):
        times.append(float(t))
        x = x.clone()
        x[:, 0] = 0.25
        return x

    sampler = PredictorCorrector(ReverseDiffusion(), Langevin(), steps=4)
    samples = sampler(VP(), gaussian(VP(), 2), (3, 2), constraint=hold)
    torch.testing.assert_close(samples.x[:, 0], torch.full((3,), 0.25), rtol=0, atol=0)
    grid = UniformGrid()(VP(), 4).tolist()
    assert sorted(set(times), reverse=True) == grid
    refused = "an adaptive solver takes no constraint; use PredictorCorrector, AnnealedLangevin or"
    with pytest.raises(ValueError, match=refused):
        ProbabilityFlowODE()(VP(), gaussian(VP(), 2), (3, 2), constraint=hold)


def inpaint(x, t, noise):
    """The first coordinate is known to be 0.25: it follows its marginal at each time."""
    alpha, sigma = (expand(c(t), x) for c in (VP().alpha, VP().sigma))
    known = alpha * 0.25 + sigma * noise(x)[:, :1]
    return torch.cat([known.to(x.dtype), x[:, 1:]], 1)


@pytest.mark.parametrize(
    "sampler",
    [
        PredictorCorrector(ReverseDiffusion(), Langevin(), steps=3),
        PredictorCorrector(DDIM(), steps=3),
        AnnealedLangevin(3, n_steps=1),
        NoiseAdaptive(DDIM(), steps=3),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_a_constraint_draws_from_the_noise_of_its_run(sampler):
    """Seeds give each sample its own noise, alone and in a batch, scaled by the temperature."""
    run = partial(sampler, VP(), gaussian(VP(), 2), constraint=inpaint)
    x = run((3, 2), seeds=[4, 5, 6]).x
    alone = torch.cat([run((1, 2), seeds=[seed]).x for seed in (4, 5, 6)])
    torch.testing.assert_close(x, alone, rtol=1e-5, atol=1e-6)
    cold = run((3, 2), seeds=[4, 5, 6], temperature=0.0).x
    end = VP().alpha(torch.tensor(VP().sampling_eps)).item()
    torch.testing.assert_close(cold[:, 0], torch.full((3,), 0.25 * end), rtol=1e-5, atol=1e-6)
    scripted = run((3, 2), noise=torch.ones_like, dtype=torch.float16).x
    sigma = VP().sigma(torch.tensor(VP().sampling_eps)).item()
    known = torch.full((3,), 0.25 * end + sigma).half()
    torch.testing.assert_close(scripted[:, 0], known, rtol=1e-3, atol=0)


def test_grids_end_where_they_should(process):
    for grid in (UniformGrid(), LogSNRGrid()):
        times = grid(process, 17)
        assert times.shape == (18,) and times.dtype == torch.float64
        assert times[0] == process.T and times[-1] == process.sampling_eps
        assert UniformGrid(0.1)(process, 3)[-1] == 0.1
    steps = LogSNRGrid()(process, 17)
    torch.testing.assert_close(
        process.half_log_snr(steps).diff(),
        process.half_log_snr(steps).diff().mean().expand(17),
        rtol=1e-8,
        atol=1e-8,
    )


def test_grids_of_a_chain_are_levels_and_the_data():
    chain = VP().discretize(1000)
    full = UniformGrid()(chain, 1000)
    torch.testing.assert_close(full[:-1], chain.times.flip(0), rtol=0, atol=0)
    few = UniformGrid()(chain, 50)
    assert few[-1] == 0 and set(few[:-1].tolist()) <= set(chain.times.tolist())
    torch.testing.assert_close(FixedGrid(few)(chain, 50), few, rtol=0, atol=0)


def test_draw_cuts_into_batches():
    sampler, score = PredictorCorrector(DDIM(), steps=5), gaussian(VP(), 2)
    generator = torch.Generator().manual_seed(0)
    samples = draw(sampler, VP(), score, (10, 2), 4, generator=generator, trajectory=3)
    assert samples.x.shape == (10, 2) and samples.nfe == 5
    assert samples.trajectory.shape == (3, 4, 2)


X = torch.zeros(3, 2)


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: PredictorCorrector(steps=5), "needs a predictor, a corrector, or both"),
        (lambda: PredictorCorrector(DDIM(), steps=0), "steps must be an integer ≥ 1, got 0"),
        (lambda: PredictorCorrector(DDIM(), steps=2.5), r"steps must be an integer ≥ 1, got 2\.5"),
        (lambda: PredictorCorrector(DDIM(), order="both"), "unknown order 'both'"),
        (lambda: Langevin(-0.16), r"snr must be > 0, got -0\.16"),
        (lambda: Langevin(0.1, n_steps=0), "n_steps must be an integer ≥ 1, got 0"),
        (lambda: Langevin(0.1, norm="all"), "unknown norm 'all'"),
        (lambda: AnnealedLangevin(snr=0.0), r"snr must be > 0, got 0\.0"),
        (lambda: Ancestral("beta"), "unknown variance 'beta'. Available: posterior, forward"),
        (lambda: DDIM(1.5), r"eta must be in \[0, 1\], got 1\.5"),
        (lambda: ProbabilityFlowODE(method="rk4"), "unknown method 'rk4'. Available: bosh3"),
        (lambda: ProbabilityFlowODE(rtol=0.0), r"rtol and atol must be > 0, got 0\.0"),
        (lambda: ProbabilityFlowODE(1e-12)(VP(), None, (3, 2)), "below float32 resolution"),
        (lambda: ProbabilityFlowODE(eps=0.0)(VP(), None, (3, 2)), r"eps must be in \(0, T=1.0\)"),
        (lambda: UniformGrid(0.0)(VP(), 5), r"eps must be in \(0, T=1\.0\), got 0"),
        (
            lambda: UniformGrid()(VP().discretize(100), 101),
            "a grid of 101 steps does not fit on a chain of 100",
        ),
        (lambda: FixedGrid([0.5]), "times must be at least two numbers"),
        (lambda: FixedGrid([0.5, 0.5]), "times must be strictly decreasing"),
        (lambda: FixedGrid([0.5, 0.1])(VP(), 2), "steps is 2, but the grid has 2 times; use"),
        (lambda: FixedGrid([2.0, 0.1])(VP(), 1), r"t outside \[0, 1\]: 2 at batch index 0"),
        (
            lambda: PredictorCorrector(DDIM())(VP(), None, (3, 2), x_init=torch.zeros(3, 3)),
            r"x_init must have the shape asked for, \(3, 2\), got \(3, 3\)",
        ),
        (lambda: PredictorCorrector(DDIM())(VP(), None, (3, 2), x_init=X / 0), "NaN/Inf"),
    ],
)
def test_wrong_input_is_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


@pytest.mark.parametrize("shape, keep", [((0, 2), 0), ((3, 2), 1), ((3, 2), -2)])
def test_nothing_to_draw_or_to_keep_is_refused(shape, keep):
    with pytest.raises(ValueError, match=r"B ≥ 1|trajectory must be 0 or an integer ≥ 2"):
        PredictorCorrector(DDIM(), steps=2)(VP(), gaussian(VP(), 2), shape, trajectory=keep)


def test_a_corrector_is_no_predictor():
    with pytest.raises(TypeError, match="predictor must be a Solver or None, got <scoresde"):
        PredictorCorrector(Langevin())
    with pytest.raises(TypeError, match="corrector must be a Corrector or None, got <scoresde"):
        PredictorCorrector(DDIM(), DDIM())


def test_integer_states_are_refused():
    with pytest.raises(TypeError, match="x_init must be floating point"):
        PredictorCorrector(DDIM())(VP(), None, (3, 2), x_init=X.long())
