"""The end of a run: samples, pictures, likelihood, quality, and the file that keeps them."""

import json
import math
import os
import subprocess
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.base import stream
from evaluation import log_likelihood, plots
from evaluation.cost import cost
from evaluation.metrics import sample_quality
from models import ScoreModel
from samplers import ProbabilityFlowODE, Samples, draw
from sde.cautions import silent
from training.loggers import Logger

from .build import Parts
from .likelihood import Evaluator


def generate(parts: Parts, model: ScoreModel, folder: Path) -> dict[str, Any]:
    """Samples, pictures, likelihood and quality, as entries of result.json."""
    samples, seconds = sample(parts, model, folder)
    result = evaluate(parts, model, samples)
    result["seconds"]["sample"] = seconds
    return result


def draw_samples(
    parts: Parts, model: ScoreModel, folder: Path, result: dict[str, Any]
) -> dict[str, Any]:
    """Samples and pictures alone, as entries of result.json beside those that are there."""
    samples, seconds = sample(parts, model, folder)
    return {"nfe": samples.nfe, "seconds": result.get("seconds", {}) | {"sample": seconds}}


def sample(parts: Parts, model: ScoreModel, folder: Path) -> tuple[Samples, float]:
    """Draw the samples of the run and their pictures; the samples, and the seconds of drawing."""
    cfg = parts.cfg.evaluate
    print(f"drawing {cfg.samples} samples", flush=True)
    begun = time.perf_counter()
    _calibrate(parts, model)
    states = parts.sampler.states(parts.sde)
    samples = draw(
        parts.sampler,
        parts.sde,
        model,
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
        np.savez(folder / "samples.npz", samples=parts.data.quantize(samples.x.cpu()).numpy())
    if parts.data.levels is not None:
        _save_pictures(parts, samples, folder, parts.data.levels)
    else:
        _save_points(parts, model, samples, folder)
    return samples, seconds


def evaluate(parts: Parts, model: ScoreModel, samples: Samples) -> dict[str, Any]:
    """Likelihood of the test set and quality of the samples, as entries of result.json."""
    cfg = parts.cfg.evaluate
    result: dict[str, Any] = {"nfe": samples.nfe, "seconds": {}}
    if cfg.likelihood:
        begun = time.perf_counter()
        result |= _likelihood(parts, model)
        result["seconds"]["likelihood"] = time.perf_counter() - begun
    elif cfg.vlb is not None or cfg.elbo:
        raw = _scored(parts)
        result |= Evaluator(parts, model).bounds(raw, list(range(len(raw))))
    labels = [
        part for part in (parts.data.train_labels, parts.data.test_labels) if part is not None
    ]
    if cfg.quality and parts.data.quality == "classifier" and parts.data.levels and labels:
        real, both = torch.cat([parts.data.train, parts.data.test]), torch.cat(labels)
        print(f"quality: {cost(len(samples.x), len(real), parts.data.shape)}", flush=True)
        drawn = parts.data.quantize(samples.x.cpu())
        quality = sample_quality(drawn, real, both, parts.data.levels, seed=parts.cfg.seed)
        result["quality"] = asdict(quality)
    return result


def save_result(result: dict[str, Any], folder: Path, loggers: list[Logger]) -> None:
    """Write result.json atomically, with the versions that made it, and finish the loggers."""
    whole = _without_nan(result | {"torch": torch.__version__, "commit": _commit()})
    temporary = folder / f".result.{os.getpid()}.tmp"
    temporary.write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n")
    os.replace(temporary, folder / "result.json")
    for logger in loggers:
        for name in ("loss", "samples", "noise_level"):
            if (folder / f"{name}.png").exists():
                logger.picture(name, folder / f"{name}.png")
        logger.summary(whole)
        logger.close()


def _commit() -> str | None:
    """The commit that this code is at, where git can tell."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return done.stdout.strip() or None


def _without_nan(value: Any) -> Any:
    """NaN as null, which JSON has: the error of a single sample, say."""
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _likelihood(parts: Parts, model: ScoreModel) -> dict[str, Any]:
    cfg = parts.cfg.evaluate
    raw = _scored(parts)
    print(f"likelihood of {len(raw)} {cfg.split} samples", flush=True)
    evaluator, index = Evaluator(parts, model), list(range(len(raw)))
    result = evaluator(raw, index, progress=True).summary() | evaluator.bounds(raw, index)
    entropy = getattr(parts.data, "entropy", None)
    return result if entropy is None else result | {"entropy": entropy}


def _scored(parts: Parts) -> Tensor:
    """The raw samples that are scored."""
    split: Tensor = getattr(parts.data, parts.cfg.evaluate.split)
    return split[: parts.cfg.evaluate.likelihood_samples]


def _calibrate(parts: Parts, model: ScoreModel) -> None:
    """Let the sampler measure on training data what it needs, if anything and if there are any."""
    if len(parts.data.train) == 0:
        return
    size, seed = parts.cfg.train.batch_size, parts.cfg.seed
    x0 = torch.cat([parts.data.batch(step, size, seed) for step in range(4)]).to(parts.device)
    parts.sampler.calibrate(parts.sde, model, x0, parts.generator("calibration"))


def _save_pictures(parts: Parts, samples: Samples, folder: Path, levels: int) -> None:
    number = parts.cfg.evaluate.pictures
    drawn = parts.data.quantize(samples.x[:number].cpu())
    plots.save_grid(drawn, folder / "samples.png", levels)
    if samples.trajectory is not None:
        frames = samples.trajectory[:, :number].cpu()
        shown = parts.data.quantize(frames.flatten(0, 1)).reshape(frames.shape)
        plots.save_gif(shown, folder / "reverse.gif", levels)


def _save_points(parts: Parts, model: ScoreModel, samples: Samples, folder: Path) -> None:
    """For points in the plane: data, the model's density, paths of its flow, samples."""
    generator = parts.generator("paths")
    tolerance = max(1e-3, parts.cfg.evaluate.rtol)

    def log_prob(points: Tensor) -> Tensor:
        points = points.to(parts.device)
        with silent():  # points of a picture are no data
            likelihood = log_likelihood(
                parts.sde, model, points, rtol=tolerance, atol=tolerance, batch_size=8192
            )
        return likelihood.log_prob.cpu()

    flow = ProbabilityFlowODE(rtol=tolerance, atol=tolerance)
    paths = flow(
        parts.sde, model, (100, 2), generator=generator, trajectory=60, device=parts.device
    )
    plots.save_points(
        samples.x.cpu(),
        folder / "samples.png",
        reference=parts.data.test,
        log_prob=log_prob,
        trajectories=paths.trajectory.cpu() if paths.trajectory is not None else None,
    )
    if samples.trajectory is not None:
        plots.save_points_gif(samples.trajectory.cpu(), folder / "reverse.gif")
