"""Exponential moving average of the weights."""

import copy
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


class EMA(Generic[Model]):
    """A running average of a model's parameters, which is the model that samples.

        θ̄ ← d θ̄ + (1 − d) θ,   d = min(decay, (1 + n)/(10 + n))

    The warm-up d after n updates keeps the random start from lingering in the average. An update
    moves θ̄ by a thousandth of the way, which half precision rounds to nothing: the average is kept
    in float32 at least, and the model that samples is one of float32. Buffers, and parameters that
    are no real or complex numbers, are copied.

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
        for tensor in _tensors(self.model):
            # In place, as parameters may be shared between layers.
            tensor.data = tensor.data.to(_kept_in(tensor.dtype))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model's present parameters; copy its buffers."""
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
        """Restore what `state_dict` gave."""
        self.model.load_state_dict(state["model"])
        self.updates = int(state["updates"])


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _has_average(parameter: Tensor) -> bool:
    return parameter.is_floating_point() or parameter.is_complex()


def _kept_in(dtype: torch.dtype) -> torch.dtype:
    """float32 for real numbers of fewer bits; any other type as it is."""
    if dtype.is_floating_point and torch.finfo(dtype).bits < 32:
        return torch.float32
    return dtype
