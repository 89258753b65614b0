"""How a run samples a posterior: by a score, by a sampler with a measurement, or by a constraint.

A method of conf/conditioning/method/ is the class that has it: a `PosteriorMethod`, which changes
the score and leaves the sampler of the run as it is; a sampler that is built for a measurement
(`_partial_: true`), which takes steps and a grid of the run where its own are null; or one of the
constraints here.
"""

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import Tensor

from scoresde.conditioning import ILVR, Inpaint, Mask, Measurement, PosteriorMethod, PosteriorScore
from scoresde.conditioning import RePaint as RePaintSolver
from scoresde.conditioning import Replacement as Projected
from scoresde.conditioning.measurements import Downsampling, LinearOperator
from scoresde.samplers import Sampler, Samples, Solver
from scoresde.samplers.context import Constraint
from scoresde.sde import SDE, Score, rows
from scoresde.sde.checks import check_steps
from scoresde.sde.score import take


@dataclass(frozen=True)
class Way:
    """A score, a sampler and a constraint, which together sample a posterior."""

    score: Score
    sampler: Any
    constraint: Constraint | None = None


@dataclass(frozen=True)
class Meeting:
    """A sampler whose samples meet an exact measurement at the end, x ← x − H⁺ (H x − y).

    Steps of a score end near it and not there; what a mask knows is then equal in every bit.

    Args:
        run: Sampler.
        operator: H.
        y: Measurement of each sample, shape (B, *shape_out).
    """

    run: Sampler
    operator: LinearOperator
    y: Tensor

    def states(self, sde: SDE) -> int | None:
        """Number of states of a run."""
        return self.run.states(sde)

    def rows(self, index: Tensor) -> "Meeting":
        """That of some samples of the batch."""
        y = take(self.y, index)
        assert isinstance(y, Tensor)
        return Meeting(rows(self.run, index), rows(self.operator, index), y)

    def __call__(self, *arguments: Any, **options: Any) -> Samples:
        """Samples with H x = y; arguments as for the sampler."""
        found = self.run(*arguments, **options)
        kept = found.x - self.operator.project(found.x)
        return replace(found, x=kept + self.operator.pinv(self.y.to(found.x)))


def way(method: Any, measurement: Measurement, sde: SDE, score: Score, sampler: Sampler) -> Way:
    """How a method samples the posterior of a measurement.

    Args:
        method: Leaf of conf/conditioning/method/ as it was built.
        measurement: y, with a row for each sample.
        sde: Process.
        score: s(x, t) without the measurement.
        sampler: Sampler of the run.

    Raises:
        ValueError: The method does not fit the measurement or the sampler.
    """
    if isinstance(method, PosteriorMethod):
        guided = PosteriorScore(score, measurement, method, sde)
        if not measurement.exact or not isinstance(measurement.operator, LinearOperator):
            return Way(guided, sampler)
        return Way(guided, Meeting(sampler, measurement.operator, measurement.y))
    if isinstance(method, ConstraintMethod):
        return Way(score, method.sampler(sampler), method.constraint(measurement))
    if not isinstance(method, partial):
        raise ValueError(
            "conditioning/method=NAME chooses how the posterior is sampled, as "
            f"conditioning/method=mmps, got conditioning.method={method}"
        )
    own = {name: value for name, value in method.keywords.items() if value is not None}
    for name in {"steps", "grid"} & (method.keywords.keys() - own.keys()):
        if getattr(sampler, name, None) is not None:
            own[name] = getattr(sampler, name)
    return Way(score, partial(method.func, measurement, *method.args)(**own))


class ConstraintMethod(ABC):
    """A method that acts on the state after every update of the run's sampler."""

    @abstractmethod
    def constraint(self, measurement: Measurement) -> Constraint:
        """The constraint of a measurement.

        Raises:
            ValueError: It is not linear, or has noise.
        """

    @abstractmethod
    def sampler(self, sampler: Sampler) -> Sampler:
        """The sampler of the run, changed where the method needs another path."""


@dataclass(frozen=True)
class Replacement(ConstraintMethod):
    """What was measured is replaced by its noised value; see `conditioning.Replacement`."""

    def constraint(self, measurement: Measurement) -> Constraint:
        """See `ConstraintMethod.constraint`."""
        return replaced(measurement, "replacement")

    def sampler(self, sampler: Sampler) -> Sampler:
        """The sampler itself."""
        return sampler


@dataclass(frozen=True)
class RePaint(ConstraintMethod):
    """Replacement along a path that goes back up; see `conditioning.RePaint`.

    Args:
        jump, resamplings: As for `conditioning.RePaint`.
    """

    jump: int = 10
    resamplings: int = 10

    def __post_init__(self) -> None:
        check_steps(self.jump, "jump")
        check_steps(self.resamplings, "resamplings")

    def constraint(self, measurement: Measurement) -> Constraint:
        """See `ConstraintMethod.constraint`."""
        return replaced(measurement, "repaint")

    def sampler(self, sampler: Sampler) -> Sampler:
        """The sampler with its predictor on RePaint's path, without a corrector."""
        predictor = getattr(sampler, "predictor", None)
        if not isinstance(predictor, Solver):
            raise ValueError(
                "conditioning/method=repaint goes up and down the steps of a predictor, and "
                f"{type(sampler).__name__} has none; use sampler=ancestral or sampler=ddim"
            )
        whole: Any = copy.copy(sampler)
        whole.predictor, whole.corrector = (
            RePaintSolver(predictor, self.jump, self.resamplings),
            None,
        )
        return whole


@dataclass(frozen=True)
class LowFrequencies(ConstraintMethod):
    """The low frequencies of what was measured; see `conditioning.ILVR`.

    Args:
        factor: By how much smaller the images are that have these frequencies.
        stop: As for `conditioning.ILVR`.
    """

    factor: int = 4
    stop: float = 0.0
    kernel: str = field(default="cubic")

    def constraint(self, measurement: Measurement) -> Constraint:
        """See `ConstraintMethod.constraint`."""
        operator = exact(measurement, "ilvr")
        low = Downsampling(operator.shape, self.factor, self.kernel)

        def low_pass(x: Tensor) -> Tensor:
            return low.upsample(low(x))

        return ILVR(low_pass, operator.pinv(measurement.y), self.stop)

    def sampler(self, sampler: Sampler) -> Sampler:
        """The sampler itself."""
        return sampler


def replaced(measurement: Measurement, who: str) -> Constraint:
    """The constraint that keeps what was measured."""
    operator = exact(measurement, who)
    if isinstance(operator, Mask):
        known = operator.known
        return Inpaint(
            known[None] if known.ndim == len(operator.shape) else known,
            operator.pinv(measurement.y),
        )
    return Projected(operator, measurement.y)


def exact(measurement: Measurement, who: str) -> LinearOperator:
    """The operator of a linear measurement without noise.

    Args:
        measurement: y.
        who: The method, as the error names it.

    Raises:
        ValueError: It is not linear, or has noise.
    """
    operator = measurement.operator
    if not isinstance(operator, LinearOperator):
        raise ValueError(
            f"conditioning/method={who} needs a linear measurement, got "
            f"{type(operator).__name__}; use conditioning/method=dps"
        )
    if not measurement.exact:
        raise ValueError(
            f"conditioning/method={who} takes the measurement as exact, got noise; use "
            "conditioning.std=0, or conditioning/method=pigdm_score"
        )
    return operator
