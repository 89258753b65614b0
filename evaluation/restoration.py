"""Measures of restored images: their errors, their fit to a measurement, and their spread.

Several samples of one posterior tell more than their errors. With K samples x_k of p(x_0 | y) and
V the variance of the posterior, the mean of the samples has the error (1 + 1/K) V and one sample
has 2 V: PSNR of the mean is 10 log10(2K/(K + 1)) dB above that of a sample, 3.01 dB for K → ∞. A
smaller gap means too little spread.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

FILTER_STD = 1.5  # of the Gaussian windows, in pixels
FILTER_SIZE = 11


def psnr(x: Tensor, reference: Tensor, width: float) -> Tensor:
    """Peak signal-to-noise ratio 10 log10(R²/MSE) in dB, shape (B,); inf for equal images.

    Args:
        x, reference: Images, shape (B, *).
        width: R > 0, the width of the data range.

    Raises:
        ValueError: The shapes differ, or the width is not > 0.
    """
    _check(x, reference, width)
    return 10 * (width**2 / _squared_error(x, reference)).log10()


def ssim(x: Tensor, reference: Tensor, width: float) -> Tensor:
    """Structural similarity, the mean over Gaussian windows and channels; shape (B,), at most 1.

        SSIM = (2 μ_x μ_y + c_1)(2 σ_xy + c_2) / ((μ_x² + μ_y² + c_1)(σ_x² + σ_y² + c_2)),
        c_1 = (0.01 R)²,   c_2 = (0.03 R)²

    Windows have 11 × 11 pixels and a standard deviation of 1.5, and lie inside the image. Where an
    image is smaller they have the largest odd number of pixels that it holds.

    Args:
        x, reference: Images, shape (B, C, H, W).
        width: R > 0, the width of the data range.

    Raises:
        ValueError: The shapes differ or are not those of images, or the width is not > 0.

    Reference: Wang, Bovik, Sheikh & Simoncelli 2004, IEEE Transactions on Image Processing 13(4)
    (eq. 13 to 16).
    """
    _check(x, reference, width)
    if x.ndim != 4:
        raise ValueError(f"images must have shape (B, C, H, W), got {tuple(x.shape)}")
    x, y = x.double(), reference.double()
    window = [_window(size).to(x) for size in x.shape[2:]]

    def mean(v: Tensor) -> Tensor:
        # Windows are products of one along each axis.
        down = v.unfold(2, len(window[0]), 1) @ window[0]
        return down.unfold(3, len(window[1]), 1) @ window[1]

    mean_x, mean_y = mean(x), mean(y)
    var_x, var_y = mean(x * x) - mean_x.square(), mean(y * y) - mean_y.square()
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * width) ** 2, (0.03 * width) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return (luminance * structure).flatten(1).mean(1)


def consistency(residual: Tensor, std: float) -> float:
    """How well samples fit a measurement: ‖y − h(x)‖/(σ_y √m) as a root mean square over samples.

    It is 1 for the truth. For an exact measurement, σ_y = 0, it is the largest |y − h(x)|.

    Args:
        residual: y − h(x), shape (B, *).
        std: σ_y ≥ 0.
    """
    if std == 0:
        return residual.abs().max().item()
    return residual.double().square().mean().sqrt().item() / std


@dataclass(frozen=True)
class Spread:
    """Whether samples vary as the posterior does.

    Attributes:
        gap: PSNR of their mean minus that of single samples, in dB, from the mean squared errors.
        gap_exact: What the gap is for samples of the posterior, 10 log10(2K/(K + 1)).
        ratio: K/(K + 1) ‖mean − x_0‖² over the variance of the samples: 1 for those of the
            posterior, above 1 where they vary too little.
        ranks: Share of the entries of x_0 that are above so many of the K samples, K + 1 numbers:
            all equal for samples of the posterior, high at the ends where they vary too little.
        rank_distance: Total variation distance of the ranks from equal shares, in [0, 1].
    """

    gap: float
    gap_exact: float
    ratio: float
    ranks: list[float]
    rank_distance: float

    def summary(self) -> dict[str, Any]:
        """The fields as plain values."""
        return asdict(self)


def spread(samples: Tensor, reference: Tensor) -> Spread:
    """Compare the spread of samples of posteriors with their errors.

    Entries at which all samples are equal, such as those that a mask knows, have no rank.

    Args:
        samples: K ≥ 2 samples of each of N posteriors, shape (N, K, *).
        reference: The true x_0, shape (N, *).

    Raises:
        ValueError: The shapes do not fit, or K < 2.

    Reference: Talts et al. 2018, arXiv:1804.06788 (ranks).
    """
    count = samples.shape[1] if samples.ndim > 1 else 0
    if count < 2 or reference.shape != (len(samples), *samples.shape[2:]):
        raise ValueError(
            "a spread needs K ≥ 2 samples (N, K, *) of each reference (N, *), got "
            f"{tuple(samples.shape)} and {tuple(reference.shape)}"
        )
    samples, truth = samples.double(), reference.double()
    of_mean = (samples.mean(1) - truth).square().mean().item()
    of_sample = (samples - truth[:, None]).square().mean().item()
    variance = samples.var(1)
    ranks = _ranks(samples, truth, variance > 0)
    return Spread(
        gap=10 * math.log10(of_sample / of_mean) if of_mean else 0.0,
        gap_exact=10 * math.log10(2 * count / (count + 1)),
        ratio=_quotient(count / (count + 1) * of_mean, variance.mean().item()),
        ranks=ranks.tolist(),
        rank_distance=0.5 * (ranks - 1 / (count + 1)).abs().sum().item(),
    )


def _ranks(samples: Tensor, truth: Tensor, varied: Tensor) -> Tensor:
    """Shares of the ranks 0 … K, float64; a truth that equals samples is shared by its ranks."""
    count = samples.shape[1]
    if not varied.any():
        return torch.full((count + 1,), 1 / (count + 1), dtype=torch.float64)
    below = (samples < truth[:, None]).sum(1)[varied]
    equal = (samples == truth[:, None]).sum(1)[varied]
    number = torch.arange(count + 1, device=samples.device)
    among = (number >= below[:, None]) & (number <= (below + equal)[:, None])
    return (among / among.sum(1, keepdim=True)).double().mean(0).cpu()


def _window(size: int) -> Tensor:
    """Gaussian weights along one axis, of sum 1."""
    taps = min(FILTER_SIZE, size - 1 + size % 2)
    j = torch.arange(taps, dtype=torch.float64) - (taps - 1) / 2
    weights = (-0.5 * (j / FILTER_STD).square()).exp()
    return weights / weights.sum()


def _squared_error(x: Tensor, reference: Tensor) -> Tensor:
    return (x.double() - reference.double()).square().flatten(1).mean(1)


def _quotient(a: float, b: float) -> float:
    return a / b if b else math.inf


def _check(x: Tensor, reference: Tensor, width: float) -> None:
    if x.shape != reference.shape or x.ndim < 2:
        raise ValueError(
            f"images and references must have one shape (B, *), got {tuple(x.shape)} and "
            f"{tuple(reference.shape)}"
        )
    if not 0 < width < math.inf:
        raise ValueError(f"width must be finite and > 0, that of the data range, got {width}")
