"""Every method that is written in ς = σ/α and x/α gives the same samples on every process.

On one grid of ς and with the same noise, x/α at the end agrees between processes to rounding, which
catches every wrong generalization of a published update: a factor α too many, a noise level of
another time, a variance of another process. A further method is one line of `METHODS`.
"""

from dataclasses import replace

import pytest
import torch

from scoresde.conditioning import (
    DDNM,
    DDRM,
    DPS,
    MMPS,
    DDNMProjection,
    DiffPIR,
    DPSSampler,
    PiGDM,
    PiGDMSampler,
    PosteriorScore,
    Proximal,
)
from scoresde.samplers import DDIM, Ancestral, FixedGrid, PredictorCorrector
from scoresde.sde import EDM, VE, VP, SubVP
from tests.conditioning import problems

STEPS, BATCH = 30, 3
PROCESSES = {"vp": VP(), "ve": VE(sigma_max=90.0), "subvp": SubVP(), "edm": EDM()}


def posterior(method, predictor=Ancestral()):  # noqa: B008
    """A posterior score in a sampler of the process."""

    def run(sde, problem, grid):
        score = PosteriorScore(problem.score(sde), problem.measurement, method)
        return PredictorCorrector(predictor, steps=STEPS, grid=grid, denoise=False), score

    return run


def own(make):
    """A sampler with its own update, without its step to the data."""

    def run(sde, problem, grid):
        return make(problem.measurement, steps=STEPS, grid=grid, denoise=False), problem.score(sde)

    return run


METHODS = {
    "control": lambda sde, problem, grid: (
        PredictorCorrector(Ancestral(), steps=STEPS, grid=grid, denoise=False),
        problem.control(sde),
    ),
    "MMPS": posterior(MMPS(12)),  # between 5 and 11 its iterations amplify rounding
    "MMPS, DDIM": posterior(MMPS(3), DDIM(0.5)),
    "PiGDM": posterior(PiGDM(0.5)),
    "PiGDM, DDIM": posterior(PiGDM(), DDIM()),
    "DPS": posterior(DPS()),
    "DDNM, DDIM": posterior(DDNMProjection(), DDIM(0.85)),
    "Proximal": posterior(Proximal(0.5)),
    "DDRM": own(DDRM),
    "DDNM": own(DDNM),
    "DDNM, time travel": own(
        lambda *args, **kwargs: DDNM(*args, travel_length=3, repeats=2, **kwargs)
    ),
    "DPS, published": own(DPSSampler),
    "PiGDM, published": own(PiGDMSampler),
    "DiffPIR": own(DiffPIR),
}
PROBLEMS = {
    "M0": problems.PROBLEMS["M0"],
    "M1": problems.PROBLEMS["M1"],
    "M1, much noise": replace(problems.PROBLEMS["M1"], std=1.0),
}
ONLY = {"DPS": {"M1, much noise"}, "DDNM, DDIM": {"M0"}}  # one is stiff, one takes y as exact
CASES = [(method, name) for method in METHODS for name in ONLY.get(method, {"M0": 0, "M1": 0})]


def relative_end(sde, method, problem, levels):
    """x/α at the last of some levels ς, from the same noise on every process."""
    times = sde.time_of_half_log_snr(-levels.log())
    sampler, score = method(sde, problem, FixedGrid(times))
    generator = torch.Generator().manual_seed(0)
    shape = (BATCH, *problem.operator.shape)
    z = torch.randn(shape, generator=generator, dtype=torch.float64)

    def noise(x):
        return torch.randn(x.shape, generator=generator, dtype=x.dtype)

    x_init = sde.sigma(times[0]) * z
    x = sampler(sde, score, shape, x_init=x_init, noise=noise).x
    return x / sde.alpha(times[-1])


@pytest.mark.parametrize(("method", "name"), CASES)
def test_the_process_does_not_matter(method, name):
    """They agree to 1e-12 of the largest entry over 30 steps from ς = 40 to 0.05."""
    levels = torch.logspace(1.6, -1.3, STEPS + 1, dtype=torch.float64)
    ends = {
        process: relative_end(sde, METHODS[method], PROBLEMS[name], levels)
        for process, sde in PROCESSES.items()
    }
    reference = ends["vp"]
    assert reference.abs().max() > 0.1
    for end in ends.values():
        torch.testing.assert_close(
            end, reference, rtol=0, atol=1e-12 * float(reference.abs().max())
        )
