"""A small normalizing flow that distributes quantized values over their cells."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from scoresde.sde import Described
from scoresde.sde.checks import check_count

from .layers import conv


class DequantizationFlow(Described, nn.Module):
    """A flow z → u in (0, 1)^D, conditional on the quantized values k.

        y ← y or exp(a(y, h)) y + b(y, h), on the two colours of a checkerboard in turn,
        u = sigmoid(y),   log q(u | k) = log N(z; 0, I) − Σ log|∂u/∂z|,   h = features(k)

    Initially u is close to uniform: sigmoid(1.7 z) has nearly a constant density.

    Args:
        shape: (C, H, W) of the images.
        levels: Number of values of a pixel ≥ 2.
        width: Features of a layer ≥ 1.
        depth: Coupling layers ≥ 1.

    Raises:
        ValueError: A shape other than (C, H, W), or a number out of range.

    Reference: Ho, Chen, Srinivas, Duan & Abbeel 2019, arXiv:1902.00275 (section 3.1); Dinh,
    Sohl-Dickstein & Bengio 2017, arXiv:1605.08803 (section 3.4).
    """

    board: Tensor

    def __init__(
        self, shape: tuple[int, ...], levels: int, *, width: int = 32, depth: int = 4
    ) -> None:
        super().__init__()
        if len(shape) != 3:
            raise ValueError(f"a dequantization flow needs images (C, H, W), got {tuple(shape)}")
        check_count("levels", levels, 2)
        check_count("width", width, 1)
        check_count("depth", depth, 1)
        self.shape, self.levels = tuple(shape), levels
        channels = shape[0]
        self.features = nn.Sequential(
            conv(channels, width), nn.SiLU(), conv(width, width), nn.SiLU()
        )
        self.layers = nn.ModuleList(_coupling(channels, width) for _ in range(depth))
        self.first = conv(width, 2 * channels)
        nn.init.zeros_(self.first.weight)
        places = torch.stack(torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij"))
        self.register_buffer("board", (places.sum(0) % 2).float(), persistent=False)

    def forward(self, k: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Points u of k's shape, and log q(u | k), shape (B,).

        Args:
            k: Values in 0 … levels − 1, shape (B, C, H, W).
            z: Standard normal noise of that shape.

        Raises:
            ValueError: Values of another shape.
        """
        if tuple(k.shape[1:]) != self.shape:
            got = tuple(k.shape[1:])
            raise ValueError(f"expected images {self.shape} for this flow, got {got}")
        dtype = self.first.weight.dtype
        y = z.to(dtype)
        h = self.features((2 * k.to(dtype) + 1) / self.levels - 1)
        shift, log_scale = self.first(h).chunk(2, 1)
        log_scale = _gentle(log_scale) + math.log(1.7)
        y, total = y * log_scale.exp() + shift, log_scale.flatten(1).sum(1)
        for i, layer in enumerate(self.layers):
            seen = self.board if i % 2 else 1 - self.board
            shift, log_scale = layer(torch.cat([y * seen, h], 1)).chunk(2, 1)
            shift, log_scale = shift * (1 - seen), _gentle(log_scale) * (1 - seen)
            y, total = y * log_scale.exp() + shift, total + log_scale.flatten(1).sum(1)
        slope = logsigmoid(y) + logsigmoid(-y)
        log_normal = -0.5 * (z.square() + math.log(2 * math.pi))
        log_q = log_normal.flatten(1).sum(1) - total - slope.flatten(1).sum(1)
        return y.sigmoid(), log_q


def _coupling(channels: int, width: int) -> nn.Sequential:
    """Shift and scale of one colour given the other; initially zero."""
    last = conv(width, 2 * channels)
    nn.init.zeros_(last.weight)
    return nn.Sequential(conv(channels + width, width), nn.SiLU(), last)


def _gentle(log_scale: Tensor) -> Tensor:
    """A logarithm of a scale, bounded by ±2 so that no layer diverges."""
    return 2 * torch.tanh(log_scale / 2)
