"""Guidance to a class on the digits: how often the class is read, and what is left of diversity.

python -m benchmarks.guidance FOLDER trains the two networks into FOLDER, unless they are there, and
writes guidance.json, guidance.md and guidance.png.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scoresde.conditioning import ClassifierFree, ClassifierGuidance
from scoresde.data import Digits
from scoresde.evaluation.features import DigitClassifier
from scoresde.evaluation.metrics import frechet_distance, stratified_halves
from scoresde.experiments.tasks import Classifier, Generate
from scoresde.samplers import LogSNRGrid, PredictorCorrector, draw
from scoresde.samplers.presets import dpm_solver_pp
from scoresde.sde import Score

ROOT = Path(__file__).resolve().parents[1]
FREE = (1.0, 1.5, 2.0, 3.0, 4.0)
CLASSIFIER = (0.0, 1.0, 2.0, 4.0, 8.0)
COMMON = ["condition=label", "sde=vp", "sampler=dpmpp", "evaluate/likelihood=none"]


class Row(NamedTuple):
    """What samples of one scale are like.

    Attributes:
        read: Share of samples in which an independent classifier reads the class asked for.
        diversity: Variance of its features within a class, in units of that of real digits.
        frechet: Fréchet distance from real digits.
    """

    method: str
    scale: float
    read: float
    diversity: float
    frechet: float
    nfe: float


class Reader:
    """A classifier of the digits that neither network has met, and its features of real digits."""

    def __init__(self, data: Digits) -> None:
        assert data.train_labels is not None and data.test_labels is not None
        images = torch.cat([data.train, data.test]).numpy()
        labels = torch.cat([data.train_labels, data.test_labels]).numpy()
        first, second = stratified_halves(labels, len(images), np.random.default_rng(0))
        self.network = DigitClassifier(17, 0).fit(images[first], labels[first])
        self.reference = self.network.features(images[first])
        held_out = self.network.features(images[second])
        self.accuracy = self.network.accuracy(images[second], labels[second])
        self.spread = _within(held_out, labels[second])
        self.floor = frechet_distance(self.reference, held_out)

    def row(self, name: str, scale: float, images: Tensor, labels: Tensor, nfe: float) -> Row:
        """The numbers of some samples, uint8, of classes that were asked for."""
        drawn, classes = images.numpy(), labels.numpy()
        features = self.network.features(drawn)
        return Row(
            name,
            scale,
            self.network.accuracy(drawn, classes),
            _within(features, classes) / self.spread,
            frechet_distance(self.reference, features),
            nfe,
        )


def _within(features: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Variance within a class, summed over the features."""
    parts = [features[labels == label] for label in np.unique(labels)]
    return float(np.mean([part.var(0, ddof=1).sum() for part in parts]))


def measure(folder: Path, count: int) -> tuple[list[Row], Reader]:
    """Rows of all scales of both methods, by the networks in a folder."""
    data, model = Digits(condition="label"), Generate.load(folder / "score")
    classifier = Classifier.load(folder / "classifier")
    reader, labels = Reader(data), torch.arange(count) % 10
    sampler = PredictorCorrector(dpm_solver_pp(), steps=20, grid=LogSNRGrid())
    absent = model.given(torch.tensor([10]))
    methods: dict[str, tuple[tuple[float, ...], Callable[[float], Score]]] = {
        "classifier-free": (FREE, lambda w: ClassifierFree(model, labels, w)),
        "classifier": (CLASSIFIER, lambda w: ClassifierGuidance(absent, classifier, labels, w)),
    }
    rows = []
    for name, (scales, score) in methods.items():
        for scale in scales:
            samples = draw(
                sampler, model.sde, score(scale), (count, 1, 8, 8), 250, seeds=range(count)
            )
            images = data.quantize(samples.x)
            rows.append(reader.row(name, scale, images, labels, samples.nfe))
            print(rows[-1], flush=True)
    return rows, reader


def table(rows: list[Row], reader: Reader, count: int, seconds: float) -> str:
    """The rows as a table of Markdown."""
    lines = [
        f"{count} samples of each scale, DPM-Solver++ in 20 steps; {seconds / 60:.0f} minutes of "
        f"sampling. Of real digits the classifier reads {100 * reader.accuracy:.1f} % rightly, and "
        f"their Fréchet distance is {reader.floor:.2f}.",
        "",
        "| guidance | scale | class read, % | diversity | Fréchet distance | evaluations |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        numbers = f"{row.scale:g} | {100 * row.read:.1f} | {row.diversity:.2f} | {row.frechet:.2f}"
        lines.append(f"| {row.method} | {numbers} | {row.nfe:g} |")
    return "\n".join([*lines, ""])


def picture(rows: list[Row], reader: Reader, path: Path) -> None:
    """The class that is read, and the diversity, against the scale."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for axis, method in zip(axes, dict.fromkeys(row.method for row in rows), strict=True):
        own = [row for row in rows if row.method == method]
        scales = [row.scale for row in own]
        for values, name, colour in (
            ([row.read for row in own], "class read", "#1f6f9f"),
            ([row.diversity for row in own], "diversity", "#e07b39"),
        ):
            axis.plot(scales, values, "o-", color=colour)
            axis.text(scales[-1], values[-1] + 0.04, name, color=colour, ha="right")
        axis.axhline(reader.accuracy, color="#8a949e", linewidth=0.8, linestyle=":")
        axis.set(xlabel="guidance scale", title=method, ylim=(0, None))
    figure.savefig(path, dpi=130)
    plt.close(figure)


def train(folder: Path) -> None:
    """Train the score and the classifier of noisy states, unless they are there."""
    command = [sys.executable, str(ROOT / "experiments" / "run.py"), *COMMON]
    for name, settings in (
        ("score", ["condition.dropout=0.1"]),
        ("classifier", ["task=classifier", "task.shift=1", "train.steps=1200"]),
    ):
        if not (folder / name / "result.json").is_file():
            subprocess.run([*command, *settings, f"hydra.run.dir={folder / name}"], check=True)


def main() -> None:
    """Train, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, default=500)
    asked = parser.parse_args()
    train(asked.folder)
    begun = time.perf_counter()
    rows, reader = measure(asked.folder, asked.samples)
    seconds = time.perf_counter() - begun
    text = table(rows, reader, asked.samples, seconds)
    (asked.folder / "guidance.md").write_text(text)
    numbers = {"rows": [row._asdict() for row in rows], "accuracy": reader.accuracy}
    (asked.folder / "guidance.json").write_text(json.dumps(numbers, indent=2))
    picture(rows, reader, asked.folder / "guidance.png")
    print(text)


if __name__ == "__main__":
    main()
