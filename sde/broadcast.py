"""Functions of time broadcast over states."""

import torch
from torch import Tensor


def expand(c: Tensor, x: Tensor) -> Tensor:
    """Broadcast a function of time over a state: shape (B,) becomes (B, 1, …, 1), in x's dtype.

    A scalar stays a scalar on its own device: torch combines it with a state on any device without
    waiting for that device.

    Args:
        c: Coefficient, shape (B,) or ().
        x: State, shape (B, *).
    """
    if c.ndim == 0:
        return c.to(x.dtype)
    return c.to(x).reshape(-1, *[1] * (x.ndim - 1))


def widened(x: Tensor) -> Tensor:
    """x in float32 at least: a weight such as σ² may be beyond float16 where σ² s is not."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
