"""The exponential engine: Adams and Runge–Kutta methods over λ for any process.

Every method here is a choice of the nodes through which a prediction of noise, data or v is taken
to be a polynomial in λ; `segment.py` turns nodes into weights.
"""

from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from scoresde.sde import SDE
from scoresde.sde.checks import check_choice, check_count, check_switch, is_integer

from .plan import Plan, Stage, tabulate
from .prediction import PREDICTIONS
from .segment import VARIABLES, Nodes, Segment, adams, halved_difference, third_order_of_dpm
from .solver import DenoisingSolver


class ExponentialMultistep(DenoisingSolver):
    """Exponential Adams methods: one evaluation a step, and those of the steps before.

        x_t = e^{A_s − A_t} (m_t/m_s) x_s + Σ_j W_j k_j + std z          (`segment.py`)

    Of data predictions k with `weights="dpmpp"`, order 2 is DPM-Solver++ 2M (algorithm 2):

        x_t = (σ_t/σ_s) x_s − α_t (e^{−h} − 1) [(1 + 1/2r) k_0 − 1/2r k_1],   h = λ_t − λ_s,
        r = (λ_s − λ_{s−1})/h, where k_1 is the evaluation of the step before.

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
        weights: `exact` for the integrals of the polynomials; `bh1` or `bh2` for UniPC, which has
            ½ B D for the first difference in steps of two evaluations; `dpmpp` for DPM-Solver++,
            whose 3M has half of the second difference too, and therefore order 2.
        lower_order_final_below: Runs of fewer steps than this end with steps of falling order, the
            last of which has order 1; 0 for none.
        max_extrapolation: Largest Σ|W_j|/|Σ W_j| of a step, in units of that of equal steps. The
            order falls in a step that is longer. None for the prediction's own bound, 1.5 of data
            and 4 of noise and v; infinity for none.

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
        lower_order_final_below: int = 0,
        max_extrapolation: float | None = None,
    ) -> None:
        if not is_integer(order) or order not in (1, 2, 3, 4):
            raise ValueError(f"order must be 1, 2, 3 or 4, got {order!r}")
        check_choice("variable", variable, *VARIABLES)
        check_choice("weights", weights, "exact", "dpmpp", "bh1", "bh2")
        if weights != "exact" and variable != "lambda":
            raise ValueError(f"weights={weights} needs variable=lambda, got variable={variable}")
        self.order = int(order)
        self.kind = PREDICTIONS[check_choice("prediction", prediction, *PREDICTIONS)]
        self.corrector = check_switch(corrector, "corrector")
        self.tau, self.tau_range = check_tau(tau, tau_range), tau_range
        self.variable, self.weights = variable, weights
        self.lower_order_final_below = check_count(
            "lower_order_final_below", lower_order_final_below, 0
        )
        own = self.kind.max_extrapolation
        self.max_extrapolation = own if max_extrapolation is None else max_extrapolation
        if not self.max_extrapolation >= 1:
            raise ValueError(f"max_extrapolation must be ≥ 1, got {max_extrapolation}")

    def steps(self, sde: SDE, times: Tensor) -> Plan:
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

        def steps(part: slice, *, begins: bool, corrects: bool) -> Plan:
            """Steps that evaluate at their beginning, at their end, or both."""
            here = slice(part.start, part.stop + 1)
            stage = Stage(factor[part], [w[part] for w in predict], [std[part]])
            stages = [replace(stage, t=times[part], p=p[part], q=q[part]) if begins else stage]
            if corrects:
                weights = [w[part] for w in correct]
                ahead = slice(part.start + 1, part.stop + 1)
                stages.append(
                    Stage(factor[part], weights, [std[part]], times[ahead], p[ahead], q[ahead])
                )
            return tabulate(times[here], *stages)

        first = steps(slice(0, 1), begins=True, corrects=True)
        inner = steps(slice(1, n - 1), begins=False, corrects=True)
        return first + inner + steps(slice(n - 1, n), begins=False, corrects=False)

    def _columns(self, sde: SDE, nodes: Nodes, tau: Tensor, ahead: int) -> list[Tensor]:
        """Weights of each step, newest evaluation first, (N,) each; `ahead` 1 for the corrector."""
        n = len(nodes.t) - 1
        columns = torch.zeros(self.order + ahead, n, dtype=torch.float64)
        trusted, highest = torch.zeros(n), torch.full((n,), self.order)
        if n < self.lower_order_final_below:
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
            taken &= spread <= self.max_extrapolation * usual
            for j, weight in enumerate(weights):
                columns[j, rows] = torch.where(taken, weight, columns[j, rows])
            trusted[rows] += taken
        return list(columns)

    def _weights(self, segment: Segment, behind: list[Nodes], ahead: int) -> list[Tensor]:
        """Weights of steps of one order, newest evaluation first."""
        if self.weights != "exact" and len(behind) + ahead == 2:
            return halved_difference(segment, behind, ahead, linear=self.weights == "bh1")
        if self.weights == "dpmpp" and len(behind) == 3 and not ahead:
            return third_order_of_dpm(segment, behind)
        return segment.weights([segment.end, *behind] if ahead else behind, self.variable)


_SCHEMES: dict[int, tuple[tuple[float, tuple[int, ...]], ...]] = {
    1: ((1.0, (0,)),),
    2: ((1 / 2, (0,)), (1.0, (1,))),
    3: ((1 / 3, (0,)), (2 / 3, (0, 1)), (1.0, (0, 2))),
}
"""Each stage of a step: where it ends, and through which evaluations its polynomial goes."""


class ExponentialSinglestep(DenoisingSolver):
    """Exponential Runge–Kutta methods: one to three evaluations within each step, and no memory.

        u = (α_m/α_s) x_s − σ_m (e^{h/2} − 1) ẑ(x_s),   x_t = (α_t/α_s) x_s − σ_t (e^h − 1) ẑ(u)

    is order 2 of noise predictions ẑ (DPM-Solver-2, algorithm 1), m the middle, h = λ_t − λ_s.
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
        self.order = int(order)
        self.kind = PREDICTIONS[check_choice("prediction", prediction, *PREDICTIONS)]
        self.tau, self.tau_range = check_tau(tau, tau_range), tau_range

    def steps(self, sde: SDE, times: Tensor) -> Plan:
        start, end = Nodes.at(sde, times[:-1]), Nodes.at(sde, times[1:])
        tau = choose_tau(self.tau, self.tau_range, start, end)
        known, stages = [start], list[Stage]()
        for i, (r, uses) in enumerate(_SCHEMES[self.order]):
            if r == 1:
                here = end
            else:
                here = Nodes.at(sde, sde.time_of_half_log_snr(torch.lerp(start.lam, end.lam, r)))
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


def check_tau(tau: float, tau_range: tuple[float, float] | None) -> float:
    """Return τ, refusing one below 0, or an interval that is none.

    Raises:
        ValueError: τ is not finite and ≥ 0, or the interval is not 0 ≤ low < high.
    """
    if not 0 <= tau < float("inf"):
        raise ValueError(f"tau must be finite and ≥ 0, got {tau}")
    pair = tau_range is None or (isinstance(tau_range, tuple | list) and len(tau_range) == 2)
    if not pair or (tau_range is not None and not 0 <= tau_range[0] < tau_range[1]):
        raise ValueError(f"tau_range must be (low, high) with 0 ≤ low < high, got {tau_range}")
    return tau


def choose_tau(
    tau: float, tau_range: tuple[float, float] | None, start: Nodes, end: Nodes
) -> Tensor:
    """τ of each step: inside the interval, where the middle of the step in λ lies there."""
    low, high = tau_range or (0.0, float("inf"))
    middle = torch.exp(-0.5 * (start.lam + end.lam))
    return tau * ((middle >= low) & (middle <= high)).double()
