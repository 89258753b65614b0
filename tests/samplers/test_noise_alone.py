"""The ends of a process: rates, finite predictions at α = 0, and chains that end in noise alone."""

import math
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch

from scoresde.evaluation import Cells, elbo, log_likelihood, variational_bound
from scoresde.models import (
    MLP,
    GaussianMixtureScore,
    GaussianScore,
    NoiseLevelEstimator,
    ScoreModel,
)
from scoresde.models.parameterization import BLIND, PARAMETERIZATIONS
from scoresde.samplers import (
    DDIM,
    AdaptiveSDE,
    AnalyticVariance,
    Ancestral,
    AnnealedLangevin,
    KarrasGrid,
    Langevin,
    LogSNRGrid,
    NoiseAdaptive,
    OptimizedGrid,
    ParallelPicard,
    PredictorCorrector,
    ProbabilityFlowODE,
    ReverseDiffusion,
    RungeKutta,
    TorchSDE,
)
from scoresde.samplers.presets import PRESETS
from scoresde.sde import EDM, SDE, VE, VP, CosineSchedule, Prior, SubVP, construct, describe
from scoresde.sde.posterior import posterior
from scoresde.training import (
    DataPrediction,
    DenoisingScoreMatching,
    HybridLoss,
    ImportanceTimes,
    NoiseLevelLoss,
)

DOUBLE = {"dtype": torch.float64}
SEEING = [name for name in PARAMETERIZATIONS if name not in BLIND]
CHAIN = VP().discretize(40, zero_terminal_snr=True)


class Flow(SDE):
    """Rectified flow, α = 1 − t and σ = t, which ends before its α does."""

    def __init__(self, T=1 - 1e-3):
        self.T = T

    def alpha(self, t):
        return 1 - t

    def sigma(self, t):
        return t

    def f(self, t):
        return -1 / (1 - t)

    def g(self, t):
        return (2 * t / (1 - t)).sqrt()

    def prior(self, shape):
        return Prior(shape, self.T)

    def label(self, t):
        return t

    def levels(self, steps):
        t = torch.linspace(1e-3, self.T, steps, **DOUBLE)
        return 1 - t, t


class Trigonometric(Flow):
    """α = cos t, σ = sin t."""

    def __init__(self):
        super().__init__(1.5)

    def alpha(self, t):
        return t.cos()

    def sigma(self, t):
        return t.sin()

    def f(self, t):
        return -t.tan()

    def g(self, t):
        return (2 * t.tan()).sqrt()


def times(sde, count=9, first=None):
    return torch.linspace(sde.eps if first is None else first, sde.T, count, **DOUBLE)


# Rates


def test_rates_are_the_derivatives_of_the_scales(sde):
    """They agree with automatic differentiation, both between and at the levels of a chain."""
    t = torch.cat([times(sde, 23), torch.rand(20, **DOUBLE) * sde.T]).clamp(min=0.5 * sde.eps)
    t = t.requires_grad_()
    for scale, rate in zip((sde.alpha, sde.sigma), sde.rates(t.detach()), strict=True):
        value, slope = scale(t), torch.zeros_like(t)
        if value.requires_grad:  # α = 1 does not depend on t
            (slope,) = torch.autograd.grad(value.sum(), t)
        torch.testing.assert_close(rate, slope, rtol=1e-12, atol=1e-12 * float(slope.abs().max()))


@pytest.mark.parametrize("make", [Flow, Trigonometric], ids=["flow", "trigonometric"])
def test_rates_of_a_process_of_ones_own_follow_from_its_coefficients(make):
    sde, t = make(), torch.linspace(0.1, 0.9, 7, **DOUBLE)
    expected = {Flow: (-torch.ones_like(t), torch.ones_like(t)), Trigonometric: (-t.sin(), t.cos())}
    for rate, exact in zip(sde.rates(t), expected[make], strict=True):
        torch.testing.assert_close(rate, exact, rtol=1e-12, atol=1e-12)


def test_rates_at_the_data():
    zero = torch.zeros((), **DOUBLE)
    assert [r.item() for r in EDM().rates(zero)] == [0, 1]
    assert [r.item() for r in SubVP().rates(zero)] == pytest.approx([-0.05, 0.1], rel=1e-12)
    assert VP().rates(zero)[1] == math.inf
    assert all(rate.isfinite() for rate in VP().discretize(40).rates(zero))


