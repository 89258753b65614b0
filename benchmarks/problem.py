"""The problem on which solvers are measured: an exact score, latents, and their exact ends."""

from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.models import GaussianMixtureScore
from scoresde.samplers import ProbabilityFlowODE
from scoresde.sde import SDE, VP

WEIGHTS = [0.5, 0.3, 0.2]
MEANS = [[-1.0, 0.5], [1.0, 0.3], [0.2, -1.2]]
VARIANCES = [[0.20, 0.10], [0.15, 0.30], [0.10, 0.10]]


@dataclass(frozen=True)
class Problem:
    """Latents at T, and the ends of their exact paths.

    Attributes:
        sde: Process.
        score: Exact score.
        latents: States at T, float64, (B, D).
        ends: States at `sampling_eps` on the probability flow from the latents.
    """

    sde: SDE
    score: GaussianMixtureScore
    latents: Tensor
    ends: Tensor

    def error(self, x: Tensor) -> float:
        """Mean distance from the ends."""
        return (x - self.ends).norm(dim=1).mean().item()


def mixture(n: int, sde: SDE | None = None, seed: int = 0) -> Problem:
    """Three unequal Gaussians in the plane on a process, VP by default, with n latents."""
    sde = sde or VP()
    weights, means, variances = (
        torch.tensor(v, dtype=torch.float64) for v in (WEIGHTS, MEANS, VARIANCES)
    )
    score = GaussianMixtureScore(sde, weights, means, variances)
    generator = torch.Generator().manual_seed(seed)
    latents = sde.prior((n, 2)).sample(generator, dtype=torch.float64)
    ends = ProbabilityFlowODE(1e-12, 1e-12)(sde, score, (n, 2), x_init=latents).x
    return Problem(sde, score, latents, ends)
