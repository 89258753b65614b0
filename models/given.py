"""A model with a condition: the score of p_t(x | c) for given c."""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from torch import Tensor

from scoresde.sde.score import Condition, take

# Methods of models that take (x, t, condition).
CONDITIONED = ("score", "noise", "denoise", "noise_and_share", "variance_share", "log_prob")


class Conditional(Protocol):
    """A score that takes a condition."""

    def __call__(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """s(x, t | c); shape of x."""


class Given:
    """A score with its condition, s(x, t | c), whose rows follow those of the batch.

    It has all attributes of its model; `noise`, `denoise` and the like take the condition.

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
            index: Their positions, shape (A,), in any order.
        """
        return Given(self.model, take(self.condition, index))

    def __getattr__(self, name: str) -> Any:
        """An attribute of the model; its functions of (x, t) get the condition."""
        if name in ("model", "condition") or name.startswith("__"):  # absent while being copied
            raise AttributeError(name)
        value: Callable[..., Any] = getattr(self.model, name)
        return partial(value, condition=self.condition) if name in CONDITIONED else value
