"""The text of docs/solvers.md, and what is measured in other pages."""

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

_MARKS = ("<!-- measured -->\n", "<!-- end -->\n")
_HEAD = """Written by `python -m benchmarks.solvers` in {minutes:.0f} minutes on {machine}.
Two sets of {points} exact samples are {noise:.3f} apart, two sets of real digits {floor:.2f}.

![error against evaluations](solvers.png)

| solver | order | per step | W₂: {budgets} | digits: {budgets} |
|---|---|---|---|---|
"""


def machine() -> str:
    """The machine of a measurement, in words."""
    return f"{os.cpu_count()} CPU cores ({platform.machine()}), torch {torch.__version__}"


def write_report(
    rows: Sequence[Any],
    budgets: Sequence[int],
    noise: float,
    floor: float,
    seconds: float,
    path: Path,
) -> None:
    """Write the table of the measured rows between the two marks of a page.

    `noise` is W₂ between two sets of exact samples, and `floor` the Fréchet distance between two
    sets of real digits; the measurement took `seconds`.
    """
    named = " / ".join(str(budget) for budget in budgets)
    lines = [
        _HEAD.format(
            minutes=seconds / 60,
            machine=machine(),
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
    replace_measured(path, "".join(lines), _MARKS[0])


def replace_measured(path: Path, text: str, mark: str) -> None:
    """Write what was measured into a page, between a mark and the next end.

    Args:
        path: Markdown page.
        text: What was measured, which ends with a new line.
        mark: Line before it, an HTML comment.
    """
    head, rest = path.read_text().split(mark)
    tail = rest.partition(_MARKS[1])[2]
    path.write_text(head + mark + text + _MARKS[1] + tail)
