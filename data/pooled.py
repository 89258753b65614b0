"""The images of another data set, made smaller: the first stage of a cascade."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .base import Dataset, Split
from .checks import check_integer
from .levels import GreyLevels
from .memory import InMemory


class Pooled(InMemory):
    """Images f times smaller on each axis, by the mean of f × f pixels, of the same grey levels.

    Args:
        data: Images of a data set in memory, whose levels are kept.
        factor: f ≥ 2, which divides H and W.
        range: (lo, hi); that of the data where not given.
        dequantize, condition: as for `Folder`.

    Raises:
        ValueError: The data are no images in memory, or f is not an integer ≥ 2 that divides
            their size.
    """

    def __init__(
        self,
        data: Dataset,
        factor: int,
        range: tuple[float, float] | None = None,
        dequantize: bool = True,
        condition: str | None = None,
    ) -> None:
        check_integer("factor", factor, 2)
        if data.grey is None or not isinstance(data, InMemory):
            raise ValueError(f"only images in memory are pooled, got the data '{data.name}'")
        if data.shape[1] % factor or data.shape[2] % factor:
            raise ValueError(f"factor must divide {data.shape[1:]}, got {factor}")
        parts = [
            Split(_pooled(samples, factor), labels)
            for samples, labels in (
                (data.train, data.train_labels),
                (data.test, data.test_labels),
            )
        ]
        super().__init__(
            f"{data.name}/{factor}",
            lambda: (parts[0], parts[1]),
            data.grey if range is None else GreyLevels(range, data.grey.count),
            dequantize=dequantize,
            condition=condition,
        )
        self.quality = None
        self.report = f"{data.report}, {factor} times smaller"


def _pooled(samples: Tensor, factor: int) -> Tensor:
    """Means of levels, rounded to levels."""
    return F.avg_pool2d(samples.double(), factor).round().to(samples.dtype)
