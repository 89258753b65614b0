"""The training loop, one function read from top to bottom."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .ema import EMA

Loss = Callable[[Any, Tensor, torch.Generator | None], Tensor]
"""loss(model, x0, generator), for a score or whatever else is trained."""

Batches = Callable[[int], Tensor]
"""batches(step): the training batch of a step, a function of nothing else."""


@dataclass(frozen=True)
class Step:
    """What the loop yields after each step.

    Attributes:
        step: Number of steps done.
        loss: Loss before the update, shape (), on its device, so that nobody waits for it.
        grad_norm: Norm of the gradient before clipping, shape (), on its device.
        lr: Learning rate of the update.
    """

    step: int
    loss: Tensor
    grad_norm: Tensor
    lr: float


@dataclass(frozen=True)
class Warmup:
    """Learning-rate factor: linear warm-up, then constant or a half cosine to zero.

    The first step already has 1/warmup of the rate, not 0.

    Args:
        warmup: Steps of warm-up ≥ 0.
        decay: `none` or `cosine`.
        steps: Steps of the whole training, where the cosine ends.

    Raises:
        ValueError: Unknown decay or negative warm-up.
    """

    warmup: int
    decay: str
    steps: int

    def __post_init__(self) -> None:
        if self.decay not in ("none", "cosine"):
            raise ValueError(f"unknown decay '{self.decay}'. Available: none, cosine")
        if self.warmup < 0:
            raise ValueError(f"warmup must be ≥ 0, got {self.warmup}")

    def __call__(self, step: int) -> float:
        """Factor of step number `step`, counted from 0."""
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        if self.decay == "none":
            return rise
        return rise * 0.5 * (1 + math.cos(math.pi * step / self.steps))


def fit(
    model: nn.Module,
    loss: Loss,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    ema: EMA,
    *,
    steps: int,
    start: int = 0,
    schedule: Callable[[int], float],
    grad_clip: float = 1.0,
    generator: torch.Generator | None = None,
    patience: int = 10,
) -> Iterator[Step]:
    """Train, handing control back after every step, so that all else stays outside.

    A step whose gradient is not finite changes nothing but the count of such steps.

    Args:
        model: s(x, t), or whatever the loss is of.
        loss: loss(model, x0, generator).
        batches: Batch of each step.
        optimizer: Optimizer of the model's parameters; its present rate is the base rate.
        ema: Average of the model.
        steps: Number of the last step.
        start: Steps already done.
        schedule: Factor of the base rate at each step.
        grad_clip: Largest norm of a gradient; inf for none.
        generator: Source of the loss's noise.
        patience: How many non-finite steps in a row end the training.

    Raises:
        FloatingPointError: `patience` non-finite steps in a row.
    """
    base_rates = [group.setdefault("initial_lr", group["lr"]) for group in optimizer.param_groups]
    failures = 0
    model.train()
    for step in range(start, steps):
        factor = schedule(step)
        for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
            group["lr"] = rate * factor
        optimizer.zero_grad(set_to_none=True)
        value = loss(model, batches(step), generator)
        value.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
        if bool(norm.isfinite()):
            failures = 0
            optimizer.step()
            ema.update(model)
        else:
            failures += 1
            if failures >= patience:
                raise FloatingPointError(
                    f"the gradient was not finite in {failures} steps in a row, the last one "
                    f"step {step + 1} (loss {value.item():g}); lower train.optimizer.lr"
                )
        yield Step(step + 1, value.detach(), norm, base_rates[0] * factor)
