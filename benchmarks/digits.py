"""A trained model of the digits, and the Fréchet distance of its samples."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir

from scoresde.evaluation.features import DigitClassifier
from scoresde.evaluation.metrics import frechet_distance, stratified_halves
from scoresde.experiments.build import build
from scoresde.experiments.parts import Parts
from scoresde.experiments.resume import find_start
from scoresde.experiments.train import train
from scoresde.models import ScoreModel
from scoresde.samplers import Sampler, draw

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = 500


def train_digits(folder: Path, *overrides: str) -> Path:
    """Train the default network on the digits with VP; the run is written to a folder.

    Args:
        folder: Run folder.
        *overrides: Further settings, such as `condition=label`.
    """
    command = [sys.executable, str(ROOT / "experiments" / "run.py"), "sde=vp", "sampler=dpmpp"]
    settings = ["evaluate/likelihood=none", f"hydra.run.dir={folder}"]
    subprocess.run([*command, *overrides, *settings], check=True)
    return folder


def load_digits(folder: Path, *overrides: str) -> tuple[Parts[Any], ScoreModel]:
    """The parts of a run of the digits with VP, and its averaged model.

    Args:
        folder: Run folder, or one of its checkpoints.
        *overrides: The further settings of its training.
    """
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", overrides=["sde=vp", *overrides, f"checkpoint='{folder}'"])
    parts = build(cfg)
    # Nothing is written, since the folder of this "run" does not exist.
    model, _ = train(parts, folder, find_start(parts, folder / "unwritten"), [])
    return parts, model


class Digits:
    """The averaged model of a run, given by its folder or a checkpoint, for sampling."""

    def __init__(self, folder: Path) -> None:
        self.parts, self.model = load_digits(folder)
        data = self.parts.data
        if data.levels is None or data.train_labels is None or data.test_labels is None:
            raise ValueError(f"the run in {folder} is not of labelled images; use data=digits")
        images = torch.cat([data.train[:], data.test[:]]).numpy()
        labels = torch.cat([data.train_labels, data.test_labels]).numpy()
        rng = np.random.default_rng(0)
        first, held_out = stratified_halves(labels, len(images), rng)
        self.reader = DigitClassifier(data.levels, 0).fit(images[first], labels[first])
        self.reference = self.reader.features(images[first])
        real = self.reader.features(images[rng.permutation(held_out)[:SAMPLES]])
        self.floor = frechet_distance(self.reference, real)

    @classmethod
    def of(cls, folder: Path | None) -> "Digits":
        """The model of a run; without a folder, of one that is trained now."""
        with tempfile.TemporaryDirectory() as temporary:
            return cls(folder or train_digits(Path(temporary) / "run"))

    def frechet(self, sampler: Sampler) -> float:
        """Fréchet distance between 500 digits, generated from fixed latents, and real ones."""
        data, generator = self.parts.data, torch.Generator().manual_seed(0)
        shape = (SAMPLES, *data.shape)
        samples = draw(sampler, self.parts.sde, self.model, shape, SAMPLES, generator=generator)
        drawn = self.reader.features(data.quantize(samples.x).numpy())
        return frechet_distance(self.reference, drawn)
