"""Problems with exact posteriors, and distances between distributions.

With a Gaussian mixture as the data and a linear measurement, the posterior is a mixture again, so
that `GaussianMixtureScore` of it is the exact conditional score at every time: the control of every
experiment. What a method loses next to it is its bias, and the rest is the sampler's.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from scoresde.conditioning import Mask, Matrix, Measurement
from scoresde.conditioning.measurements import SpectralOperator
from scoresde.models import GaussianMixtureScore
from scoresde.sde import SDE


@dataclass
class Problem:
    """Data Σ_k w_k N(μ_k, Σ_k) and a linear measurement y = H x_0 + σ_y n."""

    weights: Tensor
    means: Tensor
    covariances: Tensor
    operator: SpectralOperator
    y: Tensor
    std: float

    @property
    def measurement(self) -> Measurement:
        """The measurement, one row for all samples."""
        return Measurement(self.operator, self.y[None], self.std)

    @cached_property
    def matrix(self) -> Tensor:
        """H, (M, D), column by column."""
        eye = torch.eye(self.means.shape[1], dtype=torch.float64)
        return self.operator(eye.reshape(-1, *self.operator.shape)).flatten(1).T

    @cached_property
    def posterior(self) -> tuple[Tensor, Tensor, Tensor]:
        """w^y (K,), μ^y (K, D) and Σ^y (K, D, D) of p(x_0 | y)."""
        H, y = self.matrix, self.y.flatten()
        S = H @ self.covariances @ H.T + self.std**2 * torch.eye(len(H), dtype=torch.float64)
        gain = self.covariances @ H.T @ torch.linalg.inv(S)
        residual = y - self.means @ H.T
        means = self.means + torch.einsum("kdm,km->kd", gain, residual)
        covariances = self.covariances - gain @ H @ self.covariances
        fit = torch.einsum("km,kmn,kn->k", residual, torch.linalg.inv(S), residual)
        log = self.weights.log() - 0.5 * (fit + torch.linalg.slogdet(S)[1])
        return log.softmax(0), means, (covariances + covariances.mT) / 2

    def score(self, sde: SDE) -> GaussianMixtureScore:
        """The exact score of the data."""
        return GaussianMixtureScore(sde, self.weights, self.means, self.covariances)

    def control(self, sde: SDE) -> GaussianMixtureScore:
        """The exact score of the posterior."""
        weights, means, covariances = self.posterior
        keep = weights > 1e-12
        return GaussianMixtureScore(sde, weights[keep], means[keep], covariances[keep])

    @cached_property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean (D,) and covariance (D, D) of the posterior."""
        weights, means, covariances = self.posterior
        mean = weights @ means
        spread = means - mean
        outer = spread[:, :, None] * spread[:, None]
        return mean, torch.einsum("k,kij->ij", weights, covariances + outer)

    @property
    def size(self) -> float:
        """√trace of the posterior's covariance, the unit of distances."""
        return self.moments[1].trace().sqrt().item()


def plane(*, exact: bool) -> Problem:
    """P0 (x₁ = −0.2 exactly) or P1 (0.8 x₁ + 0.6 x₂ = 0.3, σ_y = 0.2): three modes in the plane."""
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    means = torch.tensor([[-1, -1], [0.5, 1], [1.2, -0.6]], dtype=torch.float64)
    covariances = torch.tensor(
        [[[0.30, 0.18], [0.18, 0.20]], [[0.25, -0.15], [-0.15, 0.25]], [[0.2, 0], [0, 0.1]]],
        dtype=torch.float64,
    )
    if exact:
        operator: SpectralOperator = Mask(torch.tensor([True, False]))
        y, std = torch.tensor([-0.2], dtype=torch.float64), 0.0
    else:
        operator = Matrix(torch.tensor([[0.8, 0.6]], dtype=torch.float64))
        y, std = torch.tensor([0.3], dtype=torch.float64), 0.2
    return Problem(weights, means, covariances, operator, y, std)


def _grid() -> tuple[Tensor, Tensor, Tensor]:
    """Rows i and columns j of 16 pixels, and the squared distances between them."""
    axis = torch.arange(4, dtype=torch.float64)
    i, j = (v.reshape(-1) for v in torch.meshgrid(axis, axis, indexing="ij"))
    return i, j, (i[:, None] - i).square() + (j[:, None] - j).square()


def pooling(shape: tuple[int, int, int] = (1, 4, 4)) -> Matrix:
    """2 × 2 average pooling of a 4 × 4 field, as a matrix."""
    eye = torch.eye(16, dtype=torch.float64).reshape(16, 1, 4, 4)
    return Matrix(torch.nn.functional.avg_pool2d(eye, 2).flatten(1).T.contiguous(), shape)


def left_half() -> Mask:
    """The left two columns of a 4 × 4 field are known."""
    return Mask((torch.arange(4) < 2).expand(1, 4, 4))


NOISE = torch.tensor([1, -1, 0.5, -0.5], dtype=torch.float64)


