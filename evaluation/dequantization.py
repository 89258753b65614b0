"""Dequantization: points within the cells of quantized values, and their log-densities."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from scoresde.sde.checks import check_choice
from scoresde.sde.data_range import Cells

from .seeding import Draws

Points = tuple[Tensor, Tensor]
"""Points x ~ q(· | k), float64 of k's shape, and log q(x | k), float64, shape (B,)."""


class Dequantization(ABC):
    """A distribution q(x | k) in the cell of k, with log P(k) ≥ E_q [log p(x) − log q(x | k)].

    The model's density is that of time eps, where the data and their cells are scaled by α.
    """

    name: str

    @abstractmethod
    def draw(self, k: Tensor, cells: Cells, alpha: float, sigma: float, draws: Draws) -> Points:
        """A point x ~ q(· | k) in the cell of each value, and log q(x | k).

        Args:
            k: Quantized values, shape (B, *).
            cells: Cells of the values.
            alpha: α at eps.
            sigma: σ at eps.
            draws: Random numbers of these samples.
        """


class Uniform(Dequantization):
    """The uniform distribution on the cell.

    Reference: Uria et al. 2013, arXiv:1306.0186; Theis et al. 2016, arXiv:1511.01844 (section 3.1).
    """

    name = "uniform"

    def draw(self, k: Tensor, cells: Cells, alpha: float, sigma: float, draws: Draws) -> Points:
        u = draws.uniform("dequantization", tuple(k.shape[1:])).to(k.device)
        x = alpha * (cells.centre(k) + cells.width * (u - 0.5))
        return x, x.new_full((len(x),), -_log_volume(k, cells, alpha))


class TruncatedNormal(Dequantization):
    """The noise of the process, truncated to the cell; it needs no training.

        x = α c + σ z,   |z| ≤ τ = α h/(2 σ),   log q = −½ ‖z‖² − D log(√(2π) σ Z),  Z = erf(τ/√2)

    A model that is trained on the centres c of the cells has this distribution around them, so that
    the bound is tight, for τ of about 3 or more.

    Reference: Zheng, Lu, Chen & Zhu 2023, arXiv:2305.03935 (section 4.3).
    """

    name = "truncated-normal"

    def draw(self, k: Tensor, cells: Cells, alpha: float, sigma: float, draws: Draws) -> Points:
        tau = alpha * cells.width / (2 * sigma)
        mass = math.erf(tau / math.sqrt(2))
        u = draws.uniform("dequantization", tuple(k.shape[1:])).to(k.device)
        z = math.sqrt(2) * torch.erfinv((2 * u - 1) * mass)
        z = z.clamp(-tau, tau)
        log_q = -0.5 * z.square().flatten(1).sum(1)
        log_q = log_q - z[0].numel() * math.log(math.sqrt(2 * math.pi) * sigma * mass)
        return alpha * cells.centre(k) + sigma * z, log_q


class Variational(Dequantization):
    """A trained flow within the cells.

    Args:
        flow: flow(k, z) → (u, log q(u | k)) for k of shape (B, *) and standard normal z of the
            same shape: points u in (0, 1)^D of that shape, and their log-density (B,).

    Reference: Ho et al. 2019, arXiv:1902.00275 (section 3.1).
    """

    name = "variational"

    def __init__(self, flow: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
        self.flow = flow

    @torch.no_grad()
    def draw(self, k: Tensor, cells: Cells, alpha: float, sigma: float, draws: Draws) -> Points:
        z = draws.normal("dequantization", tuple(k.shape[1:])).to(k.device)
        u, log_q = self.flow(k, z)
        x = alpha * (cells.centre(k) + cells.width * (u.double() - 0.5))
        return x, log_q.double() - _log_volume(k, cells, alpha)


DEQUANTIZATIONS: dict[str, type[Dequantization]] = {
    rule.name: rule for rule in (Uniform, TruncatedNormal)
}


def choose_dequantization(name: "str | Dequantization") -> Dequantization:
    """The dequantization with a name; a `Dequantization` is returned unchanged."""
    if isinstance(name, Dequantization):
        return name
    return DEQUANTIZATIONS[check_choice("dequantization", name, *DEQUANTIZATIONS)]()


def _log_volume(k: Tensor, cells: Cells, alpha: float) -> float:
    """Logarithm D log(α h) of the volume of a cell at eps."""
    return k[0].numel() * math.log(alpha * cells.width)
