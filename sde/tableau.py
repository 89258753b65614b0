"""Embedded Runge–Kutta pairs, with which `integrate` takes steps and estimates their errors."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.integrate import DOP853, RK23, RK45


@dataclass(frozen=True)
class EmbeddedPair:
    """An explicit embedded Runge–Kutta pair whose last stage is the first of the next step.

    Args:
        c: Nodes of the stages after the first.
        a: Weights of the earlier stages in each of those stages; the last row is the solution.
        e: Weights of the difference between the solution and its embedded companion, up to sign.
        order: Power p of the step to which the estimated error of a step is proportional.
        e_coarse: Weights of the difference from a second companion of lower order, which improves
            the estimate; empty where there is none.
        frame_c: Nodes of the further stages of a step that has frames inside.
        frame_a: Weights of the earlier stages in each of those.
        frame_d: Weights of all stages in the terms of the interpolant after the cubic ones.
    """

    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    e: tuple[float, ...]
    order: int
    e_coarse: tuple[float, ...] = ()
    frame_c: tuple[float, ...] = ()
    frame_a: tuple[tuple[float, ...], ...] = ()
    frame_d: tuple[tuple[float, ...], ...] = ()


def _rows(weights: np.ndarray, first: int) -> tuple[tuple[float, ...], ...]:
    """Rows of a lower triangle, of which the first has `first` weights."""
    return tuple(tuple(row[: first + i].tolist()) for i, row in enumerate(weights))


def _stages(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> dict[str, Any]:
    """Stages of a SciPy pair in our form: without the first, and with the solution as the last."""
    return {"c": (*c[1:].tolist(), 1.0), "a": (*_rows(a[1:], 1), tuple(b.tolist()))}


BOGACKI_SHAMPINE = EmbeddedPair(
    **_stages(RK23.A, RK23.B, RK23.C), e=tuple(RK23.E.tolist()), order=3
)
"""Bogacki & Shampine 1989, a 3(2) pair of 3 evaluations a step, for loose tolerances."""

DORMAND_PRINCE = EmbeddedPair(**_stages(RK45.A, RK45.B, RK45.C), e=tuple(RK45.E.tolist()), order=5)
"""Dormand & Prince 1980, the 5(4) pair of 6 evaluations a step."""

# Its companions of orders 5 and 3 err by h⁶ and h⁴; combined as in `integrate`, h^(2·6 − 4) = h⁸.
# Its steps are so long that cubic frames would err by 1e-2; three more stages give order 7.
DORMAND_PRINCE_853 = EmbeddedPair(
    **_stages(DOP853.A, DOP853.B, DOP853.C),
    e=tuple(DOP853.E5.tolist()),
    order=8,
    e_coarse=tuple(DOP853.E3.tolist()),
    frame_c=tuple(DOP853.C_EXTRA.tolist()),
    frame_a=_rows(DOP853.A_EXTRA, len(DOP853.E5)),
    frame_d=tuple(tuple(row) for row in DOP853.D.tolist()),
)
"""Hairer, Nørsett & Wanner 1993 (II.5), an 8(5, 3) pair of 12 evaluations a step, for tight
tolerances."""

PAIRS = {"bosh3": BOGACKI_SHAMPINE, "dopri5": DORMAND_PRINCE, "dop853": DORMAND_PRINCE_853}
"""The pairs, by their names in the ODE sampler and the likelihood."""
