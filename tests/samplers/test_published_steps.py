"""Steps of published algorithms, written out by hand in their own symbols."""

import math

import pytest
import torch

from benchmarks.convergence import PROCESSES, gaussian
from scoresde.samplers import (
    DDIM,
    SRA1,
    AnalyticVariance,
    Ancestral,
    EDMHeun,
    EulerMaruyama,
    ExponentialMultistep,
    ExponentialSinglestep,
    FixedGrid,
    KarrasGrid,
    Langevin,
    LogSNRGrid,
    PredictorCorrector,
    ReverseDiffusion,
    StochasticHeun,
)
from scoresde.samplers.langevin import Level
from scoresde.samplers.presets import PRESETS
from scoresde.sde import EDM, VE, VP

DOUBLE = {"dtype": torch.float64}


@pytest.fixture(params=list(PROCESSES))
def sde(request):
    return PROCESSES[request.param]


def start(sde, n=5):
    return sde.prior((n, 2)).sample(torch.Generator().manual_seed(0), **DOUBLE)


def same(a, b):
    """Both are equal to rounding, since they are a few products of the same numbers."""
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def coefficients(sde, t):
    return sde.alpha(t), sde.sigma(t), sde.half_log_snr(t)


def test_dpm_solver_3(sde):
    """Lu et al. 2022, arXiv:2206.00927, algorithm 2, with r_1 = 1/3 and r_2 = 2/3."""
    score, x, r1, r2 = gaussian(sde), start(sde), 1 / 3, 2 / 3
    times = LogSNRGrid()(sde, 4)
    sampler = PredictorCorrector(
        PRESETS["dpm_solver_3"](), steps=4, grid=LogSNRGrid(), denoise=False
    )
    frames = sampler(sde, score, (5, 2), x_init=x, trajectory=5).trajectory

    def noise(x, t):
        return -sde.sigma(t) * score(x, t)

    for s, t, before, after in zip(times[:-1], times[1:], frames[:-1], frames[1:], strict=True):
        alpha, _, lam = coefficients(sde, s)
        h = sde.half_log_snr(t) - lam
        s1, s2 = (sde.time_of_half_log_snr(lam + r * h) for r in (r1, r2))
        (a1, b1, _), (a2, b2, _), (a, b, _) = (coefficients(sde, u) for u in (s1, s2, t))
        e = noise(before, s)
        u1 = a1 / alpha * before - b1 * torch.expm1(r1 * h) * e
        d1 = noise(u1, s1) - e
        phi = torch.expm1(r2 * h) / (r2 * h) - 1
        u2 = a2 / alpha * before - b2 * torch.expm1(r2 * h) * e - b2 * r2 / r1 * phi * d1
        d2 = noise(u2, s2) - e
        phi = torch.expm1(h) / h - 1
        same(after, a / alpha * before - b * torch.expm1(h) * e - b / r2 * phi * d2)


def test_unipc_2_corrects_its_first_step_by_the_trapezoid(sde):
    """Zhao et al. 2023, arXiv:2302.04867: UniC with B(h) = e^h − 1 and one evaluation behind it."""
    score, x = gaussian(sde), start(sde)
    solver = ExponentialMultistep(2, "data", corrector=True, weights="dpmpp")
    sampler = PredictorCorrector(solver, steps=2, grid=LogSNRGrid(), denoise=False)
    _, corrected, last = sampler(sde, score, (5, 2), x_init=x, trajectory=3).trajectory
    times = LogSNRGrid()(sde, 2)
    (_, b0, l0), (a1, b1, l1), (a2, b2, l2) = (coefficients(sde, t) for t in times)

    def data(x, t):
        return (x + sde.sigma(t) ** 2 * score(x, t)) / sde.alpha(t)

    weight = -a1 * torch.expm1(l0 - l1)
    d0 = data(x, times[0])
    predicted = b1 / b0 * x + weight * d0
    d1 = data(predicted, times[1])
    same(corrected, b1 / b0 * x + weight * (d0 + d1) / 2)
    slope = (l2 - l1) / (l1 - l0) * (d1 - d0)
    same(last, b2 / b1 * corrected - a2 * torch.expm1(l1 - l2) * (d1 + slope / 2))


