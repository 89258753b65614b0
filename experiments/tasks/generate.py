"""task=generate: train a score, generate samples, and measure them and the likelihood."""

import time
from typing import Any

import torch
from torch import Tensor

from scoresde.models import ScoreModel

from ..claim import Claim
from ..likelihood import Evaluator
from ..parts import Parts
from ..record import Record
from ..samples import generate
from .score import ScoreTask


class Generate(ScoreTask):
    """Train a score, or take it from `checkpoint`; then sample, judge and score."""

    name = "generate"
    groups = ("data", "sde", "sampler", "model")
    samples = scores = True

    def finish(self, parts: Parts[Any], model: ScoreModel, record: Record, claim: Claim) -> bool:
        """Samples, pictures, likelihood, bounds and quality; see `Task.finish`."""
        samples = generate(parts, model, record)
        if not parts.conditioning.whole:
            return True
        record.attempt("quality", lambda: _quality(parts, samples.x, record))
        evaluator = Evaluator(parts, model)
        raw = parts.scored if parts.likelihood is not None or parts.bounds.names else None
        if parts.likelihood is not None and raw is not None:
            begun = time.perf_counter()
            print(f"likelihood of {len(raw)} {parts.cfg.evaluate.split} samples", flush=True)
            found = evaluator(raw, list(range(len(raw))), progress=True).summary()
            entropy = getattr(parts.data, "entropy", None)
            found |= {} if entropy is None else {"entropy": entropy}
            record.add(found | {"seconds": {"likelihood": time.perf_counter() - begun}})
        if parts.bounds.names and raw is not None:
            record.attempt("bounds", lambda: evaluator.bounds(raw, list(range(len(raw)))))
        return True

    def skipped(self, parts: Parts[Any]) -> dict[str, str]:
        """The quality, where the labels of the data do not allow it; see `Task.skipped`.

        Where samples are conditioned, nothing is measured that belongs to the model itself.
        """
        if not parts.conditioning.whole:
            reason = "samples are conditioned; conditioning=none measures the model itself"
            return {"quality": reason, "likelihood": reason}
        labels = _labels(parts)
        problem = None
        if labels is not None and parts.quality is not None:
            problem = parts.quality.problem(labels)
        if problem is None:
            return {}
        print(f"warning: quality is left out: {problem}", flush=True)
        return {"quality": problem}


def _labels(parts: Parts[Any]) -> Tensor | None:
    """Labels of all images, for the quality; None where the data have no such quality."""
    data = parts.data
    if data.quality != "classifier" or data.levels is None:
        return None
    if data.train_labels is None or data.test_labels is None:
        return None
    return torch.cat([data.train_labels, data.test_labels])


def _quality(parts: Parts[Any], x: Tensor, record: Record) -> dict[str, Any] | None:
    """Quality of samples x by a classifier of the data, where they have labels."""
    labels, data = _labels(parts), parts.data
    if parts.quality is None or labels is None or data.levels is None:
        return None
    if "quality" in record.entries.get("skipped", {}):
        return None
    real = [data.train[:], data.test[:]]
    drawn = data.quantize(x.cpu())
    return {"quality": parts.quality(drawn, real, labels, data.levels, parts.seed)}
