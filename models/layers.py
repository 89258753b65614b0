"""Building blocks of the U-Nets: initialisation, normalisation, attention, residual blocks.

Submodules are registered in the order of the published score-SDE checkpoints, so that a list of
parameters in that order can be copied one by one. In every block the noise embedding `emb`, shape
(B, E), has already passed its last nonlinearity, which all blocks of a network share. `ch_in` and
`ch_out` are numbers of channels, and `options` are those shared by the network's blocks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class BlockOptions:
    """What all blocks of one network have in common.

    Args:
        emb_features: size E of the noise embedding; None for a network without one.
        dropout: probability of dropout before the second convolution of a residual block.
        skip_rescale: divide each sum of two branches by √2, so that it keeps its variance.
        init_scale: variance scale of the last layer of each branch (0: branches start at zero).
        channels_per_group: smallest number of channels that share a group normalisation.
        max_groups: largest number of groups of a group normalisation, ≥ 1.
        norm_eps: ε of the group normalisations, > 0.
        head_dim: channels of one head of attention; None for a single head.
        taps: FIR filter of all resampling in one dimension; None for nearest neighbour and mean.

    Raises:
        ValueError: dropout outside [0, 1), init_scale < 0, norm_eps ≤ 0, or a number below 1.
    """

    emb_features: int | None
    dropout: float
    skip_rescale: bool
    init_scale: float
    channels_per_group: int
    taps: Sequence[float] | None
    max_groups: int = 32
    norm_eps: float = 1e-6
    head_dim: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if self.init_scale < 0:
            raise ValueError(f"init_scale must be ≥ 0, got {self.init_scale}")
        if self.channels_per_group < 1:
            raise ValueError(
                f"channels_per_group must be ≥ 1, got {self.channels_per_group}; "
                "NCSN++ has 4, DDPM has 1"
            )
        if self.max_groups < 1 or not self.norm_eps > 0:
            raise ValueError(
                f"need max_groups ≥ 1 and norm_eps > 0, got {self.max_groups} and {self.norm_eps}"
            )

    def merge(self, x: Tensor, h: Tensor) -> Tensor:
        """x + h, or (x + h)/√2 with `skip_rescale`."""
        return (x + h) * math.sqrt(0.5) if self.skip_rescale else x + h

    def norm(self, channels: int) -> nn.GroupNorm:
        """Group normalisation over g | C groups, the most that the options allow.

        Reference: Wu & He 2018, arXiv:1803.08494.
        """
        groups = max(1, min(channels // self.channels_per_group, self.max_groups))
        while channels % groups:
            groups -= 1
        return nn.GroupNorm(groups, channels, eps=self.norm_eps)


def variance_scaling_(weight: Tensor, scale: float = 1.0) -> None:
    """Fill a weight in place with uniform numbers of variance scale / ((fan_in + fan_out)/2).

    Scale 0 means 1e-10: small enough to vanish, large enough for a gradient to pass.

    Reference: Glorot & Bengio 2010 (eq. 16).

    Args:
        weight: shape (out, in, *) or (in, out, *), with at least two dimensions.
        scale: variance scale, ≥ 0.
    """
    fans = (weight.shape[0] + weight.shape[1]) * math.prod(weight.shape[2:])
    variance = (scale or 1e-10) / (fans / 2)
    bound = math.sqrt(3 * variance)
    nn.init.uniform_(weight, -bound, bound)


def conv(ch_in: int, ch_out: int, size: int = 3, init_scale: float = 1.0) -> nn.Conv2d:
    """A size x size convolution that keeps the resolution, with variance-scaled weights."""
    layer = nn.Conv2d(ch_in, ch_out, size, padding=size // 2)
    variance_scaling_(layer.weight, init_scale)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # the bias exists: bias=True
    return layer


def dense(features_in: int, features_out: int) -> nn.Linear:
    """A linear layer with variance-scaled weights."""
    layer = nn.Linear(features_in, features_out)
    variance_scaling_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class NIN(nn.Module):
    """Network in network: one linear map of the channels at every pixel, y = xᵀ W + b.

    Reference: Lin et al. 2013, arXiv:1312.4400; Ho et al. 2020, arXiv:2006.11239.

    Args:
        ch_in: number of input channels C.
        ch_out: number of output channels D.
        init_scale: variance scale of W, stored as (C, D).
    """

    def __init__(self, ch_in: int, ch_out: int, init_scale: float = 0.1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(ch_in, ch_out))
        self.bias = nn.Parameter(torch.zeros(ch_out))
        variance_scaling_(self.weight, init_scale)

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels of shape (..., C), channels last, to (..., D)."""
        return F.linear(x, self.weight.t(), self.bias)

    def image(self, x: Tensor) -> Tensor:
        """Map images of shape (B, C, H, W) to (B, D, H, W) without moving the channels."""
        return F.conv2d(x, self.weight.t()[..., None, None], self.bias)


