"""Scores that know a part of the data, which a network sees."""

import torch
from torch import Tensor

from scoresde.sde import SDE, Score, expand
from scoresde.sde.score import like, per_sample

from .guided import Guided, predict_data


class KnownPixels(Guided):
    """The score of a network that was trained to see known pixels without noise, as Palette's.

        D_y = y where known,   D(x', t) elsewhere,   x' = α y where known, x elsewhere

    Args:
        score: s(x, t), with its condition.
        known: True where pixels are known, bool, shape (B, *), or one row for all.
        values: y, of the states' shape, or one row for all.
        sde: Process, where the score does not carry one.

    Raises:
        TypeError: known is not a mask.

    Reference: Saharia et al. 2022, arXiv:2111.05826 (section 3).
    """

    followers = ("score", "known", "values")

    def __init__(self, score: Score, known: Tensor, values: Tensor, sde: SDE | None = None) -> None:
        super().__init__(score, sde)
        if known.dtype != torch.bool:
            raise TypeError(f"known must be a mask of bool, got {known.dtype}; use known.bool()")
        self.known, self.values = known, values

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """D_y(x, t); see `Guided.denoise`."""
        known, values = per_sample(self.known, x), per_sample(self.values, x)
        assert isinstance(known, Tensor) and isinstance(values, Tensor)
        values = like(x, values.to(x.dtype), "the known pixels")
        seen = torch.where(known, expand(self.sde.alpha(t), x) * values, x)
        return torch.where(known, values, predict_data(self.sde, self.score, seen, t))
