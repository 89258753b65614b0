"""The batch of a training step: samples and their condition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

Condition = Tensor | Mapping[str, Tensor]
"""What samples are conditioned on: a tensor or a dict of tensors, with the samples first."""


class Batch(NamedTuple):
    """Training samples of one step.

    Attributes:
        x: scaled samples, (B, *shape).
        condition: condition of these samples, whose first dimension is B, too, or None.
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


def rows_of(condition: Condition | None, index: slice | Tensor) -> Condition | None:
    """The condition of the samples of a slice, or of positions int64 (B,)."""
    if isinstance(condition, Mapping):
        return {name: values[index] for name, values in condition.items()}
    return None if condition is None else condition[index]
