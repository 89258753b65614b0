"""The exponential engine: Adams and Runge–Kutta methods over λ for any process.

A prediction k (of noise, data or v) varies slowly along the reverse process, and everything else
is known: in the coordinates of `prediction.py` a step from s to t is one integral,

    x_t = e^{A_s − A_t} (m_t/m_s) x_s + Σ_j W_j k_j + std z,
    W_j = ∫_{λ_s}^{λ_t} m_t w(λ) (1 + τ²) e^{A(λ) − A_t} ℓ_j(λ) dλ

with ℓ_j the Lagrange polynomials of the nodes at which k is known. All W_j come from Gauss–Legendre
quadrature in float64 before the first evaluation, so that no constant of any method is typed in.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sde import SDE

from .prediction import PREDICTIONS, Prediction
from .solver import Solver, Stage, Step, tabulate, up_to_data

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
        return cls(t, sde.alpha(t), sde.sigma(t), sde.log_snr(t))

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
        lam, u, measure = self._quadrature(variable)
        inner = measure * self._integrand(lam)
        known = [_variable(variable, node.t, node.lam)[:, None] for node in nodes]
        return [(inner * basis).sum(1) for basis in lagrange(known, u)]

    def _integrand(self, lam: Tensor) -> Tensor:
        """m_t w(λ) (1 + τ²) e^{A − A_t} at points (N, Q)."""
        end, tau2 = self.end, self.tau.square()[:, None]
        grown = tau2 * (self.kind.decay(lam) - self.kind.decay(end.lam)[:, None])
        scale = self.kind.weight(lam, end.alpha[:, None], end.sigma[:, None])
        return (1 + tau2) * scale * torch.exp(grown)

    def _quadrature(self, variable: str) -> tuple[Tensor, Tensor, Tensor]:
        """λ, u and dλ at the points of the rule, shape (N, Q) each."""
        if variable == "time":
            t, dt = _rule(self.start.t, self.end.t)
            rate = -0.5 * (self.sde.g(t) / self.sde.sigma(t)).square()
            return self.sde.log_snr(t), t, rate * dt
        lam, measure = _rule(self.start.lam, self.end.lam)
        return lam, _variable(variable, lam, lam), measure


class ExponentialMultistep(Solver):
    """Exponential Adams methods: one evaluation a step, and those of the steps before.

    The predictor extrapolates the prediction through its last `order` evaluations. The corrector
    repeats the step with the evaluation at its end, which the next step uses anyway, and so adds
    an order at no cost (Adams–Moulton to the predictor's Adams–Bashforth; UniPC's idea). Steps at
    the start, with fewer evaluations behind them, are of lower order.

    Args:
        order: Number of evaluations of the polynomial, 1 to 4.
        prediction: `noise`, `data` or `v`.
        corrector: Correct each step but the last.
        tau: Stochasticity τ ≥ 0: 0 follows the probability flow, 1 the reverse SDE.
        tau_range: Interval of σ/α within which τ acts; everywhere where not given.
        variable: In what the prediction is a polynomial: `lambda`, `rho` (σ/α), `time`, or
            `index`, which takes the evaluations to be equally spaced.
        weights: `exact` for the integrals of the polynomials; `dpmpp` for those of DPM-Solver++ 2M
            in steps of order 2, W (k_0 + ½ D), and of the trapezoid in the first correction, which
            have smaller errors on data predictions; `dpmpp-published` for those of its 3M too, as
            other libraries ship them, which miss half of the second difference and so an order.
        settle_below: Runs of fewer steps than this end with steps of falling order, whose last
            takes the prediction as it stands; 0 for none.

    Raises:
        ValueError: A setting out of its range.

    Reference: Lu et al. 2022, arXiv:2211.01095; Zhang & Chen 2022, arXiv:2204.13902; Zhao et al.
    2023, arXiv:2302.04867; Xue et al. 2023, arXiv:2309.05019.
    """

    def __init__(
        self,
        order: int = 3,
        prediction: str = "data",
        *,
        corrector: bool = False,
        tau: float = 0.0,
        tau_range: tuple[float, float] | None = None,
        variable: str = "lambda",
        weights: str = "exact",
        settle_below: int = 8,
    ) -> None:
        if order not in (1, 2, 3, 4):
            raise ValueError(f"order must be 1, 2, 3 or 4, got {order!r}")
        if variable not in VARIABLES:
            raise ValueError(f"unknown variable '{variable}'. Available: {', '.join(VARIABLES)}")
        if weights not in ("exact", "dpmpp", "dpmpp-published"):
            raise ValueError(
                f"unknown weights '{weights}'. Available: exact, dpmpp, dpmpp-published"
            )
        if weights != "exact" and variable != "lambda":
            raise ValueError(f"weights={weights} needs variable=lambda, got variable={variable}")
        if isinstance(settle_below, bool) or not isinstance(settle_below, int) or settle_below < 0:
            raise ValueError(f"settle_below must be an integer ≥ 0, got {settle_below!r}")
        self.order, self.kind, self.corrector = order, choose_prediction(prediction), corrector
        self.tau, self.tau_range = check_tau(tau, tau_range), tau_range
        self.variable, self.weights, self.settle_below = variable, weights, settle_below

    def plan(self, sde: SDE, times: Tensor) -> list[Step]:
        """The steps between the times of a grid; see `Solver.plan`."""
        return up_to_data(sde, times, self._steps)

    def _steps(self, sde: SDE, times: Tensor) -> list[Step]:
        nodes, n = Nodes.at(sde, times), len(times) - 1
        start, end = nodes.part(slice(None, -1)), nodes.part(slice(1, None))
        tau = choose_tau(self.tau, self.tau_range, start, end)
        whole = Segment(sde, self.kind, start, end, tau)
        factor, std = whole.factor(), whole.std()
        p, q = self.kind.evaluation(nodes.alpha, nodes.sigma)
        predict = self._columns(sde, nodes, tau, ahead=0)
        if not self.corrector or n == 1:
            return tabulate(times, Stage(factor, predict, [std], t=times[:-1], p=p[:-1], q=q[:-1]))
        correct = self._columns(sde, nodes, tau, ahead=1)

        def steps(part: slice, *, begins: bool, corrects: bool) -> list[Step]:
            """Steps that evaluate at their beginning, at their end, or both."""
            here = slice(part.start, part.stop + 1)
            stages = [Stage(factor[part], [w[part] for w in predict], [std[part]])]
            if begins:
                stages = [
                    Stage(stages[0].x, stages[0].k, stages[0].z, times[part], p[part], q[part])
                ]
            if corrects:
                weights = [w[part] for w in correct]
                ahead = slice(part.start + 1, part.stop + 1)
                stages.append(
                    Stage(factor[part], weights, [std[part]], times[ahead], p[ahead], q[ahead])
                )
            return tabulate(times[here], *stages)

        return [
            *steps(slice(0, 1), begins=True, corrects=True),
            *steps(slice(1, n - 1), begins=False, corrects=True),
            *steps(slice(n - 1, n), begins=False, corrects=False),
        ]

    def _columns(self, sde: SDE, nodes: Nodes, tau: Tensor, ahead: int) -> list[Tensor]:
        """Weights of each step, newest evaluation first, (N,) each; `ahead` 1 for the corrector."""
        n = len(nodes.t) - 1
        columns = torch.zeros(self.order + ahead, n, dtype=torch.float64)
        trusted, highest = torch.zeros(n), torch.full((n,), self.order)
        if n < self.settle_below:
            highest = torch.minimum(highest, torch.arange(n, 0, -1))
        for order in range(1, min(self.order, n) + 1):
            rows = slice(order - 1, n)  # the steps with so many evaluations behind them
            start, end = nodes.part(rows), nodes.part(slice(order, n + 1))
            behind = [nodes.part(slice(order - 1 - j, n - j)) for j in range(order)]
            segment = Segment(sde, self.kind, start, end, tau[rows])
            weights = self._weights(segment, behind, ahead)
            table = torch.stack(weights)
            spread = table.abs().sum(0) / table.sum(0).abs()
            usual = sum(abs(w) for w in adams(order, ahead))
            # No order is taken over one that is not trusted.
            taken = (trusted[rows] == order - 1) & (highest[rows] >= order)
            taken &= (spread <= self.kind.reach * usual) | (order == 1)
            for j, weight in enumerate(weights):
                columns[j, rows] = torch.where(taken, weight, columns[j, rows])
            trusted[rows] += taken
        return list(columns)

    def _weights(self, segment: Segment, behind: list[Nodes], ahead: int) -> list[Tensor]:
        """Weights of steps of one order, newest evaluation first."""
        if ahead:
            if self.weights != "exact" and len(behind) == 1:
                (whole,) = segment.weights(behind)
                return [0.5 * whole, 0.5 * whole]
            return segment.weights([segment.end, *behind], self.variable)
        published = {"exact": (), "dpmpp": (2,), "dpmpp-published": (2, 3)}[self.weights]
        if len(behind) in published:
            return dpm_weights(segment, behind)
        return segment.weights(behind, self.variable)


_SCHEMES: dict[int, tuple[tuple[float, tuple[int, ...]], ...]] = {
    1: ((1.0, (0,)),),
    2: ((1 / 2, (0,)), (1.0, (1,))),
    3: ((1 / 3, (0,)), (2 / 3, (0, 1)), (1.0, (0, 2))),
}
"""Each stage of a step: where it ends, and through which evaluations its polynomial goes."""


class ExponentialSinglestep(Solver):
    """Exponential Runge–Kutta methods: one to three evaluations within each step, and no memory.

    Stages lie at fixed parts r of a step in λ. With τ > 0 the state between them carries its share
    of the step's noise; order 2 with τ = 1 is the exponential midpoint method.

    Args:
        order: Evaluations of a step: 1, 2 (midpoint) or 3 (r = 1/3 and 2/3).
        prediction: `noise` (DPM-Solver), `data` (DPM-Solver++) or `v`.
        tau: Stochasticity τ ≥ 0: 0 follows the probability flow, 1 the reverse SDE.
        tau_range: Interval of σ/α within which τ acts; everywhere where not given.

    Raises:
        ValueError: A setting out of its range.

    Reference: Lu et al. 2022, arXiv:2206.00927 (algorithms 1 and 2), arXiv:2211.01095.
    """

    def __init__(
        self,
        order: int = 3,
        prediction: str = "data",
        *,
        tau: float = 0.0,
        tau_range: tuple[float, float] | None = None,
    ) -> None:
        if order not in _SCHEMES:
            raise ValueError(f"order must be 1, 2 or 3, got {order!r}")
        self.order, self.kind = order, choose_prediction(prediction)
        self.tau, self.tau_range = check_tau(tau, tau_range), tau_range

    def plan(self, sde: SDE, times: Tensor) -> list[Step]:
        """The steps between the times of a grid; see `Solver.plan`."""
        return up_to_data(sde, times, self._steps)

    def _steps(self, sde: SDE, times: Tensor) -> list[Step]:
        start, end = Nodes.at(sde, times[:-1]), Nodes.at(sde, times[1:])
        tau = choose_tau(self.tau, self.tau_range, start, end)
        known, stages = [start], list[Stage]()
        for i, (r, uses) in enumerate(_SCHEMES[self.order]):
            if r == 1:
                here = end
            else:
                here = Nodes.at(sde, sde.time_of_log_snr(torch.lerp(start.lam, end.lam, r)))
            step = Segment(sde, self.kind, start, here, tau)
            weights = [torch.zeros_like(times[:-1]) for _ in range(i + 1)]
            for j, weight in zip(uses, step.weights([known[j] for j in uses]), strict=True):
                weights[i - j] = weight
            p, q = self.kind.evaluation(known[-1].alpha, known[-1].sigma)
            known.append(here)
            noise = [
                Segment(sde, self.kind, before, after, tau).std()
                * Segment(sde, self.kind, after, here, tau).factor()
                for before, after in pairwise(known)
            ]
            stages.append(Stage(step.factor(), weights, noise, known[i].t, p, q))
        return tabulate(times, *stages)


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


def dpm_weights(segment: Segment, nodes: Sequence[Nodes]) -> list[Tensor]:
    """The weights of DPM-Solver++ 2M and 3M as published, of three libraries' code too.

        2M: W (k_0 + ½ D),   3M: W k_0 + W′ D_1 + ½ W″ D_2

    W, W′, W″ are the integrals of 1, u, u² with u the part of the step, D the first difference in
    u, D_1 and D_2 the first and second divided differences at the start of the step.

    Args:
        segment: Steps.
        nodes: Nodes of two or three evaluations, newest first.

    Reference: Lu et al. 2022, arXiv:2211.01095 (algorithm 2).
    """
    (whole,) = segment.weights(nodes[:1])
    h = segment.end.lam - segment.start.lam
    ratio = (nodes[0].lam - nodes[1].lam) / h
    if len(nodes) == 2:
        return [whole * (1 + 0.5 / ratio), -whole * 0.5 / ratio]
    older = (nodes[1].lam - nodes[2].lam) / h
    # Moments of u through the exact weights of a parabola: k = 1, u, u² at u = 0, −r, −r − r′.
    exact = segment.weights(nodes)
    second = -ratio - older
    first_moment = -exact[1] * ratio + exact[2] * second
    second_moment = exact[1] * ratio.square() + exact[2] * second.square()
    # Divided differences at 0 as weights of (k_0, k_1, k_2).
    span = ratio + older
    bend = (1 / (ratio * span), -1 / (ratio * older), 1 / (older * span))
    slope = (1 / ratio + ratio * bend[0], -1 / ratio + ratio * bend[1], ratio * bend[2])
    weights = [
        first_moment * d1 + 0.5 * second_moment * d2 for d1, d2 in zip(slope, bend, strict=True)
    ]
    return [whole + weights[0], *weights[1:]]


def choose_prediction(name: str) -> Prediction:
    """The prediction of a name.

    Raises:
        ValueError: Unknown name.
    """
    if name not in PREDICTIONS:
        raise ValueError(f"unknown prediction '{name}'. Available: {', '.join(PREDICTIONS)}")
    return PREDICTIONS[name]


def check_tau(tau: float, tau_range: tuple[float, float] | None) -> float:
    """Return τ, refusing one below 0, or an interval that is none.

    Raises:
        ValueError: τ is not finite and ≥ 0, or the interval is not 0 ≤ low < high.
    """
    if not 0 <= tau < float("inf"):
        raise ValueError(f"tau must be finite and ≥ 0, got {tau}")
    if tau_range is not None and not 0 <= tau_range[0] < tau_range[1]:
        raise ValueError(f"tau_range must be (low, high) with 0 ≤ low < high, got {tau_range}")
    return tau


def choose_tau(
    tau: float, tau_range: tuple[float, float] | None, start: Nodes, end: Nodes
) -> Tensor:
    """τ of each step: inside the interval, where the middle of the step in λ lies there."""
    low, high = tau_range or (0.0, float("inf"))
    middle = torch.exp(-0.5 * (start.lam + end.lam))
    return torch.where((middle >= low) & (middle <= high), tau, 0.0).double()


def _rule(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Points and weights of the quadrature between two columns, (N, Q) each."""
    half = 0.5 * (end - start)[:, None]
    return 0.5 * (start + end)[:, None] + half * _NODES, half * _WEIGHTS


def _variable(variable: str, t: Tensor, lam: Tensor) -> Tensor:
    if variable == "time":
        return t
    return torch.exp(-lam) if variable == "rho" else lam
