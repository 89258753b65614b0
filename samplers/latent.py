"""Paths between latents, from which a deterministic sampler generates a gradual change."""

import torch
from torch import Tensor

from scoresde.sde.checks import check_floating, check_steps


def interpolate(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """Great-circle paths between two batches of latents.

        z(u) = sin((1 − u) φ)/sin φ a + sin(u φ)/sin φ b,   cos φ = ⟨a, b⟩/(‖a‖ ‖b‖)

    A straight line between two samples of a Gaussian leaves the sphere near which samples lie; on
    the circle between latents of equal norm every z(u) has that norm.

    Args:
        a: Latents at u = 0, shape (B, *), such as `sampler.encode` returns.
        b: Latents at u = 1, shape of a.
        steps: Number of equal steps of u ≥ 1.

    Returns:
        Latents, shape (steps + 1, B, *), each a possible `x_init` of a sampler.

    Raises:
        ValueError: Other shapes, steps not an integer ≥ 1, or latents in opposite directions,
            between which there are many circles.
        TypeError: Latents that are not floating point.

    Reference: Shoemake 1985; Song, Meng & Ermon 2021, arXiv:2010.02502 (appendix D.5).
    """
    check_floating("a", a)
    check_floating("b", b)
    if a.shape != b.shape:
        raise ValueError(f"b must have a's shape {tuple(a.shape)}, got {tuple(b.shape)}")
    u = torch.linspace(0, 1, check_steps(steps) + 1, dtype=torch.float64, device=a.device)
    u = u.reshape(-1, *[1] * a.ndim)
    flat_a, flat_b = a.flatten(1).double(), b.flatten(1).double()
    cosine = torch.nn.functional.cosine_similarity(flat_a, flat_b, dim=1).clamp(-1, 1)
    if (cosine < -1 + 1e-12).any():
        raise ValueError("a and b have opposite directions, so that the circle is not unique")
    angle = cosine.acos().reshape(1, -1, *[1] * (a.ndim - 1))
    # sin(u φ)/sin φ is u where φ is 0; sinc keeps the quotient exact there.
    unit = torch.sinc(angle / torch.pi)
    weight_a = (1 - u) * torch.sinc((1 - u) * angle / torch.pi) / unit
    weight_b = u * torch.sinc(u * angle / torch.pi) / unit
    return (weight_a * a.double() + weight_b * b.double()).to(a.dtype)