@pytest.mark.parametrize("churn", [0.6, 30.0], ids=["below the limit", "at the limit"])
@pytest.mark.parametrize("name", ["edm", "vp"])
def test_churned_heun(name, churn):
    """Karras et al. 2022, arXiv:2206.00364, algorithm 2, in x/α and σ/α; S in [0.05, 5]."""
    sde = {"edm": EDM(), "vp": VP()}[name]
    score, x, n = gaussian(sde), start(sde), 6
    z = torch.randn(n, 5, 2, generator=torch.Generator().manual_seed(1), **DOUBLE)
    script = iter(z)
    grid = KarrasGrid()
    sampler = PredictorCorrector(
        EDMHeun(churn, 0.05, 5.0, 1.007), steps=n, grid=grid, denoise=False
    )
    frames = sampler(
        sde, score, (5, 2), x_init=x, trajectory=n + 1, noise=lambda x: next(script)
    ).trajectory
    times = grid(sde, n)
    gamma, used = min(churn / n, math.sqrt(2) - 1), 0

    def slope(y, sigma):  # d(x/α)/d(σ/α) = −σ s
        t = sde.time_of_half_log_snr(-sigma.log())
        return -sde.sigma(t) * score(sde.alpha(t) * y, t)

    for i in range(n):
        sigma, end = (torch.exp(-sde.half_log_snr(t)) for t in times[i : i + 2])
        y = frames[i] / sde.alpha(times[i])
        if 0.05 <= sigma <= 5:
            raised = (1 + gamma) * sigma
            y = y + (raised**2 - sigma**2).sqrt() * 1.007 * z[used]
            sigma, used = raised, used + 1
        d = slope(y, sigma)
        guess = y + (end - sigma) * d
        expected = y + (end - sigma) * (d + slope(guess, end)) / 2
        same(frames[i + 1], sde.alpha(times[i + 1]) * expected)
    assert 1 <= used < n


@pytest.mark.parametrize("make", [ExponentialMultistep, ExponentialSinglestep])
def test_stochasticity_acts_in_its_interval(sde, make):
    """A step is random if its middle in λ has σ/α in the interval, to 1e-9 of its ends."""
    times = LogSNRGrid()(sde, 10)
    lam = sde.half_log_snr(times)
    middle = torch.exp(-(lam[:-1] + lam[1:]) / 2)
    low, high = middle[6].item() * (1 - 1e-9), middle[3].item() * (1 + 1e-9)
    random = [
        [
            any(row.z for row in step.rows)
            for step in make(2, tau=1.0, tau_range=ends).plan(sde, times)
        ]
        for ends in ((low, high), (low * (1 + 2e-9), high * (1 - 2e-9)))
    ]
    assert random[0] == [3 <= i <= 6 for i in range(10)]
    assert random[1] == [3 < i < 6 for i in range(10)]


@pytest.mark.parametrize("method", ["heun", "sra1"])
def test_stochastic_steps(sde, method):
    """Heun's method and Rößler 2010, table 6.2 (SRA1), for dx = (f x − g² s) dt + g dw̄."""
    solver = {"heun": StochasticHeun(), "sra1": SRA1()}[method]
    score, x, n = gaussian(sde), start(sde), 5
    z = torch.randn(2 * n, 5, 2, generator=torch.Generator().manual_seed(1), **DOUBLE)
    script = iter(z)
    sampler = PredictorCorrector(solver, steps=n, grid=LogSNRGrid(), denoise=False)
    frames = sampler(
        sde, score, (5, 2), x_init=x, trajectory=n + 1, noise=lambda x: next(script)
    ).trajectory
    times, draws = LogSNRGrid()(sde, n), iter(z)

    def a(x, t):
        return sde.f(t) * x - sde.g(t) ** 2 * score(x, t)

    for s, t, before, after in zip(times[:-1], times[1:], frames[:-1], frames[1:], strict=True):
        h, g, g_next = t - s, sde.g(s), sde.g(t)
        first, z1 = a(before, s), next(draws)
        if method == "heun":
            noise = (h.abs() * (g**2 + g_next**2) / 2).sqrt() * z1
            second = a(before + h * first + noise, t)
            expected = before + h * (first + second) / 2 + noise
        else:
            mean = h.abs().sqrt() * (z1 + next(draws) / math.sqrt(3)) / 2
            second = a(before + 0.75 * h * first + 1.5 * g_next * mean, s + 0.75 * h)
            expected = before + h * (first / 3 + 2 * second / 3)
            expected = expected + g_next * h.abs().sqrt() * z1 + (g - g_next) * mean
        torch.testing.assert_close(
            after, expected, rtol=1e-11, atol=1e-11 * after.abs().max().item()
        )


@pytest.mark.parametrize("solver", [DDIM(), SRA1(), EDMHeun(), PRESETS["unipc_3"]()])
@pytest.mark.parametrize("base", [VP(), VE()], ids=["vp", "ve"])
def test_the_last_step_of_a_chain_is_the_posterior_mean(base, solver):
    """(x + σ² s)/α at the lowest level (Ho et al. 2020, arXiv:2006.11239, eq. 15)."""
    chain, score = base.discretize(50), gaussian(base.discretize(50))
    sampler = PredictorCorrector(solver, steps=50, denoise=False)
    frames = sampler(chain, score, (5, 2), x_init=start(chain), trajectory=51).trajectory
    t = chain.times[0]
    mean = (frames[-2] + chain.sigma(t) ** 2 * score(frames[-2], t)) / chain.alpha(t)
    same(frames[-1], mean)


