"""task=sample: generate samples from a checkpoint, which says all that is needed."""

from typing import Any

import torch
from omegaconf import DictConfig

from scoresde.models import ScoreModel
from scoresde.models.names import inner
from scoresde.sde import construct, describe
from scoresde.sde.checks import check_count

from ..claim import Claim
from ..parts import Parts
from ..pretrained import chosen, shape_of
from ..record import Record
from ..samples import generate
from ..settings import changed
from .score import ScoreTask


class Sample(ScoreTask):
    """Generate samples from `checkpoint`.

    Args:
        image_size: Side of the images ≥ 1, where the checkpoint does not say it.

    Raises:
        ValueError: image_size is not an integer ≥ 1.
    """

    name = "sample"
    groups = ("sde", "sampler", "model")
    samples, repeats = True, False

    def __init__(self, image_size: int | None = None) -> None:
        if image_size is not None:
            check_count("image_size", image_size, 1)
        self.image_size = image_size

    def check(self, cfg: DictConfig) -> None:
        """See `Task.check`."""
        super().check(cfg)
        if cfg.checkpoint is None:
            raise ValueError("task=sample samples a trained model; add checkpoint=RUN_OR_FILE")

    def adopt(self, cfg: DictConfig, model: ScoreModel) -> DictConfig:
        """The model's own process, network, image size and condition, instead of those of data."""
        description = model.description()
        sde, span = description.pop("sde"), description.pop("data_range")
        classes = description["net"].get("classes")
        blank = {
            "_target_": "scoresde.data.Blank",
            "shape": self._shape(model),
            "range": span or list(model.sde.data_range),
            "levels": 256,
            "classes": classes,
        }
        sections = {"sde": sde, "model": description, "data": blank}
        if classes and not chosen("condition"):
            dropout = model.condition_dropout or 0.0
            sections["condition"] = {
                "kind": "label",
                "draw": None,
                "dropout": dropout,
            }  # as trained
        return changed(cfg, **sections)

    def finish(self, parts: Parts[Any], model: ScoreModel, record: Record, claim: Claim) -> bool:
        """Samples as an array and as pictures; see `Task.finish`."""
        generate(parts, model, record, keep=True)
        return True

    def _shape(self, model: ScoreModel) -> list[int]:
        """(C, H, W) of the samples."""
        own, size = shape_of(model), self.image_size
        if len(own) != 3:
            raise ValueError("task=sample generates images; of points use task=generate and data=…")
        shape = list(own)
        for axis in (1, 2):
            if shape[axis] is None and size is None:
                raise ValueError(
                    "the checkpoint does not say how large its images are; add "
                    "task.image_size=32, say"
                )
            if shape[axis] is not None and size not in (None, shape[axis]):
                raise ValueError(f"the checkpoint is for images of {shape[1:]}, not {size}")
            shape[axis] = shape[axis] or size
        sized = [int(side) for side in shape if side is not None]
        if sized != list(own):  # would the network be built for a size that it leaves open?
            with torch.device("meta"):
                construct(describe(inner(model.net)) | {"shape": sized})
        return sized