def test_velocity_data_and_noise_follow_from_each_other(process):
    """u = α′ D + σ′ ẑ = f x − ½ g² s, D = (σ′ x − σ u)/W, ẑ = (α u − α′ x)/W, W = α g²/(2σ)."""
    score = GaussianScore(process, torch.tensor([0.3]), torch.tensor([0.7]))
    t = times(process, 7, 0.1 * process.T)
    x = torch.linspace(-2, 2, 7, **DOUBLE)[:, None] * process.sigma(t)[:, None]
    alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
    alpha_rate, sigma_rate = (rate[:, None] for rate in process.rates(t))
    s = score(x, t)
    noise, data = -sigma * s, score.denoise(x, t)
    u = process.drift(x, t) - 0.5 * process.g(t)[:, None] ** 2 * s
    w = alpha * sigma_rate - alpha_rate * sigma
    close = {"rtol": 1e-11, "atol": 1e-11}
    torch.testing.assert_close(w, alpha * process.g(t)[:, None] ** 2 / (2 * sigma), **close)
    torch.testing.assert_close(alpha_rate * data + sigma_rate * noise, u, **close)
    torch.testing.assert_close((sigma_rate * x - sigma * u) / w, data, **close)
    torch.testing.assert_close((alpha * u - alpha_rate * x) / w, noise, **close)


# Predictions


class Best(torch.nn.Module):
    """The output of a network that has learned data N(0, c²), and the type of this output."""

    def __init__(self, output, dtype):
        super().__init__()
        self.output, self.kind = output, torch.nn.Parameter(torch.zeros((), dtype=dtype))

    def forward(self, x, c_noise):
        assert c_noise.isfinite().all()
        return self.output.to(x.dtype)