@pytest.mark.parametrize("predictor", [ReverseDiffusion(), Ancestral(), EulerMaruyama(), DDIM(1.0)])
def test_one_step_of_a_predictor_is_its_formula(sde, predictor):
    """x′ = c x + w s + std z, alone and as the sampler takes it."""
    x, t, t_next = start(sde), *(torch.tensor(v * sde.T, **DOUBLE) for v in (0.6, 0.5))
    z = torch.randn(5, 2, generator=torch.Generator().manual_seed(1), **DOUBLE)
    c, w, std = predictor.coefficients(sde, t, t_next)
    moved, mean = predictor.step(sde, gaussian(sde), x, t, t_next, lambda x: z)
    same(mean, c * x + w * gaussian(sde)(x, t))
    same(moved, mean + std * z)
    sampler = PredictorCorrector(predictor, steps=1, grid=FixedGrid([t, t_next]), denoise=False)
    same(sampler(sde, gaussian(sde), (5, 2), x_init=x, noise=lambda x: z).x, moved)


def test_the_analytic_variance_is_the_loss_that_was_measured():
    """It agrees at the 100 λ of the measurement, between two, and below the last (Bao et al.)."""
    sde, n = VP(), 100
    x0 = torch.randn(200, 2, generator=torch.Generator().manual_seed(0), **DOUBLE)
    generator = torch.Generator().manual_seed(0)
    predictor = Ancestral(AnalyticVariance.fit(sde, gaussian(sde), x0, generator))
    ends = sde.half_log_snr(torch.tensor([sde.T, sde.sampling_eps], **DOUBLE))
    nodes = sde.time_of_half_log_snr(torch.linspace(*ends.tolist(), n, **DOUBLE))
    generator, losses = torch.Generator().manual_seed(0), []
    for t in nodes:
        z = torch.randn(200, 2, generator=generator, **DOUBLE)
        x = sde.alpha(t) * x0 + sde.sigma(t) * z
        losses.append((z + sde.sigma(t) * gaussian(sde)(x, t)).square().mean())
    losses = torch.stack(losses)

    def loss(t):
        s = 0.9 * t
        a, b = sde.transition(s, t)
        plain = (b * sde.sigma(s) / sde.sigma(t)).square()
        variance = predictor.coefficients(sde, t, s)[2].square()
        return (variance - plain) / (b.square() / (a * sde.sigma(t))).square()

    torch.testing.assert_close(loss(nodes), losses, rtol=1e-6, atol=0)
    middle = sde.time_of_half_log_snr(
        (sde.half_log_snr(nodes[1:]) + sde.half_log_snr(nodes[:-1])) / 2
    )
    torch.testing.assert_close(loss(middle), (losses[1:] * losses[:-1]).sqrt(), rtol=1e-6, atol=0)
    below = loss(torch.tensor([1e-4, 2e-5], **DOUBLE))
    torch.testing.assert_close(below, losses[-1:].expand(2), rtol=1e-6, atol=0)


@pytest.mark.parametrize("norm", ["sample", "batch"])
@pytest.mark.parametrize("dim", [4, 64])
def test_langevin_steps(dim, norm):
    """They are algorithms 4 and 5 of Song et al. 2021, within a window [1/w, w] for own norms."""
    sde, corrector = VP(), Langevin(0.16, norm=norm)
    t, t_next = (torch.tensor([v], **DOUBLE) for v in (0.5, 0.4))
    (level,) = corrector.levels(sde, t, t_next)
    sigma = sde.sigma(t)
    generator = torch.Generator().manual_seed(0)
    x, z, s = torch.randn(3, 6, dim, generator=generator, **DOUBLE).unbind()
    s = s * torch.logspace(-2, 2, 6, **DOUBLE)[:, None]  # inside the window and far out of it
    moved, mean = corrector.step(level, lambda x, t: s, x, lambda x: z)
    size, pull = z.norm(dim=1), s.norm(dim=1)
    if norm == "batch":
        delta = 2 * (level.a * 0.16) ** 2 * (size.mean() / pull.mean()) ** 2
        delta = delta.expand(6, 1)
    else:
        window = 1 + (dim / 32) ** 2
        ratio = ((size / (sigma * pull)) ** 2).clamp(1 / window, window)
        delta = (2 * (level.a * 0.16 * sigma) ** 2 * ratio)[:, None]
    same(mean, x + delta * s)
    same(moved, x + delta * s + (2 * delta).sqrt() * z)


def test_a_langevin_step_stays_within_its_window():
    """Without a pull δ is 2 (a r σ)² (1 + (D/32)²), and 2 (a r σ)² if the noise is 0 too."""
    level = Level(torch.tensor(0.5, dtype=torch.float64), 0.9, 0.5)
    s, z = torch.zeros(2, 64, dtype=torch.float64), torch.ones(2, 64, dtype=torch.float64)
    z[1] = 0
    unit = 2 * (0.9 * 0.16 * 0.5) ** 2
    expected = torch.tensor([unit * 5, unit], dtype=torch.float64)
    torch.testing.assert_close(Langevin(0.16).step_size(level, s, z), expected, rtol=1e-14, atol=0)
    of_batch = Langevin(0.16, norm="batch").step_size(level, s, z)
    torch.testing.assert_close(of_batch, expected[0], rtol=1e-14, atol=0)
