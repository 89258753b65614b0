"""The distribution of the samples of a method on a Gaussian problem, without random numbers."""

import torch
from torch import Tensor

from benchmarks.posterior_methods import SDE, Method, Run
from benchmarks.posteriors import Problem, wasserstein

MOST = 7e7  # rows times evaluations of a run, which then takes some seconds


def moments(run: Run, problem: Problem) -> tuple[Tensor, Tensor] | None:
    """Mean and covariance of the samples, or None where a run is too long.

    Every sample is affine in the first state and in each noise, x′ = B x + b + Σ C_i z_i, whose
    matrices follow from a batch whose rows are the basis vectors of all of them.
    """
    dim, draws = problem.means.shape[1], 0

    def count(x: Tensor) -> Tensor:
        nonlocal draws
        draws += 1
        return torch.zeros_like(x)

    shape = problem.operator.shape

    def sample(rows: Tensor, noise: object) -> tuple[Tensor, float]:
        x = rows.reshape(-1, *shape)
        samples = run.sampler(
            SDE,
            run.score,
            tuple(x.shape),
            x_init=x,
            noise=noise,  # type: ignore[arg-type]
            constraint=run.constraint,
        )
        return samples.x.flatten(1), samples.nfe

    _, nfe = sample(torch.zeros(1, dim, dtype=torch.float64), count)
    rows = torch.zeros(1 + dim * (1 + draws), dim, dtype=torch.float64)
    if len(rows) * nfe > MOST:
        return None
    rows[1 : 1 + dim] = torch.eye(dim)
    row = 1 + dim

    def basis(x: Tensor) -> Tensor:
        nonlocal row
        z = torch.zeros_like(x)
        z.flatten(1)[row : row + dim] = torch.eye(dim).to(x)
        row += dim
        return z

    end, _ = sample(rows, basis)
    slopes = end[1:] - end[0]
    slopes[:dim] *= SDE.prior((1, 1)).std
    return end[0], slopes.T @ slopes


def distance(method: Method, problem: Problem, n: int) -> float | None:
    """W₂ between the samples of N steps and the posterior, in units of its √trace."""
    found = moments(method.make(problem, n), problem)
    return None if found is None else wasserstein(*found, problem)
