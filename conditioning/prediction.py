"""A data prediction with its Jacobian: the first two moments of the data given a state.

    D = E[x_0 | x_t],   C = Cov[x_0 | x_t] = (σ²/α) ∂D/∂x = (σ²/α²) (I + σ² ∇² log p_t)

Reference: Efron 2011; Meng et al. 2021, arXiv:2111.04726 (the second-order Tweedie formula).
"""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor

from scoresde.sde import SDE, Score, expand
from scoresde.sde.broadcast import widened

from .guided import predict_data
from .recomputation import recomputed


class Prediction:
    """D(x, t) at one state, and products with its Jacobian, which is evaluated on demand.

    Samplers run without gradients: the graph is recorded here and nowhere else, and everything that
    is returned is detached from it. Without `jacobian` no graph is recorded, D is that of the score
    itself, and products are not available.

    Args:
        sde: Process.
        score: s(x, t).
        x: State, shape (B, *).
        t: Time, shape (B,) or ().
        recompute: Whether the products evaluate the blocks of the network again rather than keep
            their activations (see `recomputed`), for one more forward pass for each product.
        jacobian: Whether products with the Jacobian will be asked for.

    Attributes:
        x: State, shape (B, *), in float32 at least.
        mean: D(x, t), of x's shape.
        alpha, sigma: α(t) and σ(t), broadcast over x.

    Raises:
        ValueError: The state is part of a graph, from which what is returned would be missing.
    """

    def __init__(
        self,
        sde: SDE,
        score: Score,
        x: Tensor,
        t: Tensor,
        recompute: bool = False,
        *,
        jacobian: bool = True,
    ) -> None:
        self.x = widened(x)
        self.alpha, self.sigma = expand(sde.alpha(t), self.x), expand(sde.sigma(t), self.x)

        def evaluate(leaf: Tensor) -> Tensor:
            return widened(predict_data(sde, score, leaf.to(x.dtype), t))

        if not jacobian:
            self.mean = evaluate(self.x)
            return
        if torch.is_grad_enabled() and x.requires_grad:
            raise ValueError(
                "a score that multiplies by a Jacobian cannot itself be differentiated, got a "
                "state that requires a gradient; sample without differentiable=True, take the "
                "likelihood of the score without the measurement, and put guidance inside and the "
                "measurement outside"
            )
        self._leaf = self.x.detach().clone().requires_grad_()
        with torch.enable_grad(), recomputed(score) if recompute else nullcontext():
            self._data = evaluate(self._leaf)
        self.mean = self._data.detach()

    @property
    def variance(self) -> Tensor:
        """ς² = σ²/α², the variance of the noise in x/α, broadcast over x."""
        return (self.sigma / self.alpha).square()

    def pull_back(self, v: Tensor) -> Tensor:
        """(∂D/∂x)ᵀ v, the vector–Jacobian product; shape of x.

        Args:
            v: Tensor of x's shape.
        """
        (product,) = torch.autograd.grad(self._data, self._leaf, v, retain_graph=True)
        return product

    def covariance(self, v: Tensor) -> Tensor:
        """C v = (σ²/α) (∂D/∂x)ᵀ v; shape of x."""
        return self.sigma.square() / self.alpha * self.pull_back(v)

    def gradient(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """∇_x of a function of D, summed over the batch; shape of x.

        Args:
            function: Differentiable function of D, (B, *) → (B,) or ().
        """
        with torch.enable_grad():
            value = function(self._data).sum()
        (gradient,) = torch.autograd.grad(value, self._leaf, retain_graph=True)
        return gradient
