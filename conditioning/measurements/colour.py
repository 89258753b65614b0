"""Mixtures of the channels of each pixel, such as grey images."""

from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde.sde.checks import check_floating

from .checks import check_image
from .constant import Constant
from .operator import SpectralOperator


class ColourMixing(SpectralOperator):
    """Each pixel's channels are mixed, y = W x, by the singular value decomposition of W.

    For one row c the only singular value is ‖c‖, and H⁺ y = c y/‖c‖².

    Args:
        shape: Shape of one image, (C, H, W).
        weights: c of one mixture, shape (C,), or W of several, (M, C); the mean of the channels
            where not given.

    Raises:
        TypeError: The weights are not floating point.
        ValueError: The shape is not (C, H, W), or the weights do not fit it, are not finite or
            zero.
    """

    def __init__(
        self, shape: Sequence[int], weights: Tensor | Sequence[float] | None = None
    ) -> None:
        channels, height, width = check_image(shape)
        if weights is None:
            weights = [1 / channels] * channels
        if not isinstance(weights, Tensor):
            weights = torch.tensor(weights, dtype=torch.float64)
        check_floating("weights", weights)
        matrix = (weights[None] if weights.ndim == 1 else weights).double()
        if matrix.ndim != 2 or not len(matrix) or matrix.shape[1] != channels:
            raise ValueError(
                f"weights must have one entry for each of {channels} channels, got shape "
                f"{tuple(matrix.shape)}"
            )
        if not matrix.isfinite().all() or not matrix.any():
            raise ValueError("weights must be finite and not zero everywhere")
        self.weights = matrix
        u, s, vt = torch.linalg.svd(matrix)
        rank = int((s > 1e-12 * s[0]).sum())
        self._u, self._vt = Constant(u[:, :rank]), Constant(vt)
        values = s[:rank].repeat_interleave(height * width)
        super().__init__((channels, height, width), (len(matrix), height, width), values)

    def to_spectral(self, x: Tensor) -> Tensor:
        """Vᵀ x of each pixel, the measured mixtures first."""
        return torch.einsum("kc,bchw->bkhw", self._vt(x), x).flatten(1)

    def from_spectral(self, c: Tensor) -> Tensor:
        """V c of each pixel."""
        return torch.einsum("kc,bkhw->bchw", self._vt(c), c.reshape(-1, *self.shape))

    def measure_spectral(self, y: Tensor) -> Tensor:
        """Uᵀ y of each pixel."""
        return torch.einsum("mk,bmhw->bkhw", self._u(y), y).flatten(1)

    def from_measure_spectral(self, c: Tensor) -> Tensor:
        """U c of each pixel."""
        mixtures = c.reshape(len(c), -1, *self.shape[1:])
        return torch.einsum("mk,bkhw->bmhw", self._u(c), mixtures)
