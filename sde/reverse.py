"""A process run backwards in time."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from .broadcast import expand, widened
from .score import Score, like

if TYPE_CHECKING:  # base.py imports this module
    from .base import SDE


@dataclass(frozen=True)
class ReverseSDE:
    """The forward process run backwards in time with a score in place of ∇ log p_t.

        dx = [f x − ½ (1 + η²) g² s(x, t)] dt + η g dw̄

    η = 1 is the reverse SDE, η = 0 the probability-flow ODE; every η ≥ 0 has the marginals p_t.

    Args:
        sde: Forward process.
        score: s(x, t).
        eta: Stochasticity η ≥ 0.

    Raises:
        ValueError: η is not finite, or < 0.

    Reference: Song et al. 2021, arXiv:2011.13456 (eq. 6, 13, 36).
    """

    sde: "SDE"
    score: Score
    eta: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta < float("inf"):
            raise ValueError(f"eta must be finite and ≥ 0, got {self.eta}")

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """f x − ½ (1 + η²) g² s(x, t); shape and type of x."""
        weight = 0.5 * (1 + self.eta**2) * self.sde.g(t) ** 2
        s = widened(like(x, self.score(x, t)))
        return (self.sde.drift(x, t) - expand(weight, s) * s).to(x.dtype)

    def diffusion(self, t: Tensor) -> Tensor:
        """η g(t); shape of t."""
        return self.eta * self.sde.g(t)
