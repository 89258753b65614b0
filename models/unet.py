"""The U-Nets of score-based modelling, DDPM, DDPM++ and NCSN++, as one class with options.

Read `UNet.forward` first: embed the noise label, go down through the levels while pushing the
features on a stack of skip connections, cross the middle, go up while popping them. An input
pyramid feeds ever smaller images to the way down; an output pyramid collects one on the way up.
"""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .embedding import NoiseEmbedding
from .layers import Attention, BigGANBlock, BlockOptions, DDPMBlock, Stage, Unlabelled, conv, head
from .resample import (
    Downsample2d,
    DownsampleConv2d,
    InputSkip,
    OutputSkip,
    ResidualPyramid,
    Upsample2d,
    UpsampleConv2d,
)


class DownLevel(nn.Module):
    """The stages of one resolution, the step to half of it, and the input pyramid there."""

    def __init__(
        self, stages: Iterable[Stage], step: nn.Module | None, pyramid: nn.Module | None
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.step = step
        self.pyramid = pyramid

    def forward(
        self, h: Tensor, pyramid: Tensor, emb: Tensor | None, skips: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Push features on `skips`; return the features and the pyramid of the next level."""
        for stage in self.stages:
            h = stage(h, emb)
            skips.append(h)
        if self.step is not None:
            h = self.step(h, emb)
            if self.pyramid is not None:
                h, pyramid = self.pyramid(h, pyramid)
            skips.append(h)
        return h, pyramid


class UpLevel(nn.Module):
    """The stages of one resolution, the output pyramid there, and the step to twice of it."""

    def __init__(
        self, stages: Iterable[Stage], pyramid: nn.Module | None, step: nn.Module | None
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.pyramid = pyramid
        self.step = step

    def forward(
        self, h: Tensor, pyramid: Tensor | None, emb: Tensor | None, skips: list[Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """Pop features off `skips`; return the features and the pyramid of the next level."""
        for stage in self.stages:
            h = stage(torch.cat([h, skips.pop()], dim=1), emb)
        if self.pyramid is not None:
            h, pyramid = self.pyramid(h, pyramid)
        if self.step is not None:
            h = self.step(h, emb)
        return h, pyramid


class UNet(nn.Module):
    """The network F(x, c) of DDPM, DDPM++ or NCSN++, by its options; it returns its raw output.

    What the output means (noise, score times σ, ...), its division by σ, and bringing the data to
    [-1, 1] are the caller's business. DDPM has `ddpm` blocks without rescaling, DDPM++ has
    `biggan` blocks, NCSN++ adds FIR filters and pyramids. Parameters are registered in the order
    of the published checkpoints.

    Reference: Song et al. 2021, arXiv:2011.13456 (section 4.4, appendix H); Ho et al. 2020,
    arXiv:2006.11239 (appendix B).

    Args:
        shape: (C, H, W) of the images; H and W must be multiples of 2^(number of levels - 1).
        nf: number of features at full resolution, ≥ 2.
        ch_mult: factor of nf at each level, from full to lowest resolution.
        num_res_blocks: residual blocks per level on the way down, ≥ 1 (one more on the way up).
        attn_resolutions: heights H / 2^level that get self-attention; the middle always does.
        dropout: probability of dropout in residual blocks, in [0, 1).
        resblock_type: `biggan` (resamples inside a residual block) or `ddpm`.
        resamp_with_conv: with `ddpm` blocks, resample with a learned convolution.
        fir: resample with a FIR filter instead of nearest neighbour and mean.
        fir_kernel: taps of that filter in one dimension.
        skip_rescale: divide sums of two branches by √2.
        progressive: output pyramid, `none`, `output_skip` or `residual`.
        progressive_input: input pyramid, `none`, `input_skip` or `residual`.
        progressive_combine: how `input_skip` meets the features, `sum` or `cat`.
        embedding_type: noise embedding, `positional` (sinusoidal) or `fourier` (random).
        fourier_scale: standard deviation of the Fourier frequencies, > 0.
        init_scale: variance scale of the last layer of each branch, ≥ 0; 0 starts at F ≈ 0.
        channels_per_group: group normalisation has C // channels_per_group groups, at most 32.
        conditional: whether the network sees the noise label.
        out_channels: channels of the output, ≥ 1; those of the images where not given.

    Raises:
        ValueError: an unknown option, a number out of range, or a size that does not divide.
    """

    def __init__(
        self,
        shape: Sequence[int],
        nf: int = 128,
        ch_mult: Sequence[int] = (1, 2, 2, 2),
        num_res_blocks: int = 2,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.1,
        resblock_type: str = "biggan",
        resamp_with_conv: bool = True,
        fir: bool = False,
        fir_kernel: Sequence[float] = (1, 3, 3, 1),
        skip_rescale: bool = True,
        progressive: str = "none",
        progressive_input: str = "none",
        progressive_combine: str = "sum",
        embedding_type: str = "positional",
        fourier_scale: float = 16.0,
        init_scale: float = 0.0,
        channels_per_group: int = 4,
        conditional: bool = True,
        out_channels: int | None = None,
    ) -> None:
        super().__init__()
        _check_choice("resblock_type", resblock_type, "biggan", "ddpm")
        _check_choice("progressive", progressive, "none", "output_skip", "residual")
        _check_choice("progressive_input", progressive_input, "none", "input_skip", "residual")
        _check_choice("progressive_combine", progressive_combine, "sum", "cat")
        _check_choice("embedding_type", embedding_type, "positional", "fourier")
        _check_sizes(shape, nf, ch_mult, num_res_blocks)

        self.shape = (image_ch, height, _) = tuple(shape)
        self.out_channels = image_ch if out_channels is None else out_channels
        self.resblock_type, self.resamp_with_conv = resblock_type, resamp_with_conv
        self.widths = [nf * factor for factor in ch_mult]
        self.attend = [height >> level in attn_resolutions for level in range(len(ch_mult))]
        self.options = BlockOptions(
            emb_features=4 * nf if conditional else None,
            dropout=dropout,
            skip_rescale=skip_rescale,
            init_scale=init_scale,
            channels_per_group=channels_per_group,
            taps=tuple(fir_kernel) if fir else None,
        )

        embedding = NoiseEmbedding(embedding_type, nf, fourier_scale) if conditional else None
        self.embedding = embedding
        self.conv_in = conv(image_ch, nf)
        skips = self._build_down(nf, num_res_blocks, progressive_input, progressive_combine)
        lowest = self.widths[-1]
        self.middle_0 = self._stage(lowest, lowest, attend=True)
        self.middle_1 = self._stage(lowest, lowest, attend=False)
        self._build_up(skips, num_res_blocks + 1, progressive)
        self.head = None
        if progressive != "output_skip":
            self.head = head(self.widths[0], self.out_channels, self.options, init_scale)

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        """Evaluate F at noisy images x, shape (B, C, H, W), and noise labels c_noise, shape (B,).

        Raises:
            ValueError: an input of the wrong shape.
            TypeError: an image that is not floating point.
        """
        _check_input(x, c_noise, self.shape)
        emb = None if self.embedding is None else self.embedding(c_noise, x.dtype)
        h = self.conv_in(x)
        skips, pyramid = [h], x
        for level in self.down:
            h, pyramid = level(h, pyramid, emb, skips)
        h = self.middle_1(self.middle_0(h, emb), emb)
        image: Any = None  # an output pyramid starts it on the lowest level
        for level in self.up:
            h, image = level(h, image, emb, skips)
        return image if self.head is None else self.head(h)

    def _build_down(self, channels: int, blocks: int, pyramid: str, combine: str) -> list[int]:
        """Register the way down; return the channels of the skip connections in their order."""
        self.down = nn.ModuleList()
        skips = [channels]
        for level, width in enumerate(self.widths):
            stages = []
            for _ in range(blocks):
                stages.append(self._stage(channels, width, self.attend[level]))
                channels = width
                skips.append(channels)
            if level == len(self.widths) - 1:
                self.down.append(DownLevel(stages, None, None))
            else:
                join = self._input_pyramid(level, pyramid, combine)
                self.down.append(DownLevel(stages, self._step(width, up=False), join))
                channels = 2 * width if (pyramid, combine) == ("input_skip", "cat") else width
                skips.append(channels)
        return skips

    def _build_up(self, skips: list[int], blocks: int, pyramid: str) -> None:
        """Register the way up, which consumes the skip connections from the last to the first."""
        self.up = nn.ModuleList()
        channels = self.widths[-1]
        for level, width in reversed(list(enumerate(self.widths))):
            stages = []
            for block in range(blocks):
                # The way up attends once per level, after its last block.
                attend = self.attend[level] and block == blocks - 1
                stages.append(self._stage(channels + skips.pop(), width, attend))
                channels = width
            join = self._output_pyramid(level, pyramid)
            step = self._step(width, up=True) if level > 0 else None
            self.up.append(UpLevel(stages, join, step))

    def _stage(self, ch_in: int, ch_out: int, attend: bool) -> Stage:
        block = BigGANBlock if self.resblock_type == "biggan" else DDPMBlock
        attention = Attention(ch_out, self.options) if attend else None
        return Stage(block(ch_in, ch_out, self.options), attention)

    def _step(self, channels: int, up: bool) -> nn.Module:
        taps = self.options.taps
        filtered = Upsample2d(taps) if up else Downsample2d(taps)
        if self.resblock_type == "biggan":
            return BigGANBlock(channels, channels, self.options, filtered)
        if not self.resamp_with_conv:
            return Unlabelled(filtered)
        learned = UpsampleConv2d if up else DownsampleConv2d
        return Unlabelled(learned(channels, channels, taps))

    def _input_pyramid(self, level: int, kind: str, combine: str) -> nn.Module | None:
        image_ch, width, taps = self.shape[0], self.widths[level], self.options.taps
        if kind == "none":
            return None
        if kind == "input_skip":
            return InputSkip(image_ch, width, combine, Downsample2d(taps))
        pyramid_ch = image_ch if level == 0 else self.widths[level - 1]
        return ResidualPyramid(DownsampleConv2d(pyramid_ch, width, taps), self.options)

    def _output_pyramid(self, level: int, kind: str) -> nn.Module | None:
        width, options = self.widths[level], self.options
        lowest = level == len(self.widths) - 1
        if kind == "none":
            return None
        if kind == "output_skip":
            up = None if lowest else Upsample2d(options.taps)
            return OutputSkip(head(width, self.out_channels, options, options.init_scale), up)
        if lowest:
            return OutputSkip(head(width, width, options, init_scale=1.0), None)
        up_conv = UpsampleConv2d(self.widths[level + 1], width, options.taps)
        return ResidualPyramid(up_conv, options)


def _check_choice(name: str, value: str, *allowed: str) -> None:
    if value not in allowed:
        close = difflib.get_close_matches(str(value), allowed, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        choices = ", ".join(f"'{choice}'" for choice in allowed)
        raise ValueError(f"{name} must be one of {choices}, got {value!r}{hint}")


def _check_sizes(shape: Sequence[int], nf: int, ch_mult: Sequence[int], blocks: int) -> None:
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"shape must be (channels, height, width), each ≥ 1, got {tuple(shape)}")
    if nf < 2 or blocks < 1:
        raise ValueError(f"nf must be ≥ 2 and num_res_blocks ≥ 1, got {nf} and {blocks}")
    if len(ch_mult) == 0 or min(ch_mult) < 1:
        raise ValueError(f"ch_mult must hold one factor ≥ 1 per level, got {list(ch_mult)}")
    steps = len(ch_mult) - 1
    for size in shape[1:]:
        if size % 2**steps:
            below = size - size % 2**steps
            use = f"{below}, {below + 2**steps}" if below else f"{2**steps}"
            raise ValueError(
                f"image size {size} is not divisible by 2^{steps} ({steps} downsamplings); "
                f"use {use}, or fewer levels"
            )


def _check_input(x: Tensor, c_noise: Tensor, shape: tuple[int, ...]) -> None:
    size = tuple(x.shape[1:])
    if x.ndim != 4 or size != shape:
        nhwc = size == (*shape[1:], shape[0])
        if x.ndim == 4 and size[0] != shape[0] and not nhwc:
            raise ValueError(f"model has {shape[0]} input channels, data has {size[0]}")
        fix = "did you pass NHWC? Use x.permute(0, 3, 1, 2)" if nhwc else "build a UNet for it"
        expected = f"(N, {', '.join(map(str, shape))})"
        got = f"(N, {', '.join(map(str, size))})" if x.ndim == 4 else tuple(x.shape)
        raise ValueError(f"expected {expected} for this model, got {got}; {fix}")
    if not x.is_floating_point():
        raise TypeError(f"expected floating-point images, got {x.dtype}; use x / 127.5 - 1")
    if c_noise.shape != x.shape[:1]:
        raise ValueError(f"c_noise must have shape ({len(x)},), got {tuple(c_noise.shape)}")
