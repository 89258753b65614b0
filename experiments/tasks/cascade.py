"""task=cascade: generate small images by one model and enlarge them by another."""

import copy
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from scoresde.data import Dataset, SuperResolution
from scoresde.data.base import stream
from scoresde.interop import format_of
from scoresde.models import ScoreModel
from scoresde.models.names import inner
from scoresde.samplers import Sampler, draw
from scoresde.sde import SDE
from scoresde.sde.checks import check_positive, check_switch
from scoresde.training import Loss
from scoresde.training.noisy_condition import level_label

from ..claim import Claim
from ..condition import given
from ..model import make
from ..parts import Parts
from ..pretrained import shape_of
from ..record import Record, save_arrays
from ..restoration import level_of, pooling_of, restored, save_picture
from ..settings import changed
from .base import Task
from .generate import Generate
from .restore import Restore


class Cascade(Task):
    """Generate images in two stages: `low` makes small ones, and `checkpoint` enlarges them.

    Args:
        low: Run of task=generate on images of the size of the conditions of `checkpoint`.
        level: Relative noise > 0 between the stages; None for the lowest of the training.
        truncated: Whether the first stage stops at that noise, rather than run to its end and get
            the noise afterwards.
        consistent: Whether the large images agree with the small ones.

    Raises:
        ValueError: An impossible level, or what a truncated first stage cannot have.

    Reference: Ho et al. 2022, arXiv:2106.15282 (section 4, algorithms 1 and 2).
    """

    name, takes = "cascade", "restore"
    groups = ("sde", "sampler", "model")
    model = training = ()
    samples, repeats = True, False

    def __init__(
        self,
        low: str | None = None,
        level: float | None = None,
        truncated: bool = False,
        consistent: bool = False,
    ) -> None:
        self.low, self.level = low, None if level is None else check_positive("task.level", level)
        self.truncated = check_switch(truncated, "task.truncated")
        self.consistent = check_switch(consistent, "task.consistent")
        if truncated and consistent:
            raise ValueError(
                "task.truncated=true has no small images without noise for task.consistent=true; "
                "leave one of them out"
            )

    def check(self, cfg: DictConfig) -> None:
        """See `Task.check`."""
        super().check(cfg)
        if cfg.checkpoint is None or not isinstance(self.low, str):
            raise ValueError(
                "task=cascade samples two trained models; add checkpoint=RUN of task=restore "
                f"condition=superres and task.low=RUN of task=generate, got {cfg.checkpoint} and "
                f"{self.low}"
            )

    def check_foreign(self, path: Path) -> None:
        """Only runs of task=restore are taken; see `Task.check_foreign`."""
        if format_of(path) != "training":
            raise ValueError(f"task=cascade takes a run of task=restore, got {path}")

    @classmethod
    def rebuild(cls, saved: Mapping[str, Any]) -> nn.Module:
        """The second stage; see `Task.rebuild`."""
        return Restore.rebuild(saved)

    def adopt(self, cfg: DictConfig, model: ScoreModel) -> DictConfig:
        """The process, the network, the image size and the condition of the second stage.

        Raises:
            ValueError: It enlarges no images.
        """
        condition = dict(model.condition_settings or {})
        if condition.get("kind") != "superres":
            raise ValueError(
                f"task=cascade enlarges images, and {cfg.checkpoint} is of "
                f"condition={condition.get('kind')}; give a run of condition=superres"
            )
        if self.truncated and condition.get("levels") is None:
            raise ValueError(
                "task.truncated=true needs a second stage that was trained with condition.levels"
            )
        description = model.description()
        sde, span = description.pop("sde"), description.pop("data_range")
        blank = {
            "_target_": "scoresde.data.Blank",
            "shape": list(shape_of(model)),
            "range": span or list(model.sde.data_range),
        }
        return changed(cfg, sde=sde, model=description, data=blank, condition=condition)

    def loss(self, cfg: DictConfig, sde: SDE, data: Dataset, classes: int | None) -> Loss:
        """A loss that nothing is trained by; see `Task.loss`."""
        level_of(sde, self.level, cfg.condition.get("levels"))
        if self.consistent:
            pooling_of(data)
        return make(cfg.loss, sde=sde)

    def network(self, cfg: DictConfig, sde: SDE, data: Dataset, classes: int | None) -> nn.Module:
        """Nothing: the second stage comes with its checkpoint; see `Task.network`."""
        raise AssertionError("a cascade is sampled and not trained")

    def finish(self, parts: Parts[Any], model: ScoreModel, record: Record, claim: Claim) -> bool:
        """Samples of both stages in samples.npz and cascade.png."""
        level = level_of(parts.sde, self.level, parts.cfg.condition.get("levels"))
        low = self._first_stage(parts)
        count, begun = parts.sampling.count, time.perf_counter()
        print(f"drawing {count} images in two stages", flush=True)
        y, labels, nfe = _small(parts, low, level if self.truncated else None)
        first = time.perf_counter() - begun
        condition = None
        if self.truncated:
            assert level is not None  # `adopt` asks for levels
            condition = _as_states(parts.sde, y, level)
        images, samples, second = restored(
            parts, model, y, 1, level, self.consistent, condition=condition
        )
        times = {"first_stage": first, "second_stage": second}
        record.add({"nfe": samples.nfe, "first_nfe": nfe, "level": level, "seconds": times})
        small, large = y.cpu(), images.cpu()
        arrays = {} if labels is None else {"labels": labels.numpy()}
        arrays["samples"] = parts.data.quantize(large[:, 0].contiguous()).numpy()
        save_arrays(record.folder / "samples.npz", small=small.numpy(), **arrays)
        picture = record.folder / "cascade.png"
        record.attempt("pictures", lambda: save_picture(parts.data, large, small, None, picture))
        return True

    def _first_stage(self, parts: Parts[Any]) -> ScoreModel:
        """The model of the small images.

        Raises:
            ValueError: It is of images of another size or range.
        """
        low: ScoreModel = Generate.load(str(self.low))
        pair, shape = parts.data.pair, parts.data.shape
        assert isinstance(pair, SuperResolution)
        wanted = (shape[0], shape[1] // pair.factor, shape[2] // pair.factor)
        span = None if low.data_range is None else tuple(low.data_range)
        if shape_of(low) != wanted or span != parts.data.range:
            raise ValueError(
                f"task.low={self.low} must be of images {wanted} in {parts.data.range}, got "
                f"{shape_of(low)} in {span}"
            )
        return low.to(parts.device).requires_grad_(False)


def _small(
    parts: Parts[Any], low: ScoreModel, level: float | None
) -> tuple[Tensor, Tensor | None, float]:
    """Small images, their classes if they have any, and the evaluations of each.

    With a level the chain stops there: x/α at relative noise ς = level, without a denoising step.
    """
    count, sampler, sde = parts.sampling.count, parts.sampler, low.sde
    assert sampler is not None
    classes = getattr(inner(low.net), "classes", None)
    labels = None if classes is None else torch.arange(count) % classes
    scale = 1.0
    if level is not None:
        sde, sampler = _until(sde, level), _noisy(sampler)
        end = torch.tensor(sde.sampling_eps, dtype=torch.float64)
        scale = sde.alpha(end).item()
    samples = draw(
        sampler,
        sde,
        given(low, labels),
        (count, *[int(size or 0) for size in shape_of(low)]),
        parts.sampling.batch_size,
        seeds=[stream("first stage", parts.seed, i).initial_seed() for i in range(count)],
        progress=True,
        device=parts.device,
    )
    return samples.x / scale, labels, samples.nfe


def _until(sde: SDE, level: float) -> SDE:
    """A process whose grids end at relative noise ς = level."""
    early = copy.copy(sde)
    lam = -torch.tensor(level, dtype=torch.float64).log()
    early.sampling_eps = sde.to_levels(sde.time_of_half_log_snr(lam)).item()
    return early


def _noisy(sampler: Sampler) -> Sampler:
    """A sampler that returns its last state with its noise."""
    part = copy.copy(sampler)
    if hasattr(part, "denoise"):
        part.denoise = False
    return part


def _as_states(sde: SDE, scaled: Tensor, level: float) -> dict[str, Tensor]:
    """The condition {image, level} of images with relative noise, as states of a process."""
    levels = torch.full((len(scaled),), level, dtype=torch.float64, device=scaled.device)
    s = sde.to_levels(sde.time_of_half_log_snr(-levels.log()))
    alpha = sde.alpha(s).to(scaled.dtype).reshape(-1, 1, 1, 1)
    return {"image": alpha * scaled, "level": level_label(levels).to(scaled.dtype)}