class Attention(nn.Module):
    """Residual self-attention of all pixels: x + softmax(q kᵀ / √d) v W_out, d channels a head.

    The fused attention of PyTorch has no second and no forward-mode derivative; for those run
    the network under `torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`.

    Reference: Ho et al. 2020, arXiv:2006.11239 (appendix B); Vaswani et al. 2017,
    arXiv:1706.03762 (eq. 1).

    Args:
        channels: number of channels C, a multiple of the options' head_dim.

    Raises:
        ValueError: the channels do not divide into heads.
    """

    def __init__(self, channels: int, options: BlockOptions) -> None:
        super().__init__()
        self.options = options
        head_dim = options.head_dim or channels
        if head_dim < 1 or channels % head_dim:
            raise ValueError(f"{channels} channels do not divide into heads of {head_dim}")
        self.heads = channels // head_dim
        self.norm = options.norm(channels)
        self.q = NIN(channels, channels)
        self.k = NIN(channels, channels)
        self.v = NIN(channels, channels)
        self.out = NIN(channels, channels, options.init_scale)

    def forward(self, x: Tensor) -> Tensor:
        """Map images of shape (B, C, H, W) to the same shape."""
        # (B, HW, C). The copy is free in channels_last and feeds three matrices.
        pixels = self.norm(x).flatten(2).transpose(1, 2).contiguous()
        q, k, v = (self._split(layer(pixels)) for layer in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q, k, v)
        h = self.out(h.transpose(1, 2).flatten(2)).transpose(1, 2).unflatten(2, x.shape[2:])
        return self.options.merge(x, h)

    def _split(self, pixels: Tensor) -> Tensor:
        """(B, HW, C) as (B, heads, HW, C / heads)."""
        return pixels.unflatten(2, (self.heads, -1)).transpose(1, 2)


class ResidualBranch(nn.Module):
    """The branch that both kinds of residual block add to their input.

    h = conv(resample(silu(norm(x)))) + W emb;  branch = conv(dropout(silu(norm(h))))

    Args:
        resample: parameter-free change of resolution.
    """

    def __init__(self, ch_in: int, ch_out: int, options: BlockOptions, resample: nn.Module) -> None:
        super().__init__()
        emb = options.emb_features
        self.norm_0 = options.norm(ch_in)
        self.resample = resample
        self.conv_0 = conv(ch_in, ch_out)
        self.dense = None if emb is None else dense(emb, ch_out)
        self.norm_1 = options.norm(ch_out)
        self.dropout = nn.Dropout(options.dropout)
        self.conv_1 = conv(ch_out, ch_out, init_scale=options.init_scale)

    def forward(self, x: Tensor, emb: Tensor | None) -> Tensor:
        """Map images (B, ch_in, H, W) and the embedding (B, E) to (B, ch_out, H', W')."""
        h = self.conv_0(self.resample(F.silu(self.norm_0(x))))
        if self.dense is not None:
            h = h + self.dense(emb)[..., None, None]
        return self.conv_1(self.dropout(F.silu(self.norm_1(h))))


class BigGANBlock(nn.Module):
    """Residual block that can resample; the shortcut is a 1x1 convolution where shapes change.

    y = (shortcut(resample(x)) + branch(x, emb)) / √2

    Reference: Brock et al. 2019, arXiv:1809.11096 (appendix B); Song et al. 2021,
    arXiv:2011.13456 (appendix H).

    Args:
        resample: parameter-free change of resolution; None to keep it.
    """

    def __init__(
        self, ch_in: int, ch_out: int, options: BlockOptions, resample: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.options = options
        self.resample = nn.Identity() if resample is None else resample
        self.branch = ResidualBranch(ch_in, ch_out, options, self.resample)
        same_shape = ch_in == ch_out and resample is None
        self.shortcut = nn.Identity() if same_shape else conv(ch_in, ch_out, size=1)

    def forward(self, x: Tensor, emb: Tensor | None) -> Tensor:
        """Map images (B, ch_in, H, W) and the embedding (B, E) to (B, ch_out, H', W')."""
        return self.options.merge(self.shortcut(self.resample(x)), self.branch(x, emb))


class DDPMBlock(nn.Module):
    """Residual block of DDPM; the shortcut is a `NIN` where the number of channels changes.

    y = shortcut(x) + branch(x, emb)

    Reference: Ho et al. 2020, arXiv:2006.11239 (appendix B).
    """

    def __init__(self, ch_in: int, ch_out: int, options: BlockOptions) -> None:
        super().__init__()
        self.options = options
        self.branch = ResidualBranch(ch_in, ch_out, options, nn.Identity())
        self.shortcut = NIN(ch_in, ch_out) if ch_in != ch_out else None

    def forward(self, x: Tensor, emb: Tensor | None) -> Tensor:
        """Map images (B, ch_in, H, W) and the embedding (B, E) to (B, ch_out, H, W)."""
        shortcut = x if self.shortcut is None else self.shortcut.image(x)
        return self.options.merge(shortcut, self.branch(x, emb))


def head(ch_in: int, ch_out: int, options: BlockOptions, init_scale: float) -> nn.Sequential:
    """Normalise, activate, convolve: the end of a network or of one level's output pyramid."""
    return nn.Sequential(options.norm(ch_in), nn.SiLU(), conv(ch_in, ch_out, init_scale=init_scale))


class Block(nn.Module):
    """A residual block, followed by attention or not, called with features and embedding."""

    def __init__(self, block: nn.Module, attention: nn.Module | None) -> None:
        super().__init__()
        self.block = block
        self.attention = attention

    def forward(self, h: Tensor, emb: Tensor | None) -> Tensor:
        """Map features (B, C, H, W) and the embedding (B, E) to (B, D, H, W)."""
        h = self.block(h, emb)
        return h if self.attention is None else self.attention(h)


class Unlabelled(nn.Module):
    """A change of resolution that is called like a residual block and ignores the embedding."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, h: Tensor, emb: Tensor | None) -> Tensor:
        """Map features (B, C, H, W) to (B, C, H', W')."""
        return self.layer(h)
