"""Scores in closed form, with which every sampler runs and is tested without training."""

import math

import torch
from torch import Tensor

from scoresde.sde import SDE
from scoresde.sde.broadcast import expand, widened
from scoresde.sde.checks import check_floating
from scoresde.sde.score import Condition, per_sample

from .given import Given
from .labels import check_labels


class GaussianMixtureScore:
    """The score of the marginals p_t of a process whose data are a Gaussian mixture.

        p_t = Σ_k w_k N(α μ_k, S_k),   S_k = α² Σ_k + σ² I,
        s = Σ_k r_k s_k,   s_k = −S_k⁻¹ (x − α μ_k),   r_k ∝ w_k N(x; α μ_k, S_k)

    Each Σ_k is diagonalized once, so that S_k⁻¹ takes no solve at any t. The object is itself a
    `score(x, t)`. With a label k it is the score s_k of that component, the exact score of a class;
    the label K stands for the whole mixture, as for networks.

    Args:
        sde: Process.
        weights: w (K,) > 0; scaled to sum to 1.
        means: μ (K, D), with D the number of coordinates of one state of any shape.
        covariances: Σ (K, D, D), symmetric positive semi-definite, or its diagonals (K, D).

    Raises:
        ValueError: Shapes that do not match, weights that are not > 0, a covariance that is not
            symmetric or has a negative eigenvalue.
    """

    def __init__(self, sde: SDE, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        weights, means, covariances = (
            torch.as_tensor(v, dtype=torch.float64) for v in (weights, means, covariances)
        )
        if means.ndim != 2 or weights.shape != means.shape[:1]:
            raise ValueError(
                "expected weights (K,) and means (K, D), "
                f"got {tuple(weights.shape)} and {tuple(means.shape)}"
            )
        k, d = means.shape
        if covariances.shape not in ((k, d), (k, d, d)):
            raise ValueError(
                f"expected covariances ({k}, {d}, {d}) or ({k}, {d}), "
                f"got {tuple(covariances.shape)}"
            )
        for name, values in (("means", means), ("covariances", covariances)):
            if not values.isfinite().all():
                raise ValueError(f"{name} contain NaN/Inf")
        if not (weights > 0).all():
            raise ValueError(f"weights must be > 0, got {weights.tolist()}")
        self.sde, self.means = sde, means
        self.log_weights = (weights / weights.sum()).log()
        self.variances, self.basis = _diagonalize(covariances)

    def given(self, labels: Tensor) -> Given:
        """The score s_k(x, t) with the component k of each sample.

        Args:
            labels: k in 0 … K − 1, or K for the whole mixture; int64, shape (B,), or (1,) for all.

        Raises:
            ValueError: A label outside 0 … K.
            TypeError: Labels that are not integers.
        """
        return Given(self, check_labels(labels, len(self.means)))

    def null_condition(self, labels: Tensor) -> Tensor:
        """The label K, of the whole mixture, in the place of labels; their shape."""
        return torch.full_like(labels, len(self.means))

    def __call__(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """Score s(x, t | k); shape of x.

        Args:
            x: State, shape (B, *) with D coordinates.
            t: Time, shape (B,) or ().
            condition: Labels as for `given`; None for the whole mixture.
        """
        log_joint, pull = self._given(x, t, condition)
        responsibility = log_joint.softmax(1)
        s = (responsibility[..., None] * pull).sum(1)
        return s.reshape(x.shape).to(x.dtype)

    def log_prob(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """log p_t(x | k) in nats; shape (B,). Arguments as for the score."""
        return self._given(x, t, condition)[0].logsumexp(1)

    def denoise(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """Exact posterior mean E[x_0 | x_t = x, k]; shape of x. Arguments as for the score.

            D = Σ_k r_k (μ_k − α Σ_k s_k)

        It equals (x + σ² s)/α, but without a division by α, which may be 0.
        """
        log_joint, pull = self._given(x, t, condition)
        moved = self._from_axes(self.variances.to(pull) * self._to_axes(pull))
        means = self.means.to(pull) - expand(self.sde.alpha(t), pull) * moved
        data = (log_joint.softmax(1)[..., None] * means).sum(1)
        return data.reshape(x.shape).to(x.dtype)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Sample data x_0, float64, shape (n, D)."""
        k = torch.multinomial(self.log_weights.exp(), n, replacement=True, generator=generator)
        z = torch.randn(n, self.means.shape[1], generator=generator, dtype=torch.float64)
        z = z * self.variances.sqrt()[k]
        if self.basis is not None:
            z = torch.einsum("nij,nj->ni", self.basis[k], z)
        return self.means[k] + z

    def _given(self, x: Tensor, t: Tensor, condition: Condition | None) -> tuple[Tensor, Tensor]:
        """log w_k N(x; α μ_k, S_k) given the labels, shape (B, K), and s_k, shape (B, K, D)."""
        log_joint, pull = self._components(x, t)
        if condition is None:
            return log_joint, pull
        count = len(self.means)
        labels = check_labels(per_sample(condition, x), count)[:, None]
        others = (torch.arange(count, device=x.device) != labels) & (labels < count)
        weights = self.log_weights.to(log_joint).masked_fill(others, -math.inf)
        log_joint = log_joint.masked_fill(others, -math.inf)
        return log_joint - weights.logsumexp(1, keepdim=True), pull

    def _components(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """log w_k N(x; α μ_k, S_k), shape (B, K), and s_k, shape (B, K, D)."""
        z, spread = self._along_axes(x, t)
        log_joint = self.log_weights.to(z) - 0.5 * (
            (z.square() / spread).sum(-1)
            + spread.log().sum(-1)
            + z.shape[2] * math.log(2 * math.pi)
        )
        return log_joint, self._pull(z, spread)

    def _along_axes(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """x − α μ_k and the eigenvalues of S_k along its axes, shape (B or 1, K, D)."""
        check_floating("x", x)
        x = widened(x)  # σ² can be beyond float16
        flat = x.reshape(x.shape[0], 1, -1)
        means, alpha = self.means.to(x), self.sde.alpha(t)
        if flat.shape[2] != means.shape[1]:
            raise ValueError(
                f"expected states of {means.shape[1]} coordinates, got shape {tuple(x.shape)}"
            )
        z = self._to_axes(flat - expand(alpha, flat) * means)
        spread = expand(alpha.square(), flat) * self.variances.to(x)
        return z, spread + expand(self.sde.sigma(t).square(), flat)

    def _pull(self, z: Tensor, spread: Tensor) -> Tensor:
        """s_k, shape (B, K, D), of what `_along_axes` gives."""
        return self._from_axes(-z / spread)

    def _to_axes(self, v: Tensor) -> Tensor:
        """Vectors (B, K, D) in the coordinates in which each Σ_k is diagonal."""
        return v if self.basis is None else torch.einsum("bki,kij->bkj", v, self.basis.to(v))

    def _from_axes(self, v: Tensor) -> Tensor:
        """Vectors of those coordinates, (B, K, D), in those of the state."""
        return v if self.basis is None else torch.einsum("bkj,kij->bki", v, self.basis.to(v))


class GaussianScore:
    """The score of the marginals of a process with Gaussian data N(μ, Σ), with its exact flow.

        p_t = N(α μ, S_t),   S_t = α² Σ + σ² I,   s = −S_t⁻¹ (x − α μ)

    Args:
        sde: Process.
        mean: μ (D,).
        covariance: Σ (D, D), symmetric positive semi-definite, or its diagonal (D,).

    Raises:
        ValueError: As for `GaussianMixtureScore`.
    """

    def __init__(self, sde: SDE, mean: Tensor, covariance: Tensor) -> None:
        mean, covariance = (torch.as_tensor(v, dtype=torch.float64) for v in (mean, covariance))
        self.sde = sde
        self._mixture = GaussianMixtureScore(sde, torch.ones(1), mean[None], covariance[None])

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Score s(x, t); shape of x, which is (B, *) with D coordinates; t is (B,) or ()."""
        # The only component has all of the weight.
        pull = self._mixture._pull(*self._mixture._along_axes(x, t))
        return pull.reshape(x.shape).to(x.dtype)

    def log_prob(self, x: Tensor, t: Tensor) -> Tensor:
        """log p_t(x) in nats; shape (B,)."""
        return self._mixture.log_prob(x, t)

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """Exact posterior mean μ + α Σ S_t⁻¹ (x − α μ); shape of x."""
        return self._mixture.denoise(x, t)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Sample data x_0, float64, shape (n, D)."""
        return self._mixture.sample(n, generator)

    def flow(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """The probability flow from time t to time s, x_s = α_s μ + S_s^½ S_t^−½ (x − α_t μ).

        Args:
            x: State at t, shape (B, *).
            t: Start, shape ().
            s: End, shape ().
        """
        kind, x = x.dtype, widened(x)
        flat = x.reshape(x.shape[0], -1)
        mean, variance = self._mixture.means[0].to(x), self._mixture.variances[0].to(x)
        basis = None if self._mixture.basis is None else self._mixture.basis[0].to(x)

        def spread(time: Tensor) -> Tensor:
            return self.sde.alpha(time).square() * variance + self.sde.sigma(time).square()

        z = flat - self.sde.alpha(t) * mean
        z = z if basis is None else z @ basis
        z = z * (spread(s) / spread(t)).sqrt()
        z = z if basis is None else z @ basis.T
        return (self.sde.alpha(s) * mean + z).reshape(x.shape).to(kind)


def _diagonalize(covariances: Tensor) -> tuple[Tensor, Tensor | None]:
    """Eigenvalues (K, D) and eigenvectors (K, D, D), or None where they are the axes."""
    if covariances.ndim == 2:
        values, vectors = covariances, None
    else:
        if not torch.allclose(covariances, covariances.mT, rtol=1e-10, atol=1e-12):
            raise ValueError("covariances must be symmetric")
        values, vectors = torch.linalg.eigh(covariances)
    if (values < -1e-10 * values.abs().amax()).any():
        raise ValueError(
            "covariances must be positive semi-definite, "
            f"got an eigenvalue {values.min().item():.3g}"
        )
    return values.clamp(min=0), vectors
