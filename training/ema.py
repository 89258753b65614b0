"""Exponential moving average of the weights."""

import copy
from typing import Any, Generic, TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


class EMA(Generic[Model]):
    """A running average of a model's parameters, which is the model that samples.

        θ̄ ← d θ̄ + (1 − d) θ,   d = min(decay, (1 + n)/(10 + n))

    The warm-up d after n updates keeps the random start from lingering in the average.

    Args:
        model: Model whose parameters are averaged.
        decay: Limit of d, in [0, 1).

    Raises:
        ValueError: decay outside [0, 1).

    Reference: Song & Ermon 2020, arXiv:2006.09011 (section 4).
    """

    def __init__(self, model: Model, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema decay must be in [0, 1), got {decay}")
        self.decay, self.updates = decay, 0
        self.model: Model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model's present parameters; copy its buffers."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        torch._foreach_lerp_(
            list(self.model.parameters()), list(model.parameters()), weight=1 - decay
        )
        for mine, theirs in zip(self.model.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)

    def state_dict(self) -> dict[str, Any]:
        """The averaged model and the number of updates."""
        return {"model": self.model.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.model.load_state_dict(state["model"])
        self.updates = int(state["updates"])
