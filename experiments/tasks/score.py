"""What all tasks share whose network is the score."""

from abc import ABC
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import nn

from scoresde.data import Dataset
from scoresde.models import ScoreModel
from scoresde.sde import SDE
from scoresde.training import Loss

from ..condition import dropout_of, with_dropout
from ..model import make, score_model
from ..settings import changed, plain
from .base import Task


class ScoreTask(Task, ABC):
    """A task with a score, which `generate` trains and others take from a checkpoint."""

    takes = "generate"
    model = ("sde", "model", "data.range", "condition.kind")
    training = ("sde", "model", "data", "loss", "train", "seed", "condition.dropout")

    def loss(self, cfg: DictConfig, sde: SDE, data: Dataset, classes: int | None) -> Loss:
        """The loss of the configuration; see `Task.loss`."""
        return with_dropout(make(cfg.loss, sde=sde), cfg.condition)

    def network(self, cfg: DictConfig, sde: SDE, data: Dataset, classes: int | None) -> nn.Module:
        """The score of the configuration; see `Task.network`."""
        return score_model(plain(cfg.model), sde, data.shape, data.range, classes)

    def know(self, model: nn.Module, saved: Mapping[str, Any]) -> None:
        """Note how the conditions were trained; see `Task.know`."""
        _note_dropout(model, saved)

    def check(self, cfg: DictConfig) -> None:
        """Refuse conditions that are images; see `Task.check`."""
        super().check(cfg)
        refuse_images(self.name, cfg)

    def check_foreign(self, path: Path) -> None:
        """A score may be of any format that is read; see `Task.check_foreign`."""

    def adopt(self, cfg: DictConfig, model: ScoreModel) -> DictConfig:
        """The process, the network and the data range of the model; see `Task.adopt`.

        Raises:
            ValueError: The configuration has another data range.
        """
        description = model.description()
        sde, span = description.pop("sde"), description.pop("data_range")
        data = plain(cfg)["data"]
        if "range" in data and span is not None:
            if data["range"] not in (None, span):
                raise ValueError(f"{cfg.checkpoint} is for data in {span}, not {data['range']}")
            data["range"] = span
        return changed(cfg, sde=sde, model=description, data=data)

    @classmethod
    def rebuild(cls, saved: Mapping[str, Any]) -> nn.Module:
        """The score of a configuration, for the shape that a checkpoint or its data say."""
        shape = saved.get("shape") or make(saved["data"]).shape  # old checkpoints do not say it
        span, classes = saved["data"].get("range"), saved.get("classes")
        interval = None if span is None else (float(span[0]), float(span[1]))
        model = score_model(saved["model"], make(saved["sde"]), shape, interval, classes)
        _note_dropout(model, saved)
        return model


def refuse_images(task: str, cfg: DictConfig) -> None:
    """Raise ValueError for a condition that is an image, which task=restore trains."""
    if cfg.condition.get("pair") is not None:
        raise ValueError(
            f"condition={cfg.condition.kind} makes images from images, which is task=restore, got "
            f"task={task}"
        )


def _note_dropout(model: Any, saved: Mapping[str, Any]) -> None:
    model.condition_dropout = dropout_of(saved)
