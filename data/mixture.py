"""Mixtures of Gaussians in the plane, whose density and entropy are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from .toy import Points


class Mixture(Points):
    """A mixture of Gaussians with axis-parallel covariances, p(x) = Σ_k w_k N(x; μ_k, diag s_k²).

    It is not standardised; the default has mean 0 and standard deviations 0.98 and 0.95. The
    component of a point is its Gaussian, 0 to K - 1.

    Attributes:
        weights: w, float64 (K,).
        means: μ, float64 (K, 2).
        covariances: diag s², float64 (K, 2, 2).

    Reference: McLachlan, Peel 2000, Finite mixture models.

    Args:
        weights: w, K positive numbers of sum 1.
        means: μ, K pairs.
        std: s, K positive pairs, or K positive numbers for round components.
        n, n_test, seed, condition: those of `Points`.

    Raises:
        ValueError: shapes that disagree, non-positive weights or std, weights not of sum 1,
            n or n_test below 1, or an impossible condition.
    """

    def __init__(
        self,
        weights: Sequence[float] = (0.4, 0.3, 0.2, 0.1),
        means: Sequence[Sequence[float]] = ((-0.95, -0.25), (0.9, -0.9), (0.9, 1.2), (-0.7, 1.3)),
        std: Sequence[Sequence[float]] | Sequence[float] = (
            (0.35, 0.55),
            (0.45, 0.25),
            (0.3, 0.4),
            (0.35, 0.3),
        ),
        n: int = 20000,
        n_test: int = 2000,
        seed: int = 0,
        condition: str | None = None,
    ) -> None:
        w, mu, s = (torch.tensor(list(v), dtype=torch.float64) for v in (weights, means, std))
        s = s.unsqueeze(-1).expand(-1, 2) if s.ndim == 1 else s
        if w.ndim != 1 or mu.shape != (len(w), 2) or s.shape != mu.shape:
            raise ValueError(
                "mixture expects weights (K,), means (K, 2), std (K,) or (K, 2), "
                f"got {tuple(w.shape)}, {tuple(mu.shape)}, {tuple(s.shape)}"
            )
        if not (w > 0).all() or abs(float(w.sum()) - 1) > 1e-6:
            raise ValueError(f"mixture weights must be > 0 and of sum 1, got {w.tolist()}")
        if not ((s > 0) & s.isfinite() & mu.isfinite()).all():
            raise ValueError(
                "mixture std must be finite and > 0 and means finite, "
                f"got std {s.tolist()} and means {mu.tolist()}"
            )
        self.weights, self.means, self._std = w / w.sum(), mu, s
        self.covariances = torch.diag_embed(s**2)
        super().__init__(n, n_test, seed, condition)

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See `Points.draw`."""
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        z = torch.randn(n, 2, generator=generator, dtype=torch.float64)
        return self.means[k] + self._std[k] * z, k

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats at x, shape (..., 2); float64 (...,)."""
        z = (x.double().unsqueeze(-2) - self.means) / self._std
        log_normal = -0.5 * z.square().sum(-1) - self._std.log().sum(-1) - math.log(2 * math.pi)
        return (self.weights.log() + log_normal).logsumexp(-1)

    @cached_property
    def entropy(self) -> float:
        """Differential entropy in nats, to 1e-5.

        -Σ_k w_k ∫ N(z; 0, I) log p(μ_k + s_k z) dz is computed by the trapezoidal rule on a square
        grid over |z_i| ≤ 8, refined until two grids agree to 1e-5; for smooth, fast-falling
        integrands the rule converges exponentially. The spacing of a grid is at most half the
        smallest standard deviation.

        Raises:
            ValueError: the largest std of an axis is more than 16 times its smallest.
        """
        previous = math.inf
        ratio = float((self._std.amax(0) / self._std.amin(0)).max())
        for nodes in (65, 129, 257, 513, 1025):
            if (nodes - 1) / 16 < 2 * ratio:
                continue  # the smallest component could fall between the points of such a grid
            axis = torch.linspace(-8, 8, nodes, dtype=torch.float64)
            rule = torch.exp(-0.5 * axis**2) / math.sqrt(2 * math.pi) * 16 / (nodes - 1)
            z = torch.cartesian_prod(axis, axis)
            measure = torch.outer(rule, rule).flatten()
            value = 0.0
            for w, mu, s in zip(self.weights, self.means, self._std, strict=True):
                value -= float(w * (measure @ self.log_prob(mu + s * z)))
            if abs(value - previous) < 1e-5:
                return value
            previous = value
        raise ValueError(
            f"the entropy of this mixture is out of reach of a grid of {nodes} nodes per axis: "
            f"its largest std is {ratio:.3g} times its smallest on one axis, 16 is allowed"
        )


class EightGaussians(Mixture):
    """Eight equal Gaussians on a circle, of radius 1.40 and standard deviation 0.14.

    Before standardisation to mean 0 and standard deviation 1 per axis, the radius is 2 and the
    standard deviation 0.2, so that each coordinate has the variance 2² / 2 + 0.2². Arguments are
    those of `Points`.

    Reference: Grathwohl et al. 2019, arXiv:1810.01367 (figure 2).
    """

    def __init__(
        self, n: int = 20000, n_test: int = 2000, seed: int = 0, condition: str | None = None
    ) -> None:
        scale = 1 / math.sqrt(2**2 / 2 + 0.2**2)
        angles = [math.pi * k / 4 for k in range(8)]
        means = [(2 * scale * math.cos(a), 2 * scale * math.sin(a)) for a in angles]
        super().__init__([1 / 8] * 8, means, [0.2 * scale] * 8, n, n_test, seed, condition)
