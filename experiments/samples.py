"""The samples of a run, as arrays and pictures."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scoresde.evaluation import log_likelihood, plots
from scoresde.models import ScoreModel
from scoresde.samplers import ProbabilityFlowODE, Samples, fit
from scoresde.sde.cautions import silent
from scoresde.sde.checks import check_count

from .condition import given, labels_to_draw, order_by_class
from .conditioning.base import check_finite, sample
from .record import Record, save_arrays

if TYPE_CHECKING:
    from .parts import Parts

PATHS = 100  # of the flow, in the picture of points


@dataclass(frozen=True)
class Sampling:
    """How many samples a run generates, and which of them its pictures show.

    Args:
        count: Number of samples ≥ 2.
        batch_size: Most samples at once ≥ 1.
        pictures: Most samples ≥ 1 in samples.png and reverse.gif.
        frames: Most frames ≥ 2 of reverse.gif.

    Raises:
        ValueError: A number is not an integer of its range.
    """

    count: int = 1000
    batch_size: int = 500
    pictures: int = 64
    frames: int = 40

    def __post_init__(self) -> None:
        least = {"count": 2, "batch_size": 1, "pictures": 1, "frames": 2}
        for name, number in least.items():
            check_count(name, getattr(self, name), number)


def generate(
    parts: "Parts[Any]", model: ScoreModel, record: Record, *, keep: bool = False
) -> Samples:
    """Generate the samples of a run, and their pictures; samples.npz where they are to be kept.

    Raises:
        FloatingPointError: A sample is not finite.
    """
    cfg, folder = parts.sampling, record.folder
    begun = time.perf_counter()
    _fit_sampler(parts, model)
    bound = parts.conditioning.bind(parts, model)
    labels = bound.labels
    print(f"drawing {bound.count} samples", flush=True)
    states = bound.sampler.states(parts.sde)
    frames = cfg.frames if states is None else min(cfg.frames, states)
    samples = sample(parts, bound, progress=True, trajectory=frames)
    seconds = time.perf_counter() - begun
    check_finite(samples)
    if keep:
        arrays = {} if labels is None else {"labels": labels.numpy()}
        arrays["samples"] = parts.data.quantize(samples.x.cpu()).numpy()
        save_arrays(folder / "samples.npz", **arrays)
    products = {"products": samples.products} if samples.products else {}
    record.add({"nfe": samples.nfe, **products, "seconds": {"sample": seconds}})
    if parts.data.levels is not None:
        levels = parts.data.levels
        record.attempt("pictures", lambda: _save_pictures(parts, samples, labels, folder, levels))
    else:
        record.attempt("pictures", lambda: _save_points(parts, model, samples, folder))
    parts.conditioning.report(parts, bound, samples, record)
    return samples


def _fit_sampler(parts: "Parts[Any]", model: ScoreModel) -> None:
    """Fit what the sampler estimates from training data, if it does and there are data."""
    if len(parts.data.train) == 0:
        return
    size, seed = parts.cfg.train.batch_size, parts.seed
    batches = [parts.data.batch(step, size, seed).to(parts.device) for step in range(4)]
    labels = [one.condition for one in batches if isinstance(one.condition, Tensor)]
    score = given(model, torch.cat(labels) if labels else None)
    x0 = torch.cat([one.x for one in batches])
    assert parts.sampler is not None
    fit(parts.sampler, parts.sde, score, x0, parts.generator("calibration"))


def _save_pictures(
    parts: "Parts[Any]", samples: Samples, labels: Tensor | None, folder: Path, levels: int
) -> None:
    shown, columns = order_by_class(labels, min(parts.sampling.pictures, len(samples.x)))
    drawn = parts.data.quantize(samples.x[shown].cpu())
    plots.save_grid(drawn, folder / "samples.png", levels, columns)
    if samples.trajectory is not None:
        kept = samples.trajectory.shape[1]  # samples of the first batch
        shown, columns = order_by_class(
            None if labels is None else labels[:kept], min(parts.sampling.pictures, kept)
        )
        frames = samples.trajectory[:, shown].cpu()
        shown = parts.data.quantize(frames.flatten(0, 1)).reshape(frames.shape)
        plots.save_gif(shown, folder / "reverse.gif", levels, columns=columns)


def _save_points(parts: "Parts[Any]", model: ScoreModel, samples: Samples, folder: Path) -> None:
    """For points in the plane: data, the model's density, paths of its flow, samples."""
    generator = parts.generator("paths")
    tolerance = max(1e-3, parts.likelihood.rtol if parts.likelihood is not None else 0.0)

    labels = labels_to_draw(parts.cfg.condition, model, PATHS)
    classes = [None] if labels is None else list(labels.unique().split(1))

    def log_prob(points: Tensor) -> Tensor:
        points, settings = points.to(parts.device), dict[str, Any](rtol=tolerance, atol=tolerance)
        with silent():  # the points of a picture are not data
            densities = [
                log_likelihood(
                    parts.sde, given(model, label), points, batch_size=8192, **settings
                ).log_prob.cpu()
                for label in classes
            ]
        return torch.stack(densities).logsumexp(0) - math.log(len(classes))

    flow = ProbabilityFlowODE(rtol=tolerance, atol=tolerance)
    paths = flow(
        parts.sde,
        given(model, labels),
        (PATHS, 2),
        generator=generator,
        trajectory=60,
        device=parts.device,
    )
    plots.save_points(
        samples.x.cpu(),
        folder / "samples.png",
        reference=parts.data.test[:],
        log_prob=log_prob,
        trajectories=paths.trajectory.cpu() if paths.trajectory is not None else None,
    )
    if samples.trajectory is not None:
        plots.save_points_gif(samples.trajectory.cpu(), folder / "reverse.gif")
