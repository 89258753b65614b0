"""Replacement: the known part of a state is kept at the reference, noised to the state's level."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor

from scoresde.samplers.context import Noise
from scoresde.sde import SDE, expand
from scoresde.sde.checks import check_floating, check_positive
from scoresde.sde.score import take

from .measurements import LinearOperator


class Replaced(ABC):
    """A constraint that replaces a part P of the state after every update.

        x ← x − P x + P (α_u x_ref + σ_u ε)

    u is the time of the updated state, and ε new noise of the run, so that the replaced part has
    exactly the noise of its level. The state that is returned has the reference itself in it.

    Args:
        reference: x_ref, of the shape of samples, B rows or one for all.
    """

    def __init__(self, reference: Tensor) -> None:
        check_floating("the reference", reference)
        if not reference.isfinite().all():
            raise ValueError("the reference contains NaN/Inf where it is known")
        self.reference = reference
        self._sde: SDE | None = None

    @abstractmethod
    def replace(self, x: Tensor, value: Tensor) -> Tensor:
        """x with the part P of a value; shape of x."""

    def on(self, sde: SDE) -> Self:
        """The constraint for a process; samplers call it before they begin."""
        bound = copy.copy(self)
        bound._sde = sde
        return bound

    def rows(self, index: Tensor) -> Self:
        """The constraint of some samples of the batch."""
        part = copy.copy(self)
        part.reference = _rows(self.reference, index)
        return part

    def __call__(self, x: Tensor, t: Tensor, noise: Noise) -> Tensor:
        """The state with its part P at the reference, noised to time t; shape of x."""
        if self._sde is None:
            raise ValueError(
                "a replacement needs the process of the run; give it to a sampler as constraint=, "
                "or call it as constraint.on(sde)(x, t, noise)"
            )
        reference = self._like(x)
        alpha, sigma = expand(self._sde.alpha(t), x), expand(self._sde.sigma(t), x)
        return self.replace(x, alpha * reference + sigma * noise(x))

    def finish(self, x: Tensor, t: Tensor) -> Tensor:
        """The returned state with the reference itself in its part P; shape of x."""
        return self.replace(x, self._like(x))

    def _like(self, x: Tensor) -> Tensor:
        """The reference for each sample, in the state's type."""
        if self.reference.shape[1:] != x.shape[1:] or len(self.reference) not in (1, len(x)):
            raise ValueError(
                f"the reference must have the samples' shape {tuple(x.shape)}, or one row for all, "
                f"got {tuple(self.reference.shape)}"
            )
        return self.reference.to(x).expand_as(x)


class Inpaint(Replaced):
    """Replacement of known entries, which are returned bit for bit.

    It is biased for every number of steps: the free entries follow the score given noised, and not
    given clean, known ones (0.34 posterior standard deviations on a Gaussian field). Langevin steps
    between (`Langevin` as a corrector) and `RePaint` remove the bias.

    Args:
        known: True where an entry is known, bool, of a shape that broadcasts over samples (B, *):
            one mask for all, or one for each sample.
        reference: Samples with the known entries, (B, *) or one row for all; the other entries are
            not used.

    Raises:
        TypeError: `known` is not of type bool, or the reference not floating point.
        ValueError: The mask does not broadcast, hides nothing or everything, or a known entry is
            not finite.

    Reference: Song et al. 2021, arXiv:2011.13456 (appendix I.2).
    """

    def __init__(self, known: Tensor, reference: Tensor) -> None:
        if known.dtype != torch.bool:
            raise TypeError(f"known must be of type bool, got {known.dtype}; use known > 0.5")
        try:
            spread = known.broadcast_to(torch.broadcast_shapes(known.shape, reference.shape))
        except RuntimeError as error:
            raise ValueError(
                f"known must broadcast to the shape of the reference {tuple(reference.shape)}, "
                f"got {tuple(known.shape)}"
            ) from error
        if spread.shape[1:] != reference.shape[1:]:
            raise ValueError(
                f"known must broadcast to the shape of the reference {tuple(reference.shape)}, "
                f"got {tuple(known.shape)}"
            )
        if spread.all() or not spread.any():
            raise ValueError(
                f"a mask must hide some entries and not all, got {int(spread.sum())} of "
                f"{spread.numel()} known; give one that is True where an entry is known"
            )
        super().__init__(torch.where(spread, reference, torch.zeros_like(reference)))
        self.known = known if known.ndim == reference.ndim else known[None]

    def replace(self, x: Tensor, value: Tensor) -> Tensor:
        """x with the known entries of a value."""
        return torch.where(self.known.to(x.device), value, x)

    def rows(self, index: Tensor) -> Self:
        """The constraint of some samples of the batch."""
        part = super().rows(index)
        part.known = _rows(self.known, index)
        return part


class Replacement(Replaced):
    """Replacement of what a linear measurement without noise determines, P = H⁺ H.

    Colorization, super-resolution and inpainting are the cases of colour mixing, average pooling
    and masks. It has the bias of `Inpaint`.

    Args:
        operator: H.
        y: Measurement, taken as exact, shape (B, *shape_out), or one row for all.

    Raises:
        ValueError: y has another shape, or is not finite.

    Reference: Song et al. 2021, arXiv:2011.13456 (appendix I.3, for colorization).
    """

    def __init__(self, operator: LinearOperator, y: Tensor) -> None:
        super().__init__(operator.pinv(operator.check_measurement(y)))
        self.operator = operator

    def replace(self, x: Tensor, value: Tensor) -> Tensor:
        """x − P x + P value, with P value as it is where P selects entries."""
        return (x - self.operator.project(x)) + self.operator.project(value)


class ILVR(Replaced):
    """Iterative latent variable refinement: the low frequencies of a reference.

        x ← x + φ(α_u x_ref + σ_u ε − x)   where σ_u/α_u > stop

    φ is low-pass filtering, down and up again by bicubic kernels. As bicubic filtering is not a
    projection, the low band is not kept exactly; `Replacement(AveragePooling(…), y)` keeps its.

    Args:
        low_pass: φ of samples (B, *), linear.
        reference: x_ref, (B, *) or one row for all.
        stop: σ/α ≥ 0 from which on the state is free; 0 for never.

    Raises:
        ValueError: stop < 0, or a reference that is not finite.

    Reference: Choi et al. 2021, arXiv:2108.02938 (algorithm 1).
    """

    def __init__(
        self, low_pass: Callable[[Tensor], Tensor], reference: Tensor, stop: float = 0.0
    ) -> None:
        super().__init__(reference)
        if stop:
            check_positive("stop", stop)
        self.low_pass, self.stop = low_pass, float(stop)

    def replace(self, x: Tensor, value: Tensor) -> Tensor:
        """x + φ(value − x)."""
        return x + self.low_pass(value - x)

    def __call__(self, x: Tensor, t: Tensor, noise: Noise) -> Tensor:
        """The state with the low frequencies of the reference, above `stop`."""
        return super().__call__(x, t, noise) if self._acts(t) else x

    def finish(self, x: Tensor, t: Tensor) -> Tensor:
        """The returned state, which is free where `stop` is above its level."""
        return super().finish(x, t) if self._acts(t) else x

    def _acts(self, t: Tensor) -> bool:
        if self._sde is None:
            return True
        return bool(self._sde.sigma(t) > self.stop * self._sde.alpha(t)) or self.stop == 0


def _rows(value: Tensor, index: Tensor) -> Tensor:
    part = take(value, index)
    assert isinstance(part, Tensor)
    return part
