"""The U-Nets of score-based modelling, DDPM, DDPM++ and NCSN++, as one class with options.

Read `UNet.forward` first: embed the noise label, go down through the levels while pushing the
features on a stack of skip connections, cross the middle, go up while popping them. An input
pyramid feeds ever smaller images to the way down; an output pyramid collects one on the way up.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from scoresde.sde import Described
from scoresde.sde.checks import check_choice
from scoresde.sde.score import Condition

from .checks import (
    attended,
    check_classes,
    check_image_condition,
    check_input,
    check_noise_told,
    check_seen,
    check_sizes,
    check_told,
)
from .embedding import NoiseEmbedding
from .image_condition import ImageCondition, parts_of
from .labels import no_label
from .layers import Attention, BigGANBlock, Block, BlockOptions, DDPMBlock, Unlabelled, conv, head
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
    """The blocks of one resolution, the step to half of it, and the input pyramid there."""

    def __init__(
        self, blocks: Iterable[Block], step: nn.Module | None, pyramid: nn.Module | None
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(blocks)  # so named in files
        self.step = step
        self.pyramid = pyramid

    def forward(
        self, h: Tensor, pyramid: Tensor, emb: Tensor | None, skips: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Push features on `skips`; return the features and the pyramid of the next level."""
        for block in self.stages:
            h = block(h, emb)
            skips.append(h)
        if self.step is not None:
            h = self.step(h, emb)
            if self.pyramid is not None:
                h, pyramid = self.pyramid(h, pyramid)
            skips.append(h)
        return h, pyramid


