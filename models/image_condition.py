"""What a U-Net sees of an image as its condition: channels next to those of the noisy image."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoresde.sde.score import Condition

from .layers import conv

PARTS = ("image", "label", "level")


class Parts(NamedTuple):
    """The parts of a condition, None where it has them not.

    Attributes:
        image: Image y, floating point, shape (B, C, h, w).
        label: Class labels, shape (B,).
        level: Noise label of the image, floating point, shape (B,).
    """

    image: Tensor | None = None
    label: Tensor | None = None
    level: Tensor | None = None


def parts_of(condition: Condition | None) -> Parts:
    """The parts of a condition: labels (B,) alone, an image (B, C, h, w) alone, or a dict of parts.

    Raises:
        ValueError: A dict with other names than image, label and level.
    """
    if isinstance(condition, Mapping):
        unknown = sorted(condition.keys() - set(PARTS))
        if unknown:
            raise ValueError(
                f"a condition has the parts {', '.join(PARTS)}, got {', '.join(unknown)}"
            )
        return Parts(**condition)
    if isinstance(condition, Tensor) and condition.is_floating_point():
        return Parts(image=condition)
    return Parts(label=condition)


class ImageCondition(nn.Module):
    """Channels that tell a network of an image y of any size: y enlarged, and whether it is there.

        [up(y), 1],   or [0, 0] where y is 0 everywhere, which stands for no condition;
        [up(y), 1, up(E(y))] with an encoder E

    up is bicubic interpolation to the size of the noisy image. E is a small stack of residual
    dense blocks at y's own size, which is trained with the network.

    Args:
        channels: Channels of y ≥ 1.
        encoder_blocks: Residual dense blocks of E ≥ 0; 0 for none.
        encoder_features: Channels of E ≥ 4.

    Attributes:
        out_channels: Number of channels that it makes.

    Reference: Saharia et al. 2021, arXiv:2104.07636 (section 2.3), for the channels; Li et al.
    2022, arXiv:2104.14951 (section 3.3), for an encoder, which there is trained beforehand.
    """

    def __init__(self, channels: int, encoder_blocks: int = 0, encoder_features: int = 16) -> None:
        super().__init__()
        self.channels = channels
        self.encoder = None
        if encoder_blocks:
            self.encoder = Encoder(channels, encoder_features, encoder_blocks)
        self.out_channels = channels + 1 + (encoder_features if encoder_blocks else 0)

    def forward(self, image: Tensor | None, x: Tensor) -> Tensor:
        """The channels, shape (B, out_channels, H, W).

        Args:
            image: y, shape (B, C, h, w); None for no condition.
            x: Noisy image, shape (B, *, H, W), whose type is that of the network.

        Raises:
            ValueError: y has another number of channels or of samples.
        """
        if image is None:
            return x.new_zeros(len(x), self.out_channels, *x.shape[2:])
        if image.ndim != 4 or image.shape[:2] != (len(x), self.channels):
            raise ValueError(
                f"the condition must be images ({len(x)}, {self.channels}, h, w), got "
                f"{tuple(image.shape)}"
            )
        image = image.to(x.dtype)
        told = (image != 0).flatten(1).any(1).to(x.dtype).reshape(-1, 1, 1, 1)
        parts = [enlarged(image, x.shape[2:]), told.expand(-1, 1, *x.shape[2:])]
        if self.encoder is not None:
            parts.append(enlarged(told * self.encoder(image), x.shape[2:]))
        return torch.cat(parts, 1)


def enlarged(image: Tensor, size: torch.Size | tuple[int, ...]) -> Tensor:
    """An image (B, C, h, w) by bicubic interpolation at another size (H, W); itself at its own."""
    if image.shape[2:] == tuple(size):
        return image
    return F.interpolate(image, size=tuple(size), mode="bicubic", align_corners=False)


class Encoder(nn.Module):
    """Features of an image at its own size: dense residual blocks between two convolutions.

    Reference: Wang et al. 2018, arXiv:1809.00219 (section 3.1).

    Args:
        channels: Channels of the image.
        features: Channels of the result ≥ 4.
        blocks: Number of blocks ≥ 1.
    """

    def __init__(self, channels: int, features: int, blocks: int) -> None:
        super().__init__()
        self.enter = conv(channels, features)
        self.blocks = nn.ModuleList(_Dense(features) for _ in range(blocks))
        self.leave = conv(features, features)

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, features, h, w)."""
        first = h = self.enter(image)
        for block in self.blocks:
            h = block(h)
        return first + self.leave(h)


class _Dense(nn.Module):
    """h + 0.2 F(h), in which each of three convolutions sees all features before it."""

    def __init__(self, features: int) -> None:
        super().__init__()
        grown = features // 2
        self.layers = nn.ModuleList(
            conv(features + i * grown, grown if i < 2 else features) for i in range(3)
        )

    def forward(self, h: Tensor) -> Tensor:
        seen = [h]
        for layer in self.layers[:-1]:
            seen.append(F.silu(layer(torch.cat(seen, 1))))
        return h + 0.2 * self.layers[-1](torch.cat(seen, 1))
