"""task=classifier: train a classifier of noisy states, which guides a score to a class."""

import math
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from scoresde.data import Dataset
from scoresde.data.base import stream
from scoresde.evaluation.classification import classification
from scoresde.evaluation.plots import save_bins
from scoresde.models import NoisyClassifier
from scoresde.models.names import inner
from scoresde.sde import SDE, describe
from scoresde.sde.checks import check_count
from scoresde.training import ClassifierLoss, Loss, NoiseLevelLoss

from ..claim import Claim
from ..model import make
from ..parts import Parts
from ..record import Record
from .base import Task

BINS = 5  # equal parts of [λ(T), λ(ε)]


class Classifier(Task):
    """Train a classifier p_φ(y | x_t, t), and measure its answers on data that were held out.

    Args:
        shift: Most pixels ≥ 0 by which training images are moved along each axis.

    Raises:
        ValueError: shift is not an integer ≥ 0.
    """

    name = takes = "classifier"
    groups = ("data", "sde", "classifier")
    model = ("sde", "classifier", "data.range")
    training = ("sde", "classifier", "data", "train", "seed", "shift")
    uses_prior = False

    def __init__(self, shift: int = 0) -> None:
        self.shift = check_count("task.shift", shift, 0)

    def check(self, cfg: DictConfig) -> None:
        """See `Task.check`."""
        super().check(cfg)
        if cfg.condition.kind != "label":
            raise ValueError(
                "task=classifier learns the labels of the data; add condition=label, got "
                f"condition.kind={cfg.condition.kind}"
            )

    def loss(self, cfg: DictConfig, sde: SDE, data: Dataset, classes: int | None) -> Loss:
        """The cross-entropy; see `Task.loss`."""
        if self.shift and len(data.shape) != 3:
            raise ValueError(f"task.shift moves images, and data={data.name} are points; use 0")
        return ClassifierLoss(sde, shift=self.shift)

    def network(self, cfg: DictConfig, sde: SDE, data: Dataset, classes: int | None) -> nn.Module:
        """The classifier; see `Task.network`."""
        facts = {"shape": data.shape, "classes": classes, "data_range": data.range}
        return make(cfg.classifier, sde=sde, **facts)

    def facts(self, model: nn.Module) -> dict[str, Any]:
        """The description of the classifier, and how its images were moved."""
        return {"description": describe(inner(model)), "shift": self.shift}

    @torch.no_grad()
    def finish(
        self, parts: Parts[Any], model: NoisyClassifier, record: Record, claim: Claim
    ) -> bool:
        """Accuracy and calibration by noise level as entries of result.json, and classifier.png.

        λ is stratified, so that each of the bins, equal parts of its range, holds as many samples.
        """
        logits, labels, ends = _answers(parts, model)
        bins = [
            classification(*pair)
            for pair in zip(logits.chunk(BINS), labels.chunk(BINS), strict=True)
        ]
        result: dict[str, Any] = classification(logits, labels)._asdict() | {
            "bins": [
                {"from": low, "to": high} | part._asdict()
                for low, high, part in zip(ends, ends[1:], bins, strict=False)
            ]
        }
        record.add({"classifier": result | {"samples": len(labels)}})
        print(_summary(result, len(labels), record.folder), flush=True)

        def picture() -> None:
            shown = {
                "accuracy": [part.accuracy for part in bins],
                "calibration error": [part.calibration_error for part in bins],
            }
            save_bins(ends, shown, record.folder / "classifier.png", "log(α/σ)")

        record.attempt("pictures", picture)
        return True


def _answers(parts: Parts[Any], model: NoisyClassifier) -> tuple[Tensor, Tensor, list[float]]:
    """Logits and classes of noisy test samples, in the order of λ, and the ends of the bins."""
    data, sde = parts.data, parts.sde
    n = BINS * math.ceil(parts.sampling.count / BINS)
    generator = stream("classifier", parts.seed)
    share = (torch.arange(n) + torch.rand(n, generator=generator, dtype=torch.float64)) / n
    index = torch.randint(len(data.test), (n,), generator=generator)
    assert data.test_labels is not None  # the data are conditioned on them
    x0 = data.scale(data.test[index], generator).to(parts.device)
    noise = parts.generator("classifier")
    x, lam = NoiseLevelLoss(sde).perturb(x0, share.to(parts.device), noise)
    t = sde.time_of_half_log_snr(lam)
    size = parts.sampling.batch_size
    logits = torch.cat([model(*part) for part in zip(x.split(size), t.split(size), strict=True)])
    first, last = sde.half_log_snr(torch.tensor([sde.T, sde.eps], dtype=torch.float64)).tolist()
    ends = torch.linspace(first, last, BINS + 1, dtype=torch.float64).tolist()
    return logits, data.test_labels[index].to(logits.device), ends


def _summary(result: dict[str, Any], count: int, folder: Path) -> str:
    """The accuracies, and what uses the classifier."""
    lines = [
        f"accuracy on {count} noisy held-out samples: {result['accuracy']:.3f}, "
        f"calibration error {result['calibration_error']:.3f}"
    ]
    lines += [
        f"  λ from {part['from']:6.2f} to {part['to']:6.2f}: {part['accuracy']:.3f}, "
        f"{part['calibration_error']:.3f}"
        for part in result["bins"]
    ]
    return "\n".join([*lines, f"guidance takes it by the folder {folder}"])
