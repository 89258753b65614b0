"""What a training step is given: samples, and what they are conditioned on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

Condition = Tensor | Mapping[str, Tensor]
"""A tensor, or several with names, whose first dimension is that of the samples."""


class Batch(NamedTuple):
    """Samples and their condition.

    Attributes:
        x: samples, floating point, shape (B, *).
        condition: labels int64 (B,), or other tensors with B rows; None where there is none.
    """

    x: Tensor
    condition: Condition | None = None

    def to(self, device: torch.device | str) -> Batch:
        """The batch on a device."""
        condition = self.condition
        if isinstance(condition, Mapping):
            condition = {name: value.to(device) for name, value in condition.items()}
        elif condition is not None:
            condition = condition.to(device)
        return Batch(self.x.to(device), condition)
