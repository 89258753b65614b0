"""Accuracy and calibration of a generative classifier of digits, in docs/conditioning.md.

python -m benchmarks.generative_classifier [--run FOLDER] [--images N]

FOLDER is a run of `experiments/run.py sde=vp condition=label` on the digits; without it one is
trained first. Each test image is classified by the likelihoods of the ten classes, next to a small
discriminative classifier that is trained on the same images.
"""

import argparse
from pathlib import Path


def arguments() -> argparse.Namespace:
    """The settings on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="run folder with a model of the digits and labels")
    parser.add_argument("--images", type=int, default=359, help="test images (359, all of them)")
    return parser.parse_args()


if __name__ == "__main__":  # --help is answered before torch is imported
    arguments()

import tempfile
import time
from typing import Any

import torch
from torch import Tensor

from benchmarks.digits import ROOT, load_digits, train_digits
from benchmarks.report import machine, replace_measured
from scoresde.evaluation import (
    Cells,
    FlowLikelihood,
    Hutchinson,
    class_posterior,
    expected_calibration_error,
)
from scoresde.evaluation.features import DigitClassifier

MARK = "<!-- measured: classes -->\n"
PAGE = ROOT / "docs" / "conditioning.md"
CLASSES = 10
HEAD = """Written by `python -m benchmarks.generative_classifier` on one of {machine}.
{images} test images; the standard error of an accuracy is {error:.1f} %.

| classifier | accuracy | ECE | confidence | nats per label | evaluations | seconds |
|---|---:|---:|---:|---:|---:|---:|
"""


def row(name: str, prob: Tensor, labels: Tensor, nfe: float | None, seconds: float) -> str:
    """A row of the table."""
    right = (prob.argmax(1) == labels).double().mean().item()
    error = expected_calibration_error(prob, labels)
    loss = -prob.gather(1, labels[:, None]).clamp(min=1e-12).log().mean().item()
    cells = [
        name,
        f"{100 * right:.1f} %",
        f"{error:.3f}",
        f"{prob.max(1).values.mean():.3f}",
        f"{loss:.3f}",
        "–" if nfe is None else f"{nfe:.0f}",
        f"{seconds:.0f}",
    ]
    return f"| {' | '.join(cells)} |\n"


def generative(parts: Any, model: Any, images: Tensor, labels: Tensor) -> list[str]:
    """Rows of the model, by the tolerance of the solver."""
    rows, data = list[str](), parts.data
    for name, tolerance in (
        ("one point in a cell, one probe", 1e-3),
        ("the same with tolerance 0.03", 3e-2),
    ):
        flow = FlowLikelihood(
            divergence=Hutchinson(), rtol=tolerance, atol=tolerance, batch_size=600
        )
        begun = time.process_time()
        found = class_posterior(
            flow, parts.sde, model, images, Cells(data.levels, *data.range), classes=CLASSES
        )
        seconds = time.process_time() - begun
        rows.append(row(name, found.prob, labels, found.nfe.double().mean().item(), seconds))
        print(rows[-1], end="", flush=True)
    return rows


def main() -> None:
    """Measure, and write the table into the page."""
    asked = arguments()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.run or train_digits(Path(temporary) / "run", "condition=label")
        parts, model = load_digits(folder, "condition=label")
    model.eval().requires_grad_(False)
    data = parts.data
    if data.levels is None or data.train_labels is None or data.test_labels is None:
        raise ValueError("the run is not of labelled images; use one of data=digits")
    images, labels = data.test[: asked.images], data.test_labels[: asked.images]
    rows = generative(parts, model, images, labels)
    begun = time.process_time()
    reader = DigitClassifier(data.levels, 0).fit(data.train[:].numpy(), data.train_labels.numpy())
    prob = torch.from_numpy(reader.probabilities(images.numpy()))
    rows.append(row("discriminative", prob, labels, None, time.process_time() - begun))
    error = 100 * (0.02 * 0.98 / len(images)) ** 0.5
    head = HEAD.format(machine=machine(), images=len(images), error=error)
    replace_measured(PAGE, head + "".join(rows), MARK)


if __name__ == "__main__":
    main()
