"""The page docs/solvers.md."""

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
the plane; the digits are 500 draws of one network trained by `experiments/run.py sde=vp`, in
float32.

- **Order**: slope of the error between 128, 256 and 512 steps; for an SDE the weak order, by W₂
  between the exact law of the run and p_eps. `pytest -m orders` measures it on five processes.
- **W₂** on the mixture at 5, 10, 20, 50 and 100 evaluations, between {points} ends and the exact
  ends of the same latents; where noise is drawn, and exact draws of other latents, of which two
  sets are {noise:.3f} apart by themselves. – where so few evaluations buy no step.
- **Digits**: squared Fréchet distance in the features of a classifier, at the same evaluations. Two
  sets of real digits are {floor:.2f} apart by themselves.

![error against evaluations](solvers.png)

| solver | order | per step | W₂: {budgets} | digits: {budgets} |
|---|---|---|---|---|
"""

_TAIL = """
What the table says:

- Order is not quality. At ten evaluations iPNDM, of order 2, beats most third orders, and with
  steps optimized for it (`sampler=fast`) it is among the best at five and ten, on the mixture and
  on digits.
- Most methods that take several evaluations a step, or that expand the noise to a high order, need
  twenty evaluations or more before they are any good.
- A third order that three popular libraries ship, DPM-Solver++ 3M, has order 2: half of its second
  difference is missing. Ours has order 3; `as_published=true` gives theirs.
- A multistep method lets its order fall in a step that is long beside those before it, where
  extrapolation multiplies errors. On steps equal in t, whose last steps are long in λ, that takes
  DPM-Solver++ 2M at 20 steps from an error of 0.125 to 0.047
  (`python -m benchmarks.diffusers_side_by_side`).
- Optimized steps are those on which the solver carries Gaussian data best; they know nothing of
  the mixture or the digits.
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
        noise: W₂ between two sets of exact draws.
        floor: Fréchet distance between two sets of real digits.
        seconds: How long the measurement took.
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
