"""The one integral of exponential methods: a prediction over a step.

A prediction k (of noise, data or v) varies slowly along the reverse process, and everything else
is known: in the coordinates of `prediction.py` a step from s to t is one integral,

    x_t = e^{A_s − A_t} (m_t/m_s) x_s + Σ_j W_j k_j + std z,
    W_j = ∫_{λ_s}^{λ_t} m_t w(λ) (1 + τ²) e^{A(λ) − A_t} ℓ_j(λ) dλ

with ℓ_j the Lagrange polynomials of the nodes at which k is known. All W_j come from Gauss–Legendre
quadrature in float64 before the first evaluation, so that no constant of any method is typed in.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scoresde.sde import SDE

from .prediction import Prediction

_NODES, _WEIGHTS = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(64))
"""Gauss–Legendre on [−1, 1]: 64 points resolve e^λ over the whole range of any process."""

VARIABLES = ("lambda", "rho", "time", "index")
"""In what a prediction is taken to be a polynomial: λ, ρ = σ/α, t, or the number of the step."""


class Nodes(NamedTuple):
    """Times of a process with what a step needs to know there, shape (N,) each."""

    t: Tensor
    alpha: Tensor
    sigma: Tensor
    lam: Tensor

    @classmethod
    def at(cls, sde: SDE, t: Tensor) -> "Nodes":
        """The nodes at times t."""
        return cls(t, sde.alpha(t), sde.sigma(t), sde.half_log_snr(t))

    def part(self, part: slice) -> "Nodes":
        """Some of the nodes."""
        return Nodes(*(column[part] for column in self))


class Segment:
    """The steps from some nodes to others, N at once, for one prediction and stochasticity.

    Args:
        sde: Process.
        kind: Prediction that is integrated.
        start: Where the steps begin.
        end: Where they end.
        tau: τ ≥ 0 of each step, shape (N,).
    """

    def __init__(self, sde: SDE, kind: Prediction, start: Nodes, end: Nodes, tau: Tensor) -> None:
        self.sde, self.kind, self.start, self.end, self.tau = sde, kind, start, end, tau

    def factor(self) -> Tensor:
        """Weight of the state, e^{A_s − A_t} m_t/m_s."""
        start, end = self.start, self.end
        shrink = self.kind.decay(start.lam) - self.kind.decay(end.lam)
        ratio = self.kind.scale(end.alpha, end.sigma) / self.kind.scale(start.alpha, start.sigma)
        return ratio * torch.exp(self.tau.square() * shrink)

    def std(self) -> Tensor:
        """Standard deviation of the noise."""
        end = self.end
        return self.kind.variance(self.start.lam, end.alpha, end.sigma, self.tau).sqrt()

    def weights(self, nodes: Sequence[Nodes], variable: str = "lambda") -> list[Tensor]:
        """W_j for a polynomial through the evaluations at some nodes, (N,) each.

        Args:
            nodes: Nodes of the evaluations.
            variable: One of `VARIABLES`; `index` takes them to be equally spaced, the newest of
                them where the step begins, and weights the whole integral like an equal step.
        """
        if variable == "index":
            (whole,) = self.weights(nodes[:1])
            return [whole * share for share in adams(len(nodes))]
        lam, measure = _rule(self.start.lam, self.end.lam)
        # t is read only where it is the variable.
        t = self.sde.time_of_half_log_snr(lam) if variable == "time" else lam
        inner, u = measure * self.integrand(lam), _variable(variable, t, lam)
        known = [_variable(variable, node.t, node.lam)[:, None] for node in nodes]
        return [(inner * basis).sum(1) for basis in lagrange(known, u)]

    def integrand(self, lam: Tensor) -> Tensor:
        """m_t w(λ) (1 + τ²) e^{A − A_t} at points λ, (N, Q)."""
        end, tau2 = self.end, self.tau.square()[:, None]
        grown = tau2 * (self.kind.decay(lam) - self.kind.decay(end.lam)[:, None])
        scale = self.kind.weight(lam, end.alpha[:, None], end.sigma[:, None])
        return (1 + tau2) * scale * torch.exp(grown)


def lagrange(known: Sequence[Tensor], u: Tensor) -> list[Tensor]:
    """Lagrange polynomials ℓ_j of some nodes at the points u.

    Args:
        known: Nodes u_j, (N, 1) each.
        u: Points, (N, Q).
    """
    basis = []
    for j, node in enumerate(known):
        value = torch.ones_like(u)
        for i, other in enumerate(known):
            if i != j:
                value = value * (u - other) / (node - other)
        basis.append(value)
    return basis


def adams(order: int, ahead: int = 0) -> list[float]:
    """Adams weights for equal steps, newest first: ∫_0^1 ℓ_j.

    Args:
        order: Number of nodes 0, −1, … of Adams–Bashforth.
        ahead: 1 for the node 1 before them, of Adams–Moulton.
    """
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    u, measure = _rule(zero, one)
    places = range(ahead, -order, -1)
    known = [torch.full((1, 1), float(place), dtype=torch.float64) for place in places]
    return [(basis * measure).sum().item() for basis in lagrange(known, u)]


def halved_difference(
    segment: Segment, behind: Sequence[Nodes], ahead: int, *, linear: bool
) -> list[Tensor]:
    """The weights of W k_0 + ½ B D, newest evaluation first.

        D = (k_0 − k_1) h/(λ_0 − λ_1)  (predictor),   k − k_0 with k at the end  (corrector)

    Args:
        segment: Steps of length h in λ.
        behind: Nodes of k_0 and, for the predictor, of k_1.
        ahead: 1 for the corrector.
        linear: Whether B is h times the integrand at the end; otherwise it is W.

    Reference: Zhao et al. 2023, arXiv:2302.04867 (section 3.2; B_1 is the linear one, B_2 = W).
    """
    (whole,) = segment.weights(behind[:1])
    half, h = torch.full_like(whole, 0.5), segment.end.lam - segment.start.lam
    if linear:
        half = 0.5 * h * segment.integrand(segment.end.lam[:, None])[:, 0] / whole
    if ahead:
        return [whole * half, whole * (1 - half)]
    ratio = (behind[0].lam - behind[1].lam) / h
    return [whole * (1 + half / ratio), -whole * half / ratio]


def third_order_of_dpm(segment: Segment, nodes: Sequence[Nodes]) -> list[Tensor]:
    """The weights of DPM-Solver++ 3M: those of a parabola, less half of W″ D_2.

    W″ is the integral of u², with u the part of the step, and D_2 the second divided difference
    (the code of Lu et al. 2022, arXiv:2211.01095).
    """
    exact, h = segment.weights(nodes), segment.end.lam - segment.start.lam
    r1, r2 = ((nodes[0].lam - node.lam) / h for node in nodes[1:])
    half = 0.5 * (exact[1] * r1.square() + exact[2] * r2.square())  # a parabola's W″ is exact
    second = (1 / (r1 * r2), -1 / (r1 * (r2 - r1)), 1 / ((r2 - r1) * r2))
    return [w - half * d for w, d in zip(exact, second, strict=True)]


def _rule(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Points and weights of the quadrature between two columns, (N, Q) each."""
    half = 0.5 * (end - start)[:, None]
    return 0.5 * (start + end)[:, None] + half * _NODES, half * _WEIGHTS


def _variable(variable: str, t: Tensor, lam: Tensor) -> Tensor:
    if variable == "time":
        return t
    return torch.exp(-lam) if variable == "rho" else lam
