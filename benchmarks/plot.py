"""Error against evaluations, for all solvers in one picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def plot_errors(rows: Sequence[Any], budgets: Sequence[int], path: Path) -> None:
    """Plot measured rows in two panels: flows by the distance of their ends, SDE solvers by W₂."""
    figure, axes = plt.subplots(1, 2, figsize=(17, 7), sharex=True)
    titles = ("probability flow: mean distance from the exact ends", "SDE: W₂ from exact samples")
    for axis, stochastic, title in zip(axes, (False, True), titles, strict=True):
        chosen = [row for row in rows if row.entry.stochastic is stochastic]
        for i, row in enumerate(chosen):
            values = row.wasserstein if stochastic else row.error
            points = [(n, v) for n, v in zip(row.nfe, values, strict=True) if n and v]
            style = ("-", "--", ":")[i // 10 % 3]
            width = 2.5 if row.entry.optimized else 1.2
            color, name = f"C{i % 10}", row.entry.name
            axis.plot(*zip(*points, strict=True), style, lw=width, color=color, label=name)
        axis.set(xscale="log", yscale="log", xlabel="evaluations", title=title)
        axis.set_xticks(budgets, [str(budget) for budget in budgets])
        axis.set_xlim(budgets[0] * 0.95, budgets[-1] * 1.05)
        axis.set_ylim(top=3)  # with very few steps the error can be of any size
        axis.grid(alpha=0.3)
        axis.legend(fontsize=6.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
