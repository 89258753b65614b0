"""The RefineNets of NCSN and NCSNv2, as one class with options.

Read `RefineNet.forward`: go down through the levels and keep the features of each, then refine
from the lowest level up, each block taking the features of its level and what comes from below.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from scoresde.sde import Described

from .checks import check_input, check_sizes
from .refine import DilatedBlock, RefineBlock, RefineOptions, conv3x3, in_turn


class RefineNet(Described, nn.Module):
    """The network F(x, level) of NCSN, or F(x) of NCSNv2; it returns its raw output.

    The scaling of the data to [-1, 1], and the division by σ of NCSNv2, are left to `ScoreModel`.
    NCSN takes the number of the noise level, 0 for the noisiest, normalises everywhere and pools
    means; NCSNv2 takes none, normalises in the residual blocks alone and pools maxima. A level
    halves the resolution of the one before it, or has dilated convolutions instead.

    Reference: Song & Ermon 2019, arXiv:1907.05600 (appendix A); Song & Ermon 2020,
    arXiv:2006.09011 (appendix B); Lin et al. 2017, arXiv:1611.06612.

    Args:
        shape: (C, H, W) of the images; H and W must be multiples of 2^(number of halvings), or
            None for any such size.
        nf: number of features at full resolution, ≥ 2.
        widths: factor of nf at each level, from full to lowest resolution: (1, 2, 2, 2) below 96
            pixels, (1, 2, 2, 4, 4) up to 128, (1, 2, 2, 2, 4, 4) up to 256.
        dilations: of the convolutions of each level, the first 1; later ones halve the resolution
            if 1 and keep it otherwise. (1, 1, 2, 4) below 96 pixels, (1, 1, 1, 2, 4) up to 128,
            (1, 1, 1, 1, 2, 4) up to 256.
        num_levels: number of noise levels of NCSN, ≥ 1; None for NCSNv2.
        activation: `elu`, `relu`, `lrelu` or `swish`.

    Raises:
        ValueError: an unknown option, a number out of range, or a size that does not divide.
    """

    def __init__(
        self,
        shape: Sequence[int | None],
        nf: int = 128,
        widths: Sequence[int] = (1, 2, 2, 2),
        dilations: Sequence[int] = (1, 1, 2, 4),
        num_levels: int | None = None,
        activation: str = "elu",
    ) -> None:
        super().__init__()
        _check_levels(nf, widths, dilations)
        self.halvings = list(dilations[1:]).count(1)
        self.shape = check_sizes(shape, nf, [1] * (self.halvings + 1), 1)
        image_ch = self.shape[0]
        self.num_levels = num_levels
        self.options = RefineOptions(num_levels, activation)

        channels = [nf * factor for factor in widths]
        self.conv_in = conv3x3(image_ch, channels[0])
        self.levels = nn.ModuleList()
        for index, (ch_out, dilation) in enumerate(zip(channels, dilations, strict=True)):
            ch_in, enter = channels[max(index - 1, 0)], index > 0
            first = DilatedBlock(ch_in, ch_out, self.options, dilation, enter)
            second = DilatedBlock(ch_out, ch_out, self.options, dilation, enter=False)
            self.levels.append(nn.ModuleList([first, second]))
        lowest = len(channels) - 1
        self.refine = nn.ModuleList()
        below: list[int] = []
        for index in range(lowest, -1, -1):
            # One input is not fused, so that its number of channels stays.
            ch_out = channels[max(index - 1, 0)] if below else channels[lowest]
            units = 3 if index == 0 else 1
            self.refine.append(RefineBlock([channels[index], *below], ch_out, self.options, units))
            below = [ch_out]
        self.norm_out = self.options.norm(channels[0])
        self.conv_out = conv3x3(channels[0], image_ch)

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        """Evaluate F at noisy images x, shape (B, C, H, W), and noise levels c_noise, shape (B,).

        The levels are rounded to integers in [0, num_levels), 0 for the noisiest, and ignored
        without `num_levels`.

        Raises:
            ValueError: an input of the wrong shape, or a level outside [0, num_levels).
            TypeError: an image that is not floating point.
        """
        check_input(x, c_noise, self.shape, self.halvings)
        level = self._level(c_noise)
        h = self.conv_in(x)
        features = []
        for blocks in self.levels:
            h = in_turn(blocks, h, level)  # type: ignore[arg-type]  # a list of blocks
            features.append(h)
        below: list[Tensor] = []
        for refine in self.refine:
            below = [refine([features.pop(), *below], level)]
        return self.conv_out(self.options.act(self.norm_out(below[0], level)))

    def _level(self, c_noise: Tensor) -> Tensor | None:
        if self.num_levels is None:
            return None
        level = c_noise.round().long()
        outside = (level < 0) | (level >= self.num_levels)
        if outside.any():
            raise ValueError(
                f"c_noise must be among the levels 0 … {self.num_levels - 1} of this network, "
                f"got {c_noise[outside][0].item():g}; use sde.discretize({self.num_levels}), or "
                f"sde=ncsn sde.steps={self.num_levels} on a command line"
            )
        return level


def _check_levels(nf: int, widths: Sequence[int], dilations: Sequence[int]) -> None:
    if nf < 2:
        raise ValueError(f"nf must be ≥ 2, got {nf}")
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"widths must hold a factor ≥ 1 for each level ≥ 2, got {list(widths)}")
    if len(dilations) != len(widths) or min(dilations) < 1 or dilations[0] != 1:
        raise ValueError(
            f"dilations must hold a number ≥ 1 for each of the {len(widths)} levels, the first 1, "
            f"got {list(dilations)}"
        )
