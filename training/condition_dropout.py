"""A loss in which the condition of some samples is left out."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from scoresde.sde import Condition

from .objective import Batch, Conditioned, Loss, Wrapper, unpack


class ConditionDropout(Wrapper):
    """A loss that leaves out the condition of each sample with probability p.

        E_b L(x_0, b ? ∅ : c),   b ~ Bernoulli(p) for each sample,   ∅ = model.null_condition(c)

    One network then learns s(x, t | c) and s(x, t), from which classifier-free guidance is made.
    For p = 0, and for batches without a condition, it is the loss itself, and draws no random
    number of its own.

    Args:
        loss: Loss L.
        probability: p in [0, 1); 0.1 to 0.2 in the literature.

    Raises:
        ValueError: p is not in [0, 1).

    Reference: Ho & Salimans 2022, arXiv:2207.12598 (algorithm 1).
    """

    def __init__(self, loss: Loss, probability: float = 0.1) -> None:
        super().__init__(loss)
        self.probability = check_dropout(probability)

    def check(self, model: Any) -> None:
        """Raise ValueError if the loss refuses a model, or p > 0 and it knows no absence."""
        super().check(model)
        if self.probability:
            _absence(model)

    def __call__(
        self, model: Any, batch: Batch | Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """The loss of the batch with some conditions left out; see `Loss`."""
        x0, condition = unpack(batch)
        if self.probability == 0 or condition is None:
            return self.loss(model, batch, generator)
        u = torch.rand(len(x0), generator=generator, device=x0.device)
        absent = _absence(model)(condition)
        left = _chosen(u < self.probability, absent, condition)
        return self.loss(model, Conditioned(x0, left), generator)


def check_dropout(probability: float) -> float:
    """Return a probability of leaving out a condition, refusing all outside [0, 1)."""
    number = isinstance(probability, int | float) and not isinstance(probability, bool)
    if not number or not 0 <= probability < 1:
        raise ValueError(
            f"condition.dropout must be in [0, 1), got {probability!r}; 0.1 is usual, and 0 "
            "trains no model for guidance"
        )
    return float(probability)


def _absence(model: Any) -> Any:
    """The function null_condition of a model, also within wrappers for parallel training.

    Raises:
        ValueError: It has none.
    """
    inside = model
    while not hasattr(inside, "null_condition"):
        inside = getattr(inside, "module", getattr(inside, "_orig_mod", None))
        if inside is None:
            raise ValueError(
                f"condition.dropout needs a model with null_condition(condition), and "
                f"{type(model).__name__} has none; use condition.dropout=0"
            )
    return inside.null_condition


def _chosen(mask: Tensor, one: Condition, other: Condition) -> Condition:
    """The rows of one condition where the mask (B,) is true, else those of the other."""
    if isinstance(other, Mapping):
        pairs = cast(Mapping[str, Tensor], one)
        return {
            name: cast(Tensor, _chosen(mask, pairs[name], value)) for name, value in other.items()
        }
    rows = mask.reshape(-1, *[1] * (other.ndim - 1))
    return torch.where(rows, cast(Tensor, one), other)
