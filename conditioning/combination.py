"""Linear combinations of the predictions of several scores: autoguidance and composition."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from scoresde.sde import SDE, Score
from scoresde.sde.broadcast import widened
from scoresde.sde.score import at_time, like

from .guided import Guided, predict_data
from .scales import Scale, check_scale, times


class Combination(Guided):
    """The combination s = Σ_i w_i s_i of several scores, and likewise D = Σ_i w_i D_i.

    Where Σ_i w_i = 1 the noise in the state is predicted once. For w ≠ 0, 1 the combination is in
    general not the score of a noised product of the p_i^{w_i}; see `ClassifierFree`.

    Args:
        scores: s_i(x, t) of one process.
        weights: w_i of any sign, numbers or one for each sample (B,), whose sum is 1.
        sde: Process, where the first score does not carry one.

    Raises:
        ValueError: Not as many weights as scores, or weights whose sum is not 1.

    Reference: Liu et al. 2022, arXiv:2206.01714 (section 3.2).
    """

    followers = ("scores", "weights")

    def __init__(
        self, scores: Sequence[Score], weights: Sequence[Scale], sde: SDE | None = None
    ) -> None:
        if not scores or len(scores) != len(weights):
            raise ValueError(
                "a combination needs a weight for each score and one score at least, "
                f"got {len(weights)} weights and {len(scores)} scores"
            )
        super().__init__(scores[0], sde)
        self.scores = tuple(scores)
        self.weights = tuple(check_scale("a weight", w, least=-float("inf")) for w in weights)
        total = torch.as_tensor(sum(self.weights), dtype=torch.float64)
        if not torch.allclose(total, torch.ones_like(total), atol=1e-6):
            raise ValueError(
                f"the weights of a combination must sum to 1, got {total.tolist()}; "
                "add the unconditional score with the rest"
            )

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """Σ_i w_i D_i(x, t); see `Guided.denoise`."""
        return self._sum((predict_data(self.sde, score, x, t) for score in self.scores), x)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Σ_i w_i s_i(x, t); shape of x."""
        return self._sum((like(x, score(x, t)) for score in self.scores), x)

    def evaluations(self, t: Tensor) -> int | Tensor:
        """The evaluations of all scores."""
        return sum(at_time(getattr(score, "evaluations", 1), t) for score in self.scores)

    def products(self, t: Tensor) -> int | Tensor:
        """The vector–Jacobian products of all scores."""
        return sum(at_time(getattr(score, "products", 0), t) for score in self.scores)

    def _sum(self, values: Iterable[Tensor], x: Tensor) -> Tensor:
        pairs = zip(self.weights, values, strict=True)
        return sum((times(w, widened(v)) for w, v in pairs), torch.zeros(()).to(x)).to(x.dtype)


class Autoguidance(Combination):
    """Guidance of a model by a bad version of itself, smaller or less trained.

        D = D_bad + w (D − D_bad)

    Both have the same condition, such as `model.given(labels)`.

    Args:
        score: s(x, t) of the model.
        bad: s(x, t) of the worse model, of the same process.
        scale: w ≥ 0, a number or one for each sample (B,); published are 2.05 and 2.1.
        sde: Process, where the score does not carry one.

    Raises:
        ValueError: A scale that is not finite and ≥ 0.

    Reference: Karras et al. 2024, arXiv:2406.02507 (eq. 3, with the bad model in place of the
    unconditional one).
    """

    def __init__(self, score: Score, bad: Score, scale: Scale, sde: SDE | None = None) -> None:
        scale = check_scale("scale", scale)
        super().__init__((score, bad), (scale, 1 - scale), sde)

    @property
    def plain(self) -> Score:
        """The model without guidance."""
        return self.scores[0]
