"""What every data set offers: raw samples, the map to the network's scale and back, and batches.

Raw samples are uint8 grey levels k in 0..L-1, shape (N, C, H, W), for images and floating-point
(N, *) for points. Images reach a network as

    x = lo + (hi - lo) (k + u) / L,    u ~ U[0, 1) (uniform dequantisation) or u = 1/2,

so that level k owns the cell [lo + k c, lo + (k + 1) c) of width c = (hi - lo) / L. A density p of
x then bounds the probability P of the levels, log P(k) ≥ E_u log p(x) + D log c, with D values in
an image. Points are passed on as they are.

Reference: Theis, van den Oord, Bethge 2016, arXiv:1511.01844 (section 3.1, dequantisation).
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .batch import Batch, Condition, rows_of
from .checks import (
    cell_and_margin,
    check_condition,
    check_finite,
    check_levels,
    check_request,
    interval,
)

_PIECE = 2**17  # values that are scaled at a time
_EPOCHS = 2  # orders that are kept: a batch that is read ahead can be of the next epoch


class Split(NamedTuple):
    """One part of a data set: `samples` (N, *) raw and `labels` int64 (N,) or None."""

    samples: Tensor
    labels: Tensor | None


class Samples(Protocol):
    """Raw samples of one part, in memory or wherever they are read from when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice | Tensor, /) -> Tensor:
        """The samples of a slice, or of positions int64 (B,), as a tensor (B, *shape)."""
        ...


