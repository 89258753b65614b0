"""PNDM: pseudo linear multistep sampling with a pseudo Runge–Kutta start-up."""

import torch
from torch import Tensor

from scoresde.sde import SDE

from .plan import Plan, Stage, tabulate
from .prediction import NoisePrediction
from .runge_kutta import TABLEAUS
from .segment import Nodes, Segment, adams
from .solver import DenoisingSolver

_KIND = NoisePrediction()


class PNDM(DenoisingSolver):
    """Pseudo numerical methods: classical weights around the transfer of DDIM.

        x_t = (α_t/α_s) x_s + W k,   W = −σ_t (e^{λ_t − λ_s} − 1)
        k = (k_1 + 2 k_2 + 2 k_3 + k_4)/6                         in the first three steps,
        k = (55 k_n − 59 k_{n−1} + 37 k_{n−2} − 9 k_{n−3})/24     in the others

    k_1 … k_4 are the noise predictions of a classical Runge–Kutta step, k_2 and k_3 at the middle
    of the step in t; k_n is that at the beginning of step n.

    Reference: Liu et al. 2022, arXiv:2202.09778 (algorithm 2).
    """

    _START = 3

    def steps(self, sde: SDE, times: Tensor) -> Plan:
        first = times[: self._START + 1]
        steps = self._start(sde, first)
        rest = times[self._START :]
        if len(rest) < 2:
            return steps
        whole, p, q, factor = self._transfer(sde, rest[:-1], rest[1:])
        columns = [torch.zeros_like(whole) for _ in range(4 * self._START + 1)]
        for n in range(len(whole)):
            for j, share in enumerate(adams(4)):
                # Of the four evaluations of a start-up step only the oldest lies on the path.
                lag = j if j <= n else n + 4 * (j - n)
                columns[lag][n] = whole[n] * share
        return steps + tabulate(rest, Stage(factor, columns, (), rest[:-1], p, q))

    def _start(self, sde: SDE, times: Tensor) -> Plan:
        t, t_next = times[:-1], times[1:]
        tableau = TABLEAUS["rk4"]
        rows, stages = [*tableau.a[1:], tableau.b], list[Stage]()
        for here, row in zip(tableau.a, rows, strict=True):
            at, to = torch.lerp(t, t_next, sum(here)), torch.lerp(t, t_next, sum(row))
            whole, _, _, factor = self._transfer(sde, t, to)
            p, q = _KIND.evaluation(sde.alpha(at), sde.sigma(at))
            weights = [whole * weight / sum(row) for weight in reversed(row)]
            stages.append(Stage(factor, weights, (), at, p, q))
        return tabulate(times, *stages)

    def _transfer(
        self, sde: SDE, start: Tensor, end: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """W, the evaluation's (p, q), and the weight of the state."""
        here = Nodes.at(sde, start)
        step = Segment(sde, _KIND, here, Nodes.at(sde, end), torch.zeros_like(start))
        (whole,) = step.weights([here])
        return whole, *_KIND.evaluation(here.alpha, here.sigma), step.factor()
