"""The loss of a flow that dequantizes images for a trained score."""

from typing import Any

import torch
from torch import Tensor

from scoresde.sde import SDE
from scoresde.sde.checks import check_floating
from scoresde.sde.data_range import Cells
from scoresde.sde.score import like

from .objective import Batch, Loss, optional, unpack


class DequantizationLoss(Loss):
    """Minus the bound of log P(k) by a flow q(u | k), up to a term that does not depend on it.

        E_q [log q(u | k) − log p_eps(x)]/D,   x = α (low + h (k + u)),   ∇_x log p_eps = s(x, eps)

    The score is the gradient of log p, so that one evaluation of it trains the flow, without an
    ODE. The value of the loss is E log q(u | k)/D alone, since the density is not computed.

    Args:
        sde: Process.
        score: Trained s(x, t) or s(x, t, c), whose parameters do not change.
        cells: Cells of the data, of width h.
        eps: Time of the density; the process's `eps` by default.

    Raises:
        ValueError: eps is outside (0, T).

    Reference: Ho et al. 2019, arXiv:1902.00275 (eq. 12).
    """

    def __init__(self, sde: SDE, score: Any, cells: Cells, eps: float | None = None) -> None:
        self.score, self.cells = score, cells
        self.eps = torch.tensor(sde.check_end(sde.eps if eps is None else eps), dtype=torch.float64)
        self.alpha = sde.alpha(self.eps).item()

    def __call__(
        self, model: Any, batch: Batch | Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Estimate the loss from one z for each sample; see `Loss`.

        The model is a flow (k, z) → (u, log q(u | k)), and x_0 is anywhere in the cell of k. A
        condition is that of the score.
        """
        x0, condition = unpack(batch)
        check_floating("x0", x0)
        k = self.cells.value(x0)
        z = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
        u, log_q = model(k, z)
        x = (self.alpha * self.cells.point(k, u)).to(x0.dtype)
        with torch.no_grad():
            s = like(x, self.score(x.detach(), self.eps.to(x0.device), *optional(condition)))
        pull = (s * x).flatten(1).sum(1)
        return (log_q - pull + pull.detach()).mean() / x0[0].numel()