def learned(sde, name, x, t, spread=0.6, sigma_data=0.5):
    """F, D and ẑ for data N(0, c²) in [−1, 1], in closed form: D = α c² x/(α² c² + σ²)."""
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    whole = alpha**2 * spread**2 + sigma**2
    data, noise = alpha * spread**2 * x / whole, sigma * x / whole
    r = (alpha**2 + sigma**2).sqrt()
    alpha_rate, sigma_rate = sde.rates(t)
    # At α = 0 EDM's output is the limit of (r/(σ σ_d)) (D − α σ_d² x/r²).
    scale = (alpha**2 * sigma_data**2 + sigma**2).sqrt()
    edm = scale / (sigma * sigma_data) * (data - alpha * sigma_data**2 * x / scale**2)
    outputs = {
        "noise": noise,
        "score": -noise,
        "raw_score": -noise / sigma,
        "data": data,
        "v": (alpha * noise - sigma * data) / r,
        "velocity": alpha_rate * data + sigma_rate * noise,
        "edm": edm,
    }
    return outputs[name], data, noise


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_both_predictions_are_those_of_the_distribution(process, name):
    """D and ẑ follow from the best output, to the rounding of float64, at all noise levels."""
    t = times(process, 6, 0.05 * process.T)
    x = torch.linspace(-2, 2, 6, **DOUBLE) * process.sigma(t)
    output, data, noise = learned(process, name, x, t)
    model = ScoreModel(Best(output[:, None], torch.float64), process, name)
    rtol = 1e-9 if name in BLIND else 1e-12  # these divide by α
    torch.testing.assert_close(model.denoise(x[:, None], t)[:, 0], data, rtol=rtol, atol=1e-12)
    torch.testing.assert_close(model.noise(x[:, None], t)[:, 0], noise, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        model(x[:, None], t)[:, 0], -noise / process.sigma(t), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("name", SEEING)
def test_the_data_prediction_is_exact_where_there_is_no_signal(name):
    """At α = 0 the output of the network is the data prediction, without rounding."""
    t = torch.tensor(CHAIN.T, **DOUBLE)
    assert CHAIN.alpha(t) == 0
    x = torch.linspace(-2, 2, 5, **DOUBLE)[:, None]
    mean, (alpha_rate, sigma_rate) = 0.4, CHAIN.rates(t)  # the mean of the data
    output = {
        "data": torch.full_like(x, mean),
        "v": torch.full_like(x, -mean),
        "edm": torch.full_like(x, mean / 0.5),
        "velocity": alpha_rate * mean + sigma_rate * x,
    }[name]
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        model = ScoreModel(Best(output, dtype), CHAIN, name)
        data = model.denoise(x.to(dtype), t)
        torch.testing.assert_close(data, torch.full_like(data, mean), rtol=0, atol=tolerance)
        assert model(x.to(dtype), t).isfinite().all()


@pytest.mark.parametrize("name", ["data", "v", "edm"])
def test_the_data_prediction_is_in_the_units_of_the_data(name):
    """For data in [0, 1] it is ½ + ½ · 0.4."""
    t, x = torch.tensor(CHAIN.T, **DOUBLE), torch.randn(5, 1, **DOUBLE)
    output = torch.full_like(x, {"data": 0.4, "v": -0.4, "edm": 0.8}[name])
    model = ScoreModel(Best(output, torch.float64), CHAIN, name, data_range=(0.0, 1.0))
    torch.testing.assert_close(model.denoise(x, t), torch.full_like(x, 0.7), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["data", "v", "edm", "velocity"])
@pytest.mark.parametrize("rest", [1e-3, 1e-5, 1e-7])
def test_the_data_prediction_loses_no_digits_where_little_signal_is_left(name, rest):
    """In float32, (x − σ ẑ)/α would lose 2e-4 at α = 1e-3, and everything at 1e-7."""
    sde = Flow(1 - 1e-8)
    t, x = torch.tensor(1 - rest, **DOUBLE), torch.linspace(-2, 2, 9, **DOUBLE)[:, None]
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    data = torch.full_like(x, 0.4)
    noise = (x - alpha * data) / sigma
    r2 = 0.25 * alpha**2 + sigma**2
    output = {
        "data": data,
        "v": (alpha * noise - sigma * data) / (alpha**2 + sigma**2).sqrt(),
        "edm": (data - alpha * 0.25 * x / r2) * r2.sqrt() / (0.5 * sigma),
        "velocity": noise - data,
    }[name]
    model = ScoreModel(Best(output, torch.float32), sde, name)
    found = model.denoise(x.float(), t)
    torch.testing.assert_close(found, data.float(), rtol=0, atol=2e-6)


def test_velocity_is_v_on_the_circle_and_the_straight_line_on_the_flow():
    t, x = torch.tensor([0.2, 0.7, 1.2], **DOUBLE), torch.randn(3, 4, **DOUBLE)
    output, circle = torch.randn(3, 4, **DOUBLE), Trigonometric()
    one, other = (ScoreModel(Best(output, torch.float64), circle, n) for n in ("velocity", "v"))
    for kind in ("noise", "denoise", "score"):
        torch.testing.assert_close(
            getattr(one, kind)(x, t), getattr(other, kind)(x, t), rtol=1e-12, atol=1e-12
        )
    t = torch.tensor([0.2, 0.6, 0.9], **DOUBLE)
    straight = ScoreModel(Best(output, torch.float64), Flow(), "velocity")
    expected = x - t[:, None] * output
    torch.testing.assert_close(straight.denoise(x, t), expected, rtol=1e-12, atol=1e-12)
    flow = Flow().reverse(straight, eta=0.0)  # its velocity is the network's output
    torch.testing.assert_close(flow.drift(x, t), output, rtol=1e-11, atol=1e-11)


def test_velocity_is_in_the_units_of_data_between_minus_one_and_one():
    """For data in [0, 1] the output is that of the process for x̂ = 2x − α."""
    sde, t, x = VP(), torch.tensor([0.3, 0.8], **DOUBLE), torch.randn(2, 3, **DOUBLE)
    output = torch.randn(2, 3, **DOUBLE)
    ranged = ScoreModel(Best(output, torch.float64), sde, "velocity", data_range=(0.0, 1.0))
    alpha, sigma = sde.alpha(t)[:, None], 2 * sde.sigma(t)[:, None]
    alpha_rate, sigma_rate = (rate[:, None] for rate in sde.rates(t))
    centred = 2 * x - alpha
    w = 2 * alpha * sigma_rate - alpha_rate * sigma
    data = (2 * sigma_rate * centred - sigma * output) / w
    torch.testing.assert_close(ranged.denoise(x, t), (data + 1) / 2, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", BLIND)
def test_what_says_nothing_of_the_data_is_refused_for_such_a_chain(name):
    with pytest.raises(ValueError, match=f"parameterization={name} says nothing .* use v, data"):
        ScoreModel(MLP((2,), width=4, depth=1), CHAIN, name)
    ScoreModel(MLP((2,), width=4, depth=1), VP().discretize(40), name)


def test_fourier_features_see_nothing_there():
    t, x = torch.tensor(CHAIN.T, **DOUBLE), torch.randn(2, 3, 4, 4)

    class Watch(torch.nn.Module):
        def forward(self, x, c_noise):
            assert x.isfinite().all() and (x[:, 3:] == 0).all()
            return x[:, :3]

    ScoreModel(Watch(), CHAIN, "v", fourier_features=[6, 7])(x, t)


# The contract


def test_a_process_that_ends_in_noise_alone_is_refused_when_it_is_made():
    with pytest.raises(ValueError, match=r"Flow has alpha\(1\) = 0, and alpha\(t\) must be finite"):
        Flow(1.0)

    class Without(VE):  # without a constructor of its own
        def alpha(self, t):
            return 0.5 - t

    class Derived(Without):
        def __init__(self):
            super().__init__()
            self.T = 0.4

    class Broken(VE):
        def alpha(self, t):
            return t.log()

    with pytest.raises(ValueError, match=r"Without has alpha\(0.5\) = 0"):
        Without()
    assert Derived().T == 0.4  # it is checked after its construction
    with pytest.raises(ValueError, match=r"Broken has alpha\(0\) = -inf"):
        Broken()


@dataclass(eq=False)
class Falling(VE):
    """α = 1 − k t, as a dataclass, whose constructor is written after the class."""

    k: float = 1.0

    sigma_min, sigma_max, _log_ratio = 0.01, 50.0, math.log(5000.0)

    def alpha(self, t):
        return 1 - self.k * t


def test_a_dataclass_is_looked_at_too():
    with pytest.raises(ValueError, match=r"Falling has alpha\(1\) = 0"):
        Falling()
    assert Falling(0.5).k == 0.5


@pytest.mark.parametrize(
    ("noise", "end", "said"),
    [
        (lambda t: 0 * t, 1.0, r"has sigma\(1\) = 0, and sigma must be finite and > 0 at T"),
        (lambda t: t / (1 - t), 1.0, r"has sigma\(1\) = inf"),
        (lambda t: t * math.nan, 1.0, r"has sigma\(1\) = nan"),
        (lambda t: t, math.inf, r"T of Noise must be finite and > 0, got inf"),
        (lambda t: t, -1.0, r"T of Noise must be finite and > 0, got -1.0"),
    ],
)
def test_a_process_without_noise_at_its_end_is_refused_when_it_is_made(noise, end, said):
    class Noise(VE):
        T = end

        def sigma(self, t):
            return noise(t)

    with pytest.raises(ValueError, match=said):
        Noise()


# Chains of zero terminal SNR


def test_the_table_is_that_of_the_published_algorithm():
    """It agrees to 1e-12 with diffusers' own function of β in float64."""
    ddim = pytest.importorskip(
        "diffusers.schedulers.scheduling_ddim", reason="diffusers is not installed"
    )
    base = VP()
    betas = ddim.rescale_zero_terminal_snr(base.schedule.betas(1000))
    chain = base.discretize(1000, zero_terminal_snr=True)
    expected = (1 - betas).cumprod(0)
    torch.testing.assert_close(chain.alphas.square(), expected, rtol=0, atol=1e-12)


def test_a_table_that_ends_in_noise_alone_may_say_so():
    """Such a table is used as given, and refused without that declaration."""

    class Table(VP):
        def levels(self, steps):
            alpha = torch.linspace(0.99, 0, steps, **DOUBLE)
            return alpha, (1 - alpha.square()).sqrt()

    chain = Table().discretize(10, zero_terminal_snr=True)
    torch.testing.assert_close(chain.alphas, Table().levels(10)[0], rtol=1e-15, atol=0)
    with pytest.raises(ValueError, match=r"or use discretize\(10, zero_terminal_snr=True\)"):
        Table().discretize(10)


def test_the_time_and_the_kernel_of_noise_alone():
    """λ = −∞ is inverted to T, among other λ; from a time to itself nothing happens."""
    lam = torch.tensor([-math.inf, -9.0, 1.0, -math.inf], **DOUBLE)
    t = CHAIN.time_of_half_log_snr(lam)
    assert t[0] == t[3] == CHAIN.T
    torch.testing.assert_close(CHAIN.half_log_snr(t[1:3]), lam[1:3], rtol=1e-9, atol=1e-9)
    s = CHAIN.times[[0, 20, -1]]
    a, b = CHAIN.transition(s, s)
    assert a.tolist() == [1, 1, 1] and b.tolist() == [0, 0, 0]


def test_the_label_of_noise_alone_is_finite_in_every_type():
    """¼ log(1/2e-308) = 177.1, whether times are float64 or float32."""
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, x, c_noise):
            seen.append(c_noise)
            return x

    for dtype in (torch.float64, torch.float32):
        ScoreModel(Spy(), CHAIN, "edm").denoise(torch.ones(2, 3), torch.ones(2, dtype=dtype))
    expected = torch.full((2,), -0.25 * math.log(torch.finfo(torch.float64).tiny))
    torch.testing.assert_close(seen[0], expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(seen[1], expected, rtol=1e-6, atol=0)


def test_the_table_is_the_published_one():
    """It agrees with diffusers' rescaling of β, for DDPM's chain and for Stable Diffusion's."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    from scoresde.sde import ScaledLinearSchedule

    for ours, theirs in (
        (VP(), {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}),
        (
            VP(schedule=ScaledLinearSchedule(0.85, 12.0)),
            {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
        ),
    ):
        chain = ours.discretize(1000, zero_terminal_snr=True)
        scheduler = diffusers.DDIMScheduler(rescale_betas_zero_snr=True, **theirs)
        expected = scheduler.alphas_cumprod.double()
        # Theirs are products of a thousand float32 factors.
        torch.testing.assert_close(chain.alphas.square(), expected, rtol=2e-4, atol=2e-6)
        plain = ours.discretize(1000)
        first, last = plain.alphas[0], plain.alphas[-1]
        by_hand = (plain.alphas - last) * first / (first - last)
        torch.testing.assert_close(chain.alphas, by_hand, rtol=1e-12, atol=1e-15)
        assert chain.alphas[-1] == 0 and chain.sigmas[-1] == 1
        assert chain.alphas[0] == pytest.approx(first.item(), rel=1e-14)


def test_the_process_of_such_a_chain():
    """It has scales at the levels, a monotone λ, kernels into and out of noise, and the prior."""
    torch.testing.assert_close(CHAIN.alpha(CHAIN.times), CHAIN.alphas, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(CHAIN.sigma(CHAIN.times), CHAIN.sigmas, rtol=1e-12, atol=0)
    dense = torch.linspace(0, CHAIN.T, 400, **DOUBLE)
    assert (CHAIN.half_log_snr(dense)[1:].diff() < 0).all() and CHAIN.half_log_snr(dense)[
        -1
    ] == -math.inf
    assert (CHAIN.alpha(dense)[:-1] > 0).all()
    rates = CHAIN.rates(dense)
    assert all(rate.isfinite().all() for rate in rates)
    lam = torch.tensor([-20.0, -3.0, 0.0, 2.0], **DOUBLE)
    torch.testing.assert_close(
        CHAIN.half_log_snr(CHAIN.time_of_half_log_snr(lam)), lam, rtol=1e-9, atol=1e-9
    )
    s, t = CHAIN.times[-2], CHAIN.times[-1]
    a, b = CHAIN.transition(s, t)
    assert a == 0 and b == 1
    distribution = posterior(CHAIN, s, t)
    assert distribution.c_0 == CHAIN.alpha(s) and distribution.c_t == 0
    assert distribution.variance == pytest.approx(CHAIN.sigma(s).square().item(), rel=1e-14)
    assert CHAIN.prior((2, 3)).std == 1
    again = construct(describe(CHAIN))
    assert torch.equal(again.alphas, CHAIN.alphas) and again.zero_terminal_snr


@pytest.mark.parametrize("base", [VE(), EDM(), SubVP()], ids=["ve", "edm", "subvp"])
def test_only_chains_that_preserve_the_variance_can_end_so(base):
    with pytest.raises(ValueError, match=r"of chains that preserve the variance, .* over VP"):
        base.discretize(40, zero_terminal_snr=True)


@pytest.mark.parametrize(("steps", "zero", "said"), [
    (2, True, "an integer ≥ 3"), (1, False, "an integer ≥ 2"), (20, "yes", "must be true or false"),
])  # fmt: skip
def test_wrong_settings_of_a_chain_are_refused(steps, zero, said):
    with pytest.raises(ValueError, match=said):
        VP().discretize(steps, zero_terminal_snr=zero)


# Steps that leave noise alone


MEANS = torch.tensor([[1.0, 0.0], [-1.0, 0.5]], **DOUBLE)
EXACT = GaussianMixtureScore(
    CHAIN, torch.tensor([0.3, 0.7], **DOUBLE), MEANS, torch.full((2, 2), 0.2)
)


def test_the_exact_data_prediction_is_the_mean_of_the_data_there():
    t, x = torch.tensor(CHAIN.T, **DOUBLE), torch.randn(5, 2, **DOUBLE)
    mean = torch.tensor([0.3, 0.7], **DOUBLE) @ MEANS
    torch.testing.assert_close(EXACT.denoise(x, t), mean.expand(5, 2), rtol=1e-12, atol=1e-12)
    own = EXACT.given(torch.tensor([0, 1, 1, 0, 2])).denoise(x, t)
    expected = torch.stack([*MEANS[[0, 1, 1, 0]], mean])
    torch.testing.assert_close(own, expected, rtol=1e-12, atol=1e-12)


def test_deterministic_samples_are_those_of_ddim_written_out():
    """x_s = α_s D + σ_s (x − α D)/σ, where the first step has α = 0."""
    grid = [*reversed(CHAIN.times.tolist()), 0.0]
    x = x_t = torch.randn(6, 2, **DOUBLE)
    for t, s in pairwise(grid):
        t, s = (torch.tensor(v, **DOUBLE) for v in (t, s))
        data = EXACT.denoise(x_t, t)
        noise = (x_t - CHAIN.alpha(t) * data) / CHAIN.sigma(t)
        x_t = CHAIN.alpha(s) * data + CHAIN.sigma(s) * noise
    sampler = PredictorCorrector(DDIM(), steps=40)
    samples = sampler(CHAIN, EXACT, (6, 2), x_init=x)
    torch.testing.assert_close(samples.x, x_t, rtol=1e-10, atol=1e-10)
    assert samples.nfe == 40


@pytest.mark.parametrize("name", [*PRESETS, "pc", "ancestral", "first"])
def test_every_solver_with_fixed_steps_leaves_noise_alone(name):
    """Samples have the distribution of the data, as on a chain that ends with some signal."""
    solvers = {
        "pc": lambda: PredictorCorrector(ReverseDiffusion(), Langevin(0.16), steps=40),
        "ancestral": lambda: PredictorCorrector(Ancestral(), steps=40),
        "first": lambda: PredictorCorrector(
            ReverseDiffusion(), Langevin(0.16), steps=40, order="predictor-first"
        ),
    }
    make = solvers.get(name) or (lambda: PredictorCorrector(PRESETS[name](), steps=40))
    data = GaussianScore(CHAIN, torch.tensor([0.5, -0.5]), torch.tensor([0.3, 0.3]))
    options = {"generator": torch.Generator().manual_seed(0), "dtype": torch.float64}
    samples = make()(CHAIN, data, (3000, 2), **options)
    torch.testing.assert_close(
        samples.x.mean(0), torch.tensor([0.5, -0.5], **DOUBLE), rtol=0, atol=0.06
    )
    torch.testing.assert_close(
        samples.x.std(0), torch.full((2,), 0.3**0.5, **DOUBLE), rtol=0, atol=0.09
    )


def test_conditions_and_half_precision_leave_it_too():
    labels = torch.tensor([0, 1, 0, 1])
    sampler = PredictorCorrector(DDIM(), steps=20)
    x = torch.randn(4, 2, **DOUBLE)
    whole = sampler(CHAIN, EXACT.given(labels), (4, 2), x_init=x).x
    for i in range(4):
        one = GaussianMixtureScore(
            CHAIN, torch.ones(1), MEANS[labels[i]][None], torch.full((1, 2), 0.2)
        )
        alone = sampler(CHAIN, one, (1, 2), x_init=x[i : i + 1]).x
        torch.testing.assert_close(whole[i : i + 1], alone, rtol=1e-10, atol=1e-10)
    half = sampler(CHAIN, EXACT, (4, 2), x_init=x.bfloat16())
    assert half.x.isfinite().all()


def test_a_single_step_is_the_data_prediction():
    x = torch.randn(3, 2, **DOUBLE)
    sample = PredictorCorrector(DDIM(), steps=1)(CHAIN, EXACT, (3, 2), x_init=x).x
    t = torch.tensor(CHAIN.T, **DOUBLE)
    torch.testing.assert_close(sample, EXACT.denoise(x, t), rtol=1e-12, atol=1e-12)


def test_ddim_of_diffusers_is_ours():
    """They agree over the whole chain with trailing steps, for predictions of v or the data."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")

    class Net(torch.nn.Module):
        def forward(self, x, c_noise):
            return torch.tanh(0.7 * x + 0.001 * c_noise[:, None])

    net, chain = Net(), VP().discretize(1000, zero_terminal_snr=True)
    for name, kind in (("v", "v_prediction"), ("data", "sample")):
        scheduler = diffusers.DDIMScheduler(
            beta_start=1e-4, beta_end=0.02, rescale_betas_zero_snr=True, clip_sample=False,
            timestep_spacing="trailing", prediction_type=kind, set_alpha_to_one=True,
        )  # fmt: skip
        scheduler.set_timesteps(10)
        x = theirs = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
        for t in scheduler.timesteps:
            theirs = scheduler.step(net(theirs, t.expand(5)), t, theirs).prev_sample
        model = ScoreModel(net, chain, name)
        ours = PredictorCorrector(DDIM(), steps=10)(chain, model, (5, 3), x_init=x).x
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-4)  # their α̅ is float32


