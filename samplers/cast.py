"""A score that is evaluated in another type than that of the state."""

import torch
from torch import Tensor

from scoresde.sde import Score, rows
from scoresde.sde.score import denoise, like, states_data


class CastScore:
    """A score that receives states in a type of its own and returns its values in theirs.

    Samplers carry the state in float32 at least: the weights of a step grow like σ², which float16
    cannot hold, and a step changes the state by less than the 0.4 % that bfloat16 resolves.

    Args:
        score: s(x, t).
        dtype: Type in which it receives states.
    """

    def __init__(self, score: Score, dtype: torch.dtype) -> None:
        self.score, self.dtype = score, dtype
        self.states_data = states_data(score)
        self.evaluations = getattr(score, "evaluations", 1)
        self.products = getattr(score, "products", 0)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """s(x, t) in x's type."""
        return like(x, self.score(x.to(self.dtype), t))

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """D(x, t) in x's type."""
        return like(x, denoise(self.score, x.to(self.dtype), t), "the data prediction")

    def rows(self, index: Tensor) -> "CastScore":
        """The score of some samples of the batch."""
        return CastScore(rows(self.score, index), self.dtype)
