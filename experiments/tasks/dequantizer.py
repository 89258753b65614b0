"""task=dequantizer: train a flow that spreads quantized values over their cells, for a score."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import nn

from scoresde.data import Dataset
from scoresde.evaluation import Uniform, Variational
from scoresde.models import DequantizationFlow
from scoresde.models.names import inner
from scoresde.sde import SDE, describe
from scoresde.training import DequantizationLoss, Loss

from ..claim import Claim
from ..likelihood import Evaluator
from ..model import fill, make, score_model
from ..parts import Parts, cells_of
from ..record import Record
from ..settings import plain
from .base import Task
from .generate import Generate


class Dequantizer(Task):
    """Train a flow within the cells, and compare it with uniform dequantization.

    Args:
        score: Run or checkpoint of the score that it is for.
    """

    name = takes = "dequantizer"
    groups = ("data", "sde", "model")
    model = ("sde", "dequantizer", "data.range")
    training = ("sde", "dequantizer", "score", "data", "train", "seed", "evaluate.eps")
    scores = True

    def __init__(self, score: str | None = None) -> None:
        self.score = score

    def loss(self, cfg: DictConfig, sde: SDE, data: Dataset, classes: int | None) -> Loss:
        """The loss with the trained score; see `Task.loss`.

        Raises:
            ValueError: No path of a score, a score of other settings, or data that are points.
        """
        if not isinstance(self.score, str):
            raise ValueError(
                "task=dequantizer trains a flow for a score; add task.score=RUN, "
                f"got {self.score!r}"
            )
        cells = cells_of(data)
        if cells is None:
            raise ValueError(
                f"data={data.name} are points, which have no cells to spread them over"
            )
        score = score_model(plain(cfg.model), sde, data.shape, data.range, classes)
        _, state = Generate.saved(Path(self.score), "task.score")
        sections = ("sde", "model", "data.range")
        Generate.require(state["config"], cfg, sections, f"task.score={self.score}")
        fill(score, state["ema"]["model"], self.score)
        score.eval().requires_grad_(False)
        return DequantizationLoss(sde, score, cells, cfg.evaluate.eps)

    def network(self, cfg: DictConfig, sde: SDE, data: Dataset, classes: int | None) -> nn.Module:
        """The flow; see `Task.network`."""
        return make(cfg.dequantizer, shape=data.shape, levels=data.levels)

    def facts(self, model: nn.Module) -> dict[str, Any]:
        """The description of the flow, and the score that it is for."""
        return {"description": describe(inner(model)), "score": self.score}

    @classmethod
    def current(cls, saved: Mapping[str, Any]) -> Mapping[str, Any]:
        """The configuration with a description, which old checkpoints do not have."""
        if "description" in saved:
            return saved
        section, target = saved["dequantizer"], {"_target_": "scoresde.models.DequantizationFlow"}
        leaf = target | {key: section[key] for key in ("width", "depth")}
        description = leaf | {key: section[key] for key in ("shape", "levels")}
        facts = {"description": description, "score": section["score"]}
        return {**saved, "dequantizer": leaf, **facts}

    def finish(
        self, parts: Parts[Any], model: DequantizationFlow, record: Record, claim: Claim
    ) -> bool:
        """Bits/dim by the flow and by uniform dequantization; see `Task.finish`."""
        assert isinstance(parts.loss, DequantizationLoss)
        raw, split = parts.scored, parts.cfg.evaluate.split
        print(f"likelihood of {len(raw)} {split} samples, by two dequantizations", flush=True)
        evaluator = Evaluator(parts, parts.loss.score)
        uniform, by_flow = (
            evaluator(raw, list(range(len(raw))), dequantization=rule, progress=True).summary()
            for rule in (Uniform(), Variational(model))
        )
        names = ("bits_per_dim", "bits_per_dim_error")
        record.add(by_flow | {"uniform": {name: uniform[name] for name in names}})
        return True
