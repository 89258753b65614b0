"""Two-dimensional distributions on which every method can be tried: curves and squares.

Each distribution is standardised by its own mean and standard deviation per axis, which are
constants and not estimated from the samples, so that both coordinates have mean 0 and standard
deviation 1.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from .base import Split, stream
from .memory import InMemory

LABELLED = "use data=mixture, eightgaussians, checkerboard or moons, or condition=none"
_MOONS_NOISE = 0.05
_ROLL_NOISE = 0.5
_BOARD_SCALE = math.sqrt(3 / 4)  # a coordinate is uniform on [-2, 2], of variance 4 / 3


class Points(InMemory):
    """Points in the plane; a subclass is a distribution, from which `draw` samples.

    Train and test are sampled once, in float64, from independent generators.

    Args:
        n, n_test: number of training and test points, ≥ 1.
        seed: seed of the samples, any integer.
        condition: "label" puts the component of the distribution from which each point comes,
            0 to K - 1, into batches; None does not.

    Raises:
        ValueError: n or n_test below 1, an impossible condition, or a distribution without
            components as the condition.
    """

    def __init__(
        self, n: int = 20000, n_test: int = 2000, seed: int = 0, condition: str | None = None
    ) -> None:
        def part(which: str, count: int) -> Split:
            points, component = self.draw(count, stream(which, seed))
            # Without a condition the digest of the data does not depend on components.
            return Split(points.float(), None if condition is None else component)

        def read() -> tuple[Split, Split]:
            for which, count in (("n", n), ("n_test", n_test)):
                if count < 1:
                    raise ValueError(f"{which} must be an integer ≥ 1, got {count}")
            return part("train", n), part("test", n_test)

        name = type(self).__name__.lower()
        super().__init__(name, read, condition=condition, unlabelled=LABELLED)

    @abstractmethod
    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Points, float64 (n, 2), and the component of each, int64 (n,) or None."""


class Moons(Points):
    """Two interleaved half circles, (cos a, sin a) and (1 - cos a, 1/2 - sin a), a ~ U[0, pi].

    Noise N(0, 0.05²) is added to both coordinates before they are standardised. The component of a
    point is its moon, 0 or 1. Arguments are those of `Points`.

    Reference: Pedregosa et al. 2011, scikit-learn (make_moons).
    """

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See `Points.draw`."""
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
        return (torch.stack([x, y], -1) + _MOONS_NOISE * noise - mean) / std, (~upper).long()


class SwissRoll(Points):
    """A spiral of one and a half turns, t (cos t, sin t), t ~ U[3 pi / 2, 9 pi / 2].

    Noise N(0, 0.5²) is added to both coordinates before they are standardised. The spiral has no
    components. Arguments are those of `Points`.

    Reference: Tenenbaum, de Silva, Langford 2000, A global geometric framework for nonlinear
    dimensionality reduction (its flat section).
    """

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, None]:
        """See `Points.draw`."""
        t = math.pi * (1.5 + 3 * torch.rand(n, generator=generator, dtype=torch.float64))
        noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
        spiral = torch.stack([t * t.cos(), t * t.sin()], -1)
        # E t² = 9.75 pi², and integration by parts gives E t² cos 2t = -1/2 and the two means.
        mean = torch.tensor([2.0, 2 / (3 * math.pi)], dtype=torch.float64)
        swing = torch.tensor([-0.5, 0.5], dtype=torch.float64)
        std = ((9.75 * math.pi**2 + swing) / 2 - mean**2 + _ROLL_NOISE**2).sqrt()
        return (spiral + _ROLL_NOISE * noise - mean) / std, None


class Checkerboard(Points):
    """Uniform on the 8 equal-coloured squares of a 4 x 4 board of side 2 sqrt(3): p = 1/6 on them.

    The entropy is the logarithm of the area, log 6. The component of a point is its square, 0 to 7.
    Arguments are those of `Points`.

    Reference: Grathwohl et al. 2019, arXiv:1810.01367 (figure 2).
    """

    entropy = math.log(6)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density in nats at x, shape (..., 2); float64 (...,), -inf outside the squares."""
        square = (x.double() / _BOARD_SCALE + 2).floor()
        inside = ((square >= 0) & (square <= 3)).all(-1) & (square.sum(-1) % 2 == 0)
        outside = torch.full_like(square[..., 0], -math.inf)
        return outside.masked_fill(inside, -self.entropy)

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See `Points.draw`."""
        row = torch.randint(4, (n,), generator=generator)
        column = 2 * torch.randint(2, (n,), generator=generator) + row % 2
        u = torch.rand(n, 2, generator=generator, dtype=torch.float64)
        # Rounding to float32 must not carry a point over an edge, where the density is zero.
        inside = 1e-6 + (1 - 2e-6) * u
        points = (torch.stack([column, row], -1) + inside - 2) * _BOARD_SCALE
        return points, 2 * row + column // 2
