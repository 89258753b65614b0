"""The hybrid loss, which trains a variance together with the noise prediction."""

import math
from typing import Any

import torch
from torch import Tensor

from scoresde.sde import SDE, expand
from scoresde.sde.checks import check_floating, check_steps
from scoresde.sde.posterior import normal_kl, posterior

from .objective import Batch, Loss, optional, unpack


class HybridLoss(Loss):
    """L_hybrid = L_simple + w L_vlb, in which L_vlb trains the variance alone.

        E_t E_{x_0, z} ‖ẑ − z‖²/D + w N KL(q(x_s | x_t, x_0) ‖ N(m, Σ))/(D log 2),
        log Σ = v log b² + (1 − v) log v_posterior

    t is uniform over the N levels except the lowest, and s is the level below t. The factor N of
    the KL is the number of such t; on a chain, whose lowest level is the data, it is one less. No
    gradient flows through m.

    Args:
        sde: Process; on a chain the levels are its own.
        weight: w ≥ 0; the published value is 0.001.
        steps: Steps N ≥ 2; by default those of a chain, and 1000 for a continuous process.

    Raises:
        ValueError: w is not finite and ≥ 0, or N is not an integer ≥ 2.

    Reference: Nichol & Dhariwal 2021, arXiv:2102.09672 (eq. 15, 16).
    """

    def __init__(self, sde: SDE, weight: float = 0.001, steps: int | None = None) -> None:
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight must be finite and ≥ 0, got {weight}")
        sde.check_signal("the hybrid loss")
        count = (sde.steps or 1000) if steps is None else steps
        if check_steps(count) < 2:
            raise ValueError(f"steps must be an integer ≥ 2, got {steps}")
        self.sde, self.weight = sde, weight
        grid = sde.equal_times(count)
        self.levels = grid[sde.sigma(grid) > 0]

    def check(self, model: Any) -> None:
        """Raise ValueError if a model has no learned variance."""
        if not getattr(model, "learned_variance", False):
            raise ValueError("loss=hybrid trains a variance; add model.learned_variance=true")

    def __call__(
        self, model: Any, batch: Batch | Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Estimate the loss from one level and one noise for each sample; see `Loss`.

        The model gives ẑ and v in [0, 1] for `predict="noise_and_share"`, as a `ScoreModel` with
        learned variance does.

        Raises:
            ValueError: The model has no learned variance.
        """
        x0, condition = unpack(batch)
        check_floating("x0", x0)
        levels, count = self.levels.to(x0.device), len(self.levels) - 1
        number = torch.randint(count, (len(x0),), generator=generator, device=x0.device)
        t, s = levels[number], levels[number + 1]
        z = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
        x = self.sde.perturb(x0, t, z)
        noise, share = model(x, t, *optional(condition), predict="noise_and_share")
        simple = (noise - z).square().mean()
        exact, step = posterior(self.sde, s, t), self.sde.transition(s, t)[1].square()
        # x̂_0 − x_0 = −σ (ẑ − z)/α
        gap = expand(exact.c_0 * self.sde.sigma(t) / self.sde.alpha(t), x0) * (noise - z).detach()
        own = expand(exact.variance, gap)
        log_variance = share * expand(step.log(), gap) + (1 - share) * expand(
            exact.variance.log(), gap
        )
        kl = normal_kl(gap, own, torch.zeros_like(gap), log_variance.exp()).mean() / math.log(2)
        return simple + self.weight * count * kl
