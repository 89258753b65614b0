"""Scores made of other scores: the interface of guidance and of posterior scores.

The conditional reverse process needs ∇ log p_t(x | y) = s(x, t) + ∇ log p_t(y | x) and nothing
else. Every method here states it through a corrected data prediction,

    D_y = D + (σ²/α) ∇ log p_t(y | x),   s_y = (α D_y − x)/σ²,

so that it runs on every process and in every sampler, and can itself be guided again.

Reference: Song et al. 2021, arXiv:2011.13456 (eq. 14).
"""

import copy
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

from torch import Tensor

from scoresde.sde import SDE, Score, expand, rows
from scoresde.sde.broadcast import widened
from scoresde.sde.score import Cost, at_time, denoise, like, states_data, take


def process_of(score: Score, sde: SDE | None) -> SDE:
    """The process of a score: the one given, or that which the score carries.

    Args:
        score: s(x, t), of which a `ScoreModel` and the exact scores have an attribute `sde`.
        sde: Process, where the score does not carry one.

    Raises:
        ValueError: Neither is known.
    """
    found = getattr(score, "sde", None) if sde is None else sde
    if found is None:
        raise ValueError(
            f"a score made of others needs their process, got {type(score).__name__} without an "
            "attribute sde; give sde=VP() or another process"
        )
    return found


def predict_data(sde: SDE, score: Score, x: Tensor, t: Tensor) -> Tensor:
    """The data prediction D(x, t) of a score: its own `denoise`, or (x + σ² s)/α.

    Args:
        sde: Process.
        score: s(x, t).
        x: State, shape (B, *).
        t: Time, shape (B,) or ().
    """
    if states_data(score):
        return like(x, denoise(score, x, t), "the data prediction")
    s, wide = widened(score(x, t)), widened(x)
    variance, alpha = expand(sde.sigma(t).square(), wide), expand(sde.alpha(t), wide)
    return ((wide + variance * s) / alpha).to(x.dtype)


class Guided(ABC):
    """A score s_y(x, t) made of another, stated by its data prediction D_y(x, t).

    Args:
        score: s(x, t).
        sde: Its process, where it does not carry one.

    Attributes:
        followers: Names of the attributes that belong to the samples of a batch: scores and
            measurements, which have a method `rows`, and tensors of B rows or 1.

    Raises:
        ValueError: The process is not known.
    """

    followers: ClassVar[tuple[str, ...]] = ("score",)

    def __init__(self, score: Score, sde: SDE | None = None) -> None:
        self.score, self.sde = score, process_of(score, sde)

    @abstractmethod
    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """D_y(x, t), of x's shape and type.

        Args:
            x: State, shape (B, *).
            t: Time, shape (B,) or ().
        """

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """s_y(x, t) = (α D_y − x)/σ²; shape of x. Arguments as for `denoise`."""
        wide, data = widened(x), widened(self.denoise(x, t))
        alpha, variance = expand(self.sde.alpha(t), wide), expand(self.sde.sigma(t).square(), wide)
        return ((alpha * data - wide) / variance).to(x.dtype)

    def evaluations(self, t: Tensor) -> int | Tensor:
        """Network evaluations of one call at time t, a number or one for each sample (B,)."""
        cost: Cost = getattr(self.score, "evaluations", 1)
        return at_time(cost, t)

    def products(self, t: Tensor) -> int | Tensor:
        """Vector–Jacobian products of one call at time t, as for `evaluations`."""
        cost: Cost = getattr(self.score, "products", 0)
        return at_time(cost, t)

    def rows(self, index: Tensor) -> Self:
        """The score of some samples of the batch.

        Args:
            index: Their positions, shape (A,), in any order.
        """
        part = copy.copy(self)
        for name in self.followers:
            setattr(part, name, _follow(getattr(self, name), index))
        return part


def _follow(value: Any, index: Tensor) -> Any:
    """What belongs to some samples; None and what is the same for all stay as they are."""
    if isinstance(value, Tensor | dict):
        return take(value, index)
    if isinstance(value, tuple | list):
        return type(value)(_follow(one, index) for one in value)
    return rows(value, index)