# What needs more than the data prediction


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda: ProbabilityFlowODE()(CHAIN, EXACT, (2, 2)), "the probability flow follows"),
        (lambda: ProbabilityFlowODE(method="RK45")(CHAIN, EXACT, (2, 2)), "the probability flow"),
        (lambda: AdaptiveSDE()(CHAIN, EXACT, (2, 2)), "an adaptive solver follows"),
        (lambda: ParallelPicard(DDIM(), 5)(CHAIN, EXACT, (2, 2)), "a parallel solver follows"),
        (lambda: NoiseAdaptive(DDIM(), steps=5)(CHAIN, EXACT, (2, 2)), "a schedule that follows"),
        (lambda: log_likelihood(CHAIN, EXACT, torch.zeros(1, 2)), "the likelihood follows"),
        (lambda: elbo(CHAIN, EXACT, torch.zeros(1, 2).long(), Cells(4)), "a variational bound"),
        (
            lambda: variational_bound(CHAIN, EXACT, torch.zeros(1, 2).long(), Cells(4), steps=5),
            "a variational bound follows",
        ),
        (
            lambda: PredictorCorrector(DDIM(), steps=5).encode(CHAIN, EXACT, torch.zeros(1, 2)),
            "encoding follows",
        ),
        (lambda: LogSNRGrid()(CHAIN, 5), "grid=log_snr is laid out"),
        (lambda: KarrasGrid()(CHAIN, 5), "grid=karras is laid out"),
        (lambda: OptimizedGrid(DDIM())(CHAIN, 5), "grid=optimized is laid out"),
        (lambda: DenoisingScoreMatching(CHAIN), r"use DataPrediction\(\), or zero"),
        (lambda: HybridLoss(CHAIN), "the hybrid loss follows"),
        (lambda: NoiseLevelLoss(CHAIN), "an estimator of the noise level"),
        (lambda: NoiseLevelEstimator(CHAIN, (2,)), "an estimator of the noise level"),
        (
            lambda: PredictorCorrector(Ancestral("analytic"), steps=5).check(CHAIN, torch.float32),
            "variance=analytic follows",
        ),
        (
            lambda: AnalyticVariance.fit(CHAIN, EXACT, torch.zeros(4, 2)),
            "variance=analytic follows",
        ),
        (
            lambda: ImportanceTimes()(CHAIN, 8, None, torch.device("cpu")),
            "importance sampling of times follows",
        ),
        (
            lambda: AnnealedLangevin(steps=1)(CHAIN, EXACT, (2, 2)),
            "the only level of this grid is noise alone, .* use more steps than 1",
        ),
        (
            lambda: PredictorCorrector(DDIM(), steps=5)(CHAIN, lambda x, t: -x, (2, 2)),
            "a step needs its denoise",
        ),
    ],
)
def test_what_needs_the_score_there_is_refused_in_one_sentence(act, said):
    with pytest.raises(ValueError, match=said) as error:
        act()
    assert "\n" not in str(error.value)


