"""Exponential moving average of the weights."""

import copy
from itertools import chain
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


class EMA(Generic[Model]):
    """A running average of a model's parameters, from which samples are generated.

        θ̄ ← d θ̄ + (1 − d) θ,   d = min(decay, (1 + n)/(10 + n))

    The warm-up of d over the updates n removes the random initial weights from the average. An
    update moves θ̄ by about a thousandth of θ − θ̄, less than half precision resolves, so that the
    average is in float32 at least. Buffers and integer parameters are copied.

    Args:
        model: Model whose parameters are averaged.
        decay: Limit of d, in [0, 1).

    Raises:
        ValueError: decay is outside [0, 1).

    Reference: Song & Ermon 2020, arXiv:2006.09011 (section 4).
    """

    def __init__(self, model: Model, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema decay must be in [0, 1), got {decay}")
        self.decay, self.updates = decay, 0
        self.model: Model = copy.deepcopy(model).eval().requires_grad_(False)
        for tensor in chain(self.model.parameters(), self.model.buffers()):
            # In place, since layers may share parameters.
            tensor.data = tensor.data.to(_kept_in(tensor.dtype))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model's current parameters; copy its buffers."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        pairs = list(zip(self.model.parameters(), model.parameters(), strict=True))
        averaged = [pair for pair in pairs if _has_average(pair[0])]
        torch._foreach_lerp_(
            [mine for mine, _ in averaged],
            [theirs.to(mine.dtype) for mine, theirs in averaged],
            weight=1 - decay,
        )
        copied: list[tuple[Tensor, Tensor]] = [pair for pair in pairs if not _has_average(pair[0])]
        copied += zip(self.model.buffers(), model.buffers(), strict=True)
        for mine, theirs in copied:
            mine.copy_(theirs)

    def state_dict(self) -> dict[str, Any]:
        """The averaged model and the number of updates."""
        return {"model": self.model.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`."""
        self.model.load_state_dict(state["model"])
        self.updates = int(state["updates"])


def _has_average(parameter: Tensor) -> bool:
    return parameter.is_floating_point() or parameter.is_complex()


def _kept_in(dtype: torch.dtype) -> torch.dtype:
    """float32 for floating-point types of fewer bits; any other type unchanged."""
    if dtype.is_floating_point and torch.finfo(dtype).bits < 32:
        return torch.float32
    return dtype
