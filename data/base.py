"""What every data set offers: raw samples, the map to the network's range and back, and batches.

Raw samples of images are uint8 grey levels (N, C, H, W), which reach a network as `GreyLevels`
says. Points are floating-point (N, *), and are passed on as they are.
"""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor

from .batch import Batch, Condition, rows_of
from .checks import check_condition, check_request
from .levels import GreyLevels
from .pairs import Pair

_EPOCHS = 2  # orders that are kept: a batch that is read ahead can belong to the next epoch


class Split(NamedTuple):
    """One part of a data set: `samples` (N, *) raw and `labels` int64 (N,) or None."""

    samples: Tensor
    labels: Tensor | None


class Samples(Protocol):
    """Raw samples of one part, held in memory or read on demand."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice | Tensor, /) -> Tensor:
        """The samples of a slice, or of positions int64 (B,), as a tensor (B, *shape)."""
        ...


def stream(purpose: str, seed: int, index: int = 0) -> torch.Generator:
    """A CPU generator whose numbers depend on (purpose, seed, index) alone.

    Hashing makes the streams of neighbouring seeds and indices, and of different purposes,
    independent.

    Args:
        purpose: use of the numbers, e.g. "noise".
        seed: any integer.
        index: number of the stream among those of that purpose, e.g. the epoch or the step.
    """
    digest = hashlib.blake2b(f"{purpose} {seed} {index}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


class Dataset(ABC):
    """Raw samples in two parts, and the training batches taken from them.

    A subclass says where the samples are, e.g. in memory or in files that are read on demand.
    Batches depend on the samples and on the arguments of `batch`, not on the subclass.

    Attributes:
        name: short name for messages and reports.
        train, test: raw samples; `len(train)` is their number, and `train[index]` for a slice or
            positions int64 (B,) is a tensor, uint8 (B, C, H, W) for images.
        train_labels, test_labels: class of each sample, int64 (N,), or None.
        condition: "label" where batches carry the labels of their samples, else None.
        train_condition, test_condition: condition of each sample, or None.
        at_once: largest number of samples in one request; None for any number.
        shape: shape of one sample.
        grey: images: the grey levels and the map to the network's range; None for points.
        range, levels, cell: of these the interval (lo, hi) that a network sees, the number L of
            levels, and the width (hi - lo) / L of a cell; None for points.
        pair: rule that makes the condition of each image from it; None for most data sets.
        quality: the metric of sample quality that suits these data: "classifier" for images whose
            labels a small classifier predicts well, such as digits; None for all others.
        report: one line that says what was read, from where, and what was left out.
    """

    pair: Pair | None = None
    quality: str | None = None
    at_once: int | None = None
    report: str = ""
    name: str
    train: Samples
    test: Samples
    train_labels: Tensor | None
    test_labels: Tensor | None
    train_condition: Condition | None
    test_condition: Condition | None
    shape: tuple[int, ...]
    range: tuple[float, float] | None
    levels: int | None
    cell: float | None

    @abstractmethod
    def __init__(
        self,
        name: str,
        grey: GreyLevels | None = None,
        *,
        dequantize: bool = False,
        flip: bool = False,
        condition: str | None = None,
    ) -> None:
        """Check the settings; a subclass then reads or finds its samples.

        Args:
            name, grey, condition: see the attributes.
            dequantize: images: train on levels that are spread uniformly over their cells.
            flip: images: mirror each training sample left to right with probability 1/2.

        Raises:
            ValueError: impossible condition.
        """
        check_condition(condition)
        self.name, self.grey = name, grey
        self.range, self.levels, self.cell = None, None, None
        if grey is not None:
            self.range, self.levels, self.cell = grey.range, grey.count, grey.cell
        self.condition = condition
        self._dequantize = dequantize
        self._flip = flip
        self._orders = dict[tuple[int, int], Tensor]()

    @property
    @abstractmethod
    def digest(self) -> str:
        """A hash of the samples and labels in their order, as 64 hexadecimal digits.

        It does not depend on the place of their files.
        """

    @abstractmethod
    def _raw(self, step: int, batch_size: int, seed: int) -> Tensor:
        """A copy of the raw training samples `indices(step, batch_size, seed)`."""

    @property
    def classes(self) -> int | None:
        """Number K of classes: the largest label of both parts, plus 1; None without labels."""
        parts = [part for part in (self.train_labels, self.test_labels) if part is not None]
        largest = [int(part.max()) for part in parts if len(part)]
        return 1 + max(largest) if largest else None

    def paired(self, pair: Pair) -> Self:
        """The same images, with a condition that is made of each by a rule.

        The batch of a step has the same images as without it, and depends on (step, seed) alone.

        Raises:
            ValueError: The data are no images, or not of a shape that has such pairs.
        """
        if self.grey is None or len(self.shape) != 3:
            raise ValueError(f"pairs are made of images, and data={self.name} are none")
        pair.channels(self.shape)
        paired = copy.copy(self)
        paired.pair = pair
        return paired

    def check_request(self, count: int, fix: str) -> None:
        """Raise ValueError, which ends with `fix`, if `count` samples are more than `at_once`."""
        check_request(self.name, count, self.at_once, fix)

    def _set_labels(self, train: Tensor | None, test: Tensor | None) -> None:
        """Store the labels, which are in batches if they are the condition."""
        self.train_labels, self.test_labels = train, test
        carried = self.condition is not None
        self.train_condition, self.test_condition = (train, test) if carried else (None, None)

    def scale(self, raw: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Map grey levels to the network's range, x = lo + (hi - lo) (k + u) / L; points unchanged.

        Args:
            raw: k, uint8 (B, C, H, W) with values in 0..L-1.
            generator: source of u ~ U[0, 1), uniform dequantisation; None takes u = 1/2.

        Returns:
            x, float32, of raw's shape; every value lies inside the cell of its level.

        Raises:
            ValueError: raw is not uint8 or has a level above L - 1.
        """
        return raw if self.grey is None else self.grey.scale(raw, generator)

    def quantize(self, x: Tensor) -> Tensor:
        """Grey level of scaled images, k = floor(L (x - lo) / (hi - lo)); points unchanged.

        Values outside the range get the nearest level, since a pixel shows the nearest colour.

        Args:
            x: scaled samples, floating point (B, C, H, W).

        Returns:
            k, uint8, of x's shape, in 0..L-1.

        Raises:
            ValueError: x is not floating point or contains NaN or Inf.
        """
        return x if self.grey is None else self.grey.quantize(x)

    def indices(self, step: int, batch_size: int, seed: int) -> Tensor:
        """Positions of the training samples of a batch, in a new order for each epoch.

        The order depends on (seed, epoch), and the place of the batch in it on the step.

        Args:
            step: number of the batch since the start of training, ≥ 0.
            batch_size: samples per batch, 1 to N; the incomplete last batch of an epoch is dropped.
            seed: any integer.

        Returns:
            Positions in `train` and `train_labels`, int64 (batch_size,).

        Raises:
            ValueError: batch_size outside 1..N or negative step.
        """
        total = len(self.train)
        if batch_size > total:
            raise ValueError(
                f"batch_size {batch_size} > dataset size {total}: zero batches per epoch; "
                f"use batch_size <= {total}"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size must be an integer ≥ 1, got {batch_size}")
        if step < 0:
            raise ValueError(f"step must be an integer ≥ 0, got {step}")
        epoch, position = divmod(step, total // batch_size)
        order = self._orders.get((seed, epoch))
        if order is None:
            order = torch.randperm(total, generator=stream("order", seed, epoch))
            if len(self._orders) == _EPOCHS:
                del self._orders[next(iter(self._orders))]
            self._orders[seed, epoch] = order
        return order[position * batch_size : (position + 1) * batch_size]

    def batch(self, step: int, batch_size: int, seed: int) -> Batch:
        """The scaled training batch of a step.

        Equal arguments give equal batches, so that a training can be resumed at any step: flips
        and dequantisation noise come from a generator that depends on (seed, step) alone.

        Args:
            step, batch_size, seed: as for `indices`.

        Returns:
            x, float32 (batch_size, *shape) for images, and the condition of its samples.

        Raises:
            ValueError: impossible batch_size or step, or a sample that cannot be read.
        """
        index = self.indices(step, batch_size, seed)
        raw = self._raw(step, batch_size, seed)
        generator = stream("noise", seed, step)
        if self._flip:
            mirrored = torch.rand(batch_size, generator=generator) < 0.5
            raw[mirrored] = raw[mirrored].flip(-1)
        x = self.scale(raw, generator if self._dequantize else None)
        if self.pair is None:
            return Batch(x, rows_of(self.train_condition, index))
        assert self.range is not None  # images have one
        y = self.pair(x, stream("pair", seed, step), self.range)
        return Batch(self.pair.target(x, y, self.range), y)
