"""Building blocks of the RefineNets: InstanceNorm++, dilated residual blocks, refinement.

`level`, shape (B,), is the integer noise level in a network with levels, and None in all others;
`options` are those shared by the network's blocks.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoresde.sde.checks import check_choice

from .layers import Unlabelled


def _leaky_relu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": F.elu,
    "relu": F.relu,
    "lrelu": _leaky_relu,
    "swish": F.silu,
}


@dataclass(frozen=True)
class RefineOptions:
    """Options shared by all blocks of a RefineNet.

    Args:
        num_levels: number of noise levels of a network with levels; None without levels.
        activation: φ, `elu`, `relu`, `lrelu` (slope 0.2 below zero) or `swish`.

    Raises:
        ValueError: an unknown activation, or num_levels < 1.
    """

    num_levels: int | None
    activation: str

    def __post_init__(self) -> None:
        check_choice("activation", self.activation, *_ACTIVATIONS)
        if self.num_levels is not None and self.num_levels < 1:
            raise ValueError(
                f"num_levels must be ≥ 1, or None for a network without labels, "
                f"got {self.num_levels}"
            )

    def act(self, x: Tensor) -> Tensor:
        """φ(x)."""
        return _ACTIVATIONS[self.activation](x)

    def norm(self, channels: int) -> nn.Module:
        """Normalisation of the residual blocks and of the end."""
        return InstanceNormPlus(channels, self.num_levels)

    def refine_norm(self, channels: int) -> nn.Module:
        """Normalisation within the refinement, which networks without levels do not have."""
        return Unlabelled(nn.Identity()) if self.num_levels is None else self.norm(channels)

    def pool(self, x: Tensor) -> Tensor:
        """The mean of 5 x 5 pixels for a network with levels, their maximum without."""
        pool = F.max_pool2d if self.num_levels is None else F.avg_pool2d
        return pool(x, 5, stride=1, padding=2)


class InstanceNormPlus(nn.Module):
    """Instance normalisation that retains the differences between the means of the channels.

        y = γ ((x − μ)/s + α (μ − m)/v) + β

    μ and s are the mean and the standard deviation of each channel, m and v those of μ over the
    channels; γ, α and β belong to a channel, and to a noise level in a network with levels.

    Reference: Song & Ermon 2019, arXiv:1907.05600 (appendix A, eq. 9); Song & Ermon 2020,
    arXiv:2006.09011 (without levels).

    Args:
        channels: number of channels C, ≥ 2.
        num_levels: number of noise levels L; None without levels.
    """

    def __init__(self, channels: int, num_levels: int | None) -> None:
        super().__init__()
        shape = (channels,) if num_levels is None else (num_levels, channels)
        self.alpha = nn.Parameter(torch.empty(shape))
        self.gamma = nn.Parameter(torch.empty(shape))
        self.beta = nn.Parameter(torch.zeros(shape))
        if not self.alpha.is_meta:  # random numbers on the meta device would cost a second
            nn.init.normal_(self.alpha, 1.0, 0.02)
            nn.init.normal_(self.gamma, 1.0, 0.02)

    def forward(self, x: Tensor, level: Tensor | None) -> Tensor:
        """Normalise images x, shape (B, C, H, W)."""
        alpha, gamma, beta = (
            tensor if level is None else tensor[level]
            for tensor in (self.alpha, self.gamma, self.beta)
        )
        means = x.mean((2, 3))
        # The variance over the channels is the unbiased one; F.instance_norm takes the biased one.
        variance, mean = torch.var_mean(means, 1, keepdim=True)
        offset = beta + gamma * alpha * (means - mean) * (variance + 1e-5).rsqrt()
        return torch.addcmul(offset[..., None, None], gamma[..., None, None], F.instance_norm(x))


def conv3x3(ch_in: int, ch_out: int, dilation: int = 1, bias: bool = True) -> nn.Conv2d:
    """A 3 x 3 convolution that keeps the resolution, initialised as PyTorch does."""
    return nn.Conv2d(ch_in, ch_out, 3, padding=dilation, dilation=dilation, bias=bias)


class DilatedBlock(nn.Module):
    """Residual block that may halve the resolution, or dilate its convolutions instead.

        y = shortcut(x) + W₁ φ(norm(W₀ φ(norm(x))))

    Reference: Song & Ermon 2019, arXiv:1907.05600 (appendix A).

    Args:
        ch_in: number of input channels.
        ch_out: number of output channels, different from ch_in only where the block enters a level.
        dilation: distance of the taps of a convolution in pixels, ≥ 1.
        enter: whether the block enters a level, so that its shortcut is learned and, without
            dilation, the resolution is halved.
    """

    def __init__(
        self, ch_in: int, ch_out: int, options: RefineOptions, dilation: int, enter: bool
    ) -> None:
        super().__init__()
        self.options = options
        self.halve = enter and dilation == 1
        self.norm_0 = options.norm(ch_in)
        self.conv_0 = conv3x3(ch_in, ch_in, dilation)
        self.norm_1 = options.norm(ch_in)
        self.conv_1 = conv3x3(ch_in, ch_out, dilation)
        self.shortcut: nn.Module = nn.Identity()
        if enter:
            pointwise = nn.Conv2d(ch_in, ch_out, 1)
            self.shortcut = pointwise if self.halve else conv3x3(ch_in, ch_out, dilation)

    def forward(self, x: Tensor, level: Tensor | None) -> Tensor:
        """Map features (B, ch_in, H, W) to (B, ch_out, H', W')."""
        act = self.options.act
        h = self.conv_0(act(self.norm_0(x, level)))
        h = self.conv_1(act(self.norm_1(h, level)))
        y = self.shortcut(x) + h
        # The mean is linear, so that of both branches is taken at once.
        return F.avg_pool2d(y, 2) if self.halve else y


class ConvUnit(nn.Module):
    """Residual convolution unit, x + W₁ φ(W₀ φ(x)), without biases.

    In a network with levels each φ is preceded by a normalisation.

    Reference: Lin et al. 2017, arXiv:1611.06612 (section 3.2).
    """

    def __init__(self, channels: int, options: RefineOptions) -> None:
        super().__init__()
        self.options = options
        self.norm_0 = options.refine_norm(channels)
        self.conv_0 = conv3x3(channels, channels, bias=False)
        self.norm_1 = options.refine_norm(channels)
        self.conv_1 = conv3x3(channels, channels, bias=False)

    def forward(self, x: Tensor, level: Tensor | None) -> Tensor:
        """Map features (B, C, H, W) to the same shape."""
        act = self.options.act
        h = self.conv_0(act(self.norm_0(x, level)))
        return x + self.conv_1(act(self.norm_1(h, level)))


class Fusion(nn.Module):
    """Features of several resolutions, convolved, enlarged to the finest, and added.

    Reference: Lin et al. 2017, arXiv:1611.06612 (section 3.2, multi-resolution fusion).

    Args:
        channels: numbers of channels of the features, the finest first.
        ch_out: number of output channels.
    """

    def __init__(self, channels: Sequence[int], ch_out: int, options: RefineOptions) -> None:
        super().__init__()
        self.norms = nn.ModuleList(options.refine_norm(ch_in) for ch_in in channels)
        self.convs = nn.ModuleList(conv3x3(ch_in, ch_out) for ch_in in channels)

    def forward(self, features: Sequence[Tensor], level: Tensor | None) -> Tensor:
        """Map features (B, C_i, H_i, W_i) to (B, ch_out, H_0, W_0)."""
        size = features[0].shape[2:]
        parts = []
        for x, norm, conv in zip(features, self.norms, self.convs, strict=True):
            h = conv(norm(x, level))
            if h.shape[2:] != size:
                h = F.interpolate(h, size=size, mode="bilinear", align_corners=True)
            parts.append(h)
        return sum(parts[1:], parts[0])


class ChainedPooling(nn.Module):
    """The sum of φ(x) and of the outputs of two pools in a row, each with a convolution.

    Reference: Lin et al. 2017, arXiv:1611.06612 (section 3.2, chained residual pooling).
    """

    def __init__(self, channels: int, options: RefineOptions) -> None:
        super().__init__()
        self.options = options
        self.norms = nn.ModuleList(options.refine_norm(channels) for _ in range(2))
        self.convs = nn.ModuleList(conv3x3(channels, channels, bias=False) for _ in range(2))

    def forward(self, x: Tensor, level: Tensor | None) -> Tensor:
        """Map features (B, C, H, W) to the same shape."""
        x = path = self.options.act(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            path = conv(self.options.pool(norm(path, level)))
            x = x + path
        return x


class RefineBlock(nn.Module):
    """Convolution units on each input, their fusion, chained pooling, and units on the output.

    Reference: Lin et al. 2017, arXiv:1611.06612 (figure 3); Song & Ermon 2019, arXiv:1907.05600
    (appendix A).

    Args:
        channels: numbers of channels of the inputs, the finest first; a single one is not fused.
        ch_out: number of output channels, that of a single input.
        units: number of convolution units on the output.
    """

    def __init__(
        self, channels: Sequence[int], ch_out: int, options: RefineOptions, units: int
    ) -> None:
        super().__init__()
        self.adapt = nn.ModuleList(_units(ch_in, options, 2) for ch_in in channels)
        self.fuse = Fusion(channels, ch_out, options) if len(channels) > 1 else None
        self.pool = ChainedPooling(ch_out, options)
        self.out = _units(ch_out, options, units)

    def forward(self, features: Sequence[Tensor], level: Tensor | None) -> Tensor:
        """Map features (B, C_i, H_i, W_i) to (B, ch_out, H_0, W_0)."""
        adapted = [
            in_turn(units, x, level)  # type: ignore[arg-type]  # a list of units
            for units, x in zip(self.adapt, features, strict=True)
        ]
        h = adapted[0] if self.fuse is None else self.fuse(adapted, level)
        return in_turn(self.out, self.pool(h, level), level)


def in_turn(blocks: Iterable[nn.Module], x: Tensor, level: Tensor | None) -> Tensor:
    """Apply the blocks one after another."""
    for block in blocks:
        x = block(x, level)
    return x


def _units(channels: int, options: RefineOptions, number: int) -> nn.ModuleList:
    return nn.ModuleList(ConvUnit(channels, options) for _ in range(number))
