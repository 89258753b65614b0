"""Errors and orders of solvers, measured against exact distributions."""

import math
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from benchmarks.problem import Problem, mixture
from scoresde.models import GaussianScore
from scoresde.samplers import Grid, LogSNRGrid, PredictorCorrector, Solver
from scoresde.samplers.context import Noise
from scoresde.sde import EDM, SDE, VE, VP, CosineSchedule, Score, SubVP

PROCESSES: dict[str, SDE] = {
    "vp": VP(),
    "vp_cosine": VP(schedule=CosineSchedule()),
    "subvp": SubVP(),
    "ve": VE(),
    "edm": EDM(),
}
MEAN = torch.tensor([0.3, -0.2], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=torch.float64)


@cache
def problem(name: str) -> Problem:
    """The mixture on a process, solved once to 1e-12."""
    return mixture(48, PROCESSES[name])


def run(
    solver: Solver,
    sde: SDE,
    score: Score,
    x: Tensor,
    steps: int,
    *,
    grid: Grid | None = None,
    noise: Noise | None = None,
) -> Tensor:
    """The last state of a run from x, without final denoising."""
    sampler = PredictorCorrector(solver, steps=steps, grid=grid or LogSNRGrid(), denoise=False)
    return sampler(sde, score, tuple(x.shape), x_init=x, noise=noise).x


def slopes(errors: list[float]) -> list[float]:
    """Orders of convergence between runs of N, 2 N, 4 N, … steps."""
    return [math.log2(a / b) for a, b in pairwise(errors)]


def gaussian(sde: SDE) -> GaussianScore:
    """The score of an anisotropic, correlated Gaussian."""
    return GaussianScore(sde, MEAN, COVARIANCE)


def marginal(sde: SDE, t: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of p_t for that Gaussian."""
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    return alpha * MEAN, alpha**2 * COVARIANCE + sigma**2 * torch.eye(2, dtype=torch.float64)


def moments(solver: Solver, sde: SDE, score: Score, steps: int) -> tuple[Tensor, Tensor]:
    """Mean and covariance at the end of a run from p_T, without random numbers.

    With a Gaussian target the whole run is affine, x′ = B x + b + Σ C_i z_i. Its matrices follow
    from a batch whose rows are the basis vectors of the state and of each noise.
    """
    draws = 0

    def count(x: Tensor) -> Tensor:
        nonlocal draws
        draws += 1
        return torch.zeros_like(x)

    run(solver, sde, score, torch.zeros(1, 2, dtype=torch.float64), steps, noise=count)
    x = torch.zeros(3 + 2 * draws, 2, dtype=torch.float64)
    x[1:3] = torch.eye(2)
    row = 3

    def basis(x: Tensor) -> Tensor:
        nonlocal row
        z = torch.zeros_like(x)
        z[row : row + 2] = torch.eye(2)
        row += 2
        return z

    end = run(solver, sde, score, x, steps, noise=basis)
    shift, images = end[0], end[1:] - end[0]
    mean, covariance = marginal(sde, torch.tensor(sde.T, dtype=torch.float64))
    state, noises = images[:2], images[2:]
    return mean @ state + shift, state.T @ covariance @ state + noises.T @ noises


def wasserstein(
    mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor
) -> float:
    """W₂ between two Gaussians, W₂² = |Δm|² + tr(P + Q − 2 (P^½ Q P^½)^½)."""
    p, q = covariance.numpy(), other_covariance.numpy()
    root = _root(p)
    # Summed as the squares of small differences, so that W₂ resolves below √(rounding).
    cross = _root(root @ q @ root)
    distance = np.trace(p + q - 2 * cross)
    return math.sqrt(max(distance, 0.0) + (mean - other_mean).square().sum().item())


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return vectors @ np.diag(np.sqrt(values.clip(min=0))) @ vectors.T


def weak_error(solver: Solver, sde: SDE, steps: int) -> float:
    """W₂ between the distribution of a run from p_T and p_eps."""
    mean, covariance = moments(solver, sde, gaussian(sde), steps)
    return wasserstein(mean, covariance, *marginal(sde, torch.tensor(sde.sampling_eps).double()))
