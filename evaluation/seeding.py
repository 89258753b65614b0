"""Random numbers that belong to a sample, independently of the batch it is evaluated in."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def numbers_of(x: Tensor, sample_ids: Sequence[int] | None) -> list[int]:
    """The numbers of the samples x (B, *): 0 … B − 1 where none are given."""
    numbers = list(range(len(x)) if sample_ids is None else sample_ids)
    if len(numbers) != len(x):
        raise ValueError(
            f"sample_ids must name each of {len(x)} samples, got {len(numbers)} numbers"
        )
    return numbers


@dataclass(frozen=True)
class Draws:
    """Random numbers of B samples: functions of a seed, a sample's number and a purpose alone."""

    seed: int
    sample_ids: Sequence[int]

    def uniform(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        """Numbers uniform on [0, 1), float64, shape (B, *shape)."""
        return self._stack(purpose, lambda g: torch.rand(shape, generator=g, dtype=torch.float64))

    def normal(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        """Standard normal numbers, float64, shape (B, *shape)."""
        return self._stack(purpose, lambda g: torch.randn(shape, generator=g, dtype=torch.float64))

    def rademacher(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        """Random signs ±1, int64, shape (B, *shape)."""
        return self._stack(purpose, lambda g: 2 * torch.randint(0, 2, shape, generator=g) - 1)

    def _stack(self, purpose: str, numbers: Callable[[torch.Generator], Tensor]) -> Tensor:
        """The numbers of each sample, from a generator of its own."""
        names = (f"{self.seed}/{purpose}/{i}" for i in self.sample_ids)
        digests = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
        seeds = (int.from_bytes(digest, "big") >> 1 for digest in digests)
        return torch.stack([numbers(torch.Generator().manual_seed(seed)) for seed in seeds])
