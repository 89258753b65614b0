"""The contract of a score: its shape and type, its evaluations, and the rows of its condition."""

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar, cast

from torch import Tensor

Score = Callable[[Tensor, Tensor], Tensor]
"""score(x, t) ≈ ∇ log p_t(x), of the shape of x, with x of shape (B, *) and t of shape (B,) or ().

A score that differs from sample to sample, such as one with a condition, has a method `rows(index)`
that returns the score of the samples `index`, shape (A,), in that order. A score that evaluates a
network several times has an attribute `evaluations`, the number of times, and one that multiplies
by the network's Jacobian has `products`, the number of vector–Jacobian products. Either may be a
function of t that returns a number, or one for each sample, shape (B,)."""

Condition = Tensor | Mapping[str, Tensor]
"""What samples are conditioned on: a tensor, or a dict of tensors, with B rows or 1 for all."""


Batchwise = TypeVar("Batchwise")


def rows(score: Batchwise, index: Tensor) -> Batchwise:
    """The score of the samples `index` of a batch, int64, shape (A,), in any order and number.

    It is `score.rows(index)` where the score has such a method, else the score itself; and likewise
    for constraints and measurements.
    """
    own = getattr(score, "rows", None)
    part: Batchwise = score if own is None else own(index)
    return part


Cost = int | Callable[[Tensor], int | Tensor]
"""How often a call of a score does something, or a function of the time that says so."""


def at_time(cost: Cost, t: Tensor) -> int | Tensor:
    """A cost of one call at time t, a number or one for each sample (B,)."""
    return cost(t) if callable(cost) else cost


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


def states_data(score: Any) -> bool:
    """Whether a score has a data prediction of its own, also inside a wrapper that passes it on."""
    return hasattr(score, "denoise") and getattr(score, "states_data", True)


class Evaluations:
    """A score whose evaluations are counted and checked: values have the state's shape and type.

    Samplers, likelihoods and bounds wrap the score that they are given in this class.

    Args:
        score: s(x, t).
        size: Number B of its samples, where only some of them may be evaluated.
    """

    def __init__(self, score: Score, size: int | None = None) -> None:
        self.score, self.size = score, size
        self.states_data = states_data(score)
        self.evaluations: Cost = getattr(score, "evaluations", 1)
        self.products: Cost = getattr(score, "products", 0)
        self._count = [0, 0]  # shared with the scores of rows

    @property
    def count(self) -> int:
        """Evaluations of networks so far, summed over the samples that took part."""
        return self._count[0]

    @property
    def product_count(self) -> int:
        """Vector–Jacobian products so far, summed over the samples that took part."""
        return self._count[1]

    def rows(self, index: Tensor) -> "Evaluations":
        """The counted score of some samples, with the same count; see `rows`."""
        return self.sharing(rows(self.score, index))

    def sharing(self, score: Score) -> "Evaluations":
        """Another score, such as a part of this one, whose evaluations count here too."""
        part = Evaluations(score, self.size)
        part._count = self._count
        return part

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """D(x, t), of x's shape and type, counted as one evaluation of the score."""
        self._add(x, t)
        return like(x, denoise(self.score, x, t), "the data prediction")

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """s(x, t), of x's shape and type."""
        self._add(x, t)
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

    def _add(self, x: Tensor, t: Tensor) -> None:
        for place, cost in enumerate((self.evaluations, self.products)):
            each = at_time(cost, t)
            whole = isinstance(each, Tensor) and each.ndim > 0
            self._count[place] += int(each.sum()) if whole else len(x) * int(each)  # type: ignore[union-attr]
