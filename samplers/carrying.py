"""What a run carries from step to step: a state of float32 at least.

The weights of a step grow like σ², which float16 does not hold, and a step adds little to a state,
which bfloat16 forgets below 0.4 %. So a run carries its state in float32 at least, while the score,
the constraint and the callback see it in the type that was asked for.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from scoresde.sde import Score, rows
from scoresde.sde.score import denoise, like


class AskedIn:
    """A score that sees states in another type than the run's, and answers in the run's.

    Args:
        score: s(x, t).
        dtype: Type of the states that it sees.
    """

    def __init__(self, score: Score, dtype: torch.dtype) -> None:
        self.score, self.dtype = score, dtype
        self.evaluations = getattr(score, "evaluations", 1)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """s(x, t) in x's type."""
        return like(x, self.score(x.to(self.dtype), t))

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """D(x, t) in x's type."""
        return like(x, denoise(self.score, x.to(self.dtype), t), "the data prediction")

    def rows(self, index: Tensor) -> "AskedIn":
        """That of some samples of the batch."""
        return AskedIn(rows(self.score, index), self.dtype)


def obeyed_in(
    constraint: Callable[[Tensor, Tensor], Tensor] | None, dtype: torch.dtype
) -> Callable[[Tensor, Tensor], Tensor] | None:
    """A constraint, if there is one, that sees states in another type than the run's.

    What it returns takes the run's type where it is checked.
    """
    return constraint and (lambda x, t: constraint(x.to(dtype), t))


def told_in(
    callback: Callable[[int, Tensor, Tensor], None] | None, dtype: torch.dtype
) -> Callable[[int, Tensor, Tensor], None] | None:
    """A callback, if there is one, that sees states in another type than the run's."""
    return callback and (lambda step, t, x: callback(step, t, x.to(dtype)))
