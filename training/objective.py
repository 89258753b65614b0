"""What a training minimizes: an object that is asked for the loss of a batch."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from scoresde.sde import Condition

from .ema import EMA


class Batch(Protocol):
    """Samples x (B, *), and what they are conditioned on, or None."""

    @property
    def x(self) -> Tensor:
        """Samples, shape (B, *)."""

    @property
    def condition(self) -> Condition | None:
        """A tensor or a dict of tensors of B rows; None for none."""


class Loss(ABC):
    """A number whose gradient trains one network, or several.

    A loss reaches a network by calling it, so that what wraps the network (for many processes,
    compilation, hooks) sees every call.
    """

    def check(self, model: Any) -> None:  # noqa: B027 — most losses take any model
        """Raise ValueError, before the training begins, if a model is not one for this loss."""

    def start(self, step: int, ema: EMA) -> None:  # noqa: B027 — most losses have no target
        """Be told which step begins, and the average as it stands, for losses with a target.

        Args:
            step: Number of steps done.
            ema: Average of the networks.
        """

    @abstractmethod
    def __call__(
        self, model: Any, batch: Batch | Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Estimate the loss from one draw for each sample; shape ().

        Args:
            model: Network, or `nn.ModuleDict` of several.
            batch: Samples and their condition; a tensor of samples alone has none.
            generator: Source of all that is drawn, on the samples' device.
        """


class Plain(Loss):
    """A function loss(model, batch, generator) as a loss."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function

    def __call__(
        self, model: Any, batch: Batch | Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """What the function gives."""
        return self.function(model, batch, generator)


def parted(batch: Batch | Tensor) -> tuple[Tensor, Condition | None]:
    """Samples and condition of a batch; a tensor of samples alone has none."""
    return (batch, None) if isinstance(batch, Tensor) else (batch.x, batch.condition)


def told(condition: Condition | None) -> tuple[Condition, ...]:
    """What a network is called with after x and t: a condition where there is one.

    One that has none need not know that there could be.
    """
    return () if condition is None else (condition,)
