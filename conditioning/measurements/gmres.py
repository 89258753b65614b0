"""Generalized minimal residuals for many systems at once, which need not be symmetric."""

from collections.abc import Callable

import torch
from torch import Tensor


def gmres(apply: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """The z of smallest ‖b − A z‖ in the Krylov space of A and b, for each sample; shape of b.

    The residual never grows with the iterations, whatever A is. Each costs one product with A, and
    memory for one more vector.

    Args:
        apply: A z, of samples (B, *), which acts on each sample alone.
        b: Right-hand sides, shape (B, *).
        iterations: Dimension of the space ≥ 1.

    Reference: Saad & Schultz 1986.
    """
    flat = b.flatten(1)
    count = min(iterations, flat.shape[1])
    tiny = torch.finfo(b.dtype).tiny
    basis = [flat / flat.norm(dim=1, keepdim=True).clamp(min=tiny)]
    images = list[Tensor]()
    for step in range(count):
        image = apply(basis[-1].reshape(b.shape)).flatten(1)
        images.append(image)
        if step + 1 == count:
            break
        new = image
        for _ in range(2):  # twice is enough against rounding
            for one in basis:
                new = new - (one * new).sum(1, keepdim=True) * one
        size = new.norm(dim=1, keepdim=True)
        # A space that A maps into itself holds the solution: its basis grows no further.
        whole = size <= 100 * torch.finfo(b.dtype).eps * image.norm(dim=1, keepdim=True)
        basis.append(torch.where(whole, torch.zeros_like(new), new / size.clamp(min=tiny)))
    space, mapped = torch.stack(basis, 2), torch.stack(images, 2)
    weights = torch.linalg.pinv(mapped) @ flat[:, :, None]
    return (space @ weights)[:, :, 0].reshape(b.shape)
