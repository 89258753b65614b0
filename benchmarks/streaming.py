"""The speed and memory of reading images on demand, compared with decoding them by Pillow.

python -m benchmarks.streaming [--folder FOLDER] [--small N] [--large N]

Synthetic photographs of 64, 256 and 1024 px are written to a temporary folder under FOLDER. Times
are medians of actions taken in turn, in one process and at the same number of threads: Pillow alone
opens, decodes and converts each file to an array; `reading` gives batches of raw levels, read ahead
by as many workers; `batches` are training batches, which the main thread also mirrors and scales.
Memory is the peak of a separate process that takes batches, torch included.
"""

import argparse
from pathlib import Path


def arguments() -> argparse.Namespace:
    """The settings on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the images are written")
    parser.add_argument("--small", type=int, default=50_000, help="images of 64 px (50000)")
    parser.add_argument("--large", type=int, default=2_000, help="images of 256 px (2000)")
    return parser.parse_args()


if __name__ == "__main__":  # --help is answered before torch is imported
    arguments()

import io
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.measure import kibibytes, median_seconds
from scoresde.data import Streamed
from scoresde.data.ahead import Ahead

ROUNDS = 5
IMAGES = {64: 38_400, 256: 1536}  # number read in one round, by their size
BATCH = {64: 128, 256: 64, 1024: 8}
DISTINCT = 250  # number of different pictures, of which the files are copies
MEMORY = """
import sys, torch
from scoresde.data import Streamed
torch.set_num_threads(1)
root, size, batch, steps = sys.argv[1], *map(int, sys.argv[2:])
data = Streamed(root, size=size, dequantize=False)
for step in range(steps):
    data.batch(step, batch, seed=0)
print(peak())
"""


def photograph(rng: np.random.Generator, size: int, kind: str) -> bytes:
    """Smooth colours with some noise, encoded."""
    coarse = rng.integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))
    pixels = smooth.astype(int) + rng.integers(-6, 7, smooth.shape)
    stream = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(stream, kind)
    return stream.getvalue()


def write(folder: Path, size: int, kind: str, count: int) -> Path:
    """Write a folder of photographs."""
    rng = np.random.default_rng(size)
    distinct = [photograph(rng, size, kind) for _ in range(min(DISTINCT, count))]
    root = folder / f"{size}_{kind}"
    for i in range(count):
        path = root / f"{i // 1000:05d}" / f"img{i:08d}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(distinct[i % len(distinct)])
    return root


def decode(paths: list[Path]) -> None:
    """Decode files with Pillow alone."""
    for path in paths:
        with Image.open(path) as image:
            image.load()
            np.asarray(image.convert("RGB"))


class Speed:
    """Three ways to read the images of some batches, `size` pixels wide, with some threads."""

    def __init__(self, root: Path, size: int, threads: int) -> None:
        self.batch, self.threads = BATCH[size], threads
        self.steps = IMAGES[size] // self.batch
        self.data = Streamed(root, size=size, dequantize=False, workers=threads)
        self.ahead = Ahead(self.data.reader.read, threads)
        self.index = [self.data.indices(step, self.batch, seed=0) for step in range(self.steps)]
        listed = sorted(path for path in root.rglob("*") if path.is_file())
        numbers = [self.data.train.numbers[index].tolist() for index in self.index]
        self.paths = [[listed[i] for i in some] for some in numbers]

    def alone(self) -> None:
        """Decode the files with Pillow."""
        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(decode, self.paths))

    def reading(self) -> None:
        """Read the images ahead into tensors of levels."""
        for step in range(self.steps):
            self.ahead.take(step, self._numbers, self.data.shape, "reading")
        self.ahead.close()  # no thread may read while the next action is timed

    def batches(self) -> None:
        """Read the images ahead, mirror and scale them."""
        for step in range(self.steps):
            self.data.batch(step, self.batch, seed=0)
        self.data.close()

    def row(self) -> str:
        """Images per second of each way, and relative to Pillow, as a row of a table."""
        ways = {way.__name__: way for way in (self.alone, self.reading, self.batches)}
        seconds = median_seconds(ways, ROUNDS)
        alone, *others = (self.steps * self.batch / value for value in seconds.values())
        shown = [f"{rate:.0f} ({rate / alone:.2f})" for rate in others]
        return f"{self.threads} | {alone:.0f} | {' | '.join(shown)}"

    def _numbers(self, step: int) -> Tensor:
        return self.data.train.numbers[self.index[step % self.steps]]


def memory(root: Path, size: int, steps: int) -> str:
    """Peak memory of a process that takes batches, in MiB."""
    return f"{kibibytes(MEMORY, root, size, BATCH[size], steps) / 2**10:.0f} MiB"


def listed(root: Path, size: int) -> tuple[float, float]:
    """Seconds to find all images, and to compute their digest."""
    begun = time.perf_counter()
    data = Streamed(root, size=size)
    found = time.perf_counter()
    _ = data.digest
    return found - begun, time.perf_counter() - found


def main() -> None:
    """Print the tables."""
    asked = arguments()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        small = [write(folder, 64, kind, asked.small) for kind in ("png", "jpeg")]
        large = [write(folder, 256, kind, asked.large) for kind in ("png", "jpeg")]
        few, largest = (write(folder / "few", 64, "png", 500), write(folder, 1024, "png", 40))
        print(f"torch {torch.__version__}; images per second, and in brackets relative to Pillow\n")
        print("| images | threads | Pillow alone | reading | batches |\n|---|---:|---:|---:|---:|")
        for size, roots in ((64, small), (256, large)):
            for root, threads in ((root, threads) for root in roots for threads in (1, 2)):
                print(f"| {root.name} | {Speed(root, size, threads).row()} |", flush=True)
        print("\n| images | found in | digest in | peak memory |\n|---|---:|---:|---:|")
        rows = [(few, 64, 500), *((r, 64, asked.small) for r in small)]
        rows += [*((r, 256, asked.large) for r in large), (largest, 1024, 40)]
        for root, size, count in rows:
            found, digest = listed(root, size)
            peak = memory(root, size, min(100, count * 9 // 10 // BATCH[size]))
            print(f"| {count} {root.name} | {found:.2f} s | {digest:.2f} s | {peak} |", flush=True)


if __name__ == "__main__":
    main()
