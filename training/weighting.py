"""Weightings w(t) of the squared error of the noise prediction ẑ = −σ s."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from scoresde.sde import SDE
from scoresde.sde.checks import check_choice
from scoresde.sde.data_range import DataRange

Weighting = Callable[[SDE, Tensor], Tensor]
"""w(sde, t) > 0, with t's shape."""

Range = tuple[float, float]


def choose_weighting(name: str, **constants: Any) -> Weighting:
    """The weighting of a name with its constants; None selects the default of a constant.

    Raises:
        ValueError: Unknown name, a constant of another weighting, or one out of its range.
    """
    check_choice("weighting", name, *WEIGHTINGS)
    given = {key: value for key, value in constants.items() if value is not None}
    for key, value in given.items():
        readers = [n for n, w in WEIGHTINGS.items() if key in inspect.signature(w).parameters]
        if name not in readers:
            raise ValueError(
                f"weighting '{name}' has no {key}, got {value}; leave it out, "
                f"or use weighting={' or '.join(readers)}"
            )
    for key in given.keys() & {"sigma_data", "gamma"}:
        if not 0 < given[key] < float("inf"):
            raise ValueError(f"{key} must be finite and > 0, got {given[key]}")
    DataRange.of(given.get("data_range"))
    return partial(WEIGHTINGS[name], **given)


def uniform(sde: SDE, t: Tensor) -> Tensor:
    """w = 1: Song's weighting, L_simple on DDPM's chain, and λ(σ) = 1/σ² on denoised data."""
    return torch.ones_like(t)


def likelihood(sde: SDE, t: Tensor) -> Tensor:
    """w = g²/σ²: the weighting that bounds the likelihood."""
    return (sde.g(t) / sde.sigma(t)).square()


def edm(sde: SDE, t: Tensor, *, sigma_data: float = 0.5, data_range: Range | None = None) -> Tensor:
    """w = 1 + σ̃²/σ_d²: the outputs of an `edm` network have equal weights.

    The published weight (σ̃² + σ_d²)/(σ̃ σ_d)² multiplies the squared error of the data prediction,
    which is σ̃² times that of the noise prediction.
    """
    return 1 + (_relative_noise(sde, t, data_range) / sigma_data).square()


def min_snr(sde: SDE, t: Tensor, *, gamma: float = 5.0, data_range: Range | None = None) -> Tensor:
    """w = min(SNR, γ)/SNR with SNR = 1/σ̃²."""
    return (gamma * _relative_noise(sde, t, data_range).square()).clamp(max=1)


WEIGHTINGS: dict[str, Callable[..., Tensor]] = {
    "uniform": uniform,
    "likelihood": likelihood,
    "edm": edm,
    "min_snr": min_snr,
}


def _relative_noise(sde: SDE, t: Tensor, data_range: Range | None) -> Tensor:
    """σ̃ = σ/(α h), the noise level relative to data in [−1, 1], the range of networks."""
    return sde.sigma(t) / (sde.alpha(t) * DataRange.of(data_range).half)
