"""Distances between distributions from samples, and the quality of generated images.

Every statistic here depends on the number of samples. Compare it with its floor, the same statistic
between two sets of real data of the same size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .cost import MAX_IMAGES
from .features import DigitClassifier, stratified_halves
from .images import Array, check_images

# From the scale of a mode to that of the whole distribution, in units of the median distance.
_BANDWIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0)
_MEDIAN_POINTS = 1000


def frechet_distance(a: ArrayLike, b: ArrayLike) -> float:
    """Return the squared Fréchet distance between Gaussians fitted to two sets of feature rows.

        d² = |m_a − m_b|² + tr(C_a + C_b − 2 (C_a^½ C_b C_a^½)^½)

    The last trace is the sum of the singular values of R_a R_bᵀ, where RᵀR = C comes from a QR
    decomposition of the centred rows. Without covariances and matrix roots the result is exact to
    rounding (about 1e-14 of the traces, of either sign) even for fewer rows than features. It is
    biased upwards: compare distances from equally many rows.

    Reference: Dowson & Landau 1982, J. Multivariate Analysis 12; Heusel et al. 2017,
    arXiv:1706.08500 (eq. 6).

    Args:
        a: Features, shape (N_a ≥ 2, F), finite.
        b: Features, shape (N_b ≥ 2, F), finite.

    Raises:
        ValueError: A shape is wrong, there are fewer than 2 rows, or a value is not finite.
    """
    rows_a, rows_b = _feature_rows(a, "a"), _feature_rows(b, "b")
    if rows_a.shape[1] != rows_b.shape[1]:
        raise ValueError(f"a has {rows_a.shape[1]} features and b {rows_b.shape[1]}; must agree")
    mean_a, root_a = _mean_and_root(rows_a)
    mean_b, root_b = _mean_and_root(rows_b)
    cross = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    shift = mean_a - mean_b
    return float(shift @ shift + np.sum(root_a**2) + np.sum(root_b**2) - 2 * cross)


def _feature_rows(values: ArrayLike, name: str) -> Array:
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim != 2 or len(rows) < 2:
        raise ValueError(f"{name} must have shape (N ≥ 2, F), got {rows.shape}")
    if not np.isfinite(rows).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity in its features")
    return rows


def _mean_and_root(rows: Array) -> tuple[Array, Array]:
    """Return the mean and an upper triangular R, where RᵀR is the covariance of the rows."""
    mean = rows.mean(axis=0)
    root = np.linalg.qr((rows - mean) / np.sqrt(len(rows) - 1), mode="r")
    return mean, np.asarray(root)


def class_coverage(probabilities: ArrayLike) -> Array:
    """Return the share of rows whose most probable class is k, shape (K,), summing to 1.

    The share of a mode that the generator has lost is near 0.

    Args:
        probabilities: p(k | x_n), shape (N, K), N ≥ 1; other shapes raise a ValueError.
    """
    table = _probability_table(probabilities)
    return np.bincount(table.argmax(axis=1), minlength=table.shape[1]) / len(table)


def confident_share(probabilities: ArrayLike, threshold: float = 0.9) -> float:
    """Return the share of rows, 0 … 1, with max_k p(k | x_n) ≥ threshold.

    Args:
        probabilities: p(k | x_n), as for `class_coverage`.
        threshold: Least confidence that counts, 0 … 1.
    """
    return float(np.mean(_probability_table(probabilities).max(axis=1) >= threshold))


def _probability_table(probabilities: ArrayLike) -> Array:
    table = np.asarray(probabilities, dtype=np.float64)
    if table.ndim != 2 or table.size == 0:
        raise ValueError(f"probabilities must have shape (N ≥ 1, K ≥ 1), got {table.shape}")
    return table


def maximum_mean_discrepancy(
    x: Tensor | ArrayLike,
    y: Tensor | ArrayLike,
    bandwidths: Sequence[float] | None = None,
    chunk: int = 512,
) -> float:
    """Return the maximum mean discrepancy between two sets of points, ≥ 0.

        MMD² = mean_{i,j} k(x_i, x_j) + mean_{i,j} k(y_i, y_j) − 2 mean_{i,j} k(x_i, y_j)
        k(u, v) = Σ_h exp(−|u − v|² / (2 h²))

    Two finite sets from one distribution have a positive MMD too: compare it with
    `mmd_noise_floor`.

    Reference: Gretton et al. 2012, JMLR 13 (eq. 5).

    Args:
        x: Points, shape (N ≥ 2, *), finite.
        y: Points, shape (M ≥ 2, *), finite; the exact samples.
        bandwidths: Bandwidths h > 0 of the kernels, in the unit of the points; by default 1/8, 1/4,
            1/2, 1 and 2 times the median distance between (at most 1000) points of y.
        chunk: Number of rows that are compared at a time, which takes chunk × max(N, M) numbers.

    Raises:
        ValueError: A shape is wrong, a value is not finite, there are too few points, or h ≤ 0.
    """
    u, v = _points(x, "x"), _points(y, "y")
    if u.shape[1] != v.shape[1]:
        raise ValueError(
            f"points of x have {u.shape[1]} coordinates, of y {v.shape[1]}; must agree"
        )
    if bandwidths is None:
        some = v[:: -(-len(v) // _MEDIAN_POINTS)]
        bandwidths = [c * float(torch.pdist(some).median()) for c in _BANDWIDTHS]
    if not bandwidths or not all(0 < h < float("inf") for h in bandwidths):
        raise ValueError(f"bandwidths must be positive, got {list(bandwidths)}; give your own")
    # Distances come from inner products, which are most accurate near the origin.
    centre = v.mean(dim=0)
    u, v = u - centre, v - centre
    n, m, diagonal = len(u), len(v), len(bandwidths)  # k(u, u) is the number of kernels
    within_x = (2 * _pairs_within(u, bandwidths, chunk) + n * diagonal) / n**2
    within_y = (2 * _pairs_within(v, bandwidths, chunk) + m * diagonal) / m**2
    across = sum(_kernel(part, v, bandwidths).sum().item() for part in u.split(chunk)) / (n * m)
    return max(within_x + within_y - 2 * across, 0.0) ** 0.5  # below 0 by rounding alone


def _points(values: Tensor | ArrayLike, name: str) -> Tensor:
    points = torch.as_tensor(values).detach().to("cpu", torch.float64)
    if points.ndim < 2 or len(points) < 2:
        raise ValueError(f"{name} must have shape (N ≥ 2, *), got {tuple(points.shape)}")
    if not points.isfinite().all():
        raise ValueError(f"{name} must be finite, got NaN or infinity; did the sampler diverge?")
    return points.flatten(1)


def _kernel(u: Tensor, v: Tensor, bandwidths: Sequence[float]) -> Tensor:
    """Return k(u_i, v_j), shape (N, M)."""
    norms = u.square().sum(1, keepdim=True) + v.square().sum(1)
    distances = torch.addmm(norms, u, v.T, alpha=-2)
    total = torch.zeros_like(distances)
    for h in bandwidths:
        total += torch.mul(distances, -0.5 / h**2).exp_()
    return total


def _pairs_within(u: Tensor, bandwidths: Sequence[float], chunk: int) -> float:
    """Return Σ_{i<j} k(u_i, u_j), from each chunk with itself and the later ones."""
    total = 0.0
    for start in range(0, len(u), chunk):
        block = _kernel(u[start : start + chunk], u[start:], bandwidths)
        total += block.triu(diagonal=1).sum().item()
    return total


def mmd_noise_floor(
    draw: Callable[[int], Tensor | ArrayLike],
    n: int,
    pairs: int = 5,
    bandwidths: Sequence[float] | None = None,
) -> float:
    """Return the mean MMD between two independent sets of n exact samples.

    Samples from the right distribution have a `maximum_mean_discrepancy` near it. Each pair of sets
    takes about a second at n = 5000.

    Reference: Gretton et al. 2012, JMLR 13 (sec. 4).

    Args:
        draw: draw(n) → n exact, independent points, shape (n, *), new ones at each call.
        n: Number of points per set ≥ 2, as many as there are samples.
        pairs: Number of pairs of sets ≥ 1.
        bandwidths: As for `maximum_mean_discrepancy`.

    Raises:
        ValueError: pairs < 1, or as `maximum_mean_discrepancy`.
    """
    if pairs < 1:
        raise ValueError(f"pairs must be ≥ 1, got {pairs}")
    values = [maximum_mean_discrepancy(draw(n), draw(n), bandwidths) for _ in range(pairs)]
    return float(np.mean(values))


@dataclass(frozen=True)
class SampleQuality:
    """The result of `sample_quality`, by a classifier that was trained on half of the real images.

    Attributes:
        accuracy: Accuracy on held-out real images; the rest means little where it is low.
        confident: Share of samples that are classified with a confidence ≥ 0.9.
        confident_real: The same share of held-out real images.
        confident_ratio: confident/confident_real, near 1 for good samples; NaN for 0 real ones.
        coverage: Share of samples in each class, in the order of the sorted labels.
        coverage_min: The smallest of these.
        frechet: Squared Fréchet distance between the first half of the real images and n samples.
        frechet_floor: The same between the first half and n held-out images.
        n: Number of rows that both distances use.
    """

    accuracy: float
    confident: float
    confident_real: float
    confident_ratio: float
    coverage: list[float]
    coverage_min: float
    frechet: float
    frechet_floor: float
    n: int


def sample_quality(
    samples: ArrayLike, real: ArrayLike, labels: ArrayLike, levels: int, seed: int = 0
) -> SampleQuality:
    """Compare samples with held-out real images, by a classifier trained on other real images.

    All labelled real images should be given; they are split in two stratified halves. At most 10000
    of them, and of the samples, are used; `evaluation.cost` estimates the time. Samples that are as
    good as real images have a confident_ratio of 1, a Fréchet distance at its floor, and the real
    images' shares of the classes.

    Reference: Heusel et al. 2017, arXiv:1706.08500 (there with Inception's features).

    Args:
        samples: Grey values 0 … levels − 1, uint8, shape (N ≥ 2, C, H, W).
        real: Real images, uint8, shape (M, C, H, W).
        labels: Integers, shape (M,), at least 2 classes with at least 2 images each.
        levels: Number of grey levels, 2 … 256.
        seed: Seed of the split, the classifier and the rows that are compared.

    Raises:
        ValueError: Shapes or values are wrong, or there are fewer than 2 samples or too few images
            of a class.
    """
    generated = check_images(samples, levels, "samples")
    images, classes = check_images(real, levels, "real"), np.asarray(labels)
    if len(generated) < 2:
        raise ValueError(
            "samples must hold at least 2 images to have a covariance, got 1; generate more samples"
        )
    if generated.shape[1:] != images.shape[1:]:
        raise ValueError(
            f"samples have shape {generated.shape[1:]} and real images {images.shape[1:]}; "
            "both must come from the same data set"
        )
    generated = generated[:MAX_IMAGES]
    rng = np.random.default_rng(seed)
    first, held_out = stratified_halves(classes, len(images), rng)
    classifier = DigitClassifier(levels, seed).fit(images[first], classes[first])

    n = min(len(generated), len(held_out))
    reference = classifier.features(images[first])
    chosen = generated[rng.permutation(len(generated))[:n]]
    chosen_real = images[rng.permutation(held_out)[:n]]
    probabilities = classifier.probabilities(generated)
    coverage = class_coverage(probabilities)
    confident = confident_share(probabilities)
    confident_real = confident_share(classifier.probabilities(images[held_out]))
    return SampleQuality(
        accuracy=classifier.accuracy(images[held_out], classes[held_out]),
        confident=confident,
        confident_real=confident_real,
        confident_ratio=confident / confident_real if confident_real > 0 else float("nan"),
        coverage=coverage.tolist(),
        coverage_min=float(coverage.min()),
        frechet=frechet_distance(classifier.features(chosen), reference),
        frechet_floor=frechet_distance(classifier.features(chosen_real), reference),
        n=n,
    )
