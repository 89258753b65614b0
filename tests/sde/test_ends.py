"""Processes that end with almost no data, α(T) → 0, give results or a helpful error."""

import re

import pytest
import torch

from scoresde.evaluation import log_likelihood
from scoresde.models import GaussianScore
from scoresde.samplers import KarrasGrid, LogSNRGrid, QuadraticGrid, UniformGrid
from scoresde.sde import VE, VP, CosineSchedule, LinearSchedule, Schedule, SubVP

DOUBLE = {"dtype": torch.float64}


class WholeCosine(CosineSchedule):
    """The cosine schedule up to t = 1."""

    T = 1.0


class Steep(Schedule):
    """The schedule β = 3000 throughout."""

    def beta(self, t):
        return torch.full_like(t, 3000.0)

    def integral(self, t):
        return 3000 * t

    def betas(self, steps):
        return torch.full((steps,), 0.5, **DOUBLE)


@pytest.mark.parametrize("family", [VP, SubVP])
@pytest.mark.parametrize("beta_min, beta_max", [(0.1, 4000.0), (0.1, 1e8), (20.0, 2900.0)])
def test_a_linear_schedule_without_data_at_its_end_names_the_largest_that_works(
    family, beta_min, beta_max
):
    with pytest.raises(ValueError, match=r"use beta_max ≤ [0-9.]+, got") as refused:
        family(beta_min, beta_max)
    largest = float(re.search(r"≤ ([0-9.]+)", str(refused.value))[1])
    sde = family(beta_min, largest)
    assert sde.half_log_snr(torch.tensor(sde.T, **DOUBLE)).isfinite()
    with pytest.raises(ValueError):
        family(beta_min, largest + 0.2)


def test_other_schedules_name_the_time_at_which_they_must_end():
    with pytest.raises(ValueError, match=r"set T of Steep to 0\.4722"):
        VP(schedule=Steep())
    with pytest.raises(ValueError, match=r"set T of CosineSchedule to 1$"):
        schedule = CosineSchedule()
        schedule.T = 1.2
        SubVP(schedule=schedule)
    with pytest.raises(ValueError, match=r"use beta_min and beta_max ≤ 1416\.7"):
        VP(2000.0, 3000.0)
    longer = LinearSchedule(0.1, 500.0)
    longer.T = 3.0
    with pytest.raises(ValueError, match=r"use beta_max ≤ 314\.8"):
        VP(schedule=longer)


ENDS = {
    "whole_cosine": VP(schedule=WholeCosine()),
    "whole_cosine_other_offset": VP(schedule=WholeCosine(0.02)),
    "subvp_whole_cosine": SubVP(schedule=WholeCosine()),
    "edge": VP(0.1, 2833.4),
    "subvp_edge": SubVP(0.1, 2833.4),
    "steep": VP(0.1, 1000.0),
}


@pytest.mark.parametrize("clock", ["t", "log_snr"])
@pytest.mark.parametrize("name", ENDS)
def test_likelihoods_of_processes_that_end_in_noise_are_right(name, clock):
    sde = ENDS[name]
    score = GaussianScore(sde, torch.full((2,), 0.3), torch.full((2,), 0.36))
    x = torch.tensor([[0.1, 0.5], [-1.0, 2.0]], **DOUBLE)
    ours = log_likelihood(sde, score, x, clock=clock)
    exact = score.log_prob(x, torch.tensor(sde.eps, **DOUBLE))
    torch.testing.assert_close(ours.log_prob, exact, rtol=0, atol=3e-4)
    assert ours.nfe.max() < 500


@pytest.mark.parametrize("name", ENDS)
def test_grids_on_processes_that_end_in_noise(name):
    """The times fall from T, or an error advises a grid if T is too close to other times."""
    sde = ENDS[name]
    for grid in (UniformGrid(), QuadraticGrid(), LogSNRGrid(), KarrasGrid(sigma_max=1000)):
        times = grid(sde, 10)
        assert times.isfinite().all() and (times.diff() < 0).all()
    if "cosine" in name:
        with pytest.raises(ValueError, match=r"duplicate .* use .*KarrasGrid\(sigma_max=1000\)"):
            LogSNRGrid()(sde, 500)


