"""Random numbers that belong to a sample, wherever and beside whomever it is evaluated."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def numbers_of(x: Tensor, index: Sequence[int] | None) -> list[int]:
    """The numbers of the samples x (B, *): 0 … B − 1 where none are given.

    Raises:
        ValueError: As many numbers as samples are needed.
    """
    numbers = list(range(len(x)) if index is None else index)
    if len(numbers) != len(x):
        raise ValueError(f"index must name each of {len(x)} samples, got {len(numbers)} numbers")
    return numbers


@dataclass(frozen=True)
class Draws:
    """Random numbers of samples: functions of a seed, a sample's number and a purpose alone.

    Args:
        seed: Seed.
        index: Numbers of the samples, B of them.
    """

    seed: int
    index: Sequence[int]

    def uniform(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        """Numbers uniform on [0, 1), float64, shape (B, *shape)."""
        return torch.stack(
            [torch.rand(shape, generator=g, dtype=torch.float64) for g in self._each(purpose)]
        )

    def normal(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        """Standard normal numbers, float64, shape (B, *shape)."""
        return torch.stack(
            [torch.randn(shape, generator=g, dtype=torch.float64) for g in self._each(purpose)]
        )

    def rademacher(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        """Fair coins ±1, int64, shape (B, *shape)."""
        return torch.stack(
            [2 * torch.randint(0, 2, shape, generator=g) - 1 for g in self._each(purpose)]
        )

    def _each(self, purpose: str) -> list[torch.Generator]:
        names = (f"{self.seed}/{purpose}/{i}" for i in self.index)
        digests = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
        return [torch.Generator().manual_seed(int.from_bytes(d, "big") >> 1) for d in digests]
