"""A model with a condition: the score of p_t(x | c) for given c."""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from torch import Tensor

from scoresde.sde.score import Condition, take

# Methods of models that take (x, t, condition).
CONDITIONED = ("score", "noise", "denoise", "noise_and_share", "variance_share", "log_prob")


class Conditional(Protocol):
    """A score that can be told a condition."""

    def __call__(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """s(x, t | c); shape of x."""


class Given:
    """A score with its condition, s(x, t | c), which follows its rows wherever a batch is parted.

    It has all that its model has: `noise`, `denoise` and the like are those of the condition.

    Args:
        model: s(x, t, c).
        condition: c, a tensor or a dict of tensors whose first dimension is B or 1.
    """

    def __init__(self, model: Conditional, condition: Condition) -> None:
        self.model, self.condition = model, condition

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """s(x, t | c); shape of x, which is (B, *); t is (B,) or ()."""
        return self.model(x, t, self.condition)

    def rows(self, index: Tensor) -> "Given":
        """The score of some samples of the batch.

        Args:
            index: Their numbers, shape (A,), in any order.
        """
        return Given(self.model, take(self.condition, index))

    def __getattr__(self, name: str) -> Any:
        """What the model has; its functions of (x, t) with the condition."""
        if name in ("model", "condition") or name.startswith("__"):  # not yet there in a copy
            raise AttributeError(name)
        value: Callable[..., Any] = getattr(self.model, name)
        return partial(value, condition=self.condition) if name in CONDITIONED else value
