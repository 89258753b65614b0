"""The contract of a score: its shape and type, its evaluations, and the rows of its condition."""

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar, cast

from torch import Tensor

Score = Callable[[Tensor, Tensor], Tensor]
"""score(x, t) ≈ ∇ log p_t(x), of the shape of x, with x of shape (B, *) and t of shape (B,) or ().

A score that differs from sample to sample, such as one with a condition, has a method `rows(index)`
that returns the score of the samples `index`, shape (A,), in that order. A score that evaluates a
network several times has an attribute `evaluations`, the number of times."""

Condition = Tensor | Mapping[str, Tensor]
"""What samples are conditioned on: a tensor, or a dict of tensors, with B rows or 1 for all."""


def rows(score: Score, index: Tensor) -> Score:
    """The score of the samples `index` of a batch, int64, shape (A,), in any order and number.

    It is `score.rows(index)` where the score has such a method, else the score itself.
    """
    own = getattr(score, "rows", None)
    return score if own is None else own(index)


Made = TypeVar("Made")


class RowCache(Generic[Made]):
    """An object made from the score of some samples, such as their reverse process, and cached.

    A solver asks for that of the samples under way at each stage, which mostly are the same.

    Args:
        score: s(x, t) of the whole batch.
        make: Function of the score of some samples.
    """

    def __init__(self, score: Score, make: Callable[[Score], Made]) -> None:
        self.score, self.make = score, make
        self.whole = self._part = make(score)
        self._index: Tensor | None = None

    def __call__(self, index: Tensor) -> Made:
        """The object of the samples `index`, shape (A,); see `rows`."""
        if index is not self._index:
            self._index, self._part = index, self.make(rows(self.score, index))
        return self._part


def take(condition: Condition, index: Tensor) -> Condition:
    """The condition of some samples of a batch; a condition of one row holds for all."""
    if isinstance(condition, Mapping):
        return {name: cast(Tensor, take(value, index)) for name, value in condition.items()}
    if len(condition) == 1:
        return condition
    return condition[index.to(condition.device)]


def per_sample(condition: Any, x: Tensor) -> Condition:
    """A condition with a row for each sample of a state x (B, *), on the device of the state.

    Raises:
        ValueError: The condition has neither B rows nor one for all.
        TypeError: The condition is neither a tensor nor a dict of tensors.
    """
    if isinstance(condition, Mapping):
        return {name: cast(Tensor, per_sample(value, x)) for name, value in condition.items()}
    if not isinstance(condition, Tensor):
        raise TypeError(
            f"a condition must be a tensor or a dict of tensors, got {type(condition).__name__}; "
            "use torch.tensor([…]) with an entry for each sample, or one for all"
        )
    if condition.ndim == 0 or len(condition) not in (1, len(x)):
        raise ValueError(
            f"a condition of {len(x)} samples must have {len(x)} rows, or 1 for all, "
            f"got shape {tuple(condition.shape)}"
        )
    return condition.to(x.device).expand(len(x), *condition.shape[1:])


def like(x: Tensor, value: Tensor, name: str = "the score") -> Tensor:
    """Return a function's value at a state in the state's type, after checking its shape.

    Another shape would be broadcast silently into wrong samples, and another type would change that
    of the state and of its noise.

    Raises:
        TypeError: The value is not a tensor.
        ValueError: The value has another shape than x.
    """
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name} must be a tensor of shape {tuple(x.shape)}, got {type(value).__name__}"
        )
    if value.shape != x.shape:
        raise ValueError(
            f"{name} must have shape {tuple(x.shape)}, got {tuple(value.shape)}, which would be "
            "broadcast to wrong values"
        )
    return value if value.dtype == x.dtype else value.to(x.dtype)


def denoise(score: Any, x: Tensor, t: Tensor) -> Tensor:
    """The data prediction D(x, t) of a score, for times at which none follows from the score.

    Raises:
        ValueError: The score has no method `denoise(x, t)`.
    """
    own = getattr(score, "denoise", None)
    if own is None:
        raise ValueError(
            "where alpha = 0 the score says nothing of the data, and a step needs its "
            "denoise(x, t), as a ScoreModel, its given(…) and a GaussianMixtureScore have; got "
            f"{type(score).__name__} without one, so use zero_terminal_snr=false"
        )
    prediction: Tensor = own(x, t)
    return prediction


class Evaluations:
    """A score whose evaluations are counted and checked: values have the state's shape and type.

    Samplers, likelihoods and bounds wrap the score that they are given in this class.

    Args:
        score: s(x, t).
        size: Number B of its samples, where only some of them may be evaluated.
    """

    def __init__(self, score: Score, size: int | None = None) -> None:
        self.score, self.size = score, size
        self.evaluations = int(getattr(score, "evaluations", 1))
        self._count = [0]  # shared with the scores of rows

    @property
    def count(self) -> int:
        """Evaluations of networks so far, summed over the samples that took part."""
        return self._count[0]

    def rows(self, index: Tensor) -> "Evaluations":
        """The counted score of some samples, with the same count; see `rows`."""
        part = Evaluations(rows(self.score, index), self.size)
        part._count = self._count
        return part

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """D(x, t), of x's shape and type, counted as one evaluation of the score."""
        self._count[0] += len(x) * self.evaluations
        return like(x, denoise(self.score, x, t), "the data prediction")

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """s(x, t), of x's shape and type."""
        self._count[0] += len(x) * self.evaluations
        try:
            return like(x, self.score(x, t))
        except (RuntimeError, ValueError, IndexError) as error:
            if self.size in (None, len(x)) or hasattr(self.score, "rows"):
                raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(
                f"the score failed on {len(x)} of the {self.size} samples ({reason}): what it "
                "keeps of each, such as labels in a closure, does not follow its rows; use "
                "model.given(condition), or give it a method rows(index)"
            ) from error
