"""Number types: in which a network computes, and which processes exceed their range."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .base import SDE

REACH = 6.0  # standard deviations that a type must hold; one normal number in 5 · 10⁸ is larger


def module_of(score: Any) -> nn.Module | None:
    """The network behind a score, or None where it cannot be found.

    Found are modules, also behind their methods, `functools.partial`, models with a condition and
    the toolkit's own wrappers.
    """
    while not isinstance(score, nn.Module):
        inner = score.func if isinstance(score, partial) else getattr(score, "__self__", None)
        # Wrappers of the toolkit keep the score under one of these names.
        inner = inner or getattr(score, "score", None) or getattr(score, "model", None)
        if inner is None or inner is score or getattr(inner, "__self__", None) is score:
            return None
        score = inner
    return score


def computing_dtype(score: Any, x: Tensor) -> torch.dtype:
    """The coarsest type in which a score computes on states like x.

    Considered are the types of x, of the network's parameters where `module_of` finds a network,
    and of autocast where it is on.
    """
    return max({x.dtype, *_types(score, x.device.type)}, key=lambda dtype: torch.finfo(dtype).eps)


def check_range(
    sde: SDE, dtype: torch.dtype, end: float | None = None, derivatives: bool = False
) -> None:
    """Refuse a type that cannot hold the states at T, or the score at the end of a path.

    Args:
        sde: Process.
        dtype: Type of the states.
        end: Smallest time at which the score is evaluated; `sampling_eps` where not given.
        derivatives: Whether the Jacobian of the score is needed too, of the size of 1/σ².

    Raises:
        ValueError: Six standard deviations of the prior, 6/σ at the end, or with derivatives 1/σ²
            there, exceed the largest number of the type.
    """
    largest, name = torch.finfo(dtype).max, str(dtype).removeprefix("torch.")
    if largest > torch.finfo(torch.bfloat16).max / 2:  # all types but float16 and smaller ones
        return
    fix = f"{name} holds at most {largest:g}; use dtype=torch.bfloat16 or torch.float32"
    widest = REACH * sde.prior((1, 1)).std
    if widest > largest:
        raise ValueError(f"states of this process reach {widest:g} at T={sde.T:g}, and {fix}")
    end = sde.sampling_eps if end is None else end
    _, sigma = sde.at(end)
    steepest = max(REACH / sigma, sigma**-2 if derivatives else 0.0)
    if steepest > largest:
        what = "derivatives of scores" if derivatives else "scores"
        raise ValueError(f"{what} of this process reach {steepest:g} at t={end:g}, and {fix}")


def _types(score: Any, device: str) -> Iterator[torch.dtype]:
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        yield torch.get_autocast_dtype(device)
    module = module_of(score)
    if module is not None:
        yield from (p.dtype for p in module.parameters() if p.is_floating_point())