def test_torchsde_is_refused_there():
    pytest.importorskip("torchsde", reason="torchsde is not installed")
    with pytest.raises(ValueError, match="torchsde follows the score alone"):
        TorchSDE(steps=5)(CHAIN, EXACT, (2, 2))


def test_a_karras_grid_below_the_last_level_is_one_of_its_own():
    grid = KarrasGrid(sigma_max=5.0)(CHAIN, 5)
    assert grid[0] < CHAIN.T and (grid.diff() < 0).all()


def test_latents_below_noise_alone_lead_back():
    """On a grid that begins where the data are visible, encoding has all that it needs."""
    sampler = PredictorCorrector(
        RungeKutta("heun", "sigma"), steps=39, grid=KarrasGrid(sigma_max=5.0)
    )
    chain = VP().discretize(400, zero_terminal_snr=True)
    exact = GaussianScore(chain, torch.zeros(2), torch.ones(2))  # the flow of this one stands still
    x0 = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), **DOUBLE)
    latent = sampler.encode(chain, exact, x0).x
    back = sampler(chain, exact, (3, 2), x_init=latent).x
    torch.testing.assert_close(back, x0, rtol=0, atol=0.02)


# Training


@pytest.mark.parametrize("weighting", ["v", "truncated", "uniform"])
@pytest.mark.parametrize("name", SEEING)
def test_the_data_prediction_is_trained_at_the_last_level(name, weighting):
    """On all levels, and on the last alone, where the least error is the variance of the data."""
    torch.manual_seed(0)
    model = ScoreModel(MLP((2,), width=8, depth=1), CHAIN, name)
    x0 = torch.randn(64, 2, generator=torch.Generator().manual_seed(3))
    value = DataPrediction(CHAIN, weighting)(model, x0, torch.Generator().manual_seed(0))
    value.backward()
    assert value.isfinite() and all(p.grad.isfinite().all() for p in model.parameters())

    def last(sde, n, generator, device):
        return torch.full((n,), sde.T, **DOUBLE)

    loss = DataPrediction(CHAIN, weighting, last)
    optimizer = torch.optim.Adam(model.parameters(), 3e-2)
    for step in range(120):
        optimizer.zero_grad()
        value = loss(model, x0 + 1.5, torch.Generator().manual_seed(step))
        value.backward()
        optimizer.step()
    assert value.item() < 1.6 * x0.var(0, correction=0).mean().item()  # it is 3.2 at first


