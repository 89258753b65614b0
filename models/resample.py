"""Changing the resolution by two (FIR filter, nearest neighbour, 2x2 mean), and image pyramids.

A FIR resampler is `upfirdn`: insert zeros between the pixels, pad, filter, keep every second
pixel. Here zero insertion and filtering are one depthwise transposed convolution, and filtering
and decimation are one depthwise strided convolution, so no intermediate image is ever written.

`fir_kernel` makes every kernel even, 2m x 2m, by a zero in front of an odd one. All paddings are
then symmetric, left to the convolutions, and place the pixels as upfirdn's paddings do.

Images x are (B, C, H, W), with H and W even where the resolution is halved; `kernel` is the result
of `fir_kernel`, shape (2m, 2m); `ch_in`, `ch_out` and `options` are as in `layers.py`.

Reference: Karras et al. 2020, arXiv:1912.04958 (appendix B); Zhang 2019, arXiv:1904.11486.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import BlockOptions, conv


def fir_kernel(taps: Sequence[float]) -> Tensor:
    """The separable kernel k kᵀ / (Σ k)², zero-padded in front to an even size.

    Args:
        taps: the filter k in one dimension, K ≥ 1 numbers with a nonzero sum.

    Returns:
        Tensor of shape (2m, 2m), 2m = K or K + 1, that sums to 1.

    Raises:
        ValueError: no taps, or taps that sum to zero (the filter could not keep the mean).
    """
    if len(taps) == 0 or sum(taps) == 0:
        raise ValueError(
            f"fir_kernel must hold numbers with a nonzero sum, got {list(taps)}; "
            "use [1, 3, 3, 1] for the published networks"
        )
    # Constants, not weights: a network that is built on the meta device needs their values when it
    # gets its weights.
    meta = torch.get_default_device().type == "meta"
    k = torch.tensor([float(tap) for tap in taps], device="cpu" if meta else None)
    k = F.pad(k / k.sum(), (len(taps) % 2, 0))
    return torch.outer(k, k)


def _depthwise(kernel: Tensor, x: Tensor) -> Tensor:
    """One copy of the (2m, 2m) kernel per channel of x, in the layout of a grouped convolution."""
    return kernel.to(x.dtype).expand(x.shape[1], 1, *kernel.shape)


def _fir(x: Tensor, kernel: Tensor, padding: int, stride: int = 1) -> Tensor:
    # conv2d correlates; a filter convolves, hence the flip.
    weight = _depthwise(kernel.flip(0, 1), x)
    return F.conv2d(x, weight, stride=stride, padding=padding, groups=x.shape[1])


def fir_upsample(x: Tensor, kernel: Tensor) -> Tensor:
    """Double the resolution: insert zeros, then filter with gain 4, which keeps the mean."""
    weight = _depthwise(4 * kernel, x)
    padding = kernel.shape[0] // 2 - 1
    return F.conv_transpose2d(x, weight, stride=2, padding=padding, groups=x.shape[1])


def fir_downsample(x: Tensor, kernel: Tensor) -> Tensor:
    """Halve the resolution: filter, then keep every second pixel."""
    return _fir(x, kernel, padding=kernel.shape[0] // 2 - 1, stride=2)


def fir_downsample_conv(x: Tensor, kernel: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Halve the resolution: filter, then apply a 3x3 convolution with stride 2.

    Args:
        x: images.
        kernel: filter.
        weight: convolution kernel, shape (D, C, 3, 3).
        bias: shape (D,), or None.
    """
    return F.conv2d(_fir(x, kernel, padding=kernel.shape[0] // 2), weight, bias, stride=2)


def fir_upsample_conv(x: Tensor, kernel: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Double the resolution: insert zeros, apply a 3x3 convolution (both at once), then filter.

    Arguments as for `fir_downsample_conv`.
    """
    # A transposed convolution stores (in, out) channels and, unlike conv2d, does not correlate.
    h = F.conv_transpose2d(x, weight.flip(2, 3).transpose(0, 1), stride=2)
    h = _fir(h, 4 * kernel, padding=kernel.shape[0] // 2 - 1)
    return h if bias is None else h + bias[:, None, None]


class Resampler(nn.Module):
    """A change of the resolution by two, with a FIR filter if there are taps.

    Args:
        taps: the FIR filter in one dimension; None for none.

    Raises:
        ValueError: taps that sum to zero.
    """

    kernel: Tensor | None

    def __init__(self, taps: Sequence[float] | None) -> None:
        super().__init__()
        kernel = None if taps is None else fir_kernel(taps)
        self.register_buffer("kernel", kernel, persistent=False)


class Upsample2d(Resampler):
    """Double the resolution without parameters: FIR filter, or nearest neighbour."""

    def forward(self, x: Tensor) -> Tensor:
        """Map images of shape (B, C, H, W) to (B, C, 2H, 2W)."""
        if self.kernel is None:
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        return fir_upsample(x, self.kernel)


class Downsample2d(Resampler):
    """Halve the resolution without parameters: FIR filter, or the mean of 2x2 pixels."""

    def forward(self, x: Tensor) -> Tensor:
        """Map images of shape (B, C, H, W) to (B, C, H/2, W/2)."""
        if self.kernel is None:
            return F.avg_pool2d(x, 2)
        return fir_downsample(x, self.kernel)


class DownsampleConv2d(Resampler):
    """Halve the resolution with a learned 3x3 convolution, after a FIR filter if there are taps.

    Reference: Ho et al. 2020, arXiv:2006.11239; Karras et al. 2020, arXiv:1912.04958.

    Args:
        taps: see `Resampler`.
        symmetric: without a filter, pad all four sides by one pixel, as most of diffusers' networks
            do, rather than the bottom and the right alone.
    """

    def __init__(
        self, ch_in: int, ch_out: int, taps: Sequence[float] | None, symmetric: bool = False
    ) -> None:
        super().__init__(taps)
        self.padding = (1, 1, 1, 1) if symmetric else (0, 1, 0, 1)
        self.conv = conv(ch_in, ch_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map images of shape (B, ch_in, H, W) to (B, ch_out, H/2, W/2)."""
        weight, bias = self.conv.weight, self.conv.bias
        if self.kernel is None:
            return F.conv2d(F.pad(x, self.padding), weight, bias, stride=2)
        return fir_downsample_conv(x, self.kernel, weight, bias)


class UpsampleConv2d(Resampler):
    """Double the resolution with a learned 3x3 convolution, then a FIR filter if there are taps.

    Without taps the image is doubled by nearest neighbour before the convolution.

    Reference: Ho et al. 2020, arXiv:2006.11239; Karras et al. 2020, arXiv:1912.04958.
    """

    def __init__(self, ch_in: int, ch_out: int, taps: Sequence[float] | None) -> None:
        super().__init__(taps)
        self.conv = conv(ch_in, ch_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map images of shape (B, ch_in, H, W) to (B, ch_out, 2H, 2W)."""
        if self.kernel is None:
            return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return fir_upsample_conv(x, self.kernel, self.conv.weight, self.conv.bias)


class InputSkip(nn.Module):
    """Input pyramid of images: each level halves the image and combines it with the features.

    h ← h + W p (`sum`) or [W p, h] (`cat`)

    Reference: Song et al. 2021, arXiv:2011.13456 (appendix H).

    Args:
        image_ch: number of channels of the image p.
        channels: number of channels C of the features h.
        combine: `sum` or `cat`.
        down: parameter-free halving of the resolution.
    """

    def __init__(self, image_ch: int, channels: int, combine: str, down: nn.Module) -> None:
        super().__init__()
        self.down = down
        self.cat = combine == "cat"
        self.conv = conv(image_ch, channels, size=1)

    def forward(self, h: Tensor, pyramid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features (B, C or 2C, H, W) and the pyramid (B, image_ch, H, W)."""
        pyramid = self.down(pyramid)
        p = self.conv(pyramid)
        return torch.cat([p, h], dim=1) if self.cat else p + h, pyramid


class OutputSkip(nn.Module):
    """Output pyramid of images: each level adds its image to the doubled image from below.

    Reference: Song et al. 2021, arXiv:2011.13456 (appendix H).

    Args:
        head: map from the features to the level's image.
        up: parameter-free doubling of the resolution; None on the lowest level.
    """

    def __init__(self, head: nn.Module, up: nn.Module | None) -> None:
        super().__init__()
        self.head = head
        self.up = up

    def forward(self, h: Tensor, pyramid: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the features (B, C, H, W), unchanged, and the pyramid (B, image_ch, H, W)."""
        image = self.head(h)
        return h, image if self.up is None else self.up(pyramid) + image


class ResidualPyramid(nn.Module):
    """Pyramid of features, input or output: resampled, added to the features, replacing them.

    Reference: Song et al. 2021, arXiv:2011.13456 (appendix H).

    Args:
        resample: learned change of resolution from the pyramid's channels to the features'.
    """

    def __init__(self, resample: nn.Module, options: BlockOptions) -> None:
        super().__init__()
        self.resample = resample
        self.options = options

    def forward(self, h: Tensor, pyramid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum twice, (B, C, H, W): as features and as the pyramid."""
        h = self.options.merge(self.resample(pyramid), h)
        return h, h
