"""The text of docs/solvers.md."""

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

_HEAD = """# Solvers, measured

Written by `python -m benchmarks.solvers` in {minutes:.0f} minutes on {machine}.
All solvers follow VP (β from 0.1 to 20) from t = 1 to 10⁻³ on steps equal in λ = log(α/σ), unless
their steps are optimized for them, in float64 with the exact score of three unequal Gaussians in
the plane; the digits are 500 samples of one network trained by `experiments/run.py sde=vp`, in
float32.

- **Order**: slope of the error between 128, 256 and 512 steps; for an SDE the weak order, by W₂
  between the exact distribution of the run and p_eps. `pytest -m orders` measures it on five
  processes.
- **W₂** on the mixture at 5, 10, 20, 50 and 100 evaluations, between {points} ends and the exact
  ends of the same latents, or for an SDE the exact ends of other latents; two such sets are
  {noise:.3f} apart. A dash means too few evaluations for one step.
- **Digits**: squared Fréchet distance in the features of a classifier, at the same evaluations. Two
  sets of real digits are {floor:.2f} apart.

![error against evaluations](solvers.png)

| solver | order | per step | W₂: {budgets} | digits: {budgets} |
|---|---|---|---|---|
"""

_TAIL = """
Results:

- Order is not quality. At ten evaluations iPNDM, of order 2, beats most third orders, and with
  steps optimized for it (`sampler=fast`) it is among the best at five and ten, on the mixture and
  on digits.
- Most methods that take several evaluations per step, or that expand the noise to a high order,
  are accurate only from twenty evaluations on.
- A third order that three popular libraries ship, DPM-Solver++ 3M, has order 2: half of its second
  difference is missing. Ours has order 3; `as_published=true` gives theirs.
- A multistep method lowers its order in a step that is long compared with those before it, where
  extrapolation multiplies errors. On steps equal in t, whose last steps are long in λ, that reduces
  the error of DPM-Solver++ 2M at 20 steps from 0.125 to 0.047
  (`python -m benchmarks.diffusers_side_by_side`).
- Optimized steps are those with the smallest error of the solver on Gaussian data; they do not
  depend on the mixture or the digits.
"""


def write_report(
    rows: Sequence[Any],
    budgets: Sequence[int],
    noise: float,
    floor: float,
    seconds: float,
    path: Path,
) -> None:
    """Write the page.

    Args:
        rows: Measured rows.
        budgets: Budgets of evaluations.
        noise: W₂ between two sets of exact samples.
        floor: Fréchet distance between two sets of real digits.
        seconds: Duration of the measurement.
        path: Markdown file to write.
    """
    named = " / ".join(str(budget) for budget in budgets)
    machine = f"{os.cpu_count()} CPU cores ({platform.machine()}), torch {torch.__version__}"
    lines = [
        _HEAD.format(
            minutes=seconds / 60,
            machine=machine,
            points=1000,
            noise=noise,
            floor=floor,
            budgets=named,
        )
    ]
    for row in rows:
        order = "–" if row.order is None else f"{row.order:.2f}"
        wasserstein = " / ".join("–" if v is None else f"{v:.2g}" for v in row.wasserstein)
        quality = " / ".join("–" if v is None else f"{v:.2f}" for v in row.quality)
        cells = (row.entry.name, order, str(row.entry.per_step), wasserstein, quality)
        lines.append(f"| {' | '.join(cells)} |\n")
    path.write_text("".join(lines) + _TAIL)
