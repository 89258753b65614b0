"""c_noise: the noise level as a network sees it."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from scoresde.sde import SDE

from .parameterization import Scales


def _process(sde: SDE, t: Tensor, at: Scales) -> Tensor:
    """The published label of the process: 999 t, log σ, or the level i of a chain."""
    return sde.label(t)


def _descending(sde: SDE, t: Tensor, at: Scales) -> Tensor:
    """N − 1 − i: NCSN counts the levels of its chain from the noisiest."""
    return (sde.steps or 0) - 1 - sde.label(t)


def _edm(sde: SDE, t: Tensor, at: Scales) -> Tensor:
    """¼ log(σ/α) (Karras et al. 2022, arXiv:2206.00364, table 1), finite where α = 0.

    There α counts as the smallest number that a process may have elsewhere, 2e-308, in whatever
    type the times are.
    """
    last = at.sigma.log() - math.log(torch.finfo(torch.float64).tiny)
    return 0.25 * torch.where(at.alpha > 0, (at.sigma / at.alpha).log(), last)


C_NOISE: dict[str, Callable[[SDE, Tensor, Scales], Tensor]] = {
    "process": _process,
    "descending": _descending,
    "edm": _edm,
}
"""c_noise(sde, t, scales), of the shape of t, by the names that `ScoreModel` takes."""


def usual(parameterization: str) -> str:
    """The c_noise that a parameterization was published with."""
    return "edm" if parameterization == "edm" else "process"
