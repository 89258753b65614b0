"""A loss in the unknown pixels alone, of a network that sees the others without noise."""

from typing import Any

import torch
from torch import Tensor

from scoresde.sde import SDE, Condition, expand
from scoresde.sde.broadcast import widened

from .objective import Batch, Loss, Wrapper, unpack


class HoleLoss(Wrapper):
    """A loss of inpainting, in which known pixels have no noise and no error.

        x'_t = M α x_0 + (1 − M) x_t,   the loss of M exact + (1 − M) model(x'_t, t | c)

    M is the last channel of the condition, 1 where a pixel is known. Of a known pixel the score,
    the noise and the data are known exactly, so that its error is 0 in every loss. α x_0 is the
    mean of the pixel given its value, which the network sees as x_0 at each noise level.

    Args:
        loss: Loss that calls the model for its score, noise or data prediction.
        sde: Process.

    Reference: Saharia et al. 2022, arXiv:2111.05826 (section 3 and appendix C).
    """

    def __init__(self, loss: Loss, sde: SDE) -> None:
        super().__init__(loss)
        self.sde = sde

    def __call__(
        self, model: Any, batch: Batch | Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """The loss in the hole; see `Loss`.

        Raises:
            ValueError: The condition is no image with a mask.
        """
        x0, condition = unpack(batch)
        if not isinstance(condition, Tensor) or condition.shape[2:] != x0.shape[2:]:
            raise ValueError("the loss in a hole needs images of known pixels with their mask")
        known = condition[:, -1:].bool()
        return self.loss(_Filled(model, self.sde, x0, known), batch, generator)


class _Filled:
    """A model that sees the known pixels, and whose predictions of them have no error."""

    def __init__(self, model: Any, sde: SDE, x0: Tensor, known: Tensor) -> None:
        self.model, self.sde, self.x0, self.known = model, sde, x0, known

    def __call__(
        self,
        x: Tensor,
        t: Tensor,
        condition: Condition | None = None,
        *,
        predict: str = "score",
    ) -> Tensor:
        """The prediction of the model in the hole, and the exact one in known pixels."""
        wide = widened(x)
        mean, sigma = expand(self.sde.alpha(t), wide) * self.x0, expand(self.sde.sigma(t), wide)
        noise = (wide - mean) / sigma
        exact = {"score": -noise / sigma, "noise": noise, "denoise": self.x0.to(wide)}
        if predict not in exact:
            raise ValueError(
                f"the loss in a hole knows score, noise and denoise, got predict={predict}; use "
                "loss=dsm or another of these"
            )
        seen = torch.where(self.known, mean, wide).to(x.dtype)
        given = {} if condition is None else {"condition": condition}
        value = self.model(seen, t, **given, predict=predict)
        return torch.where(self.known, exact[predict].to(value), value)
