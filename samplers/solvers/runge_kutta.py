"""Runge–Kutta methods for the probability flow, in t or in σ/α, and EDM's with churn."""

from typing import NamedTuple

import torch
from torch import Tensor

from scoresde.sde import SDE
from scoresde.sde.checks import check_choice

from .plan import Plan, Stage, tabulate
from .segment import Nodes
from .solver import DenoisingSolver, Solver, up_to_data


class Tableau(NamedTuple):
    """An explicit Runge–Kutta method: stage j lies at the part c_j of a step.

    Attributes:
        a: Weights of the earlier evaluations in the state of each stage, the first stage's empty;
            their sum is c_j.
        b: Weights of the evaluations in the step.
    """

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]


TABLEAUS = {
    "euler": Tableau(((),), (1.0,)),
    "midpoint": Tableau(((), (1 / 2,)), (0.0, 1.0)),
    "heun": Tableau(((), (1.0,)), (1 / 2, 1 / 2)),
    "rk4": Tableau(((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}
"""Euler; the midpoint rule; Heun; Kutta's classical method (Hairer, Nørsett & Wanner 1993, II.1)"""


class RungeKutta(DenoisingSolver):
    """A classical Runge–Kutta method on the probability flow.

        in t:  dx/dt = f x − ½ g² s        in σ:  d(x/α)/d(σ/α) = ẑ = −σ s
        k_j = F(x + h Σ_i a_{ji} k_i, t + c_j h),   x′ = x + h Σ_j b_j k_j

    Args:
        method: `euler`, `midpoint`, `heun` or `rk4`.
        variable: `time` or `sigma`.

    Raises:
        ValueError: Unknown method or variable.

    Reference: Song et al. 2021, arXiv:2011.13456 (eq. 13); Karras et al. 2022, arXiv:2206.00364
    (eq. 4 and algorithm 1).
    """

    def __init__(self, method: str = "heun", variable: str = "time") -> None:
        check_choice("method", method, *TABLEAUS)
        check_choice("variable", variable, "time", "sigma")
        self.tableau, self.variable = TABLEAUS[method], variable

    def steps(self, sde: SDE, times: Tensor) -> Plan:
        if self.variable == "time":
            return self._in_time(sde, times)
        start, end = Nodes.at(sde, times[:-1]), Nodes.at(sde, times[1:])
        return tabulate(times, *sigma_stages(sde, self.tableau, start, end))

    def _in_time(self, sde: SDE, times: Tensor) -> Plan:
        t, h = times[:-1], times.diff()
        one = torch.ones_like(t)
        rows, stages = [*self.tableau.a[1:], self.tableau.b], list[Stage]()
        for here, row in zip(self.tableau.a, rows, strict=True):
            at = t + sum(here) * h
            weights = [h * weight for weight in reversed(row)]
            stages.append(Stage(one, weights, (), at, sde.f(at), -0.5 * sde.g(at).square()))
        return tabulate(times, *stages)


class EDMHeun(Solver):
    """Heun's method in σ with churn: each step first adds a little noise.

        σ̂ = (1 + γ) σ,   γ = min(churn/N, √2 − 1) where s_min ≤ σ ≤ s_max,
        x̂ = x + √(σ̂² − σ²) s_noise z,   then Heun from σ̂ to the next σ

    σ and x stand for σ/α and x/α, so that the method runs on every process. γ is smaller where σ̂
    would lie above σ(T). With churn 0 it is the paper's algorithm 1. A last step to noiseless data
    is the posterior mean.

    Args:
        churn: S_churn ≥ 0.
        s_min: Smallest σ/α that is churned.
        s_max: Largest σ/α that is churned.
        s_noise: Scale of the noise added.

    Raises:
        ValueError: A constant out of its range.

    Reference: Karras et al. 2022, arXiv:2206.00364 (algorithm 2).
    """

    def __init__(
        self,
        churn: float = 0.0,
        s_min: float = 0.0,
        s_max: float = float("inf"),
        s_noise: float = 1.0,
    ) -> None:
        if not 0 <= churn < float("inf"):
            raise ValueError(f"churn must be finite and ≥ 0, got {churn}")
        if not 0 <= s_min < s_max:
            raise ValueError(f"churn needs 0 ≤ s_min < s_max, got {s_min} and {s_max}")
        if not 0 <= s_noise < float("inf"):
            raise ValueError(f"s_noise must be finite and ≥ 0, got {s_noise}")
        self.churn, self.s_min, self.s_max, self.s_noise = churn, s_min, s_max, s_noise

    def plan(self, sde: SDE, times: Tensor) -> Plan:
        gamma = min(self.churn / (len(times) - 1), 2**0.5 - 1)

        def steps(sde: SDE, times: Tensor) -> Plan:
            start, end = Nodes.at(sde, times[:-1]), Nodes.at(sde, times[1:])
            if gamma == 0:
                return tabulate(times, *sigma_stages(sde, TABLEAUS["heun"], start, end))
            sigma = torch.exp(-start.lam)
            churned = (sigma >= self.s_min) & (sigma <= self.s_max)
            rise = (gamma * churned.double()).log1p()
            lowest = sde.half_log_snr(torch.tensor(sde.T, dtype=torch.float64))
            lam = torch.maximum(start.lam - rise, lowest)
            raised = Nodes.at(
                sde, torch.where(lam < start.lam, sde.time_of_half_log_snr(lam), start.t)
            )
            # σ̂² − σ², exactly 0 where nothing is raised.
            variance = sigma.square() * torch.expm1(2 * (start.lam - raised.lam))
            std = self.s_noise * raised.alpha * variance.sqrt()
            churn = Stage(raised.alpha / start.alpha, (), [std])
            heun = sigma_stages(sde, TABLEAUS["heun"], raised, end)
            return tabulate(times, churn, *(_after(churn, stage) for stage in heun))

        return up_to_data(sde, times, steps)


def sigma_stages(sde: SDE, tableau: Tableau, start: Nodes, end: Nodes) -> list[Stage]:
    """The stages of a Runge–Kutta method on d(x/α)/d(σ/α) = ẑ.

    Args:
        sde: Process.
        tableau: Method.
        start: Where the steps begin.
        end: Where they end.
    """
    first, last = torch.exp(-start.lam), torch.exp(-end.lam)
    places = [start, *(_between(sde, start, end, sum(row)) for row in tableau.a[1:])]
    rows, stages = [*tableau.a[1:], tableau.b], list[Stage]()
    for here, there, row in zip(places, [*places[1:], end], rows, strict=True):
        weights = [there.alpha * (last - first) * weight for weight in reversed(row)]
        ratio = there.alpha / start.alpha
        stages.append(Stage(ratio, weights, (), here.t, torch.zeros_like(first), -here.sigma))
    return stages


def _between(sde: SDE, start: Nodes, end: Nodes, part: float) -> Nodes:
    """The nodes at which σ/α has covered a part of the step."""
    if part == 1:
        return end
    sigma = torch.lerp(torch.exp(-start.lam), torch.exp(-end.lam), part)
    return Nodes.at(sde, sde.time_of_half_log_snr(-sigma.log()))


def _after(churn: Stage, stage: Stage) -> Stage:
    """A stage whose state x̂ is c x + d z, written in x and z."""
    return Stage(
        stage.x * churn.x, stage.k, [stage.x * d for d in churn.z], stage.t, stage.p, stage.q
    )
