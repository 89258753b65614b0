"""torchsde's solvers on every process: distribution, number of evaluations, errors."""

import builtins
import math

import pytest
import torch

from scoresde.models import GaussianScore
from scoresde.samplers import TorchSDE
from scoresde.samplers.torchsde import CALCULUS, VARIABLES
from scoresde.sde import EDM, VE, VP

pytest.importorskip("torchsde")

DOUBLE = {"dtype": torch.float64}
MEAN, STD = 0.3, 0.6
COST = {"euler": 1, "milstein": 1, "srk": 2, "heun": 2, "midpoint": 2, "euler_heun": 1}
ADAPTIVE = {"adaptive": True, "steps": 50, "rtol": 3e-3, "atol": 3e-3}


def gaussian(sde, dim=2):
    return GaussianScore(sde, torch.full((dim,), MEAN), torch.full((dim,), STD**2))


def check_distribution(sde, x, bound):
    """Mean and standard deviation of the data's distribution at the time where sampling ends."""
    eps = torch.tensor(sde.sampling_eps, **DOUBLE)
    alpha, sigma = sde.alpha(eps).item(), sde.sigma(eps).item()
    assert abs(x.mean().item() - alpha * MEAN) < bound
    assert abs(x.std().item() - math.hypot(alpha * STD, sigma)) < bound


@pytest.mark.parametrize("variable, process", [("log_snr", EDM()), ("time", VP()), ("time", VE())])
@pytest.mark.parametrize("method", CALCULUS)
def test_samples_have_the_distribution_of_the_data(variable, process, method, generator):
    """Five standard errors of 16000 coordinates are 0.024; the bound adds the bias of 100 steps."""
    sampler = TorchSDE(method, 100, variable=variable)
    samples = sampler(process, gaussian(process), (8000, 2), generator=generator)
    check_distribution(process, samples.x, 0.05)
    assert samples.nfe == 100 * COST[method]


@pytest.mark.slow
@pytest.mark.parametrize("variable, process", [("log_snr", EDM()), ("time", VP())])
@pytest.mark.parametrize("method", ["euler", "srk", "heun"])
def test_adaptive_steps_have_the_distribution_of_the_data(variable, process, method, generator):
    sampler = TorchSDE(method, variable=variable, **ADAPTIVE)
    check_distribution(
        process, sampler(process, gaussian(process), (4000, 2), generator=generator).x, 0.05
    )


@pytest.mark.parametrize("options", [{"steps": 50, "variable": "time"}, {"steps": 50}, ADAPTIVE])
def test_images_of_any_process(sde, options, generator):
    """Images (B, 1, 8, 8) of any process and chain have the right shape, distribution and count.

    A progress bar is shown.
    """
    if "variable" in options and sde.T > 1:
        pytest.skip("50 equal steps in a time that is σ ≤ 80 are too few for any solver")
    calls, score = [], gaussian(sde, 64)

    def counting(x, t):
        calls.append(tuple(x.shape))
        return score(x, t)

    samples = TorchSDE(**options)(sde, counting, (200, 1, 8, 8), generator=generator, progress=True)
    check_distribution(sde, samples.x, 0.05)
    assert set(calls) == {(200, 1, 8, 8)} and samples.nfe == len(calls)


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("method", CALCULUS)
def test_without_noise_it_is_the_exact_flow(method, variable):
    """With η = 0, halving the step divides the error by 2^p, and p = 2 where a step costs two."""
    sde, x = VP(), torch.randn(4, 2, **DOUBLE)
    score = gaussian(sde)
    exact = score.flow(x, *(torch.tensor(t, **DOUBLE) for t in (sde.T, sde.sampling_eps)))
    rough, good = (
        (
            TorchSDE(method, n, eta=0.0, variable=variable)(sde, score, (4, 2), x_init=x).x - exact
        ).norm()
        for n in (100, 200)
    )
    assert abs(torch.log2(rough / good).item() - COST[method]) < 0.15


