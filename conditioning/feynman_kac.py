"""Guidance whose samples have the distribution that guidance is meant to have."""

import math
from typing import Any

import torch
from torch import Tensor

from scoresde.samplers.cast import CastScore
from scoresde.sde import SDE, Evaluations, Score, expand, rows
from scoresde.sde.broadcast import widened
from scoresde.sde.checks import check_between

from .combination import Combination
from .particles import Dynamics, Move, Particles


class FeynmanKac(Particles):
    """Particles that follow a guided score, weighted so that they sample p(x|y)^w p(x)^{1−w}.

        dx = [f x − g² s_w] dt + g dw̄,   s_w = s_∅ + w (s_y − s_∅),
        d log W = ½ g² w (w − 1) ‖s_y − s_∅‖² |dt| = w (w − 1) ‖ẑ_y − ẑ_∅‖² dλ

    The samples of a guided SDE or flow without weights have no distribution that is known in
    general; these have that of the product of powers, exactly as K → ∞ and N → ∞, for any two
    scores whose marginals agree at T. The score that is given must be a guided one with attributes
    `conditional`, `unconditional` and `scale`, such as `ClassifierFree` or `TwoScores`.

    `log_evidence` of the population estimates log ∫ p(x|y)^w p(x)^{1−w} dx.

    Args:
        particles, steps, predictor, grid, threshold: As for `Particles`.

    Raises:
        ValueError: A number out of its range; at the call, guidance by several conditions.
        TypeError: At the call, a score without those attributes.

    Reference: Skreta et al. 2025, arXiv:2503.02819 (section 3).
    """

    alone = "the guided score itself in any sampler that draws noise"

    def begin(self, sde: SDE, score: Score, index: Tensor) -> Dynamics:
        """The dynamics of a run; see `Particles.begin`."""
        conditional, unconditional, scale = _parts(score)
        scale = scale if len(scale) == 1 else scale[index.to(scale.device)]
        return _Guided(sde, rows(conditional, index), rows(unconditional, index), scale)

    def check_samples(self, x: Tensor) -> None:
        """States of any shape fit."""


class TwoScores(Combination):
    """The guided score of two scores, D_w = D_∅ + w (D_y − D_∅), for `FeynmanKac`.

    Args:
        conditional: s_y(x, t).
        unconditional: s_∅(x, t), of the same process.
        scale: w ≥ 0; 0 is the unconditional score, 1 the conditional one.
        sde: Process, where the conditional score does not carry one.

    Raises:
        ValueError: The scale is not finite or < 0, or the process is not known.
    """

    def __init__(
        self, conditional: Score, unconditional: Score, scale: float, sde: SDE | None = None
    ) -> None:
        self.scale = check_between("scale", scale, 0)
        super().__init__((conditional, unconditional), (self.scale, 1 - self.scale), sde)

    @property
    def conditional(self) -> Score:
        """s_y(x, t)."""
        return self.scores[0]

    @property
    def unconditional(self) -> Score:
        """s_∅(x, t)."""
        return self.scores[1]


def _parts(score: Score) -> tuple[Score, Score, Tensor]:
    """s_y, s_∅ and w of a guided score, (B,) or (1,); their evaluations count as those of it.

    Raises:
        TypeError: It is no guided score of two.
        ValueError: It is guided by several conditions, or rescaled.
    """
    guided = score
    while isinstance(guided, Evaluations | CastScore):
        guided = guided.score
    names = ("conditional", "unconditional", "scale")
    given, without, scale = (getattr(guided, name, None) for name in names)
    if given is None or without is None or scale is None:
        raise TypeError(
            "FeynmanKac needs a guided score with attributes conditional, unconditional and scale, "
            f"got {type(guided).__name__}; use ClassifierFree(model, condition, scale) or "
            "TwoScores(conditional, unconditional, scale)"
        )
    conditions, rescale = len(getattr(guided, "scales", (scale,))), getattr(guided, "rescale", 0)
    if conditions > 1 or rescale != 0:
        raise ValueError(
            "FeynmanKac corrects guidance by one condition without a rescaled contrast, got "
            f"{conditions} conditions and rescale={rescale}; use one condition and rescale=0"
        )
    w = torch.as_tensor(scale, dtype=torch.float64).reshape(-1)
    return _like(score, given), _like(score, without), w


def _like(score: Score, part: Any) -> Score:
    """A part of a score, cast and counted as it."""
    if isinstance(score, Evaluations):
        return score.sharing(_like(score.score, part))
    if isinstance(score, CastScore):
        return CastScore(_like(score.score, part), score.dtype)
    found: Score = part
    return found


class _Guided(Dynamics):
    """Particles with both scores where they are."""

    def __init__(self, sde: SDE, conditional: Score, unconditional: Score, scale: Tensor) -> None:
        self.sde, self.scores, self.scale = sde, (conditional, unconditional), scale
        self._known: tuple[Tensor, Tensor] | None = None

    def weigh(self, x: Tensor, move: Move) -> Tensor:
        given, without = (widened(score(x, move.t)) for score in self.scores)
        gap = given - without
        ends = self.sde.half_log_snr(torch.stack([move.t, move.t_next]))
        sigma, step = self.sde.sigma(move.t).item(), (ends[1] - ends[0]).item()
        rate = (sigma * gap.double()).square().flatten(1).sum(1)
        # A step to noiseless data is infinite in λ, and there the two predictions agree.
        w = self.scale.to(rate.device)
        gain = w * (w - 1) * rate * step if math.isfinite(step) else 0 * rate
        guided = without + expand(w, gap) * gap
        self._known = (move.c * x + move.w * guided, gain)
        return torch.zeros_like(gain)

    def keep(self, index: Tensor) -> None:
        assert self._known is not None
        mean, gain = self._known
        self._known = (mean[index], gain[index])

    def advance(self, x: Tensor, move: Move, z: Tensor) -> tuple[Tensor, Tensor]:
        assert self._known is not None
        mean, gain = self._known
        if move.last:
            return mean / self.sde.alpha(move.t_next).to(mean), gain
        return mean + move.std * z, gain
