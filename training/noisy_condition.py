"""A loss whose image condition is noisy: the conditioning augmentation of cascades."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scoresde.sde import SDE

from .objective import Batch, Conditioned, Loss, Wrapper, unpack


class NoisyCondition(Wrapper):
    """A loss whose image condition y has noise of a level of its own for each sample.

        L(x_0, {image: z, level: ¼ log ς}),   z = α(s) y + σ(s) ε,   σ(s)/α(s) = ς ~ U[low, high]

    A model of higher resolution that was trained so bears the errors of the model of lower
    resolution whose samples it is given, with noise of a level that is chosen at sampling.

    Args:
        loss: Loss L of a model that takes such conditions.
        sde: Process of the noise, that of the lower resolution; its states at s are then such z.
        levels: low and high, 0 < low ≤ high, within the relative noise of the process.

    Raises:
        ValueError: The levels are not in this range.

    Reference: Ho et al. 2022, arXiv:2106.15282 (section 4, non-truncated conditioning
    augmentation).
    """

    def __init__(self, loss: Loss, sde: SDE, levels: Sequence[float]) -> None:
        super().__init__(loss)
        self.sde = sde
        self.low, self.high = check_levels(sde, levels)

    def __call__(
        self, model: Any, batch: Batch | Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """The loss for one ς and one ε for each sample; see `Loss`.

        Raises:
            ValueError: The condition is no image.
        """
        x0, y = unpack(batch)
        if not isinstance(y, Tensor) or not y.is_floating_point():
            raise ValueError("noise is added to a condition that is an image, got another one")
        u = torch.rand(len(y), generator=generator, dtype=torch.float64, device=y.device)
        noise = torch.randn(y.shape, generator=generator, dtype=y.dtype, device=y.device)
        levels = self.low + (self.high - self.low) * u
        return self.loss(model, Conditioned(x0, noisy_image(self.sde, y, levels, noise)), generator)


def noisy_image(sde: SDE, y: Tensor, levels: Tensor, noise: Tensor) -> dict[str, Tensor]:
    """The condition {image: z, level: ¼ log ς} of images y at relative noise ς.

    Args:
        sde: Process of the noise.
        y: Images, shape (B, C, h, w).
        levels: ς > 0 of each, float64, shape (B,).
        noise: ε, of y's shape.
    """
    s = sde.to_levels(sde.time_of_half_log_snr(-levels.log()))
    return {"image": sde.perturb(y, s, noise), "level": level_label(levels).to(y.dtype)}


def level_label(levels: Tensor) -> Tensor:
    """¼ log ς, the noise level of a condition as a network receives it."""
    return 0.25 * levels.log()


def check_levels(sde: SDE, levels: Sequence[float]) -> tuple[float, float]:
    """Return the ends of a range of relative noise, refusing those that a process has not.

    Raises:
        ValueError: Not 0 < low ≤ high, or outside of the process.
    """
    ends = torch.tensor([sde.eps, sde.T], dtype=torch.float64)
    least, most = (-sde.half_log_snr(ends)).exp().tolist()
    if len(levels) != 2 or not least <= levels[0] <= levels[1] <= most:
        raise ValueError(
            f"levels must be [low, high] with {least:.3g} ≤ low ≤ high ≤ {most:.3g}, the relative "
            f"noise σ/α of the process, got {list(levels)}"
        )
    return float(levels[0]), float(levels[1])
