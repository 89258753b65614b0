"""The time and memory to load a large network, compared with reading its bytes.

python -m benchmarks.loading

The NCSN++ for CIFAR-10 (62.8M parameters) with random weights is loaded in two formats from a warm
disk, and times are medians of actions taken in turn. `and add up` also reads all weights once, so
that no mapped part of the file stays unread. Memory is the peak of a separate process that does so,
minus its memory before loading, in copies of the weights.
"""

import argparse

if __name__ == "__main__":  # --help is answered before torch is imported
    argparse.ArgumentParser(description=__doc__).parse_args()

import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.measure import kibibytes, median_seconds
from scoresde.interop import load, save_score_sde
from scoresde.models import ScoreModel, UNet
from scoresde.sde import VE

ROUNDS = 9
NCSNPP = {
    "shape": (3, 32, 32),
    "num_res_blocks": 4,
    "fir": True,
    "progressive_input": "residual",
    "embedding_type": "fourier",
}
MEMORY = """
import sys, warnings
from scoresde.interop import load
warnings.simplefilter("ignore")
before = peak()
model = load(sys.argv[1])
total = sum(float(p.detach().sum()) for p in model.parameters())
print(peak() - before)
"""


def whole(path: Path) -> None:
    """Load a model, and read all of its weights."""
    model = load(path)
    sum(parameter.detach().sum() for parameter in model.parameters())


def plain(path: Path) -> None:
    """Read the bytes of a file, and add them up as numbers, as `whole` does."""
    data = bytearray(path.read_bytes())
    size = len(data) // 4 * 4
    torch.frombuffer(data, dtype=torch.float32, count=size // 4).sum()


def main() -> None:
    """Print the table."""
    warnings.simplefilter("ignore")
    model = ScoreModel(UNet(**NCSNPP), VE(), "score", data_range=(0.0, 1.0))  # type: ignore[arg-type]
    count = sum(parameter.numel() for parameter in model.parameters())
    with tempfile.TemporaryDirectory() as folder:
        native = model.save(Path(folder) / "native")
        reference = save_score_sde(model, Path(folder) / "checkpoint.pth")
        weights = native / "model.safetensors"
        paths = {"native (safetensors)": native, "score-SDE (.pth, averaged weights)": reference}
        actions: dict[str, Callable[[], object]] = {"read": weights.read_bytes}
        actions["read, and add up"] = lambda: plain(weights)
        for name, path in paths.items():
            actions[name] = partial(load, path)
            actions[f"{name}, and add up"] = partial(whole, path)
        seconds = median_seconds(actions, ROUNDS)
        print(f"{count:,} parameters, {weights.stat().st_size / 2**20:.0f} MiB of safetensors\n")
        print("| | seconds | of reading | peak memory, copies |\n|---|---:|---:|---:|")
        for name, value in seconds.items():
            peak = ""
            if name in paths:
                peak = f"{kibibytes(MEMORY, paths[name]) * 1024 / (4 * count):.2f}"
            print(f"| {name} | {value:.3f} | {value / seconds['read']:.2f} | {peak} |")


if __name__ == "__main__":
    main()
