"""Small runs for tests of the code around a training, without the cost of a command line."""

import json
import sys

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import open_dict, read_write
from PIL import Image

from scoresde.experiments import job, run
from scoresde.experiments.command_line import named
from scoresde.experiments.interruption import exit_code
from scoresde.experiments.outcome import conclude
from tests.experiments.test_run import POINTS
from tests.places import ROOT

CONF = ROOT / "conf"
# There is little to train and nothing to score.
RUN = [
    *POINTS,
    *("train.steps=2", "train.batch_size=8", "train.decay=none", "sampler.steps=2"),
    *("evaluate.samples.count=4", "evaluate.samples.frames=2", "evaluate/likelihood=none"),
]


def start(folder, *arguments):
    """Run as `run.py` does once Hydra has read the arguments, and return the result."""
    overrides = [*named(list(map(str, arguments))), f"hydra.run.dir='{folder}'"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        whole = compose("config", overrides=overrides, return_hydra_config=True)
    with read_write(whole), open_dict(whole):
        whole.hydra.mode = RunMode.RUN
        whole.hydra.runtime.output_dir = str(folder)
    cfg = whole.copy()
    with read_write(cfg), open_dict(cfg):
        del cfg["hydra"]
    HydraConfig.instance().set_config(whole)
    try:
        with exit_code():
            conclude(cfg, job.steps)
    finally:
        HydraConfig.instance().cfg = None
    return json.loads((folder / "result.json").read_text())


def ends(capsys, folder, *arguments):
    """The exit code of a run that does not succeed, and the sentence with which it ends."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        start(folder, *arguments)
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and "\n" not in said
    return stop.value.code, said


def swept(monkeypatch, folder, *arguments):
    """The exit code of a sweep in a folder, started by the command line."""
    monkeypatch.setattr(
        sys, "argv", ["run.py", "-m", *RUN, f"hydra.sweep.dir={folder}", *arguments]
    )
    try:
        run.main()
    except SystemExit as stop:
        return stop.code
    return 0


def images(folder, *counts):
    """Write classes of given sizes as folders, and return the settings of a run on them."""
    rng = np.random.default_rng(len(counts))
    for label, count in enumerate(counts):
        (folder / f"{label}").mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{label}" / f"{number}.png")
    return [
        *("data=folder", f"data.root={folder}", "model.net.nf=4", "model.net.num_res_blocks=1"),
        *("model.net.ch_mult=[1]", "model.net.attn_resolutions=[]", "evaluate.samples.pictures=2"),
        *("train.steps=2", "train.batch_size=4", "train.decay=none", "sampler.steps=2"),
        *("evaluate.samples.count=4", "evaluate.samples.frames=2", "evaluate/likelihood=none"),
    ]


def files(folder):
    """The content of every file under a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def raises(error):
    """A function that raises an error for any arguments."""

    def call(*_, **__):
        raise error

    return call
