"""Every method of the ODE sampler on the exact flow of a Gaussian distribution."""

import pytest
import torch

from scoresde.models import GaussianScore
from scoresde.samplers import ProbabilityFlowODE
from scoresde.samplers.ode import IMPLICIT, METHODS
from scoresde.sde import VE, VP, SubVP

DOUBLE = {"dtype": torch.float64}
LEVELS = [VP(), VE(), SubVP(), VP().discretize(1000)]


def gaussian(sde, dim=2):
    return GaussianScore(sde, torch.full((dim,), 0.3), torch.linspace(0.2, 0.6, dim) ** 2)


def ends(sde):
    return (torch.tensor(t, **DOUBLE) for t in (sde.T, sde.sampling_eps))


@pytest.mark.parametrize("sde", LEVELS, ids=["vp", "ve", "subvp", "ddpm"])
@pytest.mark.parametrize("method", METHODS)
def test_samples_are_the_exact_flow(sde, method):
    """Latents follow the closed form to 100 tolerances, multiplied by 3 σ(T) for VE's scale."""
    score = gaussian(sde)
    x = sde.prior((6, 2)).sample(torch.Generator().manual_seed(0), **DOUBLE)
    sampler = ProbabilityFlowODE(1e-5, 1e-5, method=method)
    samples = sampler(sde, score, (6, 2), x_init=x)
    torch.testing.assert_close(samples.x, score.flow(x, *ends(sde)), rtol=0, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_images_progress_trajectories_and_evaluations(method):
    """States have several dimensions, frames lie on the flow, and nfe is the number of calls."""
    sde, shape, calls = VP(), (3, 1, 2, 2), []
    score = gaussian(sde, 4)

    def counting(x, t):
        calls.append(len(x))
        return score(x, t)

    x = torch.randn(shape, **DOUBLE)
    times = torch.linspace(sde.T, sde.sampling_eps, 5, **DOUBLE)
    sampler = ProbabilityFlowODE(1e-6, 1e-6, method=method)
    samples = sampler(sde, counting, shape, x_init=x, trajectory=5, progress=True)
    exact = torch.stack([score.flow(x, times[0], t) for t in times])
    torch.testing.assert_close(samples.trajectory, exact, rtol=0, atol=1e-3)
    assert samples.nfe == pytest.approx(sum(calls) / 3, rel=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_encoding_returns(method):
    """Encoding and decoding lead from the data back to the same points."""
    sde, x0 = VP(), 0.5 * torch.randn(4, 2, **DOUBLE)
    sampler, score = ProbabilityFlowODE(1e-7, 1e-7, method=method), gaussian(VP())
    latents = sampler.encode(sde, score, x0).x
    back = sampler(sde, score, (4, 2), x_init=latents).x
    torch.testing.assert_close(back, x0, rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", ["Radau", "BDF"])
def test_a_jacobian_costs_as_many_evaluations_as_a_sample_has_coordinates(method):
    """A hundred times as many points need hardly more evaluations."""
    sde, score = VP(), gaussian(VP())
    sampler = ProbabilityFlowODE(1e-4, 1e-4, method=method)
    generator = torch.Generator().manual_seed(0)
    few, many = (
        sampler(sde, score, (n, 2), generator=generator, dtype=torch.float64).nfe for n in (4, 400)
    )
    assert many < 2 * few


@pytest.mark.parametrize("method", IMPLICIT)
def test_a_jacobian_that_does_not_fit_is_refused_before_any_evaluation(method):
    sampler = ProbabilityFlowODE(method=method)
    with pytest.raises(ValueError, match=r"2 × 3072² numbers, more than 16777216; use dopri5"):
        sampler(VP(), None, (2, 3, 32, 32))


def test_an_error_lists_the_names_of_all_methods():
    with pytest.raises(ValueError, match=r"'rk4'. Available: bosh3, dopri5, .*, Radau, BDF, LSODA"):
        ProbabilityFlowODE(method="rk4")
