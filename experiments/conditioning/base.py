"""What the samples of a run are conditioned on: the interface of all choices of `conditioning`."""

from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from torch import Tensor

from scoresde.data.base import stream
from scoresde.models import ScoreModel
from scoresde.models.names import inner
from scoresde.samplers import Samples, draw
from scoresde.samplers.context import Constraint
from scoresde.samplers.solvers.variance import NotFitted
from scoresde.sde import Score

from ..condition import given, labels_to_draw
from ..record import Record

if TYPE_CHECKING:
    from ..parts import Parts


@dataclass(frozen=True)
class Bound:
    """What a run samples from, for the model that it has.

    Attributes:
        score: s(x, t) of all samples.
        sampler: The sampler of the run, or what is called as one and has `rows` and `states`.
        count: Number of samples.
        constraint: What acts on the state after every update, if anything does.
        labels: Class of each sample, int64, (count,), if the network takes one.
        measures: What the condition itself knows of its samples, for its report.
    """

    score: Score
    sampler: Any
    count: int
    constraint: Constraint | None = None
    labels: Tensor | None = None
    measures: Any = None


class Conditioning(ABC):
    """A condition on the samples of a run; one class with a YAML in conf/conditioning/.

    Attributes:
        whole: Whether samples have the distribution of the data, so that their quality and the
            likelihood of the model say something about them.
    """

    whole: ClassVar[bool] = False

    @abstractmethod
    def bind(self, parts: "Parts[Any]", model: ScoreModel) -> Bound:
        """What is sampled; nothing is evaluated yet.

        Args:
            parts: Parts of the run.
            model: Its network, trained or not.

        Raises:
            ValueError: The condition does not fit the model, the data or the sampler.
        """

    @abstractmethod
    def report(self, parts: "Parts[Any]", bound: Bound, samples: Samples, record: Record) -> None:
        """Add the numbers of the condition to result.json, and draw its picture."""

    def check(self, parts: "Parts[Any]") -> None:
        """Raise ValueError, before anything is trained, if the samples could not be generated.

        Sampling begins with the network as it is, and stops where it would be evaluated first.
        """
        if parts.sampler is None:
            raise ValueError(
                f"conditioning={type(self).__name__.lower()} is for tasks that generate samples, "
                f"got task={parts.task.name}; use task=generate or task=sample"
            )
        model = parts.model
        training, hook = model.training, inner(model.net).register_forward_pre_hook(_stop)
        model.eval()
        try:
            with suppress(_Reached, NotFitted):
                sample(parts, self.bind(parts, model))
        finally:
            hook.remove()
            model.train(training)


class Unconditional(Conditioning):
    """Samples of the model itself, with the labels of `condition` where it takes them."""

    whole = True

    def bind(self, parts: "Parts[Any]", model: ScoreModel) -> Bound:
        """The score and the sampler of the run; see `Conditioning.bind`."""
        count = parts.sampling.count
        labels = labels_to_draw(parts.cfg.condition, model, count)
        return Bound(given(model, labels), parts.sampler, count, labels=labels)

    def report(self, parts: "Parts[Any]", bound: Bound, samples: Samples, record: Record) -> None:
        """Nothing to add."""

    def check(self, parts: "Parts[Any]") -> None:
        """Nothing to refuse: the parts have been checked."""


def sample(
    parts: "Parts[Any]", bound: Bound, *, progress: bool = False, trajectory: int = 0
) -> Samples:
    """Draw the samples of a run, each from a seed of its own.

    Args:
        parts: Parts of the run.
        bound: What is sampled.
        progress: Show a bar on a terminal.
        trajectory: How many states to keep.
    """
    seeds = [stream("sampling", parts.seed, i).initial_seed() for i in range(bound.count)]
    return draw(
        bound.sampler,
        parts.sde,
        bound.score,
        (bound.count, *parts.data.shape),
        parts.sampling.batch_size,
        seeds=seeds,
        constraint=bound.constraint,
        progress=progress,
        trajectory=trajectory,
        device=parts.device,
    )


def check_finite(samples: Samples) -> None:
    """Raise FloatingPointError if a sample is not finite."""
    if not samples.x.isfinite().all():
        raise FloatingPointError(
            "samples contain NaN/Inf; train longer, or use more sampler.steps or a smaller snr"
        )


class _Reached(Exception):
    """The network was about to be evaluated."""


def _stop(*_: Any) -> NoReturn:
    raise _Reached
