"""The one loss: denoising score matching, with its weightings and times."""

from collections.abc import Callable

import torch
from torch import Tensor

from sde import SDE, Score, expand
from sde.base import check_floating

TimeDistribution = Callable[[SDE, int, torch.Generator | None, torch.device], Tensor]
"""(sde, n, generator, device) → times, float64, shape (n,)."""


def uniform_times(
    sde: SDE, n: int, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """Times uniform on [eps, T]; on a chain, levels drawn uniformly.

    Args:
        sde: Process.
        n: Number of times.
        generator: Source of the draw.
        device: Where the times live.
    """
    u = torch.rand(n, generator=generator, dtype=torch.float64, device=device)
    return sde.to_levels(sde.T + (sde.eps - sde.T) * u)  # u < 1, so that eps itself is never drawn


def _uniform(sde: SDE, t: Tensor) -> Tensor:
    """w = 1: Song's weighting, and L_simple on DDPM's chain."""
    return torch.ones_like(t)


def _likelihood(sde: SDE, t: Tensor) -> Tensor:
    """w = g²/σ²: the weighting that bounds the likelihood."""
    return (sde.g(t) / sde.sigma(t)).square()


_WEIGHTINGS: dict[str, Callable[[SDE, Tensor], Tensor]] = {
    "uniform": _uniform,
    "likelihood": _likelihood,
}


class DenoisingScoreMatching:
    """Denoising score matching over all times of a process.

        E_t E_{x_0, z} w(t) ‖σ(t) s(x_t, t) + z‖²,   x_t = α(t) x_0 + σ(t) z

    On a continuous process the times are continuous; on a chain they are its levels, which makes
    this the loss of DDPM (over VP) and of NCSN (over VE).

    Args:
        sde: Process.
        weighting: `uniform` (w = 1) or `likelihood` (w = g²/σ²).
        times: Distribution of t; uniform on [eps, T] where not given.
        reduce: `mean` over coordinates, or `sum` for half the sum, the loss of the published
            models, beside which a gradient is clipped differently.

    Raises:
        ValueError: Unknown weighting or reduction.

    Reference: Vincent 2011; Song et al. 2021, arXiv:2011.13456 (eq. 7); Song et al. 2021b,
    arXiv:2101.09258 (section 4) for `likelihood`.
    """

    def __init__(
        self,
        sde: SDE,
        weighting: str = "uniform",
        times: TimeDistribution = uniform_times,
        reduce: str = "mean",
    ) -> None:
        if weighting not in _WEIGHTINGS:
            raise ValueError(
                f"unknown weighting '{weighting}'. Available: {', '.join(_WEIGHTINGS)}"
            )
        if reduce not in ("mean", "sum"):
            raise ValueError(f"unknown reduce '{reduce}'. Available: mean, sum")
        self.sde, self.times, self.reduce = sde, times, reduce
        self.weight = _WEIGHTINGS[weighting]

    def __call__(
        self, score: Score, x0: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Estimate the loss from one draw of t and z for each sample; shape ().

        Args:
            score: s(x, t).
            x0: Data, shape (B, *), floating point.
            generator: Source of t and z, on x0's device.
        """
        check_floating("x0", x0)
        t = self.times(self.sde, len(x0), generator, x0.device)
        z = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
        residual = expand(self.sde.sigma(t), x0) * score(self.sde.perturb(x0, t, z), t) + z
        errors = residual.square().flatten(1)
        errors = errors.mean(1) if self.reduce == "mean" else 0.5 * errors.sum(1)
        return (self.weight(self.sde, t).to(errors.dtype) * errors).mean()
