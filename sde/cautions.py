"""Warnings about valid input that spoils results, each with what to do about it."""

import inspect
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from .base import SDE
from .precision import module_of

COST = 0.02  # nats per dimension that a prior may cost without a warning
FEW = 8  # fewer samples do not determine the mean of each coordinate

_ROOT = Path(__file__).resolve().parents[1]
# A warning points to the line that called the toolkit, not into the toolkit or torch.
_INNER = (*(str(_ROOT / name) for name in ("sde", "samplers", "evaluation")), torch.__path__[0])

_silent: ContextVar[bool] = ContextVar("silent", default=False)


@contextmanager
def silent() -> Iterator[None]:
    """Suppress warnings within, for the parts of a batch that was checked as a whole."""
    before = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(before)


def caution(message: str) -> None:
    """Warn in one sentence, unless within `silent`."""
    if _silent.get():
        return
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_code.co_filename.startswith(_INNER):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def caution_training(score: Any) -> None:
    """Warn if a score is a network in train() mode whose values depend on that mode.

    Nothing is known about a callable without a module.
    """
    module = None if _silent.get() else module_of(score)
    for name, part in () if module is None else module.named_modules():
        if part.training and (what := _depends_on_training(part)):
            where = f" ({name})" if name else ""
            caution(
                f"the network is in train() mode with {what}{where}, so that its score is not that "
                "of the trained model; call model.eval() first"
            )
            return


def caution_width(sde: SDE, x0: Tensor) -> None:
    """Warn if data are wider than the prior of a process assumes.

        KL(N(α m, α² S + σ²) ‖ N(0, P²)) = ½ Σ_i (r_i − 1 − log r_i) + ½ Σ_i α² m_i²/P²,
        r_i = (α² S_i + σ²)/P²

    with α and σ at T, the prior's standard deviation P, and the mean m and variance S of each
    coordinate of the data x_0 (B, *). The likelihood loses so many nats; above 0.02 per coordinate
    there is a warning.
    """
    if _silent.get():
        return
    cost = prior_cost(sde, x0)
    if not cost > COST:
        return
    alpha, size = sde.at(sde.T)[0], x0.detach().double().square().mean().sqrt().item()
    prior = sde.prior((1, 1)).std
    fix = "scale the data down"
    if alpha == 1:  # the prior is then the noise alone, whose size is the process's to choose
        key = "sde.sigma_max" if sde.steps is None else "sde.base.sigma_max"
        fix = f"use {key}={size / math.sqrt(2e-3):.2g}, or scale the data down"
    caution(
        f"the data are wide for the prior: at T they still have size {alpha * size:.3g}, next to "
        f"its standard deviation {prior:.3g}, which costs about {cost:.2g} nats per dimension of "
        f"likelihood and spoils samples too; {fix}"
    )


def check_graph(name: str, x: Tensor, kept: bool, drops: str, act: str) -> None:
    """Warn where a graph is dropped, and refuse to keep one where torch records none.

    Args:
        name: Name of x in the warning.
        x: Tensor whose gradient the caller may want.
        kept: Whether the caller wants the graph.
        drops: Subject and verb of the warning, such as "sampling drops".
        act: Advice of the error, such as "sample".
    """
    if kept and torch.is_inference_mode_enabled():
        raise ValueError(
            "differentiable=True needs a graph, and torch.inference_mode() keeps none; "
            f"{act} outside it"
        )
    if x.requires_grad and torch.is_grad_enabled() and not kept:
        caution(
            f"{name} requires a gradient, and {drops} the graph; use differentiable=True to keep "
            "it, or detach() to say that none is needed"
        )


def prior_cost(sde: SDE, x0: Tensor) -> float:
    """The divergence of `caution_width` for each coordinate of data (B, *), in nats.

    For fewer than eight samples m is taken as 0 and S as the mean of all squares.
    """
    alpha, sigma = sde.at(sde.T)
    flat, prior = x0.detach().flatten(1).double(), sde.prior((1, 1)).std
    mean, spread = flat.mean(0), flat.var(0, correction=0)
    if len(flat) < FEW:
        mean, spread = torch.zeros_like(mean), flat.square().mean()
    ratio = (alpha**2 * spread + sigma**2) / prior**2
    return (0.5 * (ratio - 1 - ratio.log() + (alpha * mean / prior).square())).mean().item()


def _depends_on_training(part: nn.Module) -> str:
    """What makes a module's own values depend on its mode; empty where nothing does."""
    if isinstance(part, nn.RReLU):
        return "random slopes"
    if isinstance(part, _DropoutNd):
        return f"dropout (p={part.p:g})" if part.p > 0 else ""
    if isinstance(part, _NormBase):
        # Without running statistics the statistics of the batch are used in either mode.
        return "batch normalization" if part.track_running_stats else ""
    # Torch's attention and recurrent networks, and callers of F.dropout, store a rate.
    rates = (v for n, v in vars(part).items() if "drop" in n.lower() and isinstance(v, float))
    rate = max(rates, default=0.0)
    return f"dropout (p={rate:g})" if rate > 0 else ""
