"""What a step costs beside the network: microseconds of each solver, and of drawing noise.

python -m benchmarks.overhead

The score returns a tensor that is there already, so that only the solver's own arithmetic is timed.
Steps and noise are timed in turn within one run, and medians are quoted.
"""

import argparse

if __name__ == "__main__":  # --help is answered before torch is imported
    argparse.ArgumentParser(description=__doc__).parse_args()

import statistics
import time
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from scoresde.samplers import LogSNRGrid, ReverseDiffusion, Solver
from scoresde.samplers.folding import fold, merge
from scoresde.samplers.presets import PRESETS
from scoresde.samplers.solver import advance, depth
from scoresde.sde import VP

STEPS, ROUNDS = 200, 11
SOLVERS: dict[str, Callable[[], Solver]] = {
    "DPM-Solver++ 2M": PRESETS["dpmpp_2m"],
    "DPM-Solver++ 3M": PRESETS["dpmpp_3m"],
    "DEIS-tAB 3": PRESETS["deis_3"],
    "iPNDM 4": PRESETS["ipndm_4"],
    "UniPC-3": PRESETS["unipc_3"],
    "reverse diffusion": ReverseDiffusion,
}


def microseconds(action: Callable[[], object], count: int) -> float:
    """Mean time of one of `count` actions."""
    begun = time.perf_counter()
    action()
    return (time.perf_counter() - begun) / count * 1e6


def loop(solver: Solver, x: Tensor) -> Callable[[], object]:
    """All steps of a solver from x, planned beforehand."""
    sde, s = VP(), torch.randn_like(x)
    steps = fold(merge(solver.plan(sde, LogSNRGrid()(sde, STEPS))))

    def take() -> None:
        y, memory, spare = x, deque[Tensor](maxlen=depth(steps)), None
        for step in steps:
            y, mean = advance(step, lambda y, t: s, y, memory, torch.randn_like, spare)
            spare = mean if mean is not y else None

    return take


def draws(x: Tensor) -> Callable[[], object]:
    """As many draws of noise as there are steps."""

    def draw() -> None:
        for _ in range(STEPS):
            torch.randn_like(x)

    return draw


def main() -> None:
    """Print the table."""
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, medians of {ROUNDS}\n")
    print("| | batch 1 (µs) | batch 64 (µs) |\n|---|---|---|")
    columns: dict[str, list[float]] = {}
    for batch in (1, 64):
        x = torch.randn(batch, 3, 32, 32)
        loops = {name: loop(make(), x) for name, make in SOLVERS.items()}
        loops["drawing noise"] = draws(x)
        times: dict[str, list[float]] = {name: [] for name in loops}
        with torch.no_grad():
            for _ in range(ROUNDS):
                for name, action in loops.items():
                    times[name].append(microseconds(action, STEPS))
        for name, values in times.items():
            columns.setdefault(name, []).append(statistics.median(values))
    for name, (one, many) in columns.items():
        print(f"| {name} | {one:.1f} | {many:.0f} |")
    ratio = columns["reverse diffusion"][1] / columns["drawing noise"][1]
    print(f"\nreverse diffusion costs {ratio:.2f} × the drawing of its noise at batch 64")


if __name__ == "__main__":
    main()
