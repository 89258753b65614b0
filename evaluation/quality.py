"""Quality of the samples of a run by a classifier of labelled images."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from .cost import cost
from .features import class_problem
from .metrics import sample_quality


@dataclass(frozen=True)
class ClassifierQuality:
    """Class coverage, confidence and Fréchet distance of samples; see `sample_quality`."""

    def problem(self, labels: Tensor) -> str | None:
        """Why labels (M,) do not allow it, or None."""
        return class_problem(labels.numpy(), len(labels))

    def __call__(
        self, samples: Tensor, real: list[Tensor], labels: Tensor, levels: int, seed: int
    ) -> dict[str, Any]:
        """What the classifier says of samples, as plain values; the real images come in parts."""
        images = torch.cat(real)
        print(f"quality: {cost(len(samples), len(images), tuple(images.shape[1:]))}", flush=True)
        return asdict(sample_quality(samples, images, labels, levels, seed=seed))
