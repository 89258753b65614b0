"""Tensors of an operator on the device and in the type of the samples they meet."""

import torch
from torch import Tensor


class Constant:
    """A tensor that is computed once, and kept for each device and type that it is used with.

    Args:
        value: The tensor. Floating point and complex ones take the precision of the samples.
    """

    def __init__(self, value: Tensor) -> None:
        self.value = value
        self._made: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """The tensor for samples x."""
        dtype = self.value.dtype
        if dtype.is_floating_point:
            dtype = x.dtype
        elif dtype.is_complex:
            dtype = x.dtype.to_complex() if x.dtype.is_floating_point else x.dtype
        key = (x.device, dtype)
        if key not in self._made:
            self._made[key] = self.value.to(device=x.device, dtype=dtype)
        return self._made[key]