def stream(purpose: str, seed: int, index: int = 0) -> torch.Generator:
    """A CPU generator whose numbers depend on (purpose, seed, index) and on nothing else.

    Hashing keeps neighbouring seeds and indices, and different purposes, unrelated.

    Args:
        purpose: what the numbers are for, e.g. "noise".
        seed: any integer.
        index: which of the streams of that purpose, e.g. the epoch or the step.
    """
    digest = hashlib.blake2b(f"{purpose} {seed} {index}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


class Dataset(ABC):
    """Raw samples in two parts, and the batches that a training takes of them.

    A subclass says where samples are: in memory, in files that are read when they are asked for, or
    wherever else. All numbers that a batch depends on are the same for each.

    Attributes:
        name: short name for messages and reports.
        train, test: raw samples: `len(train)`, and `train[index]` for a slice or for positions
            int64 (B,), which is a tensor: uint8 (B, C, H, W) for images.
        train_labels, test_labels: class of each sample, int64 (N,), or None.
        condition: "label" where batches carry the labels of their samples, else None.
        train_condition, test_condition: what each sample is conditioned on, or None.
        at_once: how many samples may be asked for at once; None for any number.
        shape: of one sample.
        range: images: the interval (lo, hi) that a network sees; None for points.
        levels: images: the number L of grey levels a pixel can take; None for points.
        cell: width (hi - lo) / L of one quantisation cell after scaling; None for points.
        quality: the metric of sample quality that suits these data: "classifier" for pictures that
            a small classifier of their labels reads well, such as digits; None for all others.
        report: one line that says what was read from where, and what was left out.
    """

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
        *,
        range: Sequence[float] | None = None,
        levels: int | None = None,
        dequantize: bool = False,
        flip: bool = False,
        condition: str | None = None,
    ) -> None:
        """Check the settings; a subclass then reads or finds its samples.

        Args:
            name: short name for messages.
            range: images: (lo, hi) with lo < hi.
            levels: images: L, 2 to 256; None says that the samples are points.
            dequantize: images: train on levels spread uniformly over their cells.
            flip: images: mirror each training sample left to right with probability 1/2.
            condition: "label" puts labels into batches; None does not.

        Raises:
            ValueError: impossible range, levels or condition.
        """
        self.name = name
        self.levels = levels
        self.range = None if levels is None else interval(range)
        self.cell, self._margin = None, 0.0
        if self.range is not None and levels is not None:
            self.cell, self._margin = cell_and_margin(self.range, levels)
        check_condition(condition)
        self.condition = condition
        self._dequantize = dequantize
        self._flip = flip
        self._orders = dict[tuple[int, int], Tensor]()

    @property
    @abstractmethod
    def digest(self) -> str:
        """What tells these data from others, as 64 hexadecimal digits.

        It depends on the samples and labels in their order, and not on where they lie.
        """

    @abstractmethod
    def _raw(self, step: int, batch_size: int, seed: int) -> Tensor:
        """The raw training samples of `indices(step, batch_size, seed)`, in memory of their own."""

    @property
    def classes(self) -> int | None:
        """Number K of classes: one more than the largest label of both parts; None without any."""
        parts = [part for part in (self.train_labels, self.test_labels) if part is not None]
        largest = [int(part.max()) for part in parts if len(part)]
        return 1 + max(largest) if largest else None

    def check_request(self, count: int, fix: str) -> None:
        """Refuse so many samples at once where there is no memory for them.

        Args:
            count: number of samples.
            fix: what messages say to do.

        Raises:
            ValueError: They are more than `at_once`.
        """
        check_request(self.name, count, self.at_once, fix)

    def _set_labels(self, train: Tensor | None, test: Tensor | None) -> None:
        """Keep the labels, which batches carry where they are the condition."""
        self.train_labels, self.test_labels = train, test
        told = self.condition is not None
        self.train_condition, self.test_condition = (train, test) if told else (None, None)

    def scale(self, raw: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Map grey levels to the network's range, x = lo + (hi - lo) (k + u) / L; points unchanged.

        Args:
            raw: k, uint8 (B, C, H, W) with values in 0..L-1.
            generator: source of u ~ U[0, 1), uniform dequantisation; None takes u = 1/2.

        Returns:
            x, float32, of raw's shape; every value lies inside its own cell.

        Raises:
            ValueError: raw is not uint8 or has a level above L - 1.
        """
        if self.range is None or self.cell is None or self.levels is None:
            return raw
        check_levels(raw, self.levels)
        u = None
        if generator is not None:
            u = torch.rand(raw.shape, generator=generator, device=raw.device).view(-1)
        x = torch.empty(raw.shape, dtype=torch.float32, device=raw.device)
        flat, levels = x.view(-1), raw.reshape(-1)
        # In pieces that fit into a processor's cache: float64 takes eight times the memory of k.
        for piece in (slice(i, i + _PIECE) for i in range(0, len(flat), _PIECE)):
            y = levels[piece].double()
            if u is None:
                y.add_(0.5)
            else:
                # Without the margin, rounding to float32 would carry a few into the next cell.
                y.add_(u[piece], alpha=1 - 2 * self._margin).add_(self._margin)
            flat[piece] = y.mul_(self.cell).add_(self.range[0])
        return x

    def quantize(self, x: Tensor) -> Tensor:
        """Grey level of scaled images, k = floor(L (x - lo) / (hi - lo)); points unchanged.

        Values outside the range take the nearest level, as a sample is shown in the nearest colour.

        Args:
            x: scaled samples, floating point (B, C, H, W).

        Returns:
            k, uint8, of x's shape, in 0..L-1.

        Raises:
            ValueError: x is not floating point or contains NaN or Inf.
        """
        if self.range is None or self.cell is None or self.levels is None:
            return x
        if not x.is_floating_point():
            raise ValueError(
                f"quantize expects scaled floating-point samples in {self.range}, got {x.dtype}; "
                "raw samples are quantized already"
            )
        check_finite(x)
        k = x.double().sub(self.range[0]).div_(self.cell).floor_()
        return k.clamp_(0, self.levels - 1).to(torch.uint8)

    def indices(self, step: int, batch_size: int, seed: int) -> Tensor:
        """Which training samples `batch` takes: permutation f(seed, epoch), position f(step).

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
        """The scaled training batch of a step; equal arguments give equal batches, so it resumes.

        Flips and dequantisation noise come from a generator that depends on (seed, step) alone.

        Args:
            step: number of the batch since the start of training, ≥ 0.
            batch_size: samples per batch, 1 to N; the incomplete last batch of an epoch is dropped.
            seed: any integer.

        Returns:
            x, float32 (batch_size, *shape) for images, and what its samples are conditioned on.

        Raises:
            ValueError: batch_size outside 1..N, negative step, or a sample that cannot be read.
        """
        index = self.indices(step, batch_size, seed)
        raw = self._raw(step, batch_size, seed)
        generator = stream("noise", seed, step)
        if self._flip:
            mirrored = torch.rand(batch_size, generator=generator) < 0.5
            raw[mirrored] = raw[mirrored].flip(-1)
        x = self.scale(raw, generator if self._dequantize else None)
        return Batch(x, rows_of(self.train_condition, index))
