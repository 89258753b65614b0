"""The released steps of DDRM and of DPS, from the same states and draws."""

import math

import numpy as np
import pytest
import torch

from scoresde.conditioning import DDRM, DPSSampler, Matrix, Measurement
from scoresde.conditioning.measurements import Operator
from scoresde.models import GaussianScore
from scoresde.samplers import FixedGrid
from scoresde.sde import VP
from tests.places import SHARED

GOLDEN = SHARED / "golden"
FILES = [GOLDEN / "ddrm.npz", GOLDEN / "dps.npz"]
pytestmark = pytest.mark.skipif(
    not all(path.exists() for path in FILES), reason="golden posterior samplers are absent"
)
CHAIN = VP().discretize(1000)


@pytest.fixture(scope="module")
def ddrm():
    with np.load(FILES[0]) as file:
        return {name: torch.from_numpy(np.asarray(file[name])) for name in file.files}


@pytest.fixture(scope="module")
def dps():
    with np.load(FILES[1]) as file:
        return {name: torch.from_numpy(np.asarray(file[name])) for name in file.files}


def pixels(mean, std, size):
    """The exact score of data whose pixels are i.i.d. N(mean, std²)."""
    flat = torch.ones(size, dtype=torch.float64)
    return GaussianScore(CHAIN, mean * flat, std**2 * flat)


def replayed(draws):
    """Noise in the order in which it was drawn."""
    rest = iter(draws)
    return lambda x: next(rest).to(x)


class _AsReleased(DDRM):
    """DDRM whose start is divided by σ_T once too often: x_T is x̄_T/ς_T there, not α_T x̄_T."""

    def begin(self, x, level):
        return super().begin(x, level) * math.hypot(1, level) / level


OPERATORS = ["inpainting", "superres2", "bicubic2", "colorization", "denoising", "deblur"]


@pytest.mark.parametrize("plan", ["noisy", "low_noise"])
@pytest.mark.parametrize("name", OPERATORS)
def test_ddrm(ddrm, name, plan):
    """All states of a run to 3e-5 of the largest entry, which float32 leaves of the original."""
    stored = {key: ddrm[f"{name}/{plan}/{key}"] for key in ("seq", "y", "x_T", "noise", "states")}
    eta_b, eta_a, eta = ddrm[f"{name}/{plan}/etaB_etaA_etaC"].tolist()
    operator = Matrix(ddrm[f"{name}/H"].double(), (3, 8, 8), rcond=1e-6)
    measurement = Measurement(operator, stored["y"].double(), ddrm[f"{name}/{plan}/sigma_0"].item())
    times = torch.cat([CHAIN.times[stored["seq"].flip(0)], torch.zeros(1).double()])
    steps = len(times) - 1
    sampler = _AsReleased(
        measurement, eta, eta_b, eta_a, steps, grid=FixedGrid(times), denoise=False
    )
    # The original takes its draw for the start as z, where x = σ z is a state.
    run = sampler(
        CHAIN,
        pixels(0.1, 0.5, 192),
        (2, 3, 8, 8),
        x_init=CHAIN.sigma(times[0]) * stored["x_T"].double(),
        noise=replayed(stored["noise"]),
        trajectory=steps + 1,
    )
    error = (run.trajectory - stored["states"]).abs().max() / stored["states"].abs().max()
    assert error < 3e-5


class _Channels(Operator):
    """A matrix on the pixels of each channel; it is differentiated, and needs no adjoint."""

    def __init__(self, matrix, shape_out):
        super().__init__((3, 16, 16), shape_out)
        self.matrix = matrix.double()

    def __call__(self, x):
        return (x.flatten(2) @ self.matrix.T).reshape(-1, *self.shape_out)


class _Clipped:
    """The exact score of pixels N(0.1, 0.4²), with data clipped to [−1, 1]."""

    def __init__(self):
        self.exact = pixels(0.1, 0.4, 768)

    def denoise(self, x, t):
        return self.exact.denoise(x, t).clamp(-1, 1)

    def __call__(self, x, t):
        raise NotImplementedError


@pytest.mark.parametrize("method", ["ps_gaussian", "ps_poisson"])
@pytest.mark.parametrize("name", ["superres4", "gaussian_blur", "inpainting"])
@pytest.mark.parametrize("index", [3, 40])
def test_dps(dps, index, name, method):
    """One step of the chain of 100 steps, to 1e-5 of the largest entry.

    The released network learns the variance of its steps, so that the draw is scaled from that of
    the posterior variance; its Poisson variant divides the norm by the mean of |y|, entry by entry.
    """
    step = f"gaussian/step{index}"
    x, noise, y = (dps[f"{step}/{key}"].double() for key in ("x", "noise", f"{name}/y"))
    zeta = dps[f"{step}/{name}/{method}/scale"].item()
    if method == "ps_poisson":
        zeta *= (1 / y.abs()).mean().item()
    levels = [round(i * 999 / 99) for i in (index, index - 1)]
    assert levels[0] == dps[f"{step}/model_timestep"].item()
    grid = FixedGrid(CHAIN.times[levels])
    _, b = CHAIN.transition(grid.times[1], grid.times[0])
    narrow = (b * CHAIN.sigma(grid.times[1]) / CHAIN.sigma(grid.times[0])).item()
    share = (0.4 - 0.3 * x + 1) / 2
    std = (share * b.log() + (1 - share) * math.log(narrow)).exp()
    matrix = dps[f"{name}/per_channel_matrix"]
    sampler = DPSSampler(
        Measurement(_Channels(matrix, y.shape[1:]), y), zeta, 1, grid=grid, denoise=False
    )
    run = sampler(CHAIN, _Clipped(), x.shape, x_init=x, noise=replayed([noise * std / narrow]))
    result = dps[f"{step}/{name}/{method}/result"].double()
    assert (run.x - result).abs().max() < 1e-5 * result.abs().max()
    assert (run.nfe, run.products) == (1, 1)
    # The gradient is a part of it that can be seen.
    assert (result - dps[f"{step}/sample"]).abs().max() > 1e-4 * result.abs().max()
