"""Translation between two models through their common latents (dual diffusion bridges)."""

from typing import Any, NamedTuple

from torch import Tensor

from scoresde.samplers import Sampler, Samples
from scoresde.sde import SDE, Score


class Translated(NamedTuple):
    """The result of a translation.

    Attributes:
        x: Translated samples, shape (B, *).
        latent: Their latents at T of the target's process, shape (B, *).
        nfe: Network evaluations for each sample, both ways together.
    """

    x: Tensor
    latent: Tensor
    nfe: float


class DDIB:
    """A dual diffusion implicit bridge: up to noise by one model, down to data by another.

        x_A → x_T by the probability flow of A,   x_T → x_B by that of B

    The translation back is the exact inverse up to the error of the solver. Between Gaussians it is
    m_B + Σ_B^½ Σ_A^−½ (x − m_A) as T → ∞, the optimal transport where Σ_A and Σ_B commute.
    A condition is edited by two conditions of one model: `DDIB(sde, model.given(a), model.given(b),
    …)`. Guidance with a scale other than 1 and thresholds are different maps up and down, so that
    translations with them do not close.

    Args:
        sde: Process of the source.
        source: s_A(x, t).
        target: s_B(x, t).
        sampler: Deterministic sampler both ways, such as `ProbabilityFlowODE()` or
            `ExactInversion()`.
        target_sde: Process of the target, where it is another; latents are scaled from the prior
            of one to that of the other.

    Reference: Su et al. 2023, arXiv:2203.08382 (algorithm 1).
    """

    def __init__(
        self,
        sde: SDE,
        source: Score,
        target: Score,
        sampler: Sampler,
        target_sde: SDE | None = None,
    ) -> None:
        self.sde, self.target_sde = sde, sde if target_sde is None else target_sde
        self.source, self.target, self.sampler = source, target, sampler

    @property
    def reversed(self) -> "DDIB":
        """The translation from the target to the source."""
        return DDIB(self.target_sde, self.target, self.source, self.sampler, self.sde)

    def __call__(self, x: Tensor, **options: Any) -> Translated:
        """Translate samples x_A of the source, shape (B, *).

        Args:
            x: Samples, floating point.
            options: Further arguments of the sampler both ways, such as `progress`.

        Raises:
            ValueError: The sampler draws noise.
        """
        up = self.sampler.encode(self.sde, self.source, x, **options)
        latent = up.x * (self._width(self.target_sde) / self._width(self.sde))
        down: Samples = self.sampler(
            self.target_sde, self.target, tuple(x.shape), x_init=latent, **options
        )
        return Translated(down.x, latent, up.nfe + down.nfe)

    def cycle_error(self, x: Tensor, **options: Any) -> Tensor:
        """Root mean square of x there and back minus x, for each sample (B,)."""
        back = self.reversed(self(x, **options).x, **options).x
        return (back - x).flatten(1).square().mean(1).sqrt()

    @staticmethod
    def _width(sde: SDE) -> float:
        return sde.prior((1, 1)).std
