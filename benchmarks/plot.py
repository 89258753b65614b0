"""Pictures of the documentation: errors of solvers, and samples of posteriors."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import torch
from torch import Tensor

from benchmarks.posteriors import Problem

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


def plot_posteriors(
    panels: Mapping[str, Mapping[str, Tensor]], problems: Mapping[str, Problem], path: Path
) -> None:
    """Plot samples of posteriors along the line through their two largest modes.

    Args:
        panels: Samples (n, D) of each method, for each of the problems.
        problems: The problems by their names.
        path: PNG to write.
    """
    width = max(map(len, panels.values()))
    figure, axes = plt.subplots(
        len(panels), width, figsize=(2.3 * width, 2.2 * len(panels)), squeeze=False
    )
    for row, (name, methods) in zip(axes, panels.items(), strict=True):
        weights, means, covariances = problems[name].posterior
        first, second = means[weights.argsort(descending=True)[:2]]
        axis = (second - first) / (second - first).norm()
        spread = torch.einsum("i,kij,j->k", axis, covariances, axis).clamp(min=0).sqrt()
        centres = means @ axis
        seen = weights > 1e-3
        low = (centres - 4 * spread)[seen].min().item()
        high = (centres + 4 * spread)[seen].max().item()
        u = torch.linspace(low, high, 400, dtype=torch.float64)
        z = (u[:, None] - centres) / spread
        density = (weights * torch.exp(-0.5 * z.square()) / spread).sum(1) / math.sqrt(2 * math.pi)
        for place, (method, x) in zip(row, methods.items(), strict=False):
            place.hist((x @ axis).numpy(), 40, (low, high), density=True, color="#9ecae1")
            place.plot(u, density, color="#22303c", lw=1.2)
            place.set_title(method.replace(" of the posterior", ""), fontsize=8)
            place.set(xlim=(low, high), ylim=(0, 1.5 * density.max().item()), yticks=[])
            place.tick_params(labelsize=7)
        row[0].set_ylabel(name)
    for place in axes[-1]:
        place.set_xlabel("position between the modes", fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
