"""The handwritten digits that scikit-learn bundles."""

from __future__ import annotations

import torch

from .base import Split, stream
from .memory import InMemory
from .split import check_fraction, held_out


class Digits(InMemory):
    """The 1797 handwritten digits of 8 x 8 pixels and 17 grey levels that scikit-learn bundles.

    Each class gives the same fraction of its images to the test set, chosen by the seed.

    Reference: Alpaydin, Kaynak 1998, Optical recognition of handwritten digits (UCI).

    Args:
        test_fraction: part of each class that is held out, in (0, 1).
        seed: of the split, any integer.
        range: (lo, hi) that the network sees, lo < hi.
        dequantize: add uniform noise within the grey level's cell to training batches.
        flip: mirror half of the training images.
        condition: "label" puts the labels of a batch's samples into it; None does not.

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
        super().__init__(
            "digits",
            lambda: _read_digits(test_fraction, seed),
            range=range,
            levels=17,
            dequantize=dequantize,
            flip=flip,
            condition=condition,
        )
        total = f"{len(self.train) + len(self.test)} digits of scikit-learn"
        self.report = f"read {total}: {len(self.train)} for training, {len(self.test)} for test"


def _read_digits(test_fraction: float, seed: int) -> tuple[Split, Split]:
    check_fraction(test_fraction)
    from sklearn.datasets import load_digits  # here: importing it takes longer than all else

    pixels, classes = load_digits(return_X_y=True)
    samples = torch.from_numpy(pixels).to(torch.uint8).view(-1, 1, 8, 8)
    labels = torch.from_numpy(classes).long()
    test = torch.zeros(len(labels), dtype=torch.bool)
    for digit in range(10):
        members = (labels == digit).nonzero().squeeze(1)
        order = torch.randperm(len(members), generator=stream("split", seed, digit))
        test[members[order[: held_out(len(members), test_fraction)]]] = True
    return (
        Split(samples[~test], labels[~test]),
        Split(samples[test], labels[test]),
    )
