"""A Gaussian that is fitted to data, as a control variate of the divergence of a score."""

import torch
from torch import Tensor

from scoresde.sde import SDE

CONTROL_LIMIT = 4096  # coordinates; the eigenvectors of more would take gigabytes


class GaussianControl:
    """The Jacobian of the score of N(α m, S_t), S_t = α² Σ + σ² I, with moments m, Σ of data.

        ∇·s ≈ tr(J_G) + vᵀ (J − J_G) v,   J_G = −S_t⁻¹

    The trace of J_G is known, so that probes v only estimate the difference between the model and
    the Gaussian.

    Args:
        sde: Process.
        eigenvalues: Eigenvalues ℓ ≥ 0 of Σ, shape (D,).
        eigenvectors: Eigenvectors of Σ as columns, shape (D, D).

    Reference: control variates: Glasserman 2003, Monte Carlo Methods in Financial Engineering,
    section 4.1.
    """

    def __init__(self, sde: SDE, eigenvalues: Tensor, eigenvectors: Tensor) -> None:
        self.sde, self.eigenvalues, self.eigenvectors = sde, eigenvalues.double(), eigenvectors

    @classmethod
    def fit(cls, sde: SDE, x: Tensor) -> "GaussianControl":
        """The control variate from data x (N, *), N ≥ 2.

        Raises:
            ValueError: There are fewer than two samples, or more than 4096 coordinates.
        """
        if len(x) < 2:
            raise ValueError(f"a covariance needs two samples or more, got {len(x)}")
        flat = x.flatten(1).double()
        if flat.shape[1] > CONTROL_LIMIT:
            raise ValueError(
                f"a Gaussian control takes at most {CONTROL_LIMIT} coordinates, "
                f"got {flat.shape[1]}; leave it out"
            )
        values, vectors = torch.linalg.eigh(torch.cov(flat.T).reshape(flat.shape[1], -1))
        return cls(sde, values.clamp(min=0), vectors.to(x.dtype))

    def trace(self, t: Tensor) -> Tensor:
        """Trace of J_G at times t (B,); float64, shape (B,)."""
        return -self._precisions(t).sum(1)

    def products(self, t: Tensor, v: Tensor) -> Tensor:
        """J_G v for probes v (B, M, D)."""
        basis = self.eigenvectors.to(v)
        return -(((v @ basis) * self._precisions(t).to(v)[:, None]) @ basis.T)

    def _precisions(self, t: Tensor) -> Tensor:
        """Eigenvalues of S_t⁻¹, shape (B, D)."""
        alpha, sigma = self.sde.alpha(t)[:, None], self.sde.sigma(t)[:, None]
        return 1 / (alpha.square() * self.eigenvalues.to(alpha.device) + sigma.square())
