"""Grids compared with the formulas of their papers, on every process and chain."""

import math

import pytest
import torch

from scoresde.samplers import KarrasGrid, QuadraticGrid
from scoresde.sde import EDM, VE, VP

DOUBLE = {"dtype": torch.float64}


def noise(sde, t):
    return sde.sigma(t) / sde.alpha(t)


@pytest.mark.parametrize("rho", [1.0, 3.0, 7.0])
def test_karras_grid_is_the_published_one(rho):
    """It is eq. 5 of Karras et al. on their process, elementwise, with and without the final 0."""
    n, low, high = 18, 0.002, 80.0
    powers = high ** (1 / rho), low ** (1 / rho)
    expected = [(powers[0] + i / (n - 1) * (powers[1] - powers[0])) ** rho for i in range(n)]
    to_data = KarrasGrid(rho, to_data=True)(EDM(low, high), n)
    expected = torch.tensor([*expected, 0.0], **DOUBLE)
    torch.testing.assert_close(to_data, expected, rtol=1e-12, atol=1e-13)  # 80 is exact to 1e-14
    assert to_data[0] == high and to_data[-2] == low
    plain = KarrasGrid(rho)(EDM(low, high), n - 1)
    torch.testing.assert_close(plain, to_data[:-1], rtol=0, atol=0)


def test_karras_grid_spaces_the_noise_of_any_process(process):
    """(σ/α)^{1/7} has equal differences, and the ends are T and sampling_eps exactly."""
    times = KarrasGrid()(process, 23)
    assert times[0] == process.T and times[-1] == process.sampling_eps
    steps = (noise(process, times) ** (1 / 7)).diff()
    torch.testing.assert_close(steps, steps.mean().expand(23), rtol=1e-9, atol=1e-12)
    inner = KarrasGrid(sigma_min=0.05, sigma_max=4.0)(process, 5)
    ends = torch.tensor([4.0, 0.05], **DOUBLE)
    torch.testing.assert_close(noise(process, inner[[0, -1]]), ends, rtol=1e-12, atol=0)
    last = 0.03 * process.T
    assert KarrasGrid(eps=last)(process, 5)[-1] == last


@pytest.mark.parametrize("steps", [1, 2, 3, 18])
def test_karras_grid_to_the_data(sde, steps):
    """The last step leads to time 0, and a single step leads there from T."""
    times = KarrasGrid(to_data=True)(sde, steps)
    assert times.shape == (steps + 1,) and times[0] == sde.T and times[-1] == 0
    if steps > 1:
        last = torch.tensor(sde.sampling_eps, **DOUBLE)
        torch.testing.assert_close(times[-2], last, rtol=0, atol=0)  # a chain's level 0


def test_quadratic_grid_is_equal_steps_in_the_root_of_time(process):
    times = QuadraticGrid()(process, 21)
    low, high = math.sqrt(process.sampling_eps), math.sqrt(process.T)
    expected = [(high + (low - high) * i / 21) ** 2 for i in range(22)]
    torch.testing.assert_close(times, torch.tensor(expected, **DOUBLE), rtol=1e-12, atol=0)
    assert times[0] == process.T and times[-1] == process.sampling_eps
    assert QuadraticGrid(0.04)(process, 3)[-1] == 0.04


@pytest.mark.parametrize("to_data", [False, True])
def test_karras_grid_of_a_chain_is_levels_and_the_data(to_data):
    """Each time is a level, within one level of where (σ/α)^{1/7} puts it, or the data."""
    chain = VP().discretize(1000)
    times = KarrasGrid(to_data=to_data)(chain, 50)
    assert times[0] == chain.T and times[-1] == 0
    levels = chain.label(times[:-1])
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-9)
    top, low = (noise(chain, chain.times[[-1, 0]]) ** (1 / 7)).tolist()
    roots = torch.linspace(top, low, 51 - to_data, **DOUBLE)[: len(levels)]
    wanted = chain.label(chain.time_of_half_log_snr(-7 * roots.log()))
    assert (levels - wanted).abs().max() <= 1


def test_quadratic_grid_of_a_chain_is_levels_and_the_data():
    """Each time is a level, within one level of where √t puts it, or the data."""
    chain = VP().discretize(1000)
    times = QuadraticGrid()(chain, 50)
    assert times[0] == chain.T and times[-1] == 0
    levels = chain.label(times[:-1])
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-9)
    wanted = torch.linspace(1, chain.eps**0.5, 51, **DOUBLE)[:-1].square()
    assert (levels - chain.label(wanted)).abs().max() <= 1


def test_karras_grid_on_the_chain_of_edm_is_its_table():
    """18 steps to the data visit each of the 18 levels once, which are the published σ."""
    chain = EDM().discretize(18)
    torch.testing.assert_close(
        chain.sigma(KarrasGrid(to_data=True)(chain, 18)),
        KarrasGrid(to_data=True)(EDM(), 18),
        rtol=1e-12,
        atol=0,
    )


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: KarrasGrid(rho=0.0), r"rho must be finite and > 0, got 0\.0; the published"),
        (lambda: KarrasGrid(sigma_min=-1.0), r"sigma_min must be finite and > 0, got -1\.0"),
        (lambda: KarrasGrid(sigma_max=math.inf), "sigma_max must be finite and > 0, got inf"),
        (lambda: KarrasGrid(7.0, 2.0, 1.0), r"sigma_min \(2\.0\) must be < sigma_max \(1\.0\)"),
        (lambda: KarrasGrid(sigma_min=0.1, eps=0.1), "got both sigma_min and eps"),
        (lambda: KarrasGrid(eps=0.0)(VP(), 5), r"eps must be in \(0, T=1\.0\), got 0"),
        (lambda: KarrasGrid(sigma_max=90.0)(EDM(), 5), r"sigma_max must be in \(0, 80\], the ran"),
        (lambda: KarrasGrid(sigma_min=0.001)(VE(), 5), r"sigma_min must be in \(0\.01, 50\]"),
        (lambda: KarrasGrid(sigma_max=0.001)(EDM(), 5), "duplicate or rising times"),
        (lambda: KarrasGrid()(VP().discretize(100), 101), "does not fit on a chain of 100"),
        (lambda: QuadraticGrid(2.0)(VP(), 5), r"eps must be in \(0, T=1\.0\), got 2"),
        (lambda: QuadraticGrid()(VP(), 0), "steps must be an integer ≥ 1, got 0"),
    ],
)
def test_wrong_input_is_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
