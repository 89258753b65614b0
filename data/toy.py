"""Two-dimensional laws to try every method on, some with a known density.

Each set is drawn once, in float64, from generators of its own: train and test are independent. Each
law is moved and stretched by its own mean and standard deviation per axis, constants that do not
depend on the draw, so that both coordinates have mean 0 and standard deviation 1. (`Mixture` is
taken as its arguments say.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from .base import Dataset, Split, stream

Draw = Callable[[int, torch.Generator], Split]

_MOONS_NOISE = 0.05
_ROLL_NOISE = 0.5
_BOARD_SCALE = math.sqrt(3 / 4)  # a coordinate is uniform on [-2, 2], of variance 4 / 3


class Moons(Dataset):
    """Two interleaved half circles, (cos a, sin a) and (1 - cos a, 1/2 - sin a), a ~ U[0, pi].

    Noise N(0, 0.05²) is added to both coordinates before they are standardised.

    Reference: Pedregosa et al. 2011, scikit-learn (make_moons).

    Args:
        n, n_test: number of training and test points, ≥ 1.
        seed: of the draw, any integer.

    Raises:
        ValueError: n or n_test below 1.
    """

    def __init__(self, n: int = 20000, n_test: int = 2000, seed: int = 0) -> None:
        super().__init__("moons", lambda: _splits(_draw_moons, n, n_test, seed))


class SwissRoll(Dataset):
    """A spiral of one and a half turns, t (cos t, sin t), t ~ U[3 pi / 2, 9 pi / 2].

    Noise N(0, 0.5²) is added to both coordinates before they are standardised.

    Reference: Tenenbaum, de Silva, Langford 2000, A global geometric framework for nonlinear
    dimensionality reduction (its flat section).

    Args:
        n, n_test: number of training and test points, ≥ 1.
        seed: of the draw, any integer.

    Raises:
        ValueError: n or n_test below 1.
    """

    def __init__(self, n: int = 20000, n_test: int = 2000, seed: int = 0) -> None:
        super().__init__("swissroll", lambda: _splits(_draw_roll, n, n_test, seed))


class Checkerboard(Dataset):
    """Uniform on the 8 equal-coloured squares of a 4 x 4 board of side 2 sqrt(3): p = 1/6 on them.

    The entropy is the logarithm of the area, log 6.

    Reference: Grathwohl et al. 2019, arXiv:1810.01367 (figure 2).

    Args:
        n, n_test: number of training and test points, ≥ 1.
        seed: of the draw, any integer.

    Raises:
        ValueError: n or n_test below 1.
    """

    entropy = math.log(6)

    def __init__(self, n: int = 20000, n_test: int = 2000, seed: int = 0) -> None:
        super().__init__("checkerboard", lambda: _splits(_draw_board, n, n_test, seed))

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats at x, shape (..., 2); float64 (...,), -inf outside the squares."""
        square = (x.double() / _BOARD_SCALE + 2).floor()
        inside = ((square >= 0) & (square <= 3)).all(-1) & (square.sum(-1) % 2 == 0)
        outside = torch.full_like(square[..., 0], -math.inf)
        return outside.masked_fill(inside, -self.entropy)


