"""Conjugate gradients for many symmetric positive semi-definite systems at once."""

from collections.abc import Callable

import torch
from torch import Tensor


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    iterations: int | None = None,
    tolerance: float | None = None,
) -> Tensor:
    """The solution z of A z = b from z = 0, for each sample on its own; shape of b.

    For a singular A it is the shortest solution, provided that b is in the range of A: bring b
    there first. A sample stops where its residual is below the tolerance or that of a rounded z,
    ε ‖A‖ ‖z‖, and where A has no curvature along its direction next to ‖A‖: there only rounding is
    left, or A is not positive, as the Jacobian of a network may not be. Its last z is kept.

    Args:
        apply: A z, of samples (B, *), which acts on each sample alone.
        b: Right-hand sides, shape (B, *).
        iterations: Most iterations ≥ 1; twice as many as a sample has entries where not given,
            since rounding costs some.
        tolerance: Norm of the residual over that of b; 10 times the resolution of b's type where
            not given.

    Reference: Hestenes & Stiefel 1952.
    """
    limit = 2 * b[0].numel() if iterations is None else iterations
    resolution = torch.finfo(b.dtype).eps
    small = 10 * resolution if tolerance is None else tolerance
    z, r = torch.zeros_like(b), b
    p, rr = r, _dot(r, r)
    goal, norm = small**2 * rr, torch.zeros_like(rr)  # of A, from below
    for _ in range(limit):
        going = rr > torch.maximum(goal, (resolution * norm).square() * _dot(z, z))
        if not going.any():
            break
        ap = apply(p)
        curvature, pp = _dot(p, ap), _dot(p, p)
        norm = torch.maximum(norm, (_dot(ap, ap) / pp.where(pp > 0, torch.ones_like(pp))).sqrt())
        going &= curvature > resolution * norm * pp
        if not going.any():
            break
        step = torch.where(going, rr / curvature.where(going, torch.ones_like(curvature)), 0.0)
        z, r = z + step * p, r - step * ap
        new = _dot(r, r)
        p = r + torch.where(going, new / rr.where(going, torch.ones_like(rr)), 0.0) * p
        rr = torch.where(going, new, torch.zeros_like(rr))
    return z


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each sample, shape (B, 1, …)."""
    return (a * b).flatten(1).sum(1).reshape(-1, *[1] * (a.ndim - 1))
