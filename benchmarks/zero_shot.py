"""Super-resolution and inpainting of digits by an unconditional model, in docs/conditioning.md.

python -m benchmarks.zero_shot [--run FOLDER] [--images N] [--samples K]

FOLDER is a run of `experiments/run.py sde=vp` on the digits; without it one is trained first. Each
of N test images is measured by 2 × 2 and 4 × 4 pooling with noise, and by a mask that knows its
upper half, and K samples of each posterior are compared with the image.
"""

import argparse
from pathlib import Path


def arguments() -> argparse.Namespace:
    """The settings on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="run folder with a model of the digits on VP")
    parser.add_argument("--images", type=int, default=32, help="test images (32)")
    parser.add_argument("--samples", type=int, default=8, help="samples of each posterior (8)")
    return parser.parse_args()


if __name__ == "__main__":  # --help is answered before torch is imported
    arguments()

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from benchmarks.digits import ROOT, load_digits, train_digits
from benchmarks.report import machine, replace_measured
from scoresde.conditioning import (
    DAPS,
    DDNM,
    DDRM,
    MMPS,
    TDS,
    DiffPIR,
    DPSSampler,
    Mask,
    Measurement,
    PiGDM,
    PiGDMSampler,
    PosteriorMethod,
    PosteriorScore,
    RePaint,
    Replacement,
    SplitGibbs,
)
from scoresde.conditioning.measurements import AveragePooling
from scoresde.evaluation.restoration import consistency, psnr, spread, ssim
from scoresde.models import ScoreModel
from scoresde.samplers import DDIM, Ancestral, KarrasGrid, PredictorCorrector, Sampler, Solver
from scoresde.samplers.context import Constraint
from scoresde.sde import Score

MARK = "<!-- measured: zero-shot -->\n"
PAGE = ROOT / "docs" / "conditioning.md"
STD = 0.05  # of the noise of poolings, for data in [−1, 1]
GRID = KarrasGrid(sigma_max=80.0, sigma_min=0.01)
HEAD = """Written by `python -m benchmarks.zero_shot` on one of {machine}:
{images} test images, {samples} samples of each posterior, for which the exact gap is {gap:.2f} dB.
"""
COLUMNS = """
**{title}**