class EightGaussians(Dataset):
    """Eight equal Gaussians on a circle, of radius 1.40 and standard deviation 0.14.

    Before standardisation the radius is 2 and the standard deviation 0.2, so that each coordinate
    has the variance 2² / 2 + 0.2². Attributes `weights`, `means`, `covariances` and `entropy` are
    those of `Mixture`.

    Reference: Grathwohl et al. 2019, arXiv:1810.01367 (figure 2).

    Args:
        n, n_test: number of training and test points, ≥ 1.
        seed: of the draw, any integer.
        condition: "label" tells which Gaussian each point is from; None does not.

    Raises:
        ValueError: n or n_test below 1.
    """

    def __init__(
        self, n: int = 20000, n_test: int = 2000, seed: int = 0, condition: str | None = None
    ) -> None:
        scale = 1 / math.sqrt(2**2 / 2 + 0.2**2)
        angles = [math.pi * k / 4 for k in range(8)]
        means = [(2 * scale * math.cos(a), 2 * scale * math.sin(a)) for a in angles]
        self._law = law = _GaussianLaw([1 / 8] * 8, means, [0.2 * scale] * 8)
        self.weights, self.means, self.covariances = law.weights, law.means, law.covariances
        draw = law.draw_labelled if condition else law.draw
        super().__init__(
            "eightgaussians", lambda: _splits(draw, n, n_test, seed), condition=condition
        )

    @property
    def entropy(self) -> float:
        """Differential entropy in nats, by the quadrature that `Mixture.entropy` describes."""
        return self._law.entropy

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats at x, shape (..., 2); float64 (...,)."""
        return self._law.log_prob(x)


class Mixture(Dataset):
    """A mixture of Gaussians with axis-parallel covariances, p(x) = Σ_k w_k N(x; μ_k, diag s_k²).

    It is taken as given, without standardisation; the default has mean 0 and standard deviations
    0.98 and 0.95.

    Attributes:
        weights: w, float64 (K,).
        means: μ, float64 (K, 2).
        covariances: diag s², float64 (K, 2, 2).

    Reference: McLachlan, Peel 2000, Finite mixture models.

    Args:
        weights: w, K positive numbers of sum 1.
        means: μ, K pairs.
        std: s, K positive pairs, or K positive numbers for round components.
        n, n_test: number of training and test points, ≥ 1.
        seed: of the draw, any integer.
        condition: "label" tells which component each point is from; None does not.

    Raises:
        ValueError: shapes that disagree, non-positive weights or std, weights not of sum 1,
            n or n_test below 1.
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
        self._law = law = _GaussianLaw(weights, means, std)
        self.weights, self.means, self.covariances = law.weights, law.means, law.covariances
        draw = law.draw_labelled if condition else law.draw
        super().__init__("mixture", lambda: _splits(draw, n, n_test, seed), condition=condition)

    @property
    def entropy(self) -> float:
        """Differential entropy in nats, to 1e-5.

        -Σ_k w_k ∫ N(z; 0, I) log p(μ_k + s_k z) dz by the trapezoidal rule on a square grid over
        |z_i| ≤ 8, refined until two grids agree to 1e-5; for smooth, fast-falling integrands the
        rule converges exponentially. No grid is wider than half the smallest standard deviation.

        Raises:
            ValueError: the largest std of an axis is more than 16 times its smallest.
        """
        return self._law.entropy

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats at x, shape (..., 2); float64 (...,)."""
        return self._law.log_prob(x)


class _GaussianLaw:
    """The mixture itself: checked parameters, draws, log-density, entropy."""

    def __init__(
        self,
        weights: Sequence[float],
        means: Sequence[Sequence[float]],
        std: Sequence[Sequence[float]] | Sequence[float],
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
        self.weights, self.means, self.std = w / w.sum(), mu, s
        self.covariances = torch.diag_embed(s**2)

    def draw(self, n: int, generator: torch.Generator) -> Split:
        return Split(self.draw_labelled(n, generator).samples, None)

    def draw_labelled(self, n: int, generator: torch.Generator) -> Split:
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        z = torch.randn(n, 2, generator=generator, dtype=torch.float64)
        return Split((self.means[k] + self.std[k] * z).float(), k)

    def log_prob(self, x: Tensor) -> Tensor:
        z = (x.double().unsqueeze(-2) - self.means) / self.std
        log_normal = -0.5 * z.square().sum(-1) - self.std.log().sum(-1) - math.log(2 * math.pi)
        return (self.weights.log() + log_normal).logsumexp(-1)

    @cached_property
    def entropy(self) -> float:
        previous = math.inf
        ratio = float((self.std.amax(0) / self.std.amin(0)).max())
        for nodes in (65, 129, 257, 513, 1025):
            if (nodes - 1) / 16 < 2 * ratio:
                continue  # such a grid could step over the smallest component unnoticed
            axis = torch.linspace(-8, 8, nodes, dtype=torch.float64)
            rule = torch.exp(-0.5 * axis**2) / math.sqrt(2 * math.pi) * 16 / (nodes - 1)
            z = torch.cartesian_prod(axis, axis)
            measure = torch.outer(rule, rule).flatten()
            value = 0.0
            for w, mu, s in zip(self.weights, self.means, self.std, strict=True):
                value -= float(w * (measure @ self.log_prob(mu + s * z)))
            if abs(value - previous) < 1e-5:
                return value
            previous = value
        raise ValueError(
            f"the entropy of this mixture is out of reach of a grid of {nodes} nodes per axis: "
            f"its largest std is {ratio:.3g} times its smallest on one axis, 16 is allowed"
        )


def _splits(draw: Draw, n: int, n_test: int, seed: int) -> tuple[Split, Split]:
    for name, count in (("n", n), ("n_test", n_test)):
        if count < 1:
            raise ValueError(f"{name} must be an integer ≥ 1, got {count}")
    return draw(n, stream("train", seed)), draw(n_test, stream("test", seed))


def _draw_moons(n: int, generator: torch.Generator) -> Split:
    angle = math.pi * torch.rand(n, generator=generator, dtype=torch.float64)
    upper = torch.rand(n, generator=generator) < 0.5
    noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    x = torch.where(upper, angle.cos(), 1 - angle.cos())
    y = torch.where(upper, angle.sin(), 0.5 - angle.sin())
    # Each moon has the variances 1/2 and 1/2 - 4/pi²; their means are 1 and 4/pi - 1/2 apart.
    mean = torch.tensor([0.5, 0.25], dtype=torch.float64)
    apart = torch.tensor([1.0, 4 / math.pi - 0.5], dtype=torch.float64)
    within = torch.tensor([0.5, 0.5 - 4 / math.pi**2], dtype=torch.float64)
    std = (within + (apart / 2) ** 2 + _MOONS_NOISE**2).sqrt()
    points = (torch.stack([x, y], -1) + _MOONS_NOISE * noise - mean) / std
    return Split(points.float(), None)


def _draw_roll(n: int, generator: torch.Generator) -> Split:
    t = math.pi * (1.5 + 3 * torch.rand(n, generator=generator, dtype=torch.float64))
    noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    spiral = torch.stack([t * t.cos(), t * t.sin()], -1)
    # E t² = 9.75 pi², and integration by parts gives E t² cos 2t = -1/2 and the two means.
    mean = torch.tensor([2.0, 2 / (3 * math.pi)], dtype=torch.float64)
    swing = torch.tensor([-0.5, 0.5], dtype=torch.float64)
    std = ((9.75 * math.pi**2 + swing) / 2 - mean**2 + _ROLL_NOISE**2).sqrt()
    return Split(((spiral + _ROLL_NOISE * noise - mean) / std).float(), None)


def _draw_board(n: int, generator: torch.Generator) -> Split:
    row = torch.randint(4, (n,), generator=generator)
    column = 2 * torch.randint(2, (n,), generator=generator) + row % 2
    u = torch.rand(n, 2, generator=generator, dtype=torch.float64)
    # Rounding to float32 must not carry a point over an edge, where the density is zero.
    inside = 1e-6 + (1 - 2e-6) * u
    points = (torch.stack([column, row], -1) + inside - 2) * _BOARD_SCALE
    return Split(points.float(), None)
