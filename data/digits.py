"""The handwritten digits that scikit-learn bundles."""

from __future__ import annotations

from functools import partial

import torch

from .base import Split, stream
from .levels import GreyLevels
from .memory import InMemory
from .split import check_fraction, held_out


class Digits(InMemory):
    """The 1797 handwritten digits of 8 x 8 pixels and 17 grey levels that scikit-learn bundles.

    The same fraction of each class, chosen by the seed, is the test set.

    Reference: Alpaydin, Kaynak 1998, Optical recognition of handwritten digits (UCI).

    Args:
        test_fraction: fraction of each class that is held out, in (0, 1).
        seed: seed of the split, any integer.
        range, dequantize, flip, condition: as for `Folder`.

    Raises:
        ValueError: test_fraction outside (0, 1), impossible range or condition.
    """

    quality = "classifier"

    def __init__(
        self,
        test_fraction: float = 0.2,
        seed: int = 0,
        range: tuple[float, float] = (-1.0, 1.0),
        dequantize: bool = True,
        flip: bool = False,
        condition: str | None = None,
    ) -> None:
        read, grey = partial(_read_digits, test_fraction, seed), GreyLevels(range, 17)
        super().__init__(
            "digits", read, grey, dequantize=dequantize, flip=flip, condition=condition
        )
        self._tell("digits of scikit-learn")


def _read_digits(test_fraction: float, seed: int) -> tuple[Split, Split]:
    check_fraction(test_fraction)
    from sklearn.datasets import load_digits  # a slow import, only made where it is needed

    pixels, classes = load_digits(return_X_y=True)
    samples = torch.from_numpy(pixels).to(torch.uint8).view(-1, 1, 8, 8)
    labels = torch.from_numpy(classes).long()
    test = torch.zeros(len(labels), dtype=torch.bool)
    for digit in range(10):
        members = (labels == digit).nonzero().squeeze(1)
        order = torch.randperm(len(members), generator=stream("split", seed, digit))
        test[members[order[: held_out(len(members), test_fraction)]]] = True
    return Split(samples[~test], labels[~test]), Split(samples[test], labels[test])
