"""Measure every solver and write docs/solvers.md and its plot.

python -m benchmarks.solvers [--run FOLDER]

FOLDER is a run of `experiments/run.py sde=vp` on the digits; without it one is trained first, which
takes two minutes on two cores.
"""

import argparse
from pathlib import Path


def arguments() -> argparse.Namespace:
    """The settings on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="run folder with a model of the digits on VP")
    return parser.parse_args()


if __name__ == "__main__":  # --help is answered before torch is imported
    arguments()

import statistics
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from tqdm import tqdm

from benchmarks.catalogue import ENTRIES, Entry
from benchmarks.convergence import run, slopes, weak_error
from benchmarks.digits import Digits
from benchmarks.plot import plot_errors
from benchmarks.problem import Problem, mixture
from benchmarks.report import write_report
from scoresde.samplers import Sampler
from scoresde.sde import SDE, VP

ROOT = Path(__file__).resolve().parents[1]
BUDGETS = (5, 10, 20, 50, 100)
POINTS = 1000  # latents of the mixture; their matching takes a tenth of a second


@dataclass
class Row:
    """The measurements of one solver.

    Attributes:
        entry: Solver.
        order: Order of convergence: of the ends for a flow, weak for an SDE.
        nfe: Evaluations used for each budget.
        wasserstein: W₂ from the exact ends on the mixture, for each budget.
        error: Mean distance from the exact ends, for each budget; None where noise is drawn.
        quality: Fréchet distance of digits, for each budget.
    """

    entry: Entry
    order: float | None = None
    nfe: list[float | None] = field(default_factory=list)
    wasserstein: list[float | None] = field(default_factory=list)
    error: list[float | None] = field(default_factory=list)
    quality: list[float | None] = field(default_factory=list)


def wasserstein(x: Tensor, y: Tensor) -> float:
    """W₂ between two sets of the same number of points, by their optimal matching."""
    cost = torch.cdist(x.double(), y.double()).square().numpy()
    return float(np.sqrt(cost[linear_sum_assignment(cost)].mean()))


def measure_order(entry: Entry) -> float | None:
    """Median slope between 128, 256 and 512 steps on VP; None for optimized steps."""
    if entry.optimized:
        return None
    solver = entry.solver()
    if entry.stochastic:
        return statistics.median(slopes([weak_error(solver, VP(), n) for n in (128, 256, 512)]))
    case = mixture(48)
    ends = [run(solver, case.sde, case.score, case.latents, n) for n in (128, 256, 512)]
    return statistics.median(slopes([case.error(x) for x in ends]))


def measure(entry: Entry, problem: Problem, floor: Tensor, digits: Digits) -> Row:
    """Run a solver with every budget on the mixture and on the digits."""
    row = Row(entry, measure_order(entry))
    for budget in BUDGETS:
        sampler = entry.sampler(budget)
        if sampler is None or not _fits(sampler, problem.sde):
            for column in (row.nfe, row.wasserstein, row.error, row.quality):
                column.append(None)
            continue
        generator = torch.Generator().manual_seed(1)
        x_init, shape = problem.latents, tuple(problem.latents.shape)
        samples = sampler(problem.sde, problem.score, shape, x_init=x_init, generator=generator)
        row.nfe.append(samples.nfe)
        # An SDE solver does not end where the flow does: it is compared with other exact samples.
        row.wasserstein.append(wasserstein(samples.x, floor if entry.stochastic else problem.ends))
        row.error.append(None if entry.stochastic else problem.error(samples.x))
        row.quality.append(digits.frechet(sampler))
    return row


def _fits(sampler: Sampler, sde: SDE) -> bool:
    """Whether the steps are not too long for the solver on a process."""
    try:
        sampler.check(sde, torch.float32)
    except ValueError:
        return False
    return True


def main() -> None:
    """Measure, then write the page and the picture."""
    folder = arguments().run
    begun = time.perf_counter()
    digits, problem = Digits.of(folder), mixture(POINTS)
    floor = mixture(POINTS, seed=1).ends
    rows = [measure(e, problem, floor, digits) for e in tqdm(ENTRIES, disable=None)]
    noise = wasserstein(problem.ends, floor)
    plot_errors(rows, BUDGETS, ROOT / "docs" / "solvers.png")
    seconds = time.perf_counter() - begun
    write_report(rows, BUDGETS, noise, digits.floor, seconds, ROOT / "docs" / "solvers.md")


if __name__ == "__main__":
    main()