@pytest.mark.parametrize("name", ENDS)
def test_inverting_log_snr_ends_with_the_nearest_time(name):
    """No neighbouring number of float64 has a λ closer to the given one, up to rounding."""
    sde = ENDS[name]
    ends = torch.tensor([sde.T, sde.eps], **DOUBLE)
    lam = torch.linspace(*sde.half_log_snr(ends).tolist(), 301, **DOUBLE)
    t = sde.time_of_half_log_snr(lam)
    missed = (sde.half_log_snr(t) - lam).abs()
    for way in (0.0, sde.T):
        neighbour = torch.nextafter(t, torch.full_like(t, way))
        other = (sde.half_log_snr(neighbour) - lam).abs()
        assert (missed <= other + 1e-14 * (1 + lam.abs())).all()
    assert t[0] == pytest.approx(sde.T, rel=1e-15) and (t.diff() <= 0).all()


def test_inverting_log_snr_where_newton_is_lost():
    """λ is flat over a third of [0, 1] and g = 0 there; elsewhere g makes it infinite."""

    class Flat(VE):
        def sigma(self, t):
            return torch.exp(3 * t.clamp(max=0.3) + 3 * (t - 0.6).clamp(min=0))

        def g(self, t):
            return torch.where((t > 0.3) & (t < 0.6), 0.0, torch.inf)

    t = torch.tensor([0.0, 0.1, 0.29, 0.7, 1.0], **DOUBLE)
    back = Flat().time_of_half_log_snr(Flat().half_log_snr(t))
    torch.testing.assert_close(back, t, rtol=0, atol=1e-12)


def test_times_below_every_step_of_bisection_are_found():
    """λ = 300 lies at t = e⁻⁶⁰⁰/0.1, which halving [0, 1] reaches after 860 steps."""
    lam = torch.tensor([300.0, 100.0, 2.0], **DOUBLE)
    t = VP().time_of_half_log_snr(lam)
    torch.testing.assert_close(VP().half_log_snr(t), lam, rtol=1e-12, atol=0)


def test_a_process_that_reaches_noise_alone_is_refused_wherever_a_path_begins():
    """Rectified flow up to T = 1, α = 1 − t, has no λ(T); the error names process and time."""

    class Straight(VE):
        T = 0.99  # with T = 1 its construction is refused

        def alpha(self, t):
            return 1 - t

    sde = Straight()
    sde.T = 1.0
    sentence = r"Straight has alpha = 0 and sigma = 50 at T=1, .*; make T or the noise smaller"
    for act in (
        lambda: log_likelihood(sde, lambda x, t: -x, torch.zeros(1, 2), clock="log_snr"),
        lambda: LogSNRGrid()(sde, 5),
        lambda: sde.time_of_half_log_snr(torch.tensor(0.0)),
        lambda: sde.equal_times(5),
    ):
        with pytest.raises(ValueError, match=sentence):
            act()
    sde.T = 0.99
    assert LogSNRGrid()(sde, 5)[0] == 0.99


def test_chains_name_the_level_without_data_and_a_chain_that_works():
    """Steep tables fall faster than the continuous process: ½ Σ log(1 − β_i) < −½ B(T)."""
    with pytest.raises(
        ValueError, match=r"level \d+ of this chain of 2000 levels.*use discretize\(4000\)"
    ):
        VP(0.1, 1999.0).discretize(2000)
    assert VP(0.1, 1999.0).discretize(4000).alphas[-1] > 0


def test_a_table_that_ends_in_noise_alone_is_refused():
    class Zero(VP):
        def levels(self, steps):
            alpha = torch.linspace(0.99, 0, steps, **DOUBLE)
            return alpha, (1 - alpha.square()).sqrt()

    with pytest.raises(
        ValueError, match=r"level 99 of this chain .* alpha = 0 and sigma = 1; .* end"
    ):
        Zero().discretize(100)


def test_the_chain_of_the_whole_cosine_is_that_of_the_published_schedule():
    """The table bounds β by 0.999, wherever continuous time ends."""
    whole, usual = (VP(schedule=make()).discretize(50) for make in (WholeCosine, CosineSchedule))
    assert torch.equal(whole.alphas, usual.alphas) and (whole.alphas > 0).all()
