"""The end of a run: samples, pictures, likelihood and quality, each recorded when it is done."""

import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoresde.data.base import stream
from scoresde.evaluation import log_likelihood, plots
from scoresde.evaluation.cost import cost
from scoresde.evaluation.features import class_problem
from scoresde.evaluation.metrics import sample_quality
from scoresde.models import ScoreModel
from scoresde.samplers import ProbabilityFlowODE, Samples, draw, fit
from scoresde.sde.cautions import silent

from .build import Parts
from .condition import given, labels_of, labels_to_draw, order_by_class
from .likelihood import Evaluator
from .record import Record, save_arrays

PATHS = 100  # of the flow, in the picture of points


def skipped(parts: Parts) -> dict[str, str]:
    """What this run will leave out, with the reason, said before it trains."""
    reasons = {}
    labels = _labels(parts)
    if parts.cfg.task == "generate" and labels is not None:
        problem = class_problem(labels.numpy(), len(labels))
        if problem is not None:
            reasons["quality"] = problem
    for name, reason in reasons.items():
        print(f"warning: {name} is left out: {reason}", flush=True)
    return reasons


def generate(parts: Parts, model: ScoreModel, record: Record) -> None:
    """Samples, pictures, likelihood and quality, as entries of result.json."""
    cfg, samples = parts.cfg.evaluate, sample(parts, model, record)
    if "quality" not in record.entries.get("skipped", {}):
        record.attempt("quality", lambda: _quality(parts, samples))
    if cfg.likelihood:
        begun = time.perf_counter()
        found = _likelihood(parts, model)
        record.add(found | {"seconds": {"likelihood": time.perf_counter() - begun}})
    if cfg.vlb is not None or cfg.elbo:
        raw = _scored(parts)
        bounds = _evaluator(parts, model).bounds
        record.attempt("bounds", lambda: bounds(raw, list(range(len(raw)))))


def sample(parts: Parts, model: ScoreModel, record: Record) -> Samples:
    """Draw the samples of the run, which are an entry of result.json, and their pictures."""
    cfg, folder = parts.cfg.evaluate, record.folder
    print(f"drawing {cfg.samples} samples", flush=True)
    begun = time.perf_counter()
    _calibrate(parts, model)
    states = parts.sampler.states(parts.sde)
    labels = labels_to_draw(parts.cfg, model, cfg.samples)
    samples = draw(
        parts.sampler,
        parts.sde,
        given(model, labels),
        (cfg.samples, *parts.data.shape),
        cfg.batch_size,
        seeds=[stream("sampling", parts.cfg.seed, i).initial_seed() for i in range(cfg.samples)],
        progress=True,
        trajectory=cfg.frames if states is None else min(cfg.frames, states),
        device=parts.device,
    )
    seconds = time.perf_counter() - begun
    if not samples.x.isfinite().all():
        raise FloatingPointError(
            "samples contain NaN/Inf; train longer, or use more sampler.steps or a smaller snr"
        )
    if parts.cfg.task != "generate":
        arrays = {} if labels is None else {"labels": labels.numpy()}
        arrays["samples"] = parts.data.quantize(samples.x.cpu()).numpy()
        save_arrays(folder / "samples.npz", **arrays)
    record.add({"nfe": samples.nfe, "seconds": {"sample": seconds}})
    if parts.data.levels is not None:
        levels = parts.data.levels
        record.attempt("pictures", lambda: _save_pictures(parts, samples, labels, folder, levels))
    else:
        record.attempt("pictures", lambda: _save_points(parts, model, samples, folder))
    return samples


def _labels(parts: Parts) -> Tensor | None:
    """Labels of all images, for the quality metric; None where it is not for these data."""
    data = parts.data
    if not (parts.cfg.evaluate.quality and data.quality == "classifier" and data.levels):
        return None
    if data.train_labels is None or data.test_labels is None:
        return None
    return torch.cat([data.train_labels, data.test_labels])


def _quality(parts: Parts, samples: Samples) -> dict[str, Any] | None:
    """Quality of the samples by a classifier of the data, where they have labels."""
    labels = _labels(parts)
    if labels is None or parts.data.levels is None:
        return None
    images = torch.cat([parts.data.train[:], parts.data.test[:]])
    print(f"quality: {cost(len(samples.x), len(images), parts.data.shape)}", flush=True)
    drawn = parts.data.quantize(samples.x.cpu())
    quality = sample_quality(drawn, images, labels, parts.data.levels, seed=parts.cfg.seed)
    return {"quality": asdict(quality)}


def _likelihood(parts: Parts, model: ScoreModel) -> dict[str, Any]:
    cfg = parts.cfg.evaluate
    raw = _scored(parts)
    print(f"likelihood of {len(raw)} {cfg.split} samples", flush=True)
    evaluator, index = _evaluator(parts, model), list(range(len(raw)))
    result = evaluator(raw, index, progress=True).summary()
    entropy = getattr(parts.data, "entropy", None)
    return result if entropy is None else result | {"entropy": entropy}


def _scored(parts: Parts) -> Tensor:
    """The raw samples that are scored."""
    split: Tensor = getattr(parts.data, parts.cfg.evaluate.split)
    return split[: parts.cfg.evaluate.likelihood_samples]


def _evaluator(parts: Parts, model: ScoreModel) -> Evaluator:
    """What scores the samples of the split that the configuration names."""
    return Evaluator(parts, model, labels_of(parts.data, parts.cfg.evaluate.split))


def _calibrate(parts: Parts, model: ScoreModel) -> None:
    """Let the sampler measure on training data what it needs, if anything and if there are any."""
    if len(parts.data.train) == 0:
        return
    size, seed = parts.cfg.train.batch_size, parts.cfg.seed
    batches = [parts.data.batch(step, size, seed).to(parts.device) for step in range(4)]
    labels = [one.condition for one in batches if isinstance(one.condition, Tensor)]
    score = given(model, torch.cat(labels) if labels else None)
    x0 = torch.cat([one.x for one in batches])
    fit(parts.sampler, parts.sde, score, x0, parts.generator("calibration"))


def _save_pictures(
    parts: Parts, samples: Samples, labels: Tensor | None, folder: Path, levels: int
) -> None:
    shown, columns = order_by_class(labels, min(parts.cfg.evaluate.pictures, len(samples.x)))
    drawn = parts.data.quantize(samples.x[shown].cpu())
    plots.save_grid(drawn, folder / "samples.png", levels, columns)
    if samples.trajectory is not None:
        kept = samples.trajectory.shape[1]  # those of the first batch
        shown, columns = order_by_class(
            None if labels is None else labels[:kept], min(parts.cfg.evaluate.pictures, kept)
        )
        frames = samples.trajectory[:, shown].cpu()
        shown = parts.data.quantize(frames.flatten(0, 1)).reshape(frames.shape)
        plots.save_gif(shown, folder / "reverse.gif", levels, columns=columns)


def _save_points(parts: Parts, model: ScoreModel, samples: Samples, folder: Path) -> None:
    """For points in the plane: data, the model's density, paths of its flow, samples."""
    generator = parts.generator("paths")
    tolerance = max(1e-3, parts.cfg.evaluate.rtol)

    labels = labels_to_draw(parts.cfg, model, PATHS)
    classes = [None] if labels is None else list(labels.unique().split(1))

    def log_prob(points: Tensor) -> Tensor:
        points, settings = points.to(parts.device), {"rtol": tolerance, "atol": tolerance}
        with silent():  # points of a picture are no data
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
