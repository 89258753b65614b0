"""A solver that cannot go on stops at once and names the time and what is not finite."""

import math

import pytest
import torch

from scoresde.evaluation import Cells, elbo, log_likelihood, quantized_likelihood
from scoresde.models import GaussianScore
from scoresde.samplers import AdaptiveSDE, ProbabilityFlowODE, TorchSDE, ode
from scoresde.sde import EDM, VP, integrate
from scoresde.sde.cautions import silent

SDE = VP()
EXACT = GaussianScore(SDE, torch.zeros(2).double(), torch.full((2,), 0.25).double())
DOUBLE = {"dtype": torch.float64}


def spoiled(value, where):
    """The exact score, with NaN or Inf where (x, t) says, for t in x's shape."""

    def score(x, t):
        times = t.expand(len(x)).reshape(-1, *[1] * (x.ndim - 1)).expand_as(x)
        return torch.where(where(x, times), value, EXACT(x, t))

    return score


FOREIGN = {
    **{m: ProbabilityFlowODE(method=m) for m in ("RK23", "RK45", "DOP853", "Radau", "BDF")},
    "LSODA": ProbabilityFlowODE(method="LSODA"),
    **{f"torchsde {m}": TorchSDE(m, steps=4) for m in ("euler", "heun", "srk")},
    "torchsde adaptive": TorchSDE(adaptive=True),
    "torchsde flow": TorchSDE("midpoint", steps=4, eta=0.0),
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_solvers_of_others_stop_within_one_evaluation(name, value):
    """One sample of three is invalid from the start, and SciPy's Runge–Kutta would never end."""
    calls = []

    def score(x, t):
        calls.append(1)
        s = EXACT(x, t)
        s[1] = value
        return s

    with pytest.raises(RuntimeError, match="score is not finite at t=1, sample 1"):
        FOREIGN[name](SDE, score, (3, 2))
    assert len(calls) == 1


@pytest.mark.parametrize("method", ["RK23", "BDF"])
def test_solvers_of_others_end_on_stiff_flows_too(monkeypatch, method):
    """Ours stop after 10000 steps; for SciPy's, the evaluations of as many steps are counted."""
    monkeypatch.setattr(ode, "MAX_STEPS", 3)
    with pytest.raises(RuntimeError, match=r"stopped: \d+ evaluations did not reach t=0.001; m"):
        ProbabilityFlowODE(method=method)(SDE, lambda x, t: -x.sin() * 1e6, (2, 2))


def test_a_state_that_is_not_finite_is_named_before_the_score():
    """float32 can hold the score, but not a step of length 40 with it."""

    def steep(x, t):
        s = -x
        s[2] = 1e36
        return s

    with pytest.raises(RuntimeError, match=r"the state is not finite at t=40\.\d*, sample 2"):
        TorchSDE("euler", steps=2, variable="time")(EDM(), steep, (3, 2))


@pytest.mark.parametrize("method", ["bosh3", "dopri5", "dop853"])
@pytest.mark.parametrize("clock", ["t", "log_snr"])
def test_likelihoods_name_the_time_of_the_process(method, clock):
    """A score that is NaN after t = 0.5 stops there, for either variable of the integration."""
    score = spoiled(math.nan, lambda x, t: (t > 0.5) & (x[:1] < 1e9))
    with pytest.raises(RuntimeError, match=r"at t=0\.5, sample 0; the score is not finite there"):
        log_likelihood(SDE, score, torch.ones(2, 2, **DOUBLE), clock=clock, method=method)


def test_the_probe_of_the_first_step_is_not_blamed():
    """NaN before t = 0.5 stops paths from T there, not at T, where the first probe looks ahead."""
    score = spoiled(math.nan, lambda x, t: t < 0.5)
    x = torch.full((2, 2), 0.3, **DOUBLE)
    for sampler in (ProbabilityFlowODE(0.5, 0.5), ProbabilityFlowODE(), AdaptiveSDE()):
        with pytest.raises(RuntimeError, match=r"at t=0\.5.*; the score is not finite there"):
            sampler(SDE, score, (2, 2), x_init=x)


def test_what_is_not_finite_is_named():
    x = torch.ones(2, 2, **DOUBLE)

    def kinked(x, t):
        """A finite score whose derivative is not finite at the first sample."""
        return EXACT(x, t) + (x[:, :1] - 1).abs().sqrt()

    with pytest.raises(RuntimeError, match="the divergence of the score is not finite"):
        log_likelihood(SDE, kinked, x)
    sentence = "t=1e-05, sample 1; the score is not finite there"
    with silent(), pytest.raises(RuntimeError, match=sentence):
        far = torch.tensor([[1.0, 1.0], [1e30, 0.0]])
        log_likelihood(SDE, spoiled(math.inf, lambda x, t: x > 1e20), far, clock="log_snr")
    with pytest.raises(RuntimeError, match=r"3 steps did not reach t=1; sample 0 is at t=0\.0"):
        integrate(
            lambda t, y, index: y * 500,
            torch.ones(1, 1),
            5.0,
            6.0,
            max_steps=3,
            time_of=lambda u: u - 5,
        )


def test_a_slope_that_is_infinite_is_not_a_last_step():
    """Inf at the start makes a first step of length 0, which has no sign."""
    with pytest.raises(RuntimeError, match="step below minimum at t=0, sample 0"):
        integrate(lambda t, y, index: y * math.inf, torch.ones(1, 1, **DOUBLE), 0.0, 1.0)


@pytest.mark.parametrize("clock", ["t", "log_snr"])
def test_one_absurd_sample_costs_the_others_nothing(clock):
    """It gets NaN, a count and a warning, and the others get their values to all digits."""
    x = torch.tensor([[0.1, 0.2], [1e30, 0.0], [-0.3, 0.4]], **DOUBLE)
    options = {"clock": clock, "rtol": 1e-4, "atol": 1e-4}
    score = spoiled(math.nan, lambda x, t: x > 1e9)
    sentence = r"1 of 3 samples have no likelihood, the first.* sample 1"
    with silent(), pytest.warns(UserWarning, match=sentence):  # no warning on width
        scored = log_likelihood(SDE, score, x, give_up=True, **options)
    alone = log_likelihood(SDE, EXACT, x[[0, 2]], **options)
    torch.testing.assert_close(scored.log_prob[[0, 2]], alone.log_prob, rtol=0, atol=1e-12)
    assert scored.log_prob[1].isnan() and scored.latent[1].isnan().all()
    summary = scored.summary()
    assert summary["likelihood_failed"] == 1 and summary["likelihood_samples"] == 2
    assert summary["log_likelihood"] == pytest.approx(alone.log_prob.mean().item(), abs=1e-12)
    assert summary["likelihood_errors"] == alone.summary()["likelihood_errors"]


def test_quantized_samples_and_bounds_are_counted_too():
    k, cells = torch.tensor([[0, 0], [3, 3], [1, 2]]), Cells(4)
    score = spoiled(math.nan, lambda x, t: (x[:, :1] > 0.5) & (x[:, 1:] > 0.5) & (t < 1e-4))
    with pytest.warns(
        UserWarning, match=r"1 of 3 samples have no likelihood, the first.* sample 9"
    ):
        scored = quantized_likelihood(
            SDE, score, k, cells, rtol=1e-2, atol=1e-2, give_up=True, sample_ids=[7, 9, 8]
        )
    summary = scored.summary()
    assert summary["likelihood_failed"] == 1 and math.isfinite(summary["bits_per_dim"])
    with pytest.warns(UserWarning, match=r"1 of 3 samples have no bound \(elbo\)"):
        found = elbo(SDE, score, k, cells, terms=2).summary()["elbo"]
    assert found["failed"] == 1 and found["samples"] == 2 and math.isfinite(found["bits_per_dim"])
