"""Error against evaluations, for all solvers in one picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def plot_errors(rows: Sequence[Any], budgets: Sequence[int], path: Path) -> None:
    """Draw two panels: flows by the distance of their ends, SDE solvers by W₂.

    Args:
        rows: Measured rows, with `entry`, `nfe`, `error` and `wasserstein`.
        budgets: Budgets of evaluations.
        path: PNG to write.
    """
    figure, axes = plt.subplots(1, 2, figsize=(14, 7), sharex=True)
    titles = ("probability flow: mean distance from the exact ends", "SDE: W₂ from exact draws")
    for axis, stochastic, title in zip(axes, (False, True), titles, strict=True):
        chosen = [row for row in rows if row.entry.stochastic is stochastic]
        for i, row in enumerate(chosen):
            values = row.wasserstein if stochastic else row.error
            points = [(n, v) for n, v in zip(row.nfe, values, strict=True) if n and v]
            style = ("-", "--", ":")[i // 10 % 3]
            width = 2.5 if row.entry.optimized else 1.2
            axis.plot(*zip(*points, strict=True), style, lw=width, color=f"C{i % 10}")
            last = points[-1]
            axis.annotate(row.entry.name, last, xytext=(4, 0), textcoords="offset points", size=6)
        axis.set(xscale="log", yscale="log", xlabel="evaluations", title=title)
        axis.set_xticks(budgets, [str(budget) for budget in budgets])
        axis.set_xlim(budgets[0] * 0.9, budgets[-1] * 2.6)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
