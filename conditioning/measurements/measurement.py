"""A measurement: its operator, what was observed, and the noise in it."""

from typing import Self

import torch
from torch import Tensor

from scoresde.sde import rows
from scoresde.sde.checks import check_floating
from scoresde.sde.score import take

from .level import Level
from .noise import Gaussian, Noise
from .operator import Operator


class Measurement:
    """y = h(x_0) + σ_y n with n ~ N(0, I), or with another noise.

    Args:
        operator: h, or a linear H.
        y: What was observed, shape (B, *shape_out), or one row for all samples.
        std: σ_y ≥ 0, in the units of the network's data range, or a `Noise` such as
            `Poisson(gain)`, or `Gaussian(detail_std(y))` with one level for each sample.

    Attributes:
        noise: The noise.

    Raises:
        TypeError: y is not floating point.
        ValueError: y has another shape than the operator's, is not finite, or σ_y < 0.
    """

    def __init__(self, operator: Operator, y: Tensor, std: float | Noise = 0.0) -> None:
        check_floating("y", y)
        operator.check_measurement(y)
        if not y.isfinite().all():
            raise ValueError("y contains NaN/Inf; a measurement must be finite")
        self.operator, self.y = operator, y
        self.noise = std if isinstance(std, Noise) else Gaussian(std)
        if len(y) > 1:
            self.noise.variance(y)  # refuses levels of another shape

    @classmethod
    def of(
        cls,
        operator: Operator,
        x0: Tensor,
        std: float | Noise = 0.0,
        generator: torch.Generator | None = None,
    ) -> Self:
        """A measurement of samples x_0, (B, *shape), with noise from a generator."""
        noise = std if isinstance(std, Noise) else Gaussian(std)
        return cls(operator, noise.sample(operator(operator.check_samples(x0)), generator), noise)

    def check_samples(self, x: Tensor) -> None:
        """Refuse samples of another shape than the operator's, or of another number than y's rows.

        Raises:
            ValueError: x is not (B, *shape), or y has neither B rows nor one for all.
        """
        self.operator.check_samples(x)
        if len(self.y) not in (1, len(x)):
            raise ValueError(
                f"a measurement of {len(x)} samples must have {len(x)} rows, or 1 for all, got "
                f"{len(self.y)}; sample as many as were measured, or use measurement.rows(index)"
            )

    @property
    def std(self) -> float:
        """σ_y, where it is the same for all samples and entries.

        Raises:
            ValueError: It is not.
        """
        std = getattr(self.noise, "std", None)
        if not isinstance(std, float):
            raise ValueError(
                f"the method needs one σ_y for all measurements, got {type(self.noise).__name__} "
                "noise whose variance differs; use DPS in its score form, or give a number std"
            )
        return std

    @property
    def exact(self) -> bool:
        """Whether y has no noise at all."""
        return self.noise.exact

    def residual(self, x0: Tensor) -> Tensor:
        """y − h(x_0), shape (B, *shape_out)."""
        return self.y.to(x0) - self.operator(x0)

    def variance(self, x0: Tensor) -> Level:
        """Var[y | x_0]: σ_y² as a number, one for each sample, (B, 1, …), or one for each entry."""
        if isinstance(self.noise, Gaussian):
            return self.noise.variance(self.y.to(x0).expand(len(x0), *self.y.shape[1:]))
        return self.noise.variance(self.operator(x0))

    def log_likelihood(self, x0: Tensor) -> Tensor:
        """log p(y | x_0) in nats up to a constant, −‖y − h(x_0)‖²/(2 σ_y²); shape (B,).

        Raises:
            ValueError: σ_y = 0, where it does not exist.
        """
        self.check_noisy("log p(y | x_0)")
        return self.noise.log_likelihood(self.y, self.operator(x0))

    def check_noisy(self, who: str) -> None:
        """Refuse a measurement without noise, on behalf of what divides by its variance.

        Args:
            who: What divides by it, as the error names it.

        Raises:
            ValueError: σ_y = 0.
        """
        if self.noise.exact:
            raise ValueError(
                f"{who} divides by the noise of the measurement, and std is 0; give std > 0, or "
                "use a method for exact measurements, such as PiGDM, MMPS or DDNM"
            )

    def rows(self, index: Tensor) -> Self:
        """The measurement of some samples of the batch."""
        part = type(self).__new__(type(self))
        own = {
            "operator": rows(self.operator, index),
            "y": take(self.y, index),
            "noise": self.noise.rows(index),
        }
        vars(part).update(vars(self), **own)
        return part
