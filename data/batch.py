"""What a training step gets: samples, and what they are conditioned on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

Condition = Tensor | Mapping[str, Tensor]
"""What samples are told of: a tensor, or a dict of tensors, with the samples first."""


class Batch(NamedTuple):
    """Training samples of one step.

    Attributes:
        x: scaled samples, (B, *shape).
        condition: what these samples are conditioned on, with the same B first, or None.
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
    """What the samples of an index are conditioned on.

    Args:
        condition: of all samples, or None.
        index: slice, or positions int64 (B,).
    """
    if condition is None or isinstance(condition, Tensor):
        return None if condition is None else condition[index]
    return {name: values[index] for name, values in condition.items()}
