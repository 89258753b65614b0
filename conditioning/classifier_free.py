"""Classifier-free guidance: a network's answers with and without a condition, extrapolated."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from scoresde.sde import SDE, Condition, Score
from scoresde.sde.broadcast import widened
from scoresde.sde.checks import check_choice
from scoresde.sde.score import like, per_sample

from .guided import Guided
from .rescale import check_share, rescaled
from .scales import Scale, check_scale, times


class ClassifierFree(Guided):
    """Classifier-free guidance by one condition or several, in one batch of the network.

        D_w = D_∅ + Σ_i w_i (D_i − D_∅),   and likewise s, ẑ and v

    w is the `scale` of GLIDE, Imagen and Stable Diffusion, 1 for the conditional model and 0 for
    the unconditional one; `strength` is the w − 1 of Ho & Salimans. For w ≠ 1 this is not the score
    of any noised p(x | y)^w p(x)^(1 − w): samples are more concentrated than that distribution,
    those of the probability flow more than those of the SDE. `FeynmanKac` corrects it.

    Args:
        model: s(x, t, condition) with `denoise(x, t, condition)`, such as a `ScoreModel` that was
            trained with a share of its conditions left out, or a `GaussianMixtureScore`.
        condition: c of B rows or 1, or a list of several conditions.
        scale: w ≥ 0, a number or one for each sample (B,); a list of them for several conditions.
        strength: w − 1 ≥ −1, in the place of `scale`.
        negative: Condition in the place of no condition ∅, away from which samples are guided.
        rescale: Share φ in [0, 1] of the correction of contrast, see `rescaled`.
        rescale_of: Prediction whose contrast is corrected: `noise`, `data` or `v`.
        sde: Process, where the model does not carry one.

    Raises:
        ValueError: Both scale and strength, or neither; a scale that is not finite and ≥ 0; not
            as many scales as conditions; a model that knows no absence of a condition, or was
            trained without one.

    Reference: Ho & Salimans 2022, arXiv:2207.12598 (eq. 6); Liu et al. 2022, arXiv:2206.01714
    (eq. 11), for several conditions; Bradley & Nakkiran 2024, arXiv:2408.09000, for what it
    samples.
    """

    followers = ("conditions", "scales")

    def __init__(
        self,
        model: Any,
        condition: Condition | Sequence[Condition],
        scale: Scale | Sequence[Scale] | None = None,
        *,
        strength: Scale | Sequence[Scale] | None = None,
        negative: Condition | None = None,
        rescale: float = 0.0,
        rescale_of: str = "noise",
        sde: SDE | None = None,
    ) -> None:
        super().__init__(model, sde)
        listed = isinstance(condition, list | tuple)
        wanted = tuple(condition) if listed else (condition,)
        absent = _absence(model, wanted[0]) if negative is None else negative
        self.conditions: tuple[Any, ...] = (absent, *wanted)
        self.scales = _scales(scale, strength, len(wanted))
        if negative is None and not _is_one(sum(self.scales)):
            _check_trained_without(model)
        self.rescale = check_share(rescale)
        self.rescale_of = check_choice("rescale_of", rescale_of, "noise", "data", "v")

    @property
    def conditional(self) -> Score:
        """The score of the first condition alone."""
        score: Score = self.score.given(self.conditions[1])  # type: ignore[attr-defined]
        return score

    @property
    def unconditional(self) -> Score:
        """The score without a condition, or with the negative one."""
        score: Score = self.score.given(self.conditions[0])  # type: ignore[attr-defined]
        return score

    @property
    def scale(self) -> Scale:
        """w of the first condition."""
        return self.scales[0]

    @property
    def plain(self) -> Self:
        """The same conditions without guidance: every scale is 1."""
        part = copy.copy(self)
        part.scales, part.rescale = (1.0,) * len(self.scales), 0.0
        return part

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """D_w(x, t); see `Guided.denoise`."""
        function = self.score.denoise  # type: ignore[attr-defined]
        if self.rescale == 0:
            return self._combined(function, x, t, [self.scales])[0].to(x.dtype)
        ones = (1.0,) * len(self.scales)
        guided, plain = self._combined(function, x, t, [self.scales, ones])
        return rescaled(self.sde, guided, plain, x, t, self.rescale, self.rescale_of).to(x.dtype)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """s_w(x, t); shape of x."""
        if self.rescale != 0:
            return super().__call__(x, t)
        return self._combined(self.score, x, t, [self.scales])[0].to(x.dtype)

    def evaluations(self, t: Tensor) -> int | Tensor:
        """One for each condition whose weight is not 0."""
        scales = [self.scales, *([(1.0,) * len(self.scales)] if self.rescale else [])]
        return super().evaluations(t) * len(_used([_weights(one) for one in scales]))

    def _combined(
        self,
        function: Callable[..., Tensor],
        x: Tensor,
        t: Tensor,
        scales: list[tuple[Scale, ...]],
    ) -> list[Tensor]:
        """F_∅ + Σ w_i (F_i − F_∅) for some sets of scales, by one call for all conditions."""
        weights = [_weights(one) for one in scales]
        used = _used(weights)
        together = x.repeat(len(used), *[1] * (x.ndim - 1))
        condition = _joined([per_sample(self.conditions[i], x) for i in used])
        values = like(together, function(together, t.repeat(len(used)) if t.ndim else t, condition))
        parts = dict(zip(used, widened(values).chunk(len(used)), strict=True))
        return [
            sum((times(w[i], part) for i, part in parts.items()), start=torch.zeros(()).to(x))
            for w in weights
        ]


def _is_one(scale: Scale) -> bool:
    return not isinstance(scale, Tensor) and scale == 1


def _check_trained_without(model: Any) -> None:
    """Refuse a model that is known never to have seen the absence of its condition.

    Raises:
        ValueError: It was trained with every condition.
    """
    if getattr(model, "condition_dropout", None) == 0:
        raise ValueError(
            "classifier-free guidance needs a model that was also trained without its condition, "
            "and this one was trained with condition.dropout=0; train it with "
            "condition.dropout=0.1, use scale=1, or give negative=CONDITION"
        )


def _absence(model: Any, condition: Condition) -> Condition:
    """What a model takes for no condition, of the shape of a condition.

    Raises:
        ValueError: The model knows no such condition.
    """
    make = getattr(model, "null_condition", None)
    if make is None:
        raise ValueError(
            f"classifier-free guidance needs a model that also works without a condition, and "
            f"{type(model).__name__} has no null_condition; give negative=CONDITION, or train "
            "with condition.dropout=0.1"
        )
    absent: Condition = make(condition)
    return absent


def _scales(scale: Any, strength: Any, count: int) -> tuple[Scale, ...]:
    """w for each condition, from one of the two conventions."""
    if (scale is None) == (strength is None):
        raise ValueError(
            "guidance takes scale=w (1: the conditional model) or strength=w−1 (0: the conditional "
            f"model), and not both, got scale={scale} and strength={strength}"
        )
    given, name, least = (scale, "scale", 0.0) if strength is None else (strength, "strength", -1.0)
    numbers = tuple(given) if isinstance(given, list | tuple) else (given,) * count
    if len(numbers) != count:
        raise ValueError(f"{count} conditions need as many numbers of {name}, got {len(numbers)}")
    checked = [check_scale(name, one, least) for one in numbers]
    return tuple(one - least for one in checked) if strength is not None else tuple(checked)


def _weights(scales: tuple[Scale, ...]) -> tuple[Scale, ...]:
    """Weights of ∅ and of each condition, which sum to 1."""
    return (1 - sum(scales), *scales)


def _used(weights: list[tuple[Scale, ...]]) -> list[int]:
    """Numbers of the conditions of which a weight is not 0."""
    return [
        i
        for i in range(len(weights[0]))
        if any(isinstance(w[i], Tensor) or w[i] != 0 for w in weights)
    ]


def _joined(conditions: list[Condition]) -> Condition:
    """Conditions of several batches as that of one."""
    first = conditions[0]
    if isinstance(first, Mapping):
        return {name: torch.cat([one[name] for one in conditions]) for name in first}  # type: ignore[index]
    return torch.cat(conditions)  # type: ignore[arg-type]
