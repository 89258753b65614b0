"""The schedule of latent diffusion: a chain whose √β_i are equally spaced."""

import math

import torch
from torch import Tensor

from .schedule import LinearSchedule, Schedule


class ScaledLinearSchedule(Schedule):
    """The schedule whose √β grows linearly.

        β(t) = (√β_min + t (√β_max − √β_min))²

    The published chain (0.85 and 12 for N = 1000) ends with α = 0.07, yet sampling starts from
    N(0, I).

    Args:
        beta_min: β(0) > 0.
        beta_max: β(1) ≥ β_min.

    Raises:
        ValueError: The constants are not 0 < beta_min ≤ beta_max < ∞.

    Reference: Rombach et al. 2022, arXiv:2112.10752; `scaled_linear` in diffusers.
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        self._ends = LinearSchedule(beta_min, beta_max)  # checks the constants
        self.beta_min, self.beta_max = self._ends.beta_min, self._ends.beta_max
        self._first = math.sqrt(self.beta_min)
        self._rise = math.sqrt(self.beta_max) - self._first

    def beta(self, t: Tensor) -> Tensor:
        """(√β_min + t (√β_max − √β_min))²."""
        return (self._first + t * self._rise).square()

    def integral(self, t: Tensor) -> Tensor:
        """t (β_min + t √β_min d + ⅓ t² d²) with d = √β_max − √β_min."""
        first, rise = self._first, self._rise
        return t * (self.beta_min + t * (first * rise + t * (rise * rise / 3)))

    def betas(self, steps: int) -> Tensor:
        """β_i = linspace(√(β_min/N), √(β_max/N), N)².

        Raises:
            ValueError: The chain is too short: β_max/N ≥ 1.
        """
        first, last = self._ends.betas(steps)[[0, -1]].sqrt().tolist()
        return torch.linspace(first, last, steps, dtype=torch.float64).square()
