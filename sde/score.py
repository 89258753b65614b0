"""What a score is held to wherever it is evaluated, and how often it was."""

from collections.abc import Callable

from torch import Tensor

Score = Callable[[Tensor, Tensor], Tensor]
"""score(x, t) ≈ ∇ log p_t(x), with x of shape (B, *), t of shape (B,) or (), and x's shape back."""


def like(x: Tensor, value: Tensor, name: str = "the score") -> Tensor:
    """Return a function's value at a state in the state's type, after checking that it fits.

    Another shape would be broadcast into wrong samples without a word, and another type would
    change that of the state and of all noise that is drawn for it.

    Args:
        x: State, shape (B, *).
        value: What a caller's function gave for it.
        name: What the value is called in an error.

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


class Evaluations:
    """A score that is counted, and held to its contract, at every call.

    The value must have the state's shape, and takes the state's type. Samplers, likelihoods and
    bounds wrap the score that they are given in this, so that every evaluation passes here.

    Args:
        score: s(x, t).

    Attributes:
        count: Evaluations so far, summed over the samples that took part.
    """

    def __init__(self, score: Score) -> None:
        self.score, self.count = score, 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """s(x, t), of x's shape and type."""
        self.count += len(x)
        return like(x, self.score(x, t))
