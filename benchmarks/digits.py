"""A trained model of the digits, and the Fréchet distance of its samples."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir

from scoresde.evaluation.features import DigitClassifier
from scoresde.evaluation.metrics import frechet_distance, stratified_halves
from scoresde.experiments.build import build
from scoresde.experiments.resume import find_start
from scoresde.experiments.train import train
from scoresde.samplers import Sampler, draw

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = 500


def train_digits(folder: Path) -> Path:
    """Train the default network on the digits with VP; the run is written to a folder."""
    command = [sys.executable, str(ROOT / "experiments" / "run.py"), "sde=vp", "sampler=dpmpp"]
    settings = ["evaluate/likelihood=none", f"hydra.run.dir={folder}"]
    subprocess.run([*command, *settings], check=True)
    return folder


class Digits:
    """The averaged model of a run, given by its folder or a checkpoint, for sampling."""

    def __init__(self, folder: Path) -> None:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            cfg = compose("config", overrides=["sde=vp", f"checkpoint='{folder}'"])
        self.parts = build(cfg)
        # Nothing is written, since the folder of this "run" does not exist.
        start = find_start(self.parts, folder / "unwritten")
        self.model, _ = train(self.parts, folder, start, [])
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
