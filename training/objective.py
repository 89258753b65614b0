"""The interface of losses: objects that give the loss of a batch."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from scoresde.sde import Condition

from .ema import EMA


class Batch(Protocol):
    """Samples x (B, *) and their condition: a tensor or a dict of tensors of B rows, or None."""

    @property
    def x(self) -> Tensor: ...

    @property
    def condition(self) -> Condition | None: ...


class Loss(ABC):
    """A number whose gradient trains one network, or several.

    A loss uses a network only by calling it, so that wrappers of the network, such as those for
    parallel training and compilation, see every call.
    """

    def check(self, model: Any) -> None:  # noqa: B027 — most losses take any model
        """Raise ValueError, before the training begins, if this loss cannot train a model."""

    def start(self, step: int, ema: EMA) -> None:  # noqa: B027 — most losses have no target
        """Prepare for the next step; losses with a target network take it from the average.

        Args:
            step: Number of steps done.
            ema: Average of the networks.
        """

    @abstractmethod
    def __call__(
        self, model: Any, batch: Batch | Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Estimate the loss from one random draw for each sample; shape ().

        Args:
            model: Network, or `nn.ModuleDict` of several.
            batch: Data x_0, shape (B, *), floating point, with their condition; or x_0 alone.
            generator: Source of all random numbers, on x_0's device.
        """


class Conditioned(NamedTuple):
    """Samples with another condition than that of the data; see `Batch`."""

    x: Tensor
    condition: Condition


class Wrapper(Loss):
    """A loss made of another, which prepares and refuses as that one does.

    Args:
        loss: The other loss.
    """

    def __init__(self, loss: Loss) -> None:
        self.loss = loss

    def check(self, model: Any) -> None:
        """Raise ValueError if the loss refuses a model."""
        self.loss.check(model)

    def start(self, step: int, ema: EMA) -> None:
        """Prepare the loss for the next step."""
        self.loss.start(step, ema)


class Plain(Loss):
    """A function loss(model, batch, generator) as a loss."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function

    def __call__(
        self, model: Any, batch: Batch | Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """The value of the function."""
        return self.function(model, batch, generator)


def unpack(batch: Batch | Tensor) -> tuple[Tensor, Condition | None]:
    """Samples and condition of a batch; the condition of a plain tensor is None."""
    return (batch, None) if isinstance(batch, Tensor) else (batch.x, batch.condition)


def optional(condition: Condition | None) -> tuple[Condition, ...]:
    """The arguments of a network after x and t: the condition if there is one.

    A network without conditions therefore needs no third parameter.
    """
    return () if condition is None else (condition,)
