"""Corrections of the contrast that guidance exaggerates."""

import torch
from torch import Tensor

from scoresde.sde import SDE, expand


def rescaled(
    sde: SDE, guided: Tensor, plain: Tensor, x: Tensor, t: Tensor, share: float, of: str
) -> Tensor:
    """The guided data prediction with the contrast of the unguided one.

        q ← q_w (φ std(q_y)/std(q_w) + 1 − φ)

    q is the prediction named: the noise ẑ = (x − α D)/σ, the data D, or v = α ẑ − σ D. The
    standard deviation is that of the entries of one sample, and a prediction that is constant
    stays as it is.

    Args:
        sde: Process.
        guided: D_w, shape (B, *).
        plain: D_y, shape (B, *).
        x: State, shape (B, *).
        t: Time, shape (B,) or ().
        share: φ in [0, 1]; the published value is 0.7.
        of: `noise`, `data` or `v`. The published method rescales what the network predicts.

    Reference: Lin et al. 2024, arXiv:2305.08891 (section 3.4, eq. 15 and 16).
    """
    alpha, sigma = expand(sde.alpha(t), guided), expand(sde.sigma(t), guided)
    x = x.to(guided)

    def contrast(data: Tensor) -> tuple[Tensor, Tensor]:
        noise = (x - alpha * data) / sigma
        q = {"noise": noise, "data": data, "v": alpha * noise - sigma * data}[of]
        spread = q.flatten(1).std(1) if q[0].numel() > 1 else torch.zeros(len(q)).to(q)
        return q, spread

    q, wide = contrast(guided)
    own = contrast(plain)[1]
    ratio = torch.where(wide > 0, own / wide, torch.ones_like(wide))
    q = q * expand(share * ratio + 1 - share, q)
    if of == "data":
        return q
    if of == "noise":
        return (x - sigma * q) / alpha
    return (alpha * x - sigma * q) / (alpha.square() + sigma.square())


def check_share(share: float) -> float:
    """Return φ, refusing a number outside [0, 1].

    Raises:
        ValueError: It is outside.
    """
    if isinstance(share, bool) or not 0 <= share <= 1:
        raise ValueError(f"rescale must be in [0, 1], got {share}; the published value is 0.7")
    return float(share)
