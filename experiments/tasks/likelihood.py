"""task=likelihood: score a split of the data with a checkpoint, in parts and in shards."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from scoresde.data import Dataset
from scoresde.models import ScoreModel
from scoresde.sde.checks import check_count, check_switch
from scoresde.training import checkpoint

from ..claim import Claim
from ..model import make
from ..parts import Parts
from ..record import Record, complete
from ..samples import generate
from ..split import check_settings, score_split
from .score import ScoreTask, refuse_images


class Likelihood(ScoreTask):
    """Score a split of the data, and generate samples too where that is asked for.

    Args:
        draw: Whether samples are generated too.
        shard: Which of the shards this process does, 0 … shards − 1.
        shards: Number of processes ≥ 1 that share the work.

    Raises:
        ValueError: A number is out of its range.
    """

    name = "likelihood"
    groups = ("data", "sde", "model")
    scores = in_parts = True

    def __init__(self, draw: bool = False, shard: int = 0, shards: int = 1) -> None:
        self.draw = self.samples = check_switch(draw, "draw")
        self.shards, self.shard = check_count("shards", shards, 1), check_count("shard", shard, 0)
        if shard >= shards:
            raise ValueError(f"shard must be below task.shards={shards}, got {shard}")

    def check(self, cfg: DictConfig) -> None:
        """See `Task.check`."""
        refuse_images(self.name, cfg)
        if cfg.checkpoint is None:
            raise ValueError("task=likelihood scores a trained model; add checkpoint=RUN")
        if cfg.evaluate.likelihood is None:
            raise ValueError(
                "task=likelihood needs a likelihood; leave evaluate/likelihood=none out"
            )

    def other_data(self, cfg: DictConfig, data: Dataset) -> Dataset | None:
        """The data set of `data@ood_data`, on the range and the levels of the run's own.

        Raises:
            ValueError: Samples of another shape, or pixels of other levels.
        """
        if cfg.ood_data is None:
            return None
        span = {"range": list(data.range)} if data.range and "range" in cfg.ood_data else {}
        other: Dataset = make(cfg.ood_data, **span)
        if other.report:
            print(other.report, flush=True)
        if other.shape != data.shape or other.levels != data.levels:
            raise ValueError(
                f"data@ood_data has samples {other.shape} of {other.levels} levels, and the model "
                f"is for {data.shape} of {data.levels}; give data that it can score"
            )
        return other

    def check_folder(self, folder: Path, continues: bool) -> None:
        """Refuse a folder whose likelihoods are done, or of a training; see `Task.check_folder`."""
        if checkpoint.available(folder / "checkpoints") or complete(folder):
            raise ValueError(
                f"{folder} already holds a result.json or checkpoints; if its likelihoods are "
                "done, read them there, else use another hydra.run.dir"
            )

    def prepare(self, parts: Parts[Any], weights: Path | None, folder: Path) -> None:
        """Write what the likelihoods depend on, or refuse to mix them; see `Task.prepare`."""
        assert weights is not None  # `check` asks for a checkpoint
        check_settings(parts, weights, folder)

    def finish(self, parts: Parts[Any], model: ScoreModel, record: Record, claim: Claim) -> bool:
        """The likelihoods of the split, and samples; see `Task.finish`."""
        if not score_split(parts, model, record, claim, self.shard, self.shards):
            return False
        if self.draw:
            generate(parts, model, record, keep=True)
        return True
