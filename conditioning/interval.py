"""Guidance in an interval of noise levels alone."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from scoresde.sde import SDE, Score, rows
from scoresde.sde.score import Cost, at_time

from .guided import Guided, predict_data


class Unguidable(Protocol):
    """A guided score that knows its unguided version."""

    @property
    def plain(self) -> Score:
        """The score without guidance."""

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """s(x, t)."""


class Interval(Guided):
    """Guidance for ς_low < σ/α ≤ ς_high, and the score without guidance elsewhere.

    The interval is one of noise levels, and not of step numbers, which would mean another on every
    grid. Outside of it the evaluations of the guidance are saved.

    Args:
        score: A guided score with an attribute `plain`, such as `ClassifierFree`, `Autoguidance` or
            `ClassifierGuidance`.
        low: ς_low ≥ 0; published is 0.19 with high 1.61 for ImageNet at 512 pixels.
        high: ς_high > ς_low.
        sde: Process, where the score does not carry one.

    Raises:
        ValueError: Bounds that are not 0 ≤ low < high.
        TypeError: The score does not know its unguided version.

    Reference: Kynkäänniemi et al. 2024, arXiv:2404.07724 (eq. 4).
    """

    followers = ("score", "plain")

    def __init__(self, score: Unguidable, low: float, high: float, sde: SDE | None = None) -> None:
        super().__init__(score, sde)
        if not 0 <= low < high:
            raise ValueError(
                f"an interval of guidance needs 0 ≤ low < high, levels of sigma/alpha, got {low} "
                f"and {high}"
            )
        if not hasattr(score, "plain"):
            raise TypeError(
                f"{type(score).__name__} has no unguided version; give a ClassifierFree, an "
                "Autoguidance or a ClassifierGuidance"
            )
        self.plain: Score = score.plain
        self.low, self.high = low, high

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """D(x, t) of the guided score or of the other; see `Guided.denoise`."""
        return self._either(lambda score, x, t: predict_data(self.sde, score, x, t), x, t)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """s(x, t) of the guided score or of the other; shape of x."""
        return self._either(lambda score, x, t: score(x, t), x, t)

    def evaluations(self, t: Tensor) -> int | Tensor:
        """Those of the score that is evaluated at t."""
        return self._cost("evaluations", 1, t)

    def products(self, t: Tensor) -> int | Tensor:
        """Those of the score that is evaluated at t."""
        return self._cost("products", 0, t)

    def _inside(self, t: Tensor) -> Tensor:
        level = self.sde.sigma(t) / self.sde.alpha(t)
        return (level > self.low) & (level <= self.high)

    def _either(
        self, function: Callable[[Score, Tensor, Tensor], Tensor], x: Tensor, t: Tensor
    ) -> Tensor:
        inside = self._inside(t)
        if inside.all() or not inside.any():
            return function(self.score if inside.all() else self.plain, x, t)
        result = torch.empty_like(x)
        for score, here in ((self.score, inside), (self.plain, ~inside)):
            index = here.nonzero()[:, 0]
            result[index.to(x.device)] = function(
                rows(score, index), x[index.to(x.device)], t[index]
            )
        return result

    def _cost(self, name: str, default: int, t: Tensor) -> int | Tensor:
        costs: list[Cost] = [getattr(one, name, default) for one in (self.score, self.plain)]
        guided, plain = (torch.as_tensor(at_time(cost, t)) for cost in costs)
        return torch.where(self._inside(t).cpu(), guided, plain)
