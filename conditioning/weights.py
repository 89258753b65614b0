"""Weights of particles: effective sample sizes, resampling, and the evidence."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Population:
    """All particles of a run.

    Attributes:
        x: States, shape (B, K, *).
        log_weights: Logarithms of the weights, whose sum is 1 in each sample; float64, (B, K).
        sizes: Effective sample sizes 1/Σ W² before each step and at the end, (N + 1, B).
        resampled: Before which steps the particles of a sample were resampled, bool, (N, B).
        log_evidence: Logarithm of an unbiased estimate of the constant that normalizes the
            distribution, such as p(y); float64, (B,).
    """

    x: Tensor
    log_weights: Tensor
    sizes: Tensor
    resampled: Tensor
    log_evidence: Tensor


class Weights:
    """The weights of the particles of a run, which change, and what is recorded of them.

    Attributes:
        log: Log-weights, float64, shape (B, K).

    Args:
        size: B.
        particles: K.
        threshold: Share of K below which particles are resampled.
        device: Device of the states.
    """

    def __init__(self, size: int, particles: int, threshold: float, device: torch.device) -> None:
        self.log = torch.zeros(size, particles, dtype=torch.float64, device=device)
        self.threshold, self.evidence = threshold * particles, self.log[:, 0]
        self.sizes, self.resampled = list[Tensor](), list[Tensor]()

    def gain(self, log: Tensor) -> None:
        """Multiply the weights; log, shape (B K,)."""
        self.log = self.log + log.double().reshape(self.log.shape)

    def resample(self, u: Tensor) -> Tensor:
        """Numbers of the particles that take each place, (B, K), by uniform numbers u, (B, 1)."""
        size = effective_size(self.log)
        few = (size < self.threshold)[:, None]
        self.sizes.append(size)
        self.resampled.append(few[:, 0])
        total = self.log.logsumexp(1, keepdim=True)
        count = self.log.shape[1]
        mean = total - math.log(count)
        self.evidence = self.evidence + mean.where(few, 0.0)[:, 0]
        stay = torch.arange(count, device=u.device).expand_as(self.log)
        chosen = systematic((self.log - total).exp(), u).where(few, stay)
        self.log = self.log.where(~few, 0.0)
        return chosen

    def choose(self, u: Tensor) -> Tensor:
        """The number of one particle of each sample, (B, 1), by uniform numbers u, (B, 1)."""
        return _inverse(self.log.softmax(1), u)

    def population(self, x: Tensor) -> Population:
        """The particles with their weights."""
        total = self.log.logsumexp(1, keepdim=True)
        sizes = torch.stack([*self.sizes, effective_size(self.log)])
        evidence = self.evidence + total[:, 0] - math.log(self.log.shape[1])
        return Population(x, self.log - total, sizes, torch.stack(self.resampled), evidence)


def effective_size(log_weights: Tensor) -> Tensor:
    """1/Σ W² of weights W ∝ exp(log W), between 1 and K; shape (B,) of (B, K)."""
    return torch.exp(2 * log_weights.logsumexp(1) - (2 * log_weights).logsumexp(1))


def systematic(weights: Tensor, u: Tensor) -> Tensor:
    """Systematic resampling: particle k is chosen ⌊K W_k⌋ or ⌈K W_k⌉ times, on average K W_k.

    Args:
        weights: W of sum 1, shape (B, K).
        u: A uniform number in [0, 1) for each sample, shape (B, 1).

    Returns:
        Numbers of the chosen particles in rising order, (B, K).

    Reference: Kitagawa 1996.
    """
    count = weights.shape[1]
    return _inverse(weights, (u + torch.arange(count, device=u.device)) / count)


def _inverse(weights: Tensor, u: Tensor) -> Tensor:
    """The first k with W_1 + … + W_k > u, (B, J) of u (B, J)."""
    total = weights.cumsum(1)
    return torch.searchsorted(total, u * total[:, -1:], right=True).clamp(max=weights.shape[1] - 1)
