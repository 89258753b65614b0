"""Likelihood of points and of quantized data by one set of settings, checked when it is given."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from scoresde.sde import SDE, Score
from scoresde.sde.checks import check_choice, check_count, check_positive, check_switch
from scoresde.sde.data_range import Cells
from scoresde.sde.integrate import check_resolution
from scoresde.sde.tableau import PAIRS

from .control import CONTROL_LIMIT
from .dequantization import Dequantization, Uniform
from .divergence import Divergence, ExactOrHutchinson
from .likelihood import CLOCKS, log_likelihood
from .quantized import quantized_likelihood
from .result import Likelihood

SHARED = ("divergence", "rtol", "atol", "method", "clock", "eps", "batch_size")
"""Settings that `log_likelihood` takes as they are."""


@dataclass(frozen=True)
class FlowLikelihood:
    """Likelihoods by the probability-flow ODE: `log_likelihood` or `quantized_likelihood`.

    Args:
        divergence, rtol, atol, method, clock, eps, batch_size: As for `log_likelihood`.
        dequantization: Distribution q(x | k) within the cells of quantized values k.
        log_prob_tol: Absolute tolerance of log p in nats > 0; None for rtol of a point, and for
            rtol per coordinate of an image, whose bits/dim are a mean over coordinates.
        control_variate: Whether a Gaussian fitted to data is the control variate of a stochastic
            divergence.
        draws: Points K ≥ 1 in the cell of each sample.
        importance: Whether they are importance-weighted; else their bounds are averaged.

    Raises:
        ValueError: A setting is not of its kind or out of its range.
    """

    divergence: Divergence = field(default_factory=ExactOrHutchinson)
    dequantization: Dequantization = field(default_factory=Uniform)
    rtol: float = 1e-4
    atol: float = 1e-4
    log_prob_tol: float | None = None
    method: str = "dopri5"
    clock: str = "half_log_snr"
    eps: float | None = None
    control_variate: bool = False
    draws: int = 1
    importance: bool = True
    batch_size: int = 500

    def __post_init__(self) -> None:
        check_positive("rtol", self.rtol)
        check_positive("atol", self.atol)
        for name in ("log_prob_tol", "eps"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        check_choice("method", self.method, *PAIRS)
        check_choice("clock", self.clock, *CLOCKS)
        for name in ("draws", "batch_size"):
            check_count(name, getattr(self, name), 1)
        for name in ("control_variate", "importance"):
            check_switch(getattr(self, name), name)

    def check(self, sde: SDE, dim: int) -> None:
        """Refuse what could only fail after a training.

        Args:
            sde: Process.
            dim: Number D of coordinates of a sample.

        Raises:
            ValueError: The process has no likelihood or no density at eps, the divergence cannot
                be used in D coordinates, or rtol is finer than the network's type resolves.
        """
        sde.check_signal("the likelihood (evaluate/likelihood=none leaves it out)")
        self.divergence.within(dim).check(dim)
        check_resolution(self.rtol, torch.get_default_dtype())
        if self.eps is not None:
            sde.check_end(self.eps)

    def controlled(self, dim: int) -> bool:
        """Whether a Gaussian control variate is wanted for samples of so many coordinates."""
        wanted = self.control_variate and self.divergence.within(dim).stochastic
        return wanted and dim <= CONTROL_LIMIT

    def __call__(
        self,
        sde: SDE,
        score: Score,
        raw: Tensor,
        cells: Cells | None = None,
        **own: Any,
    ) -> Likelihood:
        """Likelihoods of points, or bounds of those of quantized values.

        Args:
            sde: Process.
            score: s(x, t).
            raw: Points, or values k of cells, shape (B, *).
            cells: Cells of quantized values; None for points.
            **own: Further arguments of `log_likelihood`, such as `seed`, `sample_ids` and
                the `control_variate` where `controlled` asks for one.
        """
        tolerance = self.log_prob_tol
        if tolerance is None and cells is not None:
            tolerance = self.rtol * raw[0].numel()
        settings = {name: getattr(self, name) for name in SHARED}
        settings |= {"log_prob_tol": tolerance, "give_up": True} | own
        if cells is None:
            return log_likelihood(sde, score, raw, **settings)
        settings |= {"dequantization": self.dequantization, "samples": self.draws}
        return quantized_likelihood(sde, score, raw, cells, importance=self.importance, **settings)