def test_encoding_returns(sde):
    """With η = 0 the data return after encoding and decoding."""
    sampler, score, x0 = TorchSDE("srk", 60, eta=0.0), gaussian(sde), torch.randn(4, 2, **DOUBLE)
    latents = sampler.encode(sde, score, x0).x
    back = sampler(sde, score, (4, 2), x_init=latents).x
    torch.testing.assert_close(back, x0, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("options", [{"steps": 20}, ADAPTIVE], ids=["fixed", "adaptive"])
def test_a_generator_repeats_a_run(options):
    """Equal seeds give equal samples, for any use of global generators; other seeds give others."""
    x, runs = torch.randn(6, 2), []
    for seed, elsewhere in ((7, 1), (7, 2), (8, 2)):
        torch.manual_seed(elsewhere)
        generator = torch.Generator().manual_seed(seed)
        sampler = TorchSDE(**options)
        runs.append(sampler(VP(), gaussian(VP()), (6, 2), x_init=x, generator=generator).x)
    torch.testing.assert_close(runs[0], runs[1], rtol=0, atol=0)
    assert (runs[0] - runs[2]).abs().min() > 0


def test_without_a_generator_the_global_one_decides():
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(TorchSDE(steps=5)(VP(), gaussian(VP()), (6, 2)).x)
    torch.testing.assert_close(runs[0], runs[1], rtol=0, atol=0)
    assert (runs[0] - runs[2]).abs().min() > 0


def test_temperature_scales_all_noise():
    """At temperature 0 the prior is its mean and no noise is added: all samples are equal."""
    samples = TorchSDE(steps=20)(VP(), gaussian(VP()), (5, 2), temperature=0.0)
    torch.testing.assert_close(samples.x, samples.x[:1].expand(5, 2), rtol=0, atol=0)


@pytest.mark.parametrize("options", [{"steps": 10}, ADAPTIVE], ids=["fixed", "adaptive"])
def test_trajectory_goes_from_latent_to_sample(options):
    """Frames are at the times that the callback receives; those of fixed steps are states."""
    x, seen, states = torch.randn(3, 2, **DOUBLE), [], []
    score = gaussian(VP())

    def watched(x, t):
        states.append(x)
        return score(x, t)

    samples = TorchSDE("euler", variable="time", **options)(
        VP(), watched, (3, 2), x_init=x, trajectory=6, callback=lambda *step: seen.append(step)
    )
    assert samples.trajectory.shape == (6, 3, 2)
    torch.testing.assert_close(samples.trajectory[0], x, rtol=0, atol=0)
    torch.testing.assert_close(samples.trajectory[-1], samples.x, rtol=0, atol=0)
    times = torch.stack([t for _, t, _ in seen])
    torch.testing.assert_close(
        times, torch.linspace(1.0, 1e-3, 6, **DOUBLE)[1:-1], rtol=0, atol=1e-12
    )
    if "adaptive" not in options:
        kept = torch.stack(states[2::2])
        torch.testing.assert_close(samples.trajectory[1:-1], kept, rtol=0, atol=1e-6)


def test_a_score_that_is_not_a_number_stops_adaptive_steps():
    with pytest.raises(RuntimeError, match=r"score is not finite at t=1, sample 0"):
        TorchSDE(**ADAPTIVE)(VP(), lambda x, t: x * math.nan, (3, 2))


def test_steps_that_become_too_short_stop():
    """torchsde itself would accept them, whatever their error."""
    with pytest.raises(RuntimeError, match=r"stopped: Hitting minimum.*use adaptive=False"):
        TorchSDE(adaptive=True)(VP(), lambda x, t: 1e12 * (x.sin() / (t - 0.5)), (3, 2))


def test_a_missing_package_is_named(monkeypatch):
    """The toolkit can be imported without torchsde, and its use says how to install it."""
    found = builtins.__import__

    def absent(name, *args):
        if name == "torchsde":
            raise ImportError(name)
        return found(name, *args)

    sampler = TorchSDE()
    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ImportError, match=r'pip install "score-sde-toolkit\[torchsde\]"'):
        sampler.check(VP(), torch.float32)


X = torch.zeros(3, 2)


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: TorchSDE("reversible_heun"), "unknown method 'reversible_heun'. Available: euler"),
        (lambda: TorchSDE("log_ode"), "unknown method 'log_ode'"),
        (
            lambda: TorchSDE(variable="sigma"),
            "unknown variable 'sigma'. Available: half_log_snr, log_snr, time",
        ),
        (lambda: TorchSDE(steps=0), "steps must be an integer ≥ 1, got 0"),
        (lambda: TorchSDE(steps=2.5), r"steps must be an integer ≥ 1, got 2\.5"),
        (lambda: TorchSDE(rtol=0.0), r"rtol and atol must be > 0, got 0\.0"),
        (lambda: TorchSDE(atol=math.nan), "rtol and atol must be > 0, got 0.01 and nan"),
        (lambda: TorchSDE(eta=-1.0), r"eta must be finite and ≥ 0, got -1\.0"),
        (lambda: TorchSDE(eps=0.0)(VP(), None, (3, 2)), r"eps must be in \(0, T=1\.0\), got 0"),
        (lambda: TorchSDE(eps=1.0)(VP(), None, (3, 2)), r"eps must be in \(0, T=1\.0\), got 1"),
        (
            lambda: TorchSDE(adaptive=True, rtol=1e-9)(VP(), None, (3, 2)),
            "rtol 1e-09 is below float32 resolution",
        ),
        (
            lambda: TorchSDE()(VP(), None, (3, 2), constraint=lambda x, t, noise: x),
            "torchsde takes no constraint; use PredictorCorrector",
        ),
        (
            lambda: TorchSDE()(VP(), None, (3, 2), noise=torch.randn_like),
            "torchsde draws its own noise; use generator=",
        ),
        (lambda: TorchSDE().encode(VP(), None, X), r"cannot encode; use TorchSDE\(eta=0\)"),
    ],
)
def test_wrong_input_is_refused_before_any_evaluation(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