def gaussian_field(*, exact: bool) -> Problem:
    """G0 (left half known) or G1 (2 × 2 pooling, σ_y = 0.1): a Gaussian field of 4 × 4 pixels."""
    i, j, distance = _grid()
    mean = 0.3 * i.cos() + 0.2 * (2 * j).sin()
    covariance = 0.5 * (-distance / 4.5).exp() + 0.02 * torch.eye(16, dtype=torch.float64)
    truth = mean + 0.6 * (1.3 * i + 0.7 * j).sin()
    one = torch.ones(1, dtype=torch.float64)
    return _field(one, mean[None], covariance[None], truth, exact, NOISE)


def pooled_exactly() -> Problem:
    """The Gaussian field with its 2 × 2 pooling known exactly."""
    noisy = gaussian_field(exact=False)
    parts = (noisy.weights, noisy.means, noisy.covariances, noisy.operator)
    return Problem(*parts, noisy.y, 0.0)


def mixture_field(*, exact: bool) -> Problem:
    """M0 (left half known) or M1 (2 × 2 pooling, σ_y = 0.1): a mixture of three 4 × 4 fields."""
    i, j, distance = _grid()
    waves = [(1, 0.5, 0), (-0.5, 1.2, 1), (0.3, -1, 2.5)]
    means = torch.stack([0.8 * (a * i + b * j + c).cos() for a, b, c in waves])
    covariance = 0.12 * (-distance / 2.88).exp() + 0.01 * torch.eye(16, dtype=torch.float64)
    weights = torch.tensor([0.4, 0.35, 0.25], dtype=torch.float64)
    truth = 0.55 * means[0] + 0.45 * means[1]
    return _field(weights, means, covariance.expand(3, 16, 16), truth, exact, 0 * NOISE)


def _field(
    weights: Tensor, means: Tensor, covariances: Tensor, truth: Tensor, exact: bool, noise: Tensor
) -> Problem:
    operator: SpectralOperator = left_half() if exact else pooling()
    y = operator(truth.reshape(1, 1, 4, 4))[0]
    std = 0.0 if exact else 0.1
    y = y + std * noise if not exact else y
    return Problem(weights, means, covariances, operator, y, std)


PROBLEMS: dict[str, Problem] = {
    "P0": plane(exact=True),
    "P1": plane(exact=False),
    "G0": gaussian_field(exact=True),
    "G1": gaussian_field(exact=False),
    "M0": mixture_field(exact=True),
    "M1": mixture_field(exact=False),
}


def wasserstein(mean: Tensor, covariance: Tensor, problem: Problem) -> float:
    """W₂ between N(mean, covariance) and a Gaussian posterior, in units of its √trace."""
    m, c = problem.moments
    root = _root(c)
    cross = _root(root @ covariance @ root)
    squared = (mean - m).square().sum() + (covariance + c - 2 * cross).trace()
    return squared.clamp(min=0).sqrt().item() / problem.size


def _root(matrix: Tensor) -> Tensor:
    """The symmetric square root of a positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    return vectors * values.clamp(min=0).sqrt() @ vectors.mT


def push(
    step: Callable[[Tensor], Tensor], mean: Tensor, covariance: Tensor
) -> tuple[Tensor, Tensor]:
    """Moments of an affine map of a Gaussian: it is evaluated at the mean and along each axis.

    Args:
        step: x ↦ A x + b without its own noise, of states (B, D).
        mean: Mean (D,) before it.
        covariance: Covariance (D, D) before it.
    """
    eye = torch.eye(len(mean), dtype=mean.dtype)
    images = step(torch.cat([mean[None], mean + eye]))
    slope = (images[1:] - images[:1]).T
    return images[0], slope @ covariance @ slope.T


def sliced_distance(a: Tensor, b: Tensor, directions: int = 64, seed: int = 0) -> float:
    """Sliced W₂ between two sets of as many points (n, D), by the quantiles of projections."""
    generator = torch.Generator().manual_seed(seed)
    d = a.shape[1]
    axes = torch.randn(d, directions, generator=generator, dtype=a.dtype)
    axes = axes / axes.norm(dim=0)
    ends = [(points.to(axes) @ axes).sort(0).values for points in (a, b)]
    return (ends[0] - ends[1]).square().mean().sqrt().item()


def floors(samples: Tensor, problem: Problem, sde: SDE, seed: int = 1) -> float:
    """Sliced W₂ to the posterior in units of that between two exact sets of the same size."""
    points = samples.reshape(len(samples), -1)
    exact = [
        problem.control(sde).sample(len(points), torch.Generator().manual_seed(seed + i))
        for i in range(5)
    ]
    pairs = [(0, 1), (1, 2), (2, 3), (3, 4)]
    floor = math.fsum(sliced_distance(exact[i], exact[j]) for i, j in pairs) / len(pairs)
    own = math.fsum(sliced_distance(points, one) for one in exact) / len(exact)
    return own / floor


def shares(samples: Tensor, problem: Problem) -> Tensor:
    """The share of samples that belong to each component of the posterior, (K,)."""
    points = samples.reshape(len(samples), 1, -1)
    covariances = problem.covariances
    z = points - problem.means
    fit = torch.einsum("nki,kij,nkj->nk", z, torch.linalg.inv(covariances), z)
    log = problem.weights.log() - 0.5 * (fit + torch.linalg.slogdet(covariances)[1])
    return log.softmax(1).mean(0)