class UpLevel(nn.Module):
    """The blocks of one resolution, the output pyramid there, and the step to twice of it."""

    def __init__(
        self, blocks: Iterable[Block], pyramid: nn.Module | None, step: nn.Module | None
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(blocks)
        self.pyramid = pyramid
        self.step = step

    def forward(
        self, h: Tensor, pyramid: Tensor | None, emb: Tensor | None, skips: list[Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """Pop features off `skips`; return the features and the pyramid of the next level."""
        for block in self.stages:
            h = block(torch.cat([h, skips.pop()], dim=1), emb)
        if self.pyramid is not None:
            h, pyramid = self.pyramid(h, pyramid)
        if self.step is not None:
            h = self.step(h, emb)
        return h, pyramid


class UNet(Described, nn.Module):
    """The network F(x, c) of DDPM, DDPM++ or NCSN++, by its options; it returns its raw output.

    What the output means (noise, score times σ, …) and the scaling of the data to [-1, 1] are left
    to `ScoreModel`. DDPM has `ddpm` blocks without rescaling, DDPM++ has `biggan` blocks, NCSN++
    adds FIR filters and pyramids. Parameters are registered in the order of the published
    checkpoints.

    Reference: Song et al. 2021, arXiv:2011.13456 (section 4.4, appendix H); Ho et al. 2020,
    arXiv:2006.11239 (appendix B).

    Args:
        shape: (C, H, W) of the images; H and W must be multiples of 2^(number of levels - 1), or
            None for any such size, with `attn_levels` given.
        nf: number of features at full resolution, ≥ 2.
        ch_mult: factor of nf at each level, from full to lowest resolution.
        num_res_blocks: residual blocks per level on the way down, ≥ 1 (one more on the way up).
        attn_resolutions: heights H / 2^level that get self-attention; the middle always does.
        attn_levels: the levels 0, 1, … themselves, in place of `attn_resolutions`.
        attn_up: on the way up, attention follows the `last` block of a level or `each`.
        attn_middle: whether the middle has attention.
        head_dim: channels of one head of attention; None for a single head.
        dropout: probability of dropout in residual blocks, in [0, 1).
        resblock_type: `biggan` (resamples inside a residual block) or `ddpm`.
        resamp_with_conv: with `ddpm` blocks, resample with a learned convolution.
        pad_symmetric: pad all sides of that convolution, rather than the bottom and the right.
        fir: resample with a FIR filter instead of nearest neighbour and mean.
        fir_kernel: taps of that filter in one dimension.
        skip_rescale: divide sums of two branches by √2.
        progressive: output pyramid, `none`, `output_skip` or `residual`.
        progressive_input: input pyramid, `none`, `input_skip` or `residual`.
        progressive_combine: how `input_skip` meets the features, `sum` or `cat`.
        embedding_type: noise embedding, `positional` (sinusoidal) or `fourier` (random).
        fourier_scale: standard deviation of the Fourier frequencies, > 0.
        frequency_shift: s of the `positional` embedding, 0 or 1.
        init_scale: variance scale of the last layer of each branch, ≥ 0; 0 starts at F ≈ 0.
        channels_per_group: group normalisation has C // channels_per_group groups.
        max_groups: the most groups that it has.
        groups: numbers of groups of individual normalisations, by their names in the network.
        norm_eps: ε of the normalisations, > 0.
        noise_conditional: whether c_noise is an input of the network.
        out_channels: channels of the output, ≥ 1; those of the images where not given.
        classes: number K ≥ 1 of classes of a class-conditional network; None for none. The
            embedding of a label is added to that of the noise; the label K stands for no class.
        condition_channels: channels ≥ 1 of an image y that the network sees next to the noisy one;
            None for none. An image of zeros stands for no condition.
        condition_noise: whether the network is told the noise level of y as well, which a cascade
            adds to it, by a second embedding.
        encoder_blocks: residual dense blocks ≥ 0 of an encoder of y; see `ImageCondition`.

    Raises:
        ValueError: an unknown option, a number out of range, or a size that does not divide.
    """

    def __init__(
        self,
        shape: Sequence[int | None],
        nf: int = 128,
        ch_mult: Sequence[int] = (1, 2, 2, 2),
        num_res_blocks: int = 2,
        attn_resolutions: Sequence[int] = (16,),
        attn_levels: Sequence[int] | None = None,
        attn_up: str = "last",
        attn_middle: bool = True,
        head_dim: int | None = None,
        dropout: float = 0.1,
        resblock_type: str = "biggan",
        resamp_with_conv: bool = True,
        pad_symmetric: bool = False,
        fir: bool = False,
        fir_kernel: Sequence[float] = (1, 3, 3, 1),
        skip_rescale: bool = True,
        progressive: str = "none",
        progressive_input: str = "none",
        progressive_combine: str = "sum",
        embedding_type: str = "positional",
        fourier_scale: float = 16.0,
        frequency_shift: int = 1,
        init_scale: float = 0.0,
        channels_per_group: int = 4,
        max_groups: int = 32,
        groups: Mapping[str, int] | None = None,
        norm_eps: float = 1e-6,
        noise_conditional: bool = True,
        out_channels: int | None = None,
        classes: int | None = None,
        condition_channels: int | None = None,
        condition_noise: bool = False,
        encoder_blocks: int = 0,
    ) -> None:
        super().__init__()
        check_classes(classes, noise_conditional)
        check_image_condition(
            condition_channels, condition_noise, encoder_blocks, noise_conditional
        )
        check_choice("resblock_type", resblock_type, "biggan", "ddpm")
        check_choice("progressive", progressive, "none", "output_skip", "residual")
        check_choice("progressive_input", progressive_input, "none", "input_skip", "residual")
        check_choice("progressive_combine", progressive_combine, "sum", "cat")
        check_choice("embedding_type", embedding_type, "positional", "fourier")
        check_choice("attn_up", attn_up, "last", "each")
        self.shape, self.classes = check_sizes(shape, nf, ch_mult, num_res_blocks), classes
        attn_levels = attended(shape, len(ch_mult), attn_resolutions, attn_levels)

        image_ch = self.shape[0]
        self.out_channels = image_ch if out_channels is None else out_channels
        self.resblock_type, self.resamp_with_conv = resblock_type, resamp_with_conv
        self.widths = [nf * factor for factor in ch_mult]
        self.attend = [level in attn_levels for level in range(len(ch_mult))]
        self.attn_up, self.pad_symmetric = attn_up, pad_symmetric
        self.options = BlockOptions(
            emb_features=4 * nf if noise_conditional else None,
            dropout=dropout,
            skip_rescale=skip_rescale,
            init_scale=init_scale,
            channels_per_group=channels_per_group,
            taps=tuple(fir_kernel) if fir else None,
            max_groups=max_groups,
            norm_eps=norm_eps,
            head_dim=head_dim,
        )

        self.embedding = None
        if noise_conditional:
            self.embedding = NoiseEmbedding(
                embedding_type, nf, fourier_scale, frequency_shift, classes
            )
        seen = 0
        if condition_channels is not None:
            self.image = ImageCondition(condition_channels, encoder_blocks)
            seen = self.image.out_channels
            if condition_noise:
                self.image_noise = NoiseEmbedding(
                    embedding_type, nf, fourier_scale, frequency_shift
                )
        self.condition_channels, self.condition_noise = condition_channels, condition_noise
        self.conv_in = conv(image_ch + seen, nf)
        skips = self._build_down(nf, num_res_blocks, progressive_input, progressive_combine)
        lowest = self.widths[-1]
        self.middle_0 = self._block(lowest, lowest, attend=attn_middle)
        self.middle_1 = self._block(lowest, lowest, attend=False)
        self._build_up(skips, num_res_blocks + 1, progressive)
        self.head = None
        if progressive != "output_skip":
            self.head = head(self.widths[0], self.out_channels, self.options, init_scale)
        _set_groups(self, groups or {})

    def forward(self, x: Tensor, c_noise: Tensor, condition: Condition | None = None) -> Tensor:
        """Evaluate F at noisy images x, shape (B, C, H, W), and noise labels c_noise, shape (B,).

        Args:
            condition: class labels in 0 … K, int64, shape (B,); an image y, floating point, shape
                (B, C, h, w); or a dict of label, image, and level, the noise label of y, shape
                (B,). None for none.

        Raises:
            ValueError: an input of the wrong shape, a label outside 0 … K, or a part of the
                condition that the network does not take.
            TypeError: an image that is not floating point, or labels that are not integers.
        """
        check_input(x, c_noise, self.shape, len(self.widths) - 1)
        told = parts_of(condition)
        emb = None
        if self.embedding is not None:
            emb = self.embedding(c_noise, x.dtype, told.label)
        elif told.label is not None:
            check_told(None, told.label)
        emb = self._with_level(emb, told.level)
        h = self.conv_in(self._with_image(x, told.image))
        skips, pyramid = [h], x
        for level in self.down:
            h, pyramid = level(h, pyramid, emb, skips)
        h = self.middle_1(self.middle_0(h, emb), emb)
        image: Any = None  # an output pyramid starts it on the lowest level
        for level in self.up:
            h, image = level(h, image, emb, skips)
        return image if self.head is None else self.head(h)

    def null_condition(self, condition: Condition) -> Condition:
        """The label K, zeros for an image and for its noise label, of the shape of a condition.

        Raises:
            ValueError: The condition has a part that the network does not take.
        """
        told = parts_of(condition)
        absent: dict[str, Tensor] = {}
        if told.label is not None:
            absent["label"] = no_label(self, told.label)
        if told.image is not None:
            check_seen(self.condition_channels)
            absent["image"] = torch.zeros_like(told.image)
        if told.level is not None:
            absent["level"] = torch.zeros_like(told.level)
        return absent if isinstance(condition, Mapping) else next(iter(absent.values()))

    def _with_image(self, x: Tensor, image: Tensor | None) -> Tensor:
        """The channels of x and of the condition."""
        if self.condition_channels is None:
            if image is not None:
                check_seen(None)
            return x
        return torch.cat([x, self.image(image, x)], 1)

    def _with_level(self, emb: Tensor | None, level: Tensor | None) -> Tensor | None:
        """The embedding of the noise and of that of the condition, 0 where it is not told."""
        if not self.condition_noise:
            if level is not None:
                check_noise_told()
            return emb
        assert emb is not None
        level = emb.new_zeros(len(emb)) if level is None else level
        own: Tensor = self.image_noise(level, emb.dtype)
        return emb + own

    def _build_down(self, channels: int, number: int, pyramid: str, combine: str) -> list[int]:
        """Register the way down; return the channels of the skip connections in order."""
        self.down = nn.ModuleList()
        skips = [channels]
        for level, width in enumerate(self.widths):
            blocks = []
            for _ in range(number):
                blocks.append(self._block(channels, width, self.attend[level]))
                channels = width
                skips.append(channels)
            if level == len(self.widths) - 1:
                self.down.append(DownLevel(blocks, None, None))
            else:
                join = self._input_pyramid(level, pyramid, combine)
                self.down.append(DownLevel(blocks, self._step(width, up=False), join))
                channels = 2 * width if (pyramid, combine) == ("input_skip", "cat") else width
                skips.append(channels)
        return skips

    def _build_up(self, skips: list[int], number: int, pyramid: str) -> None:
        """Register the way up, which consumes the skip connections from the last to the first."""
        self.up = nn.ModuleList()
        channels = self.widths[-1]
        for level, width in reversed(list(enumerate(self.widths))):
            blocks = []
            for block in range(number):
                last = block == number - 1
                attend = self.attend[level] and (last or self.attn_up == "each")
                blocks.append(self._block(channels + skips.pop(), width, attend))
                channels = width
            join = self._output_pyramid(level, pyramid)
            step = self._step(width, up=True) if level > 0 else None
            self.up.append(UpLevel(blocks, join, step))

    def _block(self, ch_in: int, ch_out: int, attend: bool) -> Block:
        block = BigGANBlock if self.resblock_type == "biggan" else DDPMBlock
        attention = Attention(ch_out, self.options) if attend else None
        return Block(block(ch_in, ch_out, self.options), attention)

    def _step(self, channels: int, up: bool) -> nn.Module:
        taps = self.options.taps
        filtered = Upsample2d(taps) if up else Downsample2d(taps)
        if self.resblock_type == "biggan":
            return BigGANBlock(channels, channels, self.options, filtered)
        if not self.resamp_with_conv:
            return Unlabelled(filtered)
        if up:
            return Unlabelled(UpsampleConv2d(channels, channels, taps))
        return Unlabelled(DownsampleConv2d(channels, channels, taps, self.pad_symmetric))

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


def _set_groups(net: UNet, groups: Mapping[str, int]) -> None:
    norms = {name: m for name, m in net.named_modules() if isinstance(m, nn.GroupNorm)}
    for name, number in groups.items():
        if name not in norms:
            raise ValueError(f"groups names {name}, which is no normalisation of this network")
        if number < 1 or norms[name].num_channels % number:
            raise ValueError(
                f"groups of {name} must divide its {norms[name].num_channels} channels, "
                f"got {number}"
            )
        norms[name].num_groups = number
