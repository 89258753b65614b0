"""A small network that estimates the noise level of a state from the state alone."""

import torch
from torch import Tensor, nn

from scoresde.sde import SDE, Described
from scoresde.sde.checks import check_count
from scoresde.sde.data_range import DataRange

from .layers import conv, dense


class NoiseLevelEstimator(Described, nn.Module):
    """The noise level of a state, λ̂(x) ≈ E[λ | x_t = x], where the time is unknown.

        x̂ = (x − m)/h,   r = rms(x̂),   λ̂ = λ(T) + (λ(ε) − λ(T)) · sigmoid(F(x̂/r, log r))

    m and h are the middle and half the width of the data range, and rms is over the coordinates
    of one state, so that F sees numbers of order 1 at any noise level. (`ScoreModel` subtracts
    α(t) m, which needs the time; the two agree where m = 0 or α = 1, as for the published range of
    each process.) F is a perceptron for points; for images it is a convolutional network that
    averages its features over all pixels.

    With D coordinates no estimator can be more accurate than about 1/√(2D), the standard deviation
    of log r: in the plane the estimate is rough, for images it is sharp.

    Args:
        sde: Process.
        shape: Shape of one state; (C, H, W) for images, anything else is flattened.
        data_range: Interval of the data, or None for data of no fixed range (m = 0, h = 1).
        width: Features of a layer ≥ 1.
        depth: Layers ≥ 1; each but the first of an image network halves the resolution.

    Attributes:
        bounds: (λ(T), λ(ε)).

    Raises:
        ValueError: Empty data range, a width or depth that is not ≥ 1, or a chain whose last level
            is pure noise, λ = −∞.

    Reference: San-Roman, Nachmani & Wolf 2021, arXiv:2104.02600 (section 3.2), whose target is
    the noise level of the chain instead of λ.
    """

    def __init__(
        self,
        sde: SDE,
        shape: tuple[int, ...],
        data_range: tuple[float, float] | None = None,
        *,
        width: int = 32,
        depth: int = 3,
    ) -> None:
        super().__init__()
        check_count("width", width, 1)
        check_count("depth", depth, 1)
        span = DataRange.of(data_range)
        sde.check_signal("an estimator of the noise level")
        self.sde, self.shape = sde, tuple(shape)
        self._middle, self._half = span.middle, span.half
        ends = torch.tensor([sde.T, sde.eps], dtype=torch.float64)
        self.bounds: tuple[float, float] = tuple(sde.half_log_snr(ends).tolist())
        if len(self.shape) == 3:
            self.features: nn.Module = _convolutions(self.shape[0], width, depth)
        else:
            self.features = _perceptron(torch.Size(self.shape).numel(), width, depth)
        self.head = nn.Sequential(dense(width + 1, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """λ̂ in [λ(T), λ(ε)], float64, shape (B,).

        Args:
            x: State, shape (B, *).

        Raises:
            ValueError: x is not of the estimator's shape.
        """
        if tuple(x.shape[1:]) != self.shape:
            expected = ", ".join(("N", *map(str, self.shape)))
            raise ValueError(f"expected ({expected}) for this estimator, got {tuple(x.shape)}")
        centred = (x - self._middle) / self._half
        # The small number avoids NaN for a state of zeros.
        scale = (centred.flatten(1).square().mean(1) + 1e-12).sqrt()
        h = self.features(centred / scale.reshape(-1, *[1] * len(self.shape)))
        raw = self.head(torch.cat([h, scale.log()[:, None]], dim=1))[:, 0]
        first, last = self.bounds
        return first + (last - first) * raw.double().sigmoid()

    def time(self, x: Tensor) -> Tensor:
        """The time t̂ with λ(t̂) = λ̂(x), float64, shape (B,); arguments as for `forward`."""
        return self.sde.time_of_half_log_snr(self(x))


def _perceptron(dim: int, width: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for _ in range(depth):
        layers += [dense(dim, width), nn.SiLU()]
        dim = width
    return nn.Sequential(*layers)


def _convolutions(channels: int, width: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = [_Filters(channels, width), conv(2 * width, width), nn.SiLU()]
    for _ in range(depth - 1):
        # Averages, defined for odd sizes too and down to a single pixel.
        halve = nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False)
        layers += [conv(width, width), nn.SiLU(), halve]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class _Filters(nn.Module):
    """Filtered images h next to ½ log(h² + 10⁻⁶).

    Where a filter passes only noise, ½ log h² is log σ − log r up to a constant on average, so that
    weak noise counts as much as strong noise.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv = conv(channels, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        return torch.cat([h, 0.5 * (h.square() + 1e-6).log()], dim=1)