| method | PSNR of the mean | of a sample | gap | SSIM | fit | evaluations + products | seconds |
|---|---:|---:|---:|---:|---:|---:|---:|
"""

Run = tuple[Sampler, Score, Constraint | None]


@dataclass(frozen=True)
class Restoration:
    """A way to sample posteriors.

    Attributes:
        name: Its name in tables.
        make: Sampler, score and constraint for a model and measurements.
        exact, noisy: Whether it takes measurements without noise, and with it.
    """

    name: str
    make: Callable[[ScoreModel, Measurement], Run]
    exact: bool = True
    noisy: bool = True


def _steps(n: int, solver: Solver | None = None) -> PredictorCorrector:
    return PredictorCorrector(solver or Ancestral(), steps=n, grid=GRID)


def _score(method: PosteriorMethod, n: int = 100) -> Callable[[ScoreModel, Measurement], Run]:
    return lambda model, y: (_steps(n), PosteriorScore(model, y, method), None)


def _sampler(make: Callable[[Measurement], Sampler]) -> Callable[[ScoreModel, Measurement], Run]:
    return lambda model, y: (make(y), model, None)


def _replaced(solver: Solver) -> Callable[[ScoreModel, Measurement], Run]:
    def make(model: ScoreModel, y: Measurement) -> Run:
        assert isinstance(y.operator, Mask | AveragePooling)
        return _steps(100, solver), model, Replacement(y.operator, y.y)

    return make


def _dps(y: Measurement) -> Sampler:
    return DPSSampler(y, 0.5, 300, grid=GRID)


def _gibbs(y: Measurement) -> Sampler:
    return SplitGibbs(y, PredictorCorrector(DDIM(1.0), steps=10, grid=KarrasGrid()), 60)


METHODS = [
    Restoration("DDRM, 20 steps", _sampler(lambda y: DDRM(y, grid=GRID))),
    Restoration("DDNM", _sampler(lambda y: DDNM(y, grid=GRID))),
    Restoration("DiffPIR", _sampler(lambda y: DiffPIR(y, grid=GRID))),
    Restoration("ΠGDM, published", _sampler(lambda y: PiGDMSampler(y, grid=GRID))),
    Restoration("ΠGDM, score form", _score(PiGDM(0.4))),
    Restoration("MMPS, 1 iteration", _score(MMPS(1, "cg"))),
    Restoration("MMPS, 3 iterations", _score(MMPS(3, "cg"))),
    Restoration("DPS, published, ζ 0.5, 300 steps", _sampler(_dps)),
    Restoration("replacement", _replaced(Ancestral()), noisy=False),
    Restoration("RePaint, j 1, r 5", _replaced(RePaint(Ancestral(), 1, 5)), noisy=False),
    Restoration("DAPS, 50 levels of 2 steps", _sampler(lambda y: DAPS(y, 50, 2))),
    Restoration("TDS, 8 particles, 50 steps", _sampler(lambda y: TDS(y, 8, 50, grid=GRID))),
    Restoration("split Gibbs, 60 rounds of 10 steps", _sampler(_gibbs), exact=False),
]


def row(name: str, x: Tensor, truth: Tensor, y: Measurement, width: float, cost: str) -> str:
    """A row of the table, of samples (N, K, C, H, W)."""
    count = x.shape[1]
    mean, flat = x.mean(1), x.flatten(0, 1)
    each = truth.repeat_interleave(count, 0)
    own = y.rows(torch.arange(len(truth)).repeat_interleave(count))
    fit = consistency(own.residual(flat), y.std)
    if count > 1:
        found = spread(x, truth)
        gap = f"{found.gap:.2f}"
    else:
        gap = "–"
    cells = [
        name,
        f"{psnr(mean, truth, width).mean():.2f}",
        f"{psnr(flat, each, width).mean():.2f}",
        gap,
        f"{ssim(flat, each, width).mean():.3f}",
        f"{fit:.2f}" if y.std > 0 else f"{fit:.0e}",
        cost,
    ]
    return f"| {' | '.join(cells)} |\n"


def table(
    title: str, model: ScoreModel, y: Measurement, truth: Tensor, count: int, width: float
) -> str:
    """The table of one measurement."""
    lines = [COLUMNS.format(title=title)]
    if isinstance(y.operator, AveragePooling):
        up = interpolate(y.y, size=truth.shape[2:], mode="bicubic")[:, None]
        lines.append(row("bicubic", up, truth, y, width, "– | –"))
    repeated = y.rows(torch.arange(len(truth)).repeat_interleave(count))
    shape = (len(truth) * count, *truth.shape[1:])
    for method in METHODS:
        if not (method.noisy if y.std > 0 else method.exact):
            continue
        sampler, score, constraint = method.make(model, repeated)
        begun = time.process_time()
        generator = torch.Generator().manual_seed(0)
        run = sampler(model.sde, score, shape, generator=generator, constraint=constraint)
        seconds = time.process_time() - begun
        products = f" + {run.products:.0f}" if run.products else ""
        x = run.x.reshape(len(truth), count, *truth.shape[1:])
        cost = f"{run.nfe:.0f}{products} | {seconds:.0f}"
        lines.append(row(method.name, x, truth, y, width, cost))
        print(title, lines[-1], end="", flush=True)
    return "".join(lines)


def main() -> None:
    """Measure, and write the tables into the page."""
    asked = arguments()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        parts, model = load_digits(asked.run or train_digits(Path(temporary) / "run"))
    model.eval().requires_grad_(False)
    data, shape = parts.data, parts.data.shape
    if data.range is None:
        raise ValueError("the run is not of images; use one of data=digits")
    truth = data.scale(data.test[: asked.images])
    width = data.range[1] - data.range[0]
    upper = (torch.arange(shape[1]) < shape[1] // 2)[None, :, None]
    cases = {
        f"×2 super-resolution, σ_y = {STD}": (AveragePooling(shape, 2), STD),
        f"×4 super-resolution, σ_y = {STD}": (AveragePooling(shape, 4), STD),
        "inpainting of the lower half, σ_y = 0": (Mask(upper, shape), 0.0),
    }
    gap = 10 * torch.tensor(2 * asked.samples / (asked.samples + 1)).log10().item()
    text = HEAD.format(machine=machine(), images=asked.images, samples=asked.samples, gap=gap)
    for title, (operator, std) in cases.items():
        y = Measurement.of(operator, truth, std, torch.Generator().manual_seed(1))
        text += table(title, model, y, truth, asked.samples, width)
    replace_measured(PAGE, text, MARK)


if __name__ == "__main__":
    main()
