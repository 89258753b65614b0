"""The named fast samplers of the field, each a setting of the exponential engine.

| name                 | prediction | polynomial in | evaluations it remembers |
| DDIM                 | any        | –             | 1 |
| DPM-Solver-1, 2, 3   | noise      | λ             | within the step |
| DPM-Solver++ 2S, 2M, 3M | data    | λ             | within the step; 2; 3 |
| SDE-DPM-Solver++     | data, τ = 1 | λ            | 1 or 2 |
| UniPC-1, 2, 3        | data       | λ             | 1, 2, 3 and the corrected end |
| SA-Solver            | data, τ within limits | λ  | 3 and the corrected end |
| DEIS-tAB             | noise      | t             | 1 to 4 |
| iPNDM                | noise      | step number   | 1 to 4 |
| LMS                  | noise      | σ/α           | 4 |
"""

from collections.abc import Callable

from scoresde.sde.checks import is_integer

from .solvers.exponential import ExponentialMultistep, ExponentialSinglestep
from .solvers.pndm import PNDM
from .solvers.predictors import DDIM
from .solvers.solver import Solver

_ALWAYS = 1_000_000  # steps: longer than any run


def ddim(eta: float = 0.0) -> Solver:
    """DDIM of any η (Song, Meng & Ermon 2021, arXiv:2010.02502)."""
    return DDIM(eta)


def dpm_solver(order: int = 3) -> Solver:
    """Single-step DPM-Solver of order 1, 2 or 3 (Lu et al. 2022, arXiv:2206.00927)."""
    return ExponentialSinglestep(order, "noise")


def dpm_solver_pp_2s() -> Solver:
    """Single-step DPM-Solver++ of order 2 (Lu et al. 2022, arXiv:2211.01095, algorithm 1)."""
    return ExponentialSinglestep(2, "data")


def dpm_solver_pp(order: int = 3, as_published: bool = False) -> Solver:
    """DPM-Solver++ 2M or 3M (Lu et al. 2022, arXiv:2211.01095, algorithm 2).

    Args:
        order: 2 or 3.
        as_published: Give 3M the published weights, which other libraries ship, and which miss
            its third order.
    """
    _check_order(order, (2, 3))
    weights = "dpmpp-published" if as_published else "dpmpp"
    # Where 3M has its third order, letting it fall at the end pays only in the shortest runs.
    settle = 8 if order == 3 and not as_published else 15
    return ExponentialMultistep(order, "data", weights=weights, settle_below=settle)


def sde_dpm_solver_pp(order: int = 2) -> Solver:
    """SDE-DPM-Solver++ of order 1 or 2 (Lu et al. 2022, arXiv:2211.01095, section 5)."""
    _check_order(order, (1, 2))
    return ExponentialMultistep(order, "data", tau=1.0, weights="dpmpp", settle_below=15)


def unipc(order: int = 3) -> Solver:
    """UniPC of order 1, 2 or 3 (Zhao et al. 2023, arXiv:2302.04867, algorithms 1 and 2).

    With its corrector order p converges like h^{p+1}. Other libraries let the order fall at the end
    of every run, which is free for p = 2, but limits p = 3 to order 2: here only short runs do.
    """
    _check_order(order, (1, 2, 3))
    weights, settle = {1: ("exact", 0), 2: ("dpmpp", _ALWAYS), 3: ("dpmpp", 25)}[order]
    return ExponentialMultistep(order, "data", corrector=True, weights=weights, settle_below=settle)


def sa_solver(tau: float = 1.0, low: float = 0.05, high: float = 1.0) -> Solver:
    """SA-Solver with noise where σ/α lies in [low, high] (Xue et al. 2023, arXiv:2309.05019)."""
    return ExponentialMultistep(3, "data", corrector=True, tau=tau, tau_range=(low, high))


def deis(order: int = 3, variable: str = "lambda") -> Solver:
    """DEIS (Zhang & Chen 2022, arXiv:2204.13902).

    Args:
        order: Evaluations of the polynomial, 1 to 4: the paper's degree and one.
        variable: `lambda` for log ρ, as other libraries have it; `time` for the paper's tAB.
    """
    settle = 15 if variable == "lambda" else 0
    return ExponentialMultistep(order, "noise", variable=variable, settle_below=settle)


def ipndm(order: int = 4) -> Solver:
    """Improved PNDM without a start-up (Zhang & Chen 2022, arXiv:2204.13902, appendix H)."""
    return ExponentialMultistep(order, "noise", variable="index")


def lms(order: int = 4) -> Solver:
    """Linear multistep in σ/α (Karras et al. 2022's flow with Adams–Bashforth of any steps)."""
    return ExponentialMultistep(order, "noise", variable="rho")


def pndm() -> Solver:
    """PNDM with its Runge–Kutta start-up (Liu et al. 2022, arXiv:2202.09778)."""
    return PNDM()


def _check_order(order: int, allowed: tuple[int, ...]) -> None:
    if not is_integer(order) or order not in allowed:
        raise ValueError(f"order must be one of {', '.join(map(str, allowed))}, got {order!r}")


PRESETS: dict[str, Callable[[], Solver]] = {
    "ddim": ddim,
    "dpm_solver_1": lambda: dpm_solver(1),
    "dpm_solver_2": lambda: dpm_solver(2),
    "dpm_solver_3": lambda: dpm_solver(3),
    "dpmpp_2s": dpm_solver_pp_2s,
    "dpmpp_2m": lambda: dpm_solver_pp(2),
    "dpmpp_3m": lambda: dpm_solver_pp(3),
    "dpmpp_3m_published": lambda: dpm_solver_pp(3, True),
    "sde_dpmpp_1": lambda: sde_dpm_solver_pp(1),
    "sde_dpmpp_2m": lambda: sde_dpm_solver_pp(2),
    "unipc_1": lambda: unipc(1),
    "unipc_2": lambda: unipc(2),
    "unipc_3": lambda: unipc(3),
    "sa_solver": sa_solver,
    "deis_2": lambda: deis(2),
    "deis_3": lambda: deis(3),
    "deis_4": lambda: deis(4),
    "deis_tab_3": lambda: deis(3, "time"),
    "ipndm_2": lambda: ipndm(2),
    "ipndm_3": lambda: ipndm(3),
    "ipndm_4": lambda: ipndm(4),
    "pndm": pndm,
    "lms_4": lms,
}
"""Every named sampler with its defaults."""
