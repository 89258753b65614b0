"""What an exponential method takes to be a polynomial: predictions of noise, of data, or of v.

Along the reverse process with stochasticity τ(λ), each prediction k has coordinates in which the
state's own part of the drift is gone and only an integral over λ is left (Lu et al. 2022; Xue et
al. 2023):

    x_t e^{A_t}/m_t = x_s e^{A_s}/m_s + ∫ e^A (1 + τ²) w k dλ + noise,   A′ = τ² c(λ)

    | k     | m            | w        | c        |
    | noise | α            | −e^{−λ}  | 0        |
    | data  | σ            | e^λ      | 1        |
    | v     | r = √(α²+σ²) | −½ sech λ| 1/(1+e^{2λ}) |
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Prediction(ABC):
    """A linear function k = p x + q s of state and score, with its coordinates.

    All arguments are float64 and of one shape, or broadcast to it.

    Attributes:
        max_extrapolation: Our bound of `ExponentialMultistep.max_extrapolation`, which acts on no
            run of ten steps or more on grids equal in λ.
    """

    max_extrapolation: float = 4.0

    @abstractmethod
    def evaluation(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(p, q) at a time."""

    @abstractmethod
    def scale(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """m at a time."""

    @abstractmethod
    def weight(self, lam: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """m_t w(λ), with α and σ those of the time t at which the integral ends."""

    @abstractmethod
    def decay(self, lam: Tensor) -> Tensor:
        """A(λ)/τ² for a constant τ, up to a constant."""

    @abstractmethod
    def variance(self, lam: Tensor, alpha: Tensor, sigma: Tensor, tau: Tensor) -> Tensor:
        """Variance of the noise from λ to the end, with α and σ those of the end."""


class NoisePrediction(Prediction):
    """k = ẑ = −σ s: what DDIM and DPM-Solver hold constant or expand."""

    def evaluation(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(0, −σ)."""
        return torch.zeros_like(sigma), -sigma

    def scale(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """α."""
        return alpha

    def weight(self, lam: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """−α_t e^{−λ}."""
        return -alpha * torch.exp(-lam)

    def decay(self, lam: Tensor) -> Tensor:
        """0: in these coordinates noise does not shrink the state."""
        return torch.zeros_like(lam)

    def variance(self, lam: Tensor, alpha: Tensor, sigma: Tensor, tau: Tensor) -> Tensor:
        """τ² σ_t² (e^{2(λ_t − λ)} − 1)."""
        return (tau * sigma).square() * torch.expm1(2 * (alpha.log() - sigma.log() - lam))


class DataPrediction(Prediction):
    """k = x̂_0 = (x + σ² s)/α: what DPM-Solver++ holds constant or expands.

    Its weight grows along the step, so that it extrapolates the farthest and is trusted less.
    """

    max_extrapolation = 1.5

    def evaluation(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(1/α, σ²/α)."""
        return 1 / alpha, sigma.square() / alpha

    def scale(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """σ."""
        return sigma

    def weight(self, lam: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """σ_t e^λ."""
        return sigma * torch.exp(lam)

    def decay(self, lam: Tensor) -> Tensor:
        """λ."""
        return lam

    def variance(self, lam: Tensor, alpha: Tensor, sigma: Tensor, tau: Tensor) -> Tensor:
        """σ_t² (1 − e^{−2 τ² (λ_t − λ)})."""
        h = alpha.log() - sigma.log() - lam
        return -sigma.square() * torch.expm1(-2 * tau.square() * h)


class VelocityPrediction(Prediction):
    """k = v = (α ẑ − σ x̂_0)/r: the derivative of x/r by the angle φ with tan φ = σ/α."""

    def evaluation(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(−σ/(α r), −σ r/α)."""
        r = torch.hypot(alpha, sigma)
        return -sigma / (alpha * r), -sigma * r / alpha

    def scale(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """r."""
        return torch.hypot(alpha, sigma)

    def weight(self, lam: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """−½ r_t sech λ = r_t dφ/dλ."""
        return -0.5 * torch.hypot(alpha, sigma) / torch.cosh(lam)

    def decay(self, lam: Tensor) -> Tensor:
        """log cos φ = −½ log(1 + e^{−2λ})."""
        return -0.5 * torch.nn.functional.softplus(-2 * lam)

    def variance(self, lam: Tensor, alpha: Tensor, sigma: Tensor, tau: Tensor) -> Tensor:
        """r_t² (1 − (cos φ/cos φ_t)^{2τ²})."""
        shrink = self.decay(lam) - self.decay(alpha.log() - sigma.log())
        return -(alpha.square() + sigma.square()) * torch.expm1(2 * tau.square() * shrink)


PREDICTIONS: dict[str, Prediction] = {
    "noise": NoisePrediction(),
    "data": DataPrediction(),
    "v": VelocityPrediction(),
}
