"""task=restore: train a score that sees an image, and make images from those of the test data."""

from collections.abc import Mapping
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from scoresde.data import Dataset
from scoresde.data.base import stream
from scoresde.models import ScoreModel
from scoresde.models.names import inner
from scoresde.sde import SDE, construct
from scoresde.sde.checks import check_count, check_positive, check_switch
from scoresde.training import HoleLoss, Loss, NoisyCondition

from ..claim import Claim
from ..condition import dropout_of, image_settings, with_dropout
from ..model import make, score_model
from ..parts import Parts
from ..record import Record, save_arrays
from ..restoration import fidelity, level_of, pooling_of, restored, save_picture
from ..settings import plain
from .base import Task


class Restore(Task):
    """Train s(x, t | y) on pairs of images, sample test images given their y, and compare.

    Args:
        images: Number of test images ≥ 1, evenly spaced in the test part.
        draws: Samples of each ≥ 1, of which the mean is taken.
        level: Relative noise > 0 of y at sampling, with condition.levels; None for the lowest.
        consistent: Whether every data prediction agrees with a small y.

    Raises:
        ValueError: A number is out of its range.
    """

    name = takes = "restore"
    groups = ("data", "condition", "sde", "sampler", "model")
    model = (
        *("sde", "model", "data.range", "condition.kind", "condition.pair", "condition.levels"),
        "condition.encoder_blocks",
    )
    training = ("sde", "model", "data", "loss", "train", "seed", "condition")
    samples = True

    def __init__(
        self,
        images: int = 32,
        draws: int = 16,
        level: float | None = None,
        consistent: bool = False,
    ) -> None:
        self.images, self.draws = check_count("images", images, 1), check_count("draws", draws, 1)
        self.level = None if level is None else check_positive("task.level", level)
        self.consistent = check_switch(consistent, "task.consistent")

    def check(self, cfg: DictConfig) -> None:
        """See `Task.check`."""
        super().check(cfg)
        if cfg.condition.get("pair") is None:
            raise ValueError(
                "task=restore makes images from images; add condition=superres, inpainting, "
                f"uncropping, colorization or decompression, got {cfg.condition.kind}"
            )

    def loss(self, cfg: DictConfig, sde: SDE, data: Dataset, classes: int | None) -> Loss:
        """The loss of the configuration, in the hole or with a noisy condition where asked for."""
        assert data.pair is not None
        loss, levels = make(cfg.loss, sde=sde), cfg.condition.get("levels")
        level_of(sde, self.level, levels)  # refused before anything is trained
        if self.consistent:
            pooling_of(data)
        loss = HoleLoss(loss, sde) if data.pair.known else loss
        loss = with_dropout(loss, cfg.condition)
        return loss if levels is None else NoisyCondition(loss, sde, list(levels))

    def network(self, cfg: DictConfig, sde: SDE, data: Dataset, classes: int | None) -> nn.Module:
        """The score, which sees images; see `Task.network`."""
        image = image_settings(cfg.condition, data)
        return score_model(plain(cfg.model), sde, data.shape, data.range, image=image)

    def facts(self, model: nn.Module) -> dict[str, Any]:
        """The description of the score."""
        described: ScoreModel = inner(model)
        return {"description": described.description()}

    def know(self, model: nn.Module, saved: Mapping[str, Any]) -> None:
        """Note how the conditions were trained; see `Task.know`."""
        model.condition_dropout = dropout_of(saved)  # type: ignore[assignment]

    @classmethod
    def rebuild(cls, saved: Mapping[str, Any]) -> nn.Module:
        """The score of a checkpoint without its weights; see `Task.rebuild`."""
        meaning = dict(saved["description"])
        sde, net = construct(meaning.pop("sde")), construct(meaning.pop("net"))
        model = ScoreModel(net, sde, **meaning)
        model.condition_dropout = dropout_of(saved)
        model.condition_settings = saved["condition"]
        return model

    def finish(self, parts: Parts[Any], model: ScoreModel, record: Record, claim: Claim) -> bool:
        """Samples of test images, their fidelity, samples.npz and restored.png."""
        data = parts.data
        assert data.pair is not None and data.range is not None
        level = level_of(parts.sde, self.level, parts.cfg.condition.get("levels"))
        count = min(self.images, len(data.test))
        raw = data.test[torch.arange(count) * len(data.test) // count]  # sets can be in order
        truth = data.scale(raw)
        y = data.pair(truth, stream("test pairs", parts.seed), data.range)
        print(f"making {len(y)} test images, {self.draws} samples of each", flush=True)
        images, samples, seconds = restored(parts, model, y, self.draws, level, self.consistent)
        images = images.cpu()
        result = fidelity(data, images, y, truth) | ({} if level is None else {"level": level})
        record.add({"restored": result, "nfe": samples.nfe, "seconds": {"sample": seconds}})
        print(_summary(result), flush=True)
        quantized = data.quantize(images.flatten(0, 1)).reshape(images.shape)
        save_arrays(
            record.folder / "samples.npz",
            samples=quantized.numpy(),
            condition=y.numpy(),
            truth=torch.as_tensor(raw).numpy(),
        )
        picture = record.folder / "restored.png"
        record.attempt("pictures", lambda: save_picture(data, images, y, truth, picture))
        return True


def _summary(result: Mapping[str, Any]) -> str:
    """The numbers, for the terminal."""
    level = result["psnr"]
    lines = [
        f"PSNR of the mean {level['mean']:.2f} dB, of one sample {level['sample']:.2f} dB, of what "
        f"is given, plainly enlarged, {level['given']:.2f} dB; spread {result['spread']:.3f}"
    ]
    if "consistency" in result:
        lines.append(f"distance of the small images from those given {result['consistency']:.4f}")
    if "clipped" in result:
        lines.append(f"entries of residuals that are clipped: {100 * result['clipped']:.2f} %")
    return "\n".join(lines)
