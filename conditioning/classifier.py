"""Guidance by a classifier of noisy states, or by any differentiable function of the data."""

from collections.abc import Callable

import torch
from torch import Tensor

from scoresde.sde import SDE, Score, expand
from scoresde.sde.broadcast import widened
from scoresde.sde.score import like, per_sample

from .guided import Guided, predict_data
from .prediction import Prediction
from .scales import Scale, check_scale, times


class ClassifierGuidance(Guided):
    """Guidance by a classifier that was trained on noisy states.

        s_y = s + γ ∇_x log p_φ(y | x_t, t)

    For γ = 1 and a calibrated classifier it is the score of p_t(x | y). With the score of a
    class-conditional model the class enters with the power 1 + γ. The gradient is taken at x_t and
    in float32 at least, since in half precision it vanishes at small noise.

    Args:
        score: s(x, t).
        classifier: logits(x, t), shape (B, K), of states (B, *).
        labels: y in 0 … K − 1, int64, shape (B,), or (1,) for all.
        scale: γ ≥ 0, a number or one for each sample (B,). Published are 1 for ImageNet at 64
            pixels, 0.5 at 128, 1 at 256, and 10 for the unconditional model at 256.
        sde: Process, where the score does not carry one.

    Raises:
        ValueError: A scale that is not finite and ≥ 0, or a label below 0.
        TypeError: Labels that are not integers.

    Reference: Dhariwal & Nichol 2021, arXiv:2105.05233 (algorithms 1 and 2, in the score's form);
    Song et al. 2021, arXiv:2011.13456 (eq. 14).
    """

    followers = ("score", "labels", "scale")

    def __init__(
        self,
        score: Score,
        classifier: Callable[[Tensor, Tensor], Tensor],
        labels: Tensor,
        scale: Scale = 1.0,
        sde: SDE | None = None,
    ) -> None:
        super().__init__(score, sde)
        if labels.is_floating_point() or labels.ndim != 1:
            raise TypeError(
                f"labels must be integers of shape (B,), got {labels.dtype} of shape "
                f"{tuple(labels.shape)}"
            )
        if labels.numel() and int(labels.min()) < 0:
            raise ValueError(f"labels must be ≥ 0, got {int(labels.min())}")
        self.classifier, self.labels = classifier, labels
        self.scale = check_scale("scale", scale)

    @property
    def plain(self) -> Score:
        """The score without guidance."""
        return self.score

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """D + γ (σ²/α) ∇_x log p_φ(y | x_t); see `Guided.denoise`."""
        data = widened(predict_data(self.sde, self.score, x, t))
        alpha, variance = expand(self.sde.alpha(t), data), expand(self.sde.sigma(t).square(), data)
        return (data + variance / alpha * self._pull(x, t)).to(x.dtype)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """s_y(x, t); shape of x."""
        return (widened(like(x, self.score(x, t))) + self._pull(x, t)).to(x.dtype)

    def evaluations(self, t: Tensor) -> int | Tensor:
        """Those of the score, and one of the classifier."""
        return super().evaluations(t) + 1

    def products(self, t: Tensor) -> int | Tensor:
        """Those of the score, and one of the classifier."""
        return super().products(t) + 1

    def _pull(self, x: Tensor, t: Tensor) -> Tensor:
        """γ ∇_x log p_φ(y | x_t)."""
        labels = per_sample(self.labels, x)
        assert isinstance(labels, Tensor)
        with torch.enable_grad():
            leaf = widened(x).detach().requires_grad_()
            logits = self.classifier(leaf, t)
            count = logits.shape[1]
            if labels.device.type == "cpu" and int(labels.max()) >= count:
                raise ValueError(
                    f"labels must be in 0 … {count - 1}, the classes of the classifier, "
                    f"got {int(labels.max())}"
                )
            chosen = widened(logits).log_softmax(1).gather(1, labels[:, None])
            (gradient,) = torch.autograd.grad(chosen.sum(), leaf)
        return times(self.scale, gradient)


class LossGuidance(Guided):
    """Guidance by any differentiable loss of the predicted data.

        D_ℓ = D − γ (σ²/α) ∇_x ℓ(D(x, t))

    It takes exp(−γ ℓ(x_0)) for a likelihood of x_0 and p(x_0 | x_t) for a point, D: exact where
    the loss is linear and the data Gaussian, too narrow elsewhere.

    Args:
        score: s(x, t).
        loss: ℓ(x_0), shape (B,), of data (B, *), each sample alone.
        scale: γ ≥ 0, a number or one for each sample (B,).
        sde: Process, where the score does not carry one.
        recompute: As for `PosteriorScore`.

    Raises:
        ValueError: A scale that is not finite and ≥ 0, or a loss of another shape.

    Reference: Bansal et al. 2023, arXiv:2302.07121 (eq. 6, forward guidance); Chung et al. 2023,
    arXiv:2209.14687 (eq. 11).
    """

    followers = ("score", "loss", "scale")

    def __init__(
        self,
        score: Score,
        loss: Callable[[Tensor], Tensor],
        scale: Scale = 1.0,
        sde: SDE | None = None,
        *,
        recompute: bool = False,
    ) -> None:
        super().__init__(score, sde)
        self.loss, self.recompute = loss, recompute
        self.scale = check_scale("scale", scale)

    @property
    def plain(self) -> Score:
        """The score without guidance."""
        return self.score

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """D − γ (σ²/α) ∇_x ℓ(D); see `Guided.denoise`."""
        prediction = Prediction(self.sde, self.score, x, t, self.recompute)

        def value(data: Tensor) -> Tensor:
            values = self.loss(data)
            if values.shape != (len(data),):
                raise ValueError(
                    f"the loss must have shape ({len(data)},), one number for each sample, "
                    f"got {tuple(values.shape)}"
                )
            return values

        pull = prediction.sigma.square() / prediction.alpha * prediction.gradient(value)
        return (prediction.mean - times(self.scale, pull)).to(x.dtype)

    def products(self, t: Tensor) -> int | Tensor:
        """Those of the score, and one more."""
        return super().products(t) + 1
