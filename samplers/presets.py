"""The named fast samplers of the field, each a setting of the exponential engine.

| name                 | prediction | polynomial in | evaluations it remembers |
| DDIM                 | any        | –             | 1 |
| DPM-Solver-1, 2, 3   | noise      | λ             | within the step |
| DPM-Solver++ 2S, 2M, 3M | data    | λ             | within the step; 2; 3 |
| SDE-DPM-Solver++     | data, τ = 1 | λ            | 1 or 2 |
| UniPC-1, 2, 3        | data       | λ             | 1, 2, 3 and the corrected end |
| SA-Solver            | data, τ within limits | λ  | 3 and the corrected end |
| DEIS-tAB, DEIS-ρAB   | noise      | t, σ/α        | 1 to 4 |
| iPNDM                | noise      | step number   | 1 to 4 |
| LMS                  | noise      | σ/α           | 4 |

Each is the method of its paper on every grid, and its order falls at the end of a run where it does
in the authors' code. `dpmpp_3m_corrected` is ours.
"""

import math
from collections.abc import Callable
from typing import Any

from scoresde.sde.checks import check_choice, is_integer

from .solvers.exponential import ExponentialMultistep, ExponentialSinglestep
from .solvers.pndm import PNDM
from .solvers.predictors import DDIM
from .solvers.solver import Solver

_ALWAYS = 1_000_000  # steps: longer than any run


def _published(order: int, prediction: str, final: int = 0, **settings: Any) -> Solver:
    """A multistep method of a paper, which extrapolates however long a step is."""
    settings |= {"lower_order_final_below": final, "max_extrapolation": math.inf}
    return ExponentialMultistep(order, prediction, **settings)


def dpm_solver(order: int = 3) -> Solver:
    """Single-step DPM-Solver of order 1, 2 or 3 (Lu et al. 2022, arXiv:2206.00927)."""
    return ExponentialSinglestep(order, "noise")


def dpm_solver_pp_2s() -> Solver:
    """Single-step DPM-Solver++ of order 2 (Lu et al. 2022, arXiv:2211.01095, algorithm 1)."""
    return ExponentialSinglestep(2, "data")


def dpm_solver_pp(order: int = 3, lower_order_final_below: int = 15) -> Solver:
    """DPM-Solver++ 2M (Lu et al. 2022, arXiv:2211.01095, algorithm 2), or 3M of the authors' code.

    3M has half of its second difference only, and therefore order 2.

    Args:
        order: 2 or 3.
        lower_order_final_below: See `ExponentialMultistep`. The authors' code documents its
            `lower_order_final` for runs of fewer than 15 steps; algorithm 2 has 0.
    """
    _check_order(order, (2, 3))
    return _published(order, "data", lower_order_final_below, weights="dpmpp")


def dpm_solver_pp_3m_corrected() -> Solver:
    """DPM-Solver++ 3M with the whole of its second difference, and therefore order 3: ours.

    Its weights are those of UniPC-3 without the corrector. With its third order, letting the order
    fall at the end pays only in runs of fewer than 8 steps.
    """
    return ExponentialMultistep(3, "data", weights="bh2", lower_order_final_below=8)


def sde_dpm_solver_pp(order: int = 2, lower_order_final_below: int = 15) -> Solver:
    """SDE-DPM-Solver++ of order 1 or 2 (Lu et al. 2022, arXiv:2211.01095, section 5).

    `lower_order_final_below` is that of `dpm_solver_pp`.
    """
    _check_order(order, (1, 2))
    return _published(order, "data", lower_order_final_below, tau=1.0, weights="dpmpp")


def unipc(order: int = 3, variant: str = "bh2", lower_order_final_below: int = _ALWAYS) -> Solver:
    """UniPC of order 1, 2 or 3 (Zhao et al. 2023, arXiv:2302.04867, algorithms 1 and 2).

    With its corrector, order p converges like h^{p+1} where the order does not fall at the end.

    Args:
        order: 1, 2 or 3.
        variant: `bh1` for B_1(h) = h, `bh2` for B_2(h) = e^h − 1.
        lower_order_final_below: See `ExponentialMultistep`. The authors' code lets the order of
            every run fall, which limits p = 3 to order 2; the algorithms have 0.
    """
    _check_order(order, (1, 2, 3))
    check_choice("variant", variant, "bh1", "bh2")
    return _published(order, "data", lower_order_final_below, corrector=True, weights=variant)


def sa_solver(tau: float = 1.0, low: float = 0.05, high: float = 1.0) -> Solver:
    """SA-Solver with noise where σ/α lies in [low, high] (Xue et al. 2023, arXiv:2309.05019)."""
    return _published(3, "data", _ALWAYS, corrector=True, tau=tau, tau_range=(low, high))


def deis(order: int = 3, variable: str = "time") -> Solver:
    """DEIS (Zhang & Chen 2022, arXiv:2204.13902).

    Args:
        order: Evaluations of the polynomial, 1 to 4: one more than the paper's degree.
        variable: `time` for the paper's tAB, `rho` for its ρAB; `lambda` is log ρ, which is not in
            the paper but in diffusers, with a falling order in runs of fewer than 15 steps.
    """
    return _published(order, "noise", 15 if variable == "lambda" else 0, variable=variable)


def ipndm(order: int = 4) -> Solver:
    """Improved PNDM without a start-up (Zhang & Chen 2022, arXiv:2204.13902, appendix H)."""
    return _published(order, "noise", variable="index")


def lms(order: int = 4) -> Solver:
    """Linear multistep in σ/α: Adams–Bashforth on the flow of Karras et al. 2022, as ρAB is."""
    return deis(order, "rho")


def _check_order(order: int, allowed: tuple[int, ...]) -> None:
    if not is_integer(order) or order not in allowed:
        raise ValueError(f"order must be one of {', '.join(map(str, allowed))}, got {order!r}")


PRESETS: dict[str, Callable[[], Solver]] = {
    "ddim": DDIM,
    "dpm_solver_1": lambda: dpm_solver(1),
    "dpm_solver_2": lambda: dpm_solver(2),
    "dpm_solver_3": lambda: dpm_solver(3),
    "dpmpp_2s": dpm_solver_pp_2s,
    "dpmpp_2m": lambda: dpm_solver_pp(2),
    "dpmpp_3m": lambda: dpm_solver_pp(3),
    "dpmpp_3m_corrected": dpm_solver_pp_3m_corrected,
    "sde_dpmpp_1": lambda: sde_dpm_solver_pp(1),
    "sde_dpmpp_2m": lambda: sde_dpm_solver_pp(2),
    "unipc_1": lambda: unipc(1),
    "unipc_2": lambda: unipc(2),
    "unipc_3": lambda: unipc(3),
    "sa_solver": sa_solver,
    "deis_2": lambda: deis(2),
    "deis_3": lambda: deis(3),
    "deis_4": lambda: deis(4),
    "deis_log_rho_2": lambda: deis(2, "lambda"),
    "deis_log_rho_3": lambda: deis(3, "lambda"),
    "ipndm_2": lambda: ipndm(2),
    "ipndm_3": lambda: ipndm(3),
    "ipndm_4": lambda: ipndm(4),
    "pndm": PNDM,
    "lms_4": lms,
}
"""Every named sampler with its defaults."""
