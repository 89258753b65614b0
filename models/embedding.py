"""Embeddings by sines and cosines: of the noise level, and of the values of an image.

The noise level c is c_noise of `ScoreModel` (999 t, log σ or an integer level), shape (B,).
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoresde.sde.checks import is_integer
from scoresde.sde.score import Condition

from .checks import check_told
from .labels import LabelEmbedding
from .layers import dense


class FourierEmbedding(nn.Module):
    """Random Fourier features of the noise level, fixed at construction.

    e(c) = [sin(2π c W), cos(2π c W)] with W ~ N(0, scale² I)

    Reference: Tancik et al. 2020, arXiv:2006.10739; Song et al. 2021, arXiv:2011.13456.

    Args:
        nf: number of frequencies, nf ≥ 1; the embedding has 2·nf entries.
        scale: standard deviation of the frequencies W, scale > 0.

    Raises:
        ValueError: nf < 1 or scale ≤ 0.
    """

    W: Tensor

    def __init__(self, nf: int, scale: float = 16.0) -> None:
        super().__init__()
        if nf < 1:
            raise ValueError(f"nf must be ≥ 1, got {nf}")
        if scale <= 0:
            raise ValueError(
                f"scale must be > 0, got {scale}; with scale 0 the noise level has no effect"
            )
        self.out_features = 2 * nf
        frequencies = torch.empty(nf)
        if not frequencies.is_meta:  # random numbers on the meta device would cost a second
            frequencies = torch.randn(nf) * scale
        self.register_buffer("W", frequencies)

    def forward(self, c_noise: Tensor) -> Tensor:
        """Embed noise levels c_noise, shape (B,), as vectors of shape (B, 2·nf)."""
        phase = c_noise[:, None] * self.W * (2 * math.pi)
        return torch.cat([phase.sin(), phase.cos()], dim=1)


class SinusoidalEmbedding(nn.Module):
    """The sinusoidal position embedding of the Transformer, as DDPM uses it for the time step.

    e(c) = [sin(c ω_k), cos(c ω_k)] with ω_k = 10000^(−k / (half − s)), k = 0 … half − 1,
    half = ⌊nf / 2⌋; a zero is appended when nf is odd. With s = 1 the last ω is 1/10000.

    Reference: Vaswani et al. 2017, arXiv:1706.03762 (section 3.5); Ho et al. 2020,
    arXiv:2006.11239 (appendix B).

    Args:
        nf: number of entries of the embedding, nf ≥ 2.
        shift: s, 1 as in score-SDE's networks or 0 as in most of diffusers'.

    Raises:
        ValueError: nf < 2, or another shift.
    """

    def __init__(self, nf: int, shift: int = 1) -> None:
        super().__init__()
        if nf < 2:
            raise ValueError(f"nf must be ≥ 2 (one sine, one cosine), got {nf}")
        if shift not in (0, 1):
            raise ValueError(f"frequency_shift must be 0 or 1, got {shift}")
        self.out_features, self.shift = nf, shift

    def forward(self, c_noise: Tensor) -> Tensor:
        """Embed noise levels c_noise, shape (B,), as vectors (B, nf) in float32 or wider."""
        half = self.out_features // 2
        # Levels reach 999: in half precision neighbouring levels would have the same phase.
        dtype = torch.promote_types(c_noise.dtype, torch.float32)
        k = torch.arange(half, dtype=dtype, device=c_noise.device)
        frequencies = torch.exp(k * (-math.log(10000.0) / max(half - self.shift, 1)))
        phase = c_noise[:, None].to(dtype) * frequencies
        embedding = torch.cat([phase.sin(), phase.cos()], dim=1)
        return F.pad(embedding, (0, self.out_features % 2))


class NoiseEmbedding(nn.Module):
    """The embedding of the noise level and of the class for the blocks of a U-Net.

    emb = silu(W₁ silu(W₀ e(c) + b₀) + b₁ + l(y)),   l(y) the embedding of a class label, if any

    Reference: Ho et al. 2020, arXiv:2006.11239 (appendix B); Dhariwal & Nichol 2021,
    arXiv:2105.05233, for the label.

    Args:
        kind: the map e, `fourier` (`FourierEmbedding`) or `positional` (`SinusoidalEmbedding`).
        nf: number of features of the U-Net; the embedding has E = 4·nf entries.
        fourier_scale: standard deviation of the Fourier frequencies; `positional` has none.
        shift: of the `positional` frequencies.
        classes: number of class labels; None for none.

    Raises:
        ValueError: nf, fourier_scale or shift out of range.
    """

    def __init__(
        self, kind: str, nf: int, fourier_scale: float, shift: int = 1, classes: int | None = None
    ) -> None:
        super().__init__()
        fourier = kind == "fourier"
        embed = FourierEmbedding(nf, fourier_scale) if fourier else SinusoidalEmbedding(nf, shift)
        self.embed = embed
        self.dense_0 = dense(embed.out_features, 4 * nf)
        self.dense_1 = dense(4 * nf, 4 * nf)
        self.label = None if classes is None else LabelEmbedding(classes, 4 * nf)

    def forward(
        self, c_noise: Tensor, dtype: torch.dtype, condition: Condition | None = None
    ) -> Tensor:
        """Map noise levels c_noise, shape (B,), to (B, E); dtype is that of the network.

        Raises:
            ValueError: a class label outside 0 … K, or one for a network without classes.
        """
        emb = self.dense_1(F.silu(self.dense_0(self.embed(c_noise).to(dtype))))
        if condition is not None:
            emb = emb + check_told(self.label, condition)(condition)
        return F.silu(emb)


class FourierFeatures(nn.Module):
    """Sines and cosines of the values of noisy data, damped as the noise damps their mean.

        E sin(ω (x + σ z)) = exp(−½ ω² σ²) sin(ω x),   likewise for the cosine,   ω = 2ⁿ π

    Values that are 1/128 apart, such as those of eight bits in [-1, 1], differ by half a turn at
    n = 7; without such features a convolution would need weights of that size to distinguish them.
    Without the damping the network would be rough at every noise level, and its flow would take
    several times as many steps.

    Reference: Kingma et al. 2021, arXiv:2107.00630 (appendix C); Barron et al. 2021,
    arXiv:2103.13415 (eq. 13), for the damping.

    Args:
        exponents: The integers n ≥ 0, in any number.

    Raises:
        ValueError: An exponent that is not an integer ≥ 0.
    """

    def __init__(self, exponents: Sequence[int] = ()) -> None:
        super().__init__()
        for n in exponents:
            if not is_integer(n) or n < 0:
                raise ValueError(f"fourier_features must be integers ≥ 0, got {list(exponents)}")
        self.exponents = tuple(int(n) for n in exponents)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Features of x = data + σ z, shape (B, C, *), as (B, 2 N C, *); σ has shape (B, 1, …)."""
        waves = []
        for n in self.exponents:
            omega = 2**n * math.pi
            seen = torch.exp(-0.5 * (omega * sigma) ** 2).to(x.dtype)
            waves += [seen * torch.sin(omega * x), seen * torch.cos(omega * x)]
        return torch.cat(waves, 1)
