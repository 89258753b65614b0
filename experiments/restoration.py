"""Samples of images given images: how they are generated, compared with the truth, and shown."""

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoresde.conditioning import DDNMProjection, KnownPixels, Measurement, PosteriorScore
from scoresde.conditioning.measurements.pooling import AveragePooling
from scoresde.data import Dataset, SuperResolution
from scoresde.evaluation import plots
from scoresde.evaluation.restoration import psnr
from scoresde.models import ScoreModel
from scoresde.samplers import Samples, fit
from scoresde.sde import SDE, Condition, Score
from scoresde.training.noisy_condition import check_levels, noisy_image

from .conditioning.base import Bound, check_finite, sample
from .parts import Parts

ROWS = 8  # test images in the picture


def restored(
    parts: Parts[Any],
    model: ScoreModel,
    y: Tensor,
    draws: int,
    level: float | None,
    consistent: bool,
    *,
    condition: Condition | None = None,
) -> tuple[Tensor, Samples, float]:
    """Images (N, draws, C, H, W) given conditions y, with the samples and the seconds they took.

    Args:
        y: Conditions in the form of the data's pairs, shape (N, *).
        draws: Samples of each.
        level: Relative noise that is added to y; None for none.
        consistent: Whether each data prediction agrees with y.
        condition: What the network is given in the place of y with noise, a row for each sample.
    """
    data, sampler = parts.data, parts.sampler
    assert data.pair is not None and data.range is not None and sampler is not None
    each = y.repeat_interleave(draws, 0).to(parts.device)
    given = noised(parts, each, level) if condition is None else condition
    score = conditional(parts, model, each, given, consistent)
    begun = time.perf_counter()
    _fit_sampler(parts, model, level)
    samples = sample(parts, Bound(score, sampler, len(each)), progress=True)
    seconds = time.perf_counter() - begun
    check_finite(samples)
    images = ends(parts, data.pair.image(samples.x, each, data.range), each, consistent)
    return images.unflatten(0, (len(y), draws)), samples, seconds


def _fit_sampler(parts: Parts[Any], model: ScoreModel, level: float | None) -> None:
    """Fit what the sampler estimates from training pairs, if it does and there are data."""
    if len(parts.data.train) == 0:
        return
    size, sampler = min(parts.cfg.train.batch_size, len(parts.data.train)), parts.sampler
    batch = parts.data.batch(0, size, parts.seed).to(parts.device)
    assert sampler is not None and isinstance(batch.condition, Tensor)
    y = batch.condition
    score = conditional(parts, model, y, noised(parts, y, level), False)
    fit(sampler, parts.sde, score, batch.x, parts.generator("calibration"))


def noised(parts: Parts[Any], y: Tensor, level: float | None) -> Condition:
    """The condition of a network: y, or y with relative noise and its level."""
    if level is None:
        return y
    generator = parts.generator("condition")
    noise = torch.randn(y.shape, generator=generator, dtype=y.dtype, device=y.device)
    levels = torch.full((len(y),), level, dtype=torch.float64, device=y.device)
    return noisy_image(parts.sde, y, levels, noise)


def conditional(
    parts: Parts[Any], model: ScoreModel, y: Tensor, condition: Condition, consistent: bool
) -> Score:
    """The score of images given their condition, which keeps what is known of them."""
    pair, shape = parts.data.pair, parts.data.shape
    score: Score = model.given(condition)
    if pair is not None and pair.known:
        return KnownPixels(score, y[:, -1:].bool().expand(-1, *shape), y[:, :-1], parts.sde)
    if consistent:
        small = Measurement(pooling_of(parts.data), y)
        return PosteriorScore(score, small, DDNMProjection(), parts.sde)
    return score


def ends(parts: Parts[Any], x: Tensor, y: Tensor, consistent: bool) -> Tensor:
    """Images with exactly the pixels, or exactly the small image, that are known."""
    pair = parts.data.pair
    if pair is not None and pair.known:
        return torch.where(y[:, -1:].bool(), y[:, :-1].to(x), x)
    if consistent:
        operator = pooling_of(parts.data)
        return x + operator.pinv(y.to(x) - operator(x))
    return x


def level_of(sde: SDE, level: float | None, levels: Any) -> float | None:
    """The relative noise of the condition at sampling: the lowest of the training where not given.

    Raises:
        ValueError: A level outside of those of the training, or for a network without noise.
    """
    if levels is None:
        if level is not None:
            raise ValueError(
                f"task.level={level:g} needs a network that was trained with condition.levels, "
                "which are null"
            )
        return None
    low, high = check_levels(sde, levels)
    level = low if level is None else level
    if not low <= level <= high:
        raise ValueError(
            f"task.level must be in the levels of the training, [{low:g}, {high:g}], got {level:g}"
        )
    return level


def fidelity(data: Dataset, images: Tensor, y: Tensor, truth: Tensor) -> dict[str, Any]:
    """How near samples (N, S, C, H, W) and their means are to the truth, as plain values.

    Levels are in dB. Of samples of the true posterior one is 3.01 dB below the mean of many.
    """
    assert data.pair is not None and data.range is not None
    width, clipped = data.range[1] - data.range[0], images.clamp(*data.range)
    guess = data.pair.shown(y, data.shape).clamp(*data.range)
    result: dict[str, Any] = {
        "images": len(images),
        "draws": images.shape[1],
        "psnr": {
            "given": psnr(guess, truth, width).mean().item(),
            "sample": psnr(clipped[:, 0], truth, width).mean().item(),
            "mean": psnr(clipped.mean(1), truth, width).mean().item(),
        },
        "spread": clipped.double().std(1).mean().item() if images.shape[1] > 1 else 0.0,
    }
    if isinstance(data.pair, SuperResolution):
        flat = images.flatten(0, 1)
        again = data.pair(flat, torch.Generator(), data.range).unflatten(0, images.shape[:2])
        result["consistency"] = (again - y[:, None]).double().square().mean().sqrt().item()
        if data.pair.residual:
            clip = data.pair.unclipped(truth, y, data.range).abs() > 1
            result["clipped"] = clip.double().mean().item()
    return result


def save_picture(
    data: Dataset, images: Tensor, y: Tensor, truth: Tensor | None, path: Path
) -> None:
    """A row for each image: what is given, its plain enlargement, two samples, mean, truth."""
    assert data.pair is not None and data.levels is not None
    nearest = torch.nn.functional.interpolate(y[:, : data.shape[0]], size=data.shape[1:])
    nearest = nearest.expand(-1, data.shape[0], -1, -1)
    second = images[:, min(1, images.shape[1] - 1)]
    columns = [nearest, data.pair.shown(y, data.shape), images[:, 0], second, images.mean(1)]
    columns += [] if truth is None else [truth]
    rows = torch.stack([column[:ROWS].cpu() for column in columns], 1).flatten(0, 1)
    plots.save_grid(data.quantize(rows.float()), path, data.levels, len(columns))


def pooling_of(data: Dataset) -> AveragePooling:
    """The measurement of the small image.

    Raises:
        ValueError: Small images that are no averages, or of which residuals are generated.
    """
    pair = data.pair
    plain = isinstance(pair, SuperResolution) and pair.kernel == "average" and not pair.residual
    if not plain or not isinstance(pair, SuperResolution):
        raise ValueError(
            "task.consistent=true needs condition=superres with pair.kernel=average and "
            "pair.residual=false, whose small images the data predictions can agree with"
        )
    return AveragePooling(data.shape, pair.factor)
