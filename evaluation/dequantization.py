"""Dequantization: points within the cells of quantized values, and their log-densities."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.sde.checks import check_count

from .seeding import Draws


@dataclass(frozen=True)
class Cells:
    """The cells of quantized values, which tile the range of the data.

        low + h k ≤ x < low + h (k + 1),   h = (high − low)/levels

    Args:
        levels: Number of values of one coordinate ≥ 2.
        low: Lower end of the range.
        high: Upper end > low.

    Raises:
        ValueError: There are fewer than two levels, or the range is empty.
    """

    levels: int
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        check_count("levels", self.levels, 2)
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(f"the range must be low < high, got ({self.low}, {self.high})")

    @property
    def width(self) -> float:
        """Width h of a cell."""
        return (self.high - self.low) / self.levels

    def centre(self, k: Tensor) -> Tensor:
        """Centres of the cells of values k, float64; shape of k."""
        return self.low + self.width * (k.double() + 0.5)

    def check(self, k: Tensor) -> None:
        """Check that k (B, *) holds integers in 0 … levels − 1.

        Raises:
            TypeError: The dtype is not an integer type.
            ValueError: A value is outside the range, or the shape is wrong.
        """
        if k.is_floating_point() or k.is_complex() or k.dtype == torch.bool:
            raise TypeError(f"quantized data must be integers, got dtype {k.dtype}")
        if k.numel() == 0 or k.ndim < 2:
            raise ValueError(f"quantized data must have shape (B, *), got {tuple(k.shape)}")
        low, high = int(k.min()), int(k.max())
        if low < 0 or high >= self.levels:
            raise ValueError(f"values must be in 0 … {self.levels - 1}, got {low} … {high}")


class Dequantization(ABC):
    """A distribution q(x | k) in the cell of k, with log P(k) ≥ E_q [log p(x) − log q(x | k)].

    The model's density is that of time eps, where the data and their cells are scaled by α.
    """

    name: str

    @abstractmethod
    def draw(
        self, k: Tensor, cells: Cells, alpha: float, sigma: float, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        """A sample x ~ q(· | k), float64 of k's shape, and log q(x | k), float64, shape (B,).

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

    def draw(
        self, k: Tensor, cells: Cells, alpha: float, sigma: float, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        """See `Dequantization.draw`."""
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

    def draw(
        self, k: Tensor, cells: Cells, alpha: float, sigma: float, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        """See `Dequantization.draw`."""
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
    def draw(
        self, k: Tensor, cells: Cells, alpha: float, sigma: float, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        """See `Dequantization.draw`."""
        z = draws.normal("dequantization", tuple(k.shape[1:])).to(k.device)
        u, log_q = self.flow(k, z)
        x = alpha * (cells.centre(k) + cells.width * (u.double() - 0.5))
        return x, log_q.double() - _log_volume(k, cells, alpha)


DEQUANTIZATIONS: dict[str, type[Dequantization]] = {
    rule.name: rule for rule in (Uniform, TruncatedNormal)
}


def choose_dequantization(name: "str | Dequantization") -> Dequantization:
    """The dequantization with a name; a `Dequantization` is returned unchanged.

    Raises:
        ValueError: The name is unknown.
    """
    if isinstance(name, Dequantization):
        return name
    if name not in DEQUANTIZATIONS:
        raise ValueError(
            f"unknown dequantization '{name}'. Available: {', '.join(DEQUANTIZATIONS)}, "
            "or a Variational with its flow"
        )
    return DEQUANTIZATIONS[name]()


def _log_volume(k: Tensor, cells: Cells, alpha: float) -> float:
    """Logarithm D log(α h) of the volume of a cell at eps."""
    return k[0].numel() * math.log(alpha * cells.width)
