"""Standard normal noise, and the Gaussian prior."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Randomness = torch.Generator | Sequence[torch.Generator] | None
"""Source of noise: one generator for all samples, one for each, or torch's global one."""


@dataclass(frozen=True)
class Prior:
    """The isotropic Gaussian N(0, std² I) over states of a shape.

    Args:
        shape: Shape (B, *) of the states.
        std: Standard deviation of each coordinate.
    """

    shape: tuple[int, ...]
    std: float = 1.0

    def sample(
        self,
        generator: Randomness = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Sample states of shape (B, *), by default on the generator's device."""
        return self.std * standard_normal(tuple(self.shape), generator, dtype, device)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of each state in nats, summed in float64; shape (B,)."""
        z = x.reshape(x.shape[0], -1).double() / self.std
        log_scale = torch.log(torch.tensor(self.std, dtype=torch.float64)).to(z.device)
        constant = 0.5 * torch.log(torch.tensor(2 * torch.pi, dtype=torch.float64)).to(z.device)
        return -0.5 * z.square().sum(1) - z.shape[1] * (constant + log_scale)


def standard_normal(
    shape: tuple[int, ...],
    generator: Randomness = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Sample N(0, I) on the device of the generator, as torch requires, and move it to `device`.

    Args:
        shape: Shape (B, *) of the noise.
        generator: One source for all samples, or one for each of the B samples.
        dtype: Type of the noise, if not torch's default.
        device: Device of the result, if not that of the generator.

    Raises:
        ValueError: The number of generators is not that of the samples.
    """
    if isinstance(generator, Sequence):
        if len(generator) != shape[0]:
            raise ValueError(
                f"one generator for each of {shape[0]} samples is needed, got {len(generator)}"
            )
        z = torch.empty(shape, dtype=dtype, device=generator[0].device)
        for row, own in zip(z, generator, strict=True):
            row.normal_(generator=own)
        return z if device is None else z.to(device)
    source = device if generator is None else generator.device
    z = torch.randn(shape, generator=generator, dtype=dtype, device=source)
    return z.to(source if device is None else device)
