"""Phase retrieval: the measurement sees how large Fourier coefficients are."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde.sde.checks import check_count, check_positive

from .checks import check_image
from .operator import Operator


class PhaseRetrieval(Operator):
    """|F x|² or √(|F x|² + δ) of each channel padded with zeros, F the unitary Fourier transform.

    A shift of the padded image, its rotation by 180° and its sign leave y as it is: score with
    `align`. The modulus without δ has no gradient where it is 0.

    Args:
        shape: Shape of one image, (C, H, W).
        padding: Pixels of zeros on each side ≥ 0; as many as half the image, an oversampling by 2
            along each axis, are known to determine most images but for the above.
        delta: δ > 0, for √(|F x|² + δ); |F x|² where not given.

    Raises:
        ValueError: The shape is not (C, H, W), the padding is no such integer, or δ is not > 0.

    Reference: Fienup 1982; Hayes 1982 (the ambiguities).
    """

    def __init__(self, shape: Sequence[int], padding: int, delta: float | None = None) -> None:
        channels, height, width = check_image(shape)
        self.padding = check_count("padding", padding, 0)
        self.delta = None if delta is None else check_positive("delta", delta)
        padded = (height + 2 * self.padding, width + 2 * self.padding)
        super().__init__((channels, height, width), (channels, *padded))

    def __call__(self, x: Tensor) -> Tensor:
        """|F x|², or √(|F x|² + δ)."""
        spectrum = torch.fft.fft2(self._pad(self.check_samples(x)), norm="ortho")
        squares = spectrum.real.square() + spectrum.imag.square()
        return squares if self.delta is None else (squares + self.delta).sqrt()

    def align(self, x: Tensor, target: Tensor) -> Tensor:
        """The equivalent of each channel that is nearest to a target, by shift, rotation and sign.

        Args:
            x: Samples, shape (B, *shape).
            target: What they are compared with, shape (B, *shape) or (1, *shape).

        Returns:
            Samples that give the same y, up to what the shift moves out of the image; shape of x.
        """
        padded = self._pad(self.check_samples(x))
        reference = torch.fft.fft2(self._pad(self.check_samples(target)))
        choices = torch.stack([padded, padded.flip((-2, -1))])
        products = torch.fft.ifft2(torch.fft.fft2(choices).conj() * reference).real
        # Of all equivalents the one of the largest inner product is the nearest: norms are equal.
        best = products.abs().movedim(0, 2).flatten(2).argmax(2)
        size = math.prod(self.shape_out[1:])
        width = self.shape_out[2]
        moved = torch.empty_like(padded)
        for b, c in (
            torch.cartesian_prod(*(torch.arange(n) for n in best.shape)).reshape(-1, 2).tolist()
        ):
            turn, place = divmod(int(best[b, c]), size)
            shift = divmod(place, width)
            sign = products[turn, b, c].flatten()[place].sign()
            moved[b, c] = sign * choices[turn, b, c].roll(shift, (0, 1))
        p = self.padding
        return moved[..., p : p + self.shape[1], p : p + self.shape[2]]

    def error(self, x: Tensor, target: Tensor) -> Tensor:
        """‖align(x) − target‖/‖target‖, shape (B,); arguments as of `align`."""
        difference = (self.align(x, target) - target).flatten(1).norm(dim=1)
        return difference / target.flatten(1).norm(dim=1)

    def _pad(self, x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, [self.padding] * 4)
