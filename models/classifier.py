"""A classifier of noisy states, which is told the noise level."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoresde.sde import SDE, Described, expand
from scoresde.sde.broadcast import widened
from scoresde.sde.checks import check_count
from scoresde.sde.data_range import DataRange

from .c_noise import C_NOISE
from .checks import attended, check_sizes
from .embedding import FourierEmbedding, NoiseEmbedding
from .layers import Attention, BigGANBlock, Block, BlockOptions, conv
from .mlp import ResidualLayer
from .parameterization import Scales
from .resample import Downsample2d


class NoisyClassifier(Described, nn.Module):
    """The probability of each class given a noisy state, p_φ(y | x_t, t), for guidance.

        logits = F(x̂/√(α² + σ̂²); ¼ log(σ̂/α)),   x̂ = (x − α m)/h,   σ̂ = σ/h

    m and h are the middle and half the width of the data range, so that F sees numbers of order 1
    on any process. For images F is the first half of a U-Net, whose features are averaged over all
    pixels; for points it is a residual perceptron. Initially all classes are equally probable.

    Args:
        sde: Process.
        shape: Shape of one state; (C, H, W) for images, anything else is flattened.
        classes: Number K ≥ 2 of classes.
        data_range: Interval of the data, or None for data of no fixed range (m = 0, h = 1).
        width: Features at full resolution, or of each layer for points, ≥ 2.
        ch_mult: Images: factor of the width at each level, from full to lowest resolution.
        depth: Residual blocks of a level, or layers for points, ≥ 1.
        attn_resolutions: Images: heights H / 2^level that get self-attention.
        dropout: Probability of dropout in the residual blocks of images, in [0, 1).

    Raises:
        ValueError: An empty data range, a number out of its range, or a size that does not divide.

    Reference: Dhariwal & Nichol 2021, arXiv:2105.05233 (section 4, appendix H).
    """

    def __init__(
        self,
        sde: SDE,
        shape: Sequence[int],
        classes: int,
        data_range: tuple[float, float] | None = None,
        *,
        width: int = 32,
        ch_mult: Sequence[int] = (1, 2),
        depth: int = 2,
        attn_resolutions: Sequence[int] = (),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        check_count("width", width, 2)
        check_count("depth", depth, 1)
        self.sde, self.shape, self.classes = sde, tuple(shape), check_count("classes", classes, 2)
        ends = DataRange.of(data_range)
        self._middle, self._half = ends.middle, ends.half
        if len(self.shape) == 3:
            self.net: nn.Module = _Images(
                self.shape, classes, width, ch_mult, depth, attn_resolutions, dropout
            )
        else:
            self.net = _Points(torch.Size(self.shape).numel(), classes, width, depth)
        self.step: int | None = None

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Logits of the classes, in float32 at least, shape (B, K).

        Args:
            x: State, shape (B, *).
            t: Time, shape (B,) or ().

        Raises:
            ValueError: x is not of the classifier's shape.
        """
        if tuple(x.shape[1:]) != self.shape:
            expected = ", ".join(("N", *map(str, self.shape)))
            raise ValueError(f"expected ({expected}) for this classifier, got {tuple(x.shape)}")
        x = widened(x)
        alpha, sigma = self.sde.alpha(t), self.sde.sigma(t) / self._half
        c_in = (alpha.square() + sigma.square()).rsqrt()
        seen = expand(c_in, x) * (x - expand(self._middle * alpha, x)) / self._half
        scales = Scales(alpha, sigma, lambda: self.sde.rates(t), 1.0, self._half)
        own = next(self.net.parameters()).dtype
        exact = torch.promote_types(own, torch.float32)
        c_noise = C_NOISE["edm"](self.sde, t, scales).to(device=x.device, dtype=exact)
        return widened(self.net(seen.to(own), c_noise.expand(len(x))))


class _Images(nn.Module):
    """The way down of a U-Net, and a linear layer over the mean of its features."""

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        width: int,
        ch_mult: Sequence[int],
        depth: int,
        attn_resolutions: Sequence[int],
        dropout: float,
    ) -> None:
        super().__init__()
        check_sizes(shape, width, ch_mult, depth)
        attend = attended(shape, len(ch_mult), attn_resolutions, None)
        options = BlockOptions(
            emb_features=4 * width,
            dropout=dropout,
            skip_rescale=True,
            init_scale=0.0,
            channels_per_group=4,
            taps=None,
        )
        self.embedding = NoiseEmbedding("fourier", width, 1.0)
        self.enter = conv(shape[0], width)
        self.blocks, channels = nn.ModuleList(), width
        for level, factor in enumerate(ch_mult):
            if level:
                halve = BigGANBlock(channels, channels, options, Downsample2d(None))
                self.blocks.append(Block(halve, None))
            for _ in range(depth):
                attention = Attention(factor * width, options) if level in attend else None
                block = BigGANBlock(channels, factor * width, options)
                self.blocks.append(Block(block, attention))
                channels = factor * width
        self.norm, self.leave = options.norm(channels), _undecided(channels, classes)

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        emb, h = self.embedding(c_noise, x.dtype), self.enter(x)
        for block in self.blocks:
            h = block(h, emb)
        return self.leave(F.silu(self.norm(h)).mean((2, 3)))


class _Points(nn.Module):
    """A residual perceptron with the noise level as an input of every layer."""

    def __init__(self, dim: int, classes: int, width: int, depth: int) -> None:
        super().__init__()
        self.embedding = FourierEmbedding(width // 2, 1.0)
        self.condition = nn.Linear(self.embedding.out_features, width)
        self.enter = nn.Linear(dim, width)
        self.layers = nn.ModuleList(ResidualLayer(width) for _ in range(depth))
        self.leave = _undecided(width, classes)

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        emb, h = self.condition(self.embedding(c_noise).to(x.dtype)), self.enter(x.flatten(1))
        for layer in self.layers:
            h = layer(h, emb)
        return self.leave(F.silu(h))


def _undecided(features: int, classes: int) -> nn.Linear:
    """A last layer whose classes have equal logits at first."""
    layer = nn.Linear(features, classes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