def test_the_loss_of_the_data_is_the_weighted_loss_of_the_score():
    """Where α > 0, w ‖D − x_0‖² = w (σ/α)² ‖σ s + z‖²."""
    sde, t = VP(), torch.tensor(0.4, **DOUBLE)
    score = GaussianScore(sde, torch.zeros(2), torch.full((2,), 0.25))

    def fixed(sde, n, generator, device):
        return t.expand(n)

    class Model:
        def __call__(self, x, t, condition=None, *, predict="score"):
            return score.denoise(x, t) if predict == "denoise" else score(x, t)

    x0 = torch.randn(50, 2, **DOUBLE)
    dsm, data = (
        loss(Model(), x0, torch.Generator().manual_seed(0))
        for loss in (
            DenoisingScoreMatching(sde, times=fixed),
            DataPrediction(sde, "uniform", fixed),
        )
    )
    ratio = (sde.sigma(t) / sde.alpha(t)).square()
    torch.testing.assert_close(data, ratio * dsm, rtol=1e-10, atol=0)
    with pytest.raises(ValueError, match=r"unknown weighting 'snr'\. Available: v, truncated"):
        DataPrediction(sde, "snr")


@pytest.mark.parametrize("data_range", [(-1.0, 1.0), (0.0, 1.0), (0.0, 255.0)])
def test_the_error_of_v_counts_the_same_in_any_range(data_range):
    """With weighting v the loss is the mean squared error of v, for data in [−1, 1]."""
    sde, half = VP(), (data_range[1] - data_range[0]) / 2

    class Off(torch.nn.Module):
        def forward(self, x, c_noise):
            return torch.zeros_like(x)

    model = ScoreModel(Off(), sde, "v", data_range=data_range)
    x0 = torch.rand(40, 3, **DOUBLE) * 2 * half + data_range[0]
    t = torch.linspace(0.01, 0.9, 40, **DOUBLE)
    loss = DataPrediction(sde, "v", lambda *_: t, data_range=data_range)
    value = loss(model, x0, torch.Generator().manual_seed(0))
    z = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), **DOUBLE)
    alpha, sigma = sde.alpha(t)[:, None], sde.sigma(t)[:, None] / half
    centred = (x0 - sum(data_range) / 2) / half
    r = (alpha.square() + sigma.square()).sqrt()
    v = (alpha * z - sigma * centred) / r  # the network outputs 0 for it
    torch.testing.assert_close(value, v.square().mean(), rtol=1e-10, atol=0)


def test_times_in_the_log_snr_never_reach_the_last_level():
    """Its λ is −∞, so that a stratified time would have no end and is refused."""
    with pytest.raises(ValueError, match="importance sampling of times"):
        ImportanceTimes()(CHAIN, 8, torch.Generator().manual_seed(0), torch.device("cpu"))


def test_the_cosine_chain_too():
    chain = VP(schedule=CosineSchedule()).discretize(50, zero_terminal_snr=True)
    data = GaussianScore(chain, torch.zeros(1), torch.full((1,), 0.5))
    x = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0), **DOUBLE)
    samples = PredictorCorrector(DDIM(), steps=50)(chain, data, (4000, 1), x_init=x).x
    assert samples.std().item() == pytest.approx(0.5**0.5, abs=0.03)
