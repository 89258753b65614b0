"""Measure every conditional method against exact distributions, and write docs/conditioning.md.

python -m benchmarks.conditioning [--part PART]

Parts are `gaussian` (W₂ of the affine methods on Gaussian fields, without random numbers),
`mixtures` (samples of posteriors with several modes), `guidance`, `editing` and `figure`; each is
written into the page as soon as it is measured. All scores are exact, on one thread and in float64.
"""

import argparse

PARTS = ("gaussian", "mixtures", "guidance", "editing", "figure")


def arguments() -> argparse.Namespace:
    """The settings on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=PARTS, help="one part alone (all of them)")
    return parser.parse_args()


if __name__ == "__main__":  # --help is answered before torch is imported
    arguments()

import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.digits import ROOT
from benchmarks.plot import plot_posteriors
from benchmarks.posterior_closed_forms import editing, guidance
from benchmarks.posterior_methods import METHODS, SDE, Method
from benchmarks.posterior_moments import distance
from benchmarks.posteriors import PROBLEMS, Problem, floors, pooled_exactly, shares
from benchmarks.report import machine, replace_measured

PAGE = ROOT / "docs" / "conditioning.md"
NAMES = ("P0", "P1", "M0", "M1")
SIZES = {"P0": 2048, "P1": 2048, "M0": 1024, "M1": 1024}
RUNS = {"P0": 512, "P1": 512, "M0": 256, "M1": 256}  # of methods with particles
FIELDS = {"G0": PROBLEMS["G0"], "G1": PROBLEMS["G1"], "G2": pooled_exactly()}
STEPS = (20, 100, 400)
SHOWN = (
    "exact score of the posterior",
    "MMPS",
    "ΠGDM, published",
    "DDRM",
    "replacement",
    "RePaint, j 1, r 10",
    "TDS, 64 particles",
    "DAPS, covariance C",
)


def part(name: str) -> str:
    """The mark of a part in the page."""
    return f"<!-- measured: {name} -->\n"


def gaussian() -> str:
    """The table of W₂ on Gaussian fields."""
    columns = [f"{name}: {' / '.join(map(str, STEPS))}" for name in FIELDS]
    lines = [f"| method | {' | '.join(columns)} |", f"|---|{'---|' * len(FIELDS)}"]
    for method in tqdm([m for m in METHODS if m.affine], disable=None):
        cells = []
        for problem in FIELDS.values():
            found = [distance(method, problem, n) if method.takes(problem) else None for n in STEPS]
            cells.append(" / ".join(map(number, found)) if method.takes(problem) else "")
        lines.append(f"| {method.name} | {' | '.join(cells)} |")
        tqdm.write(lines[-1])
    return "\n".join(lines) + "\n"


def number(value: float | None) -> str:
    """A number of a table."""
    if value is None:
        return "–"
    return f"{value:.3f}" if value < 10 else f"{value:.0e}"


class Found(NamedTuple):
    """What is measured of a set of samples.

    Attributes:
        floors: Sliced W₂ in units of that between two exact sets of as many samples.
        mean: Distance of the means, in units of the posterior's √trace.
        share: Share of the first component.
        nfe, products: Evaluations and vector–Jacobian products of a sample.
        seconds: Processor time of the run.
    """

    floors: float
    mean: float
    share: float
    nfe: float
    products: float
    seconds: float


def sample(method: Method, problem: Problem, n: int, count: int) -> tuple[Tensor, Found]:
    """Samples of a method, (count, D), and what is measured of them."""
    run, begun = method.make(problem, n), time.process_time()
    with warnings.catch_warnings():  # samples that diverge are reported as such
        warnings.simplefilter("ignore")
        samples = run.sampler(
            SDE,
            run.score,
            (count, *problem.operator.shape),
            dtype=torch.float64,
            generator=torch.Generator().manual_seed(0),
            constraint=run.constraint,
        )
    seconds, x = time.process_time() - begun, samples.x.flatten(1)
    if not x.isfinite().all():
        nothing = torch.inf
        return x, Found(nothing, nothing, nothing, samples.nfe, samples.products, seconds)
    error = (x.mean(0) - problem.moments[0]).norm().item() / problem.size
    share = shares(x, problem)[0].item()
    away = floors(x, problem, SDE)
    return x, Found(away, error, share, samples.nfe, samples.products, seconds)


def size(method: Method, name: str) -> int:
    """Number of samples of a method on a problem."""
    return (SIZES if method.particles == 1 else RUNS)[name]


def mixtures() -> str:
    """The table of posteriors with several modes."""
    heads = [
        f"{name} ({PROBLEMS[name].posterior[0][0]:.3f}; {SIZES[name] ** -0.5:.3f})"
        for name in NAMES
    ]
    lines = [
        f"| method | N | evaluations + products | {' | '.join(heads)} | seconds |",
        f"|---|---:|---:|{'---|' * len(NAMES)}---:|",
    ]
    for method in tqdm(METHODS, disable=None):
        for n in method.lengths:
            taken = [name for name in NAMES if method.takes(PROBLEMS[name])]
            found = {
                name: sample(method, PROBLEMS[name], n, size(method, name))[1] for name in taken
            }
            lines.append(row(method, n, found))
            tqdm.write(lines[-1])
    return "\n".join(lines) + "\n"


def row(method: Method, n: int, found: dict[str, Found]) -> str:
    """A row of the table of mixtures."""
    cells = [
        f"{one.floors:.1f} / {one.mean:.3f} / {one.share:.3f}"
        if one is not None and one.floors < 1e3
        else ("" if one is None else "diverges")
        for one in (found.get(name) for name in NAMES)
    ]
    costs = dict.fromkeys(
        f"{one.nfe:.0f}" + (f" + {one.products:.0f}" if one.products else "")
        for one in found.values()
    )
    seconds = sum(one.seconds for one in found.values())
    return f"| {method.name} | {n} | {', '.join(costs)} | {' | '.join(cells)} | {seconds:.0f} |"


def figure() -> str:
    """The picture of samples on P0 and M0, with the exact densities."""
    panels = {
        name: {
            method.name: sample(method, PROBLEMS[name], 100, size(method, name))[0]
            for method in METHODS
            if method.name in SHOWN
        }
        for name in ("P0", "M0")
    }
    plot_posteriors(panels, PROBLEMS, ROOT / "docs" / "posteriors.png")
    return "![samples of posteriors, with their exact densities](posteriors.png)\n"


MEASURED: dict[str, Callable[[], str]] = {
    "gaussian": gaussian,
    "mixtures": mixtures,
    "guidance": guidance,
    "editing": editing,
    "figure": figure,
}


def main() -> None:
    """Measure the parts, each of which is then written into the page."""
    only = arguments().part
    torch.set_num_threads(1)
    for name in PARTS if only is None else (only,):
        begun = time.process_time()
        table = MEASURED[name]()
        seconds = time.process_time() - begun
        said = f"Written by `python -m benchmarks.conditioning` in {seconds:.0f} s on one of "
        text = table if name == "figure" else f"{said}{machine()}.\n\n{table}"
        replace_measured(PAGE, text, part(name))


if __name__ == "__main__":
    main()
