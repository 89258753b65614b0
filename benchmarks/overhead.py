"""The cost of a step without the network: microseconds of each solver, and of drawing noise.

python -m benchmarks.overhead

The score returns a constant tensor, so that only the arithmetic of the solver is timed. Steps and
noise are timed in turn within one run, and medians are quoted.
"""

import argparse

if __name__ == "__main__":  # --help is answered before torch is imported
    argparse.ArgumentParser(description=__doc__).parse_args()

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.measure import median_seconds
from scoresde.samplers import LogSNRGrid, ReverseDiffusion, Solver
from scoresde.samplers.context import SamplingContext
from scoresde.samplers.presets import PRESETS
from scoresde.samplers.solvers.folding import fold, merge
from scoresde.samplers.solvers.plan import State
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


def loop(solver: Solver, x: Tensor) -> Callable[[], object]:
    """All steps of a solver from x, whose plan is not timed."""
    sde, s = VP(), torch.randn_like(x)
    plan = fold(merge(solver.plan(sde, LogSNRGrid()(sde, STEPS))))

    def take() -> None:
        state = State(plan, lambda y, t: s, x, SamplingContext())
        for step in plan:
            state.predict(step)

    return take


def draws(x: Tensor) -> Callable[[], object]:
    """An action that draws as many noise vectors as there are steps."""

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
        with torch.no_grad():
            seconds = median_seconds(loops, ROUNDS)
        for name, value in seconds.items():
            columns.setdefault(name, []).append(value / STEPS * 1e6)
    for name, (one, many) in columns.items():
        print(f"| {name} | {one:.1f} | {many:.0f} |")
    ratio = columns["reverse diffusion"][1] / columns["drawing noise"][1]
    print(f"\nreverse diffusion costs {ratio:.2f} × the drawing of its noise at batch 64")


if __name__ == "__main__":
    main()
