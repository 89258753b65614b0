"""What every data set offers: raw tensors, the map to the network's scale and back, and batches.

Raw samples are uint8 grey levels k in 0..L-1, shape (N, C, H, W), for images and float32 (N, 2) for
points. Images reach a network as

    x = lo + (hi - lo) (k + u) / L,    u ~ U[0, 1) (uniform dequantisation) or u = 1/2,

so that level k owns the cell [lo + k c, lo + (k + 1) c) of width c = (hi - lo) / L. A density p of
x then bounds the probability P of the levels, log P(k) ≥ E_u log p(x) + D log c, with D values in
an image. Points are passed on as they are.

Reference: Theis, van den Oord, Bethge 2016, arXiv:1511.01844 (section 3.1, dequantisation).
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from .batch import Batch
from .checks import (
    cell_and_margin,
    check_condition,
    check_finite,
    check_levels,
    check_split,
    interval,
    number_of_classes,
)

_CHUNK = 2**22  # bytes that are hashed at a time


class Split(NamedTuple):
    """One part of a data set: `samples` (N, *) raw and `labels` int64 (N,) or None."""

    samples: Tensor
    labels: Tensor | None


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
    """A data set held in memory; a subclass is a constructor that says how to read its samples.

    Attributes:
        name: short name for messages and reports.
        train, test: raw samples, uint8 (N, C, H, W) for images and float32 (N, 2) for points.
        train_labels, test_labels: class of each sample, int64 (N,), or None.
        shape: of one sample.
        range: images: the interval (lo, hi) that a network sees; None for points.
        levels: images: the number L of grey levels a pixel can take; None for points.
        cell: width (hi - lo) / L of one quantisation cell after scaling; None for points.
        quality: the metric of sample quality that suits these data: "classifier" for pictures that
            a small classifier of their labels reads well, such as digits; None for all others.
        report: one line that says what was read from where, and what was left out.
        condition: "label" where batches are conditioned on their labels; None where on nothing.
        classes: the number K of classes, with labels 0..K-1; None where there are no labels.
    """

    quality: str | None = None
    report: str = ""
    name: str
    train: Tensor
    test: Tensor
    train_labels: Tensor | None
    test_labels: Tensor | None
    shape: tuple[int, ...]
    range: tuple[float, float] | None
    levels: int | None
    cell: float | None

    @abstractmethod
    def __init__(
        self,
        name: str,
        read: Callable[[], tuple[Split, Split]],
        *,
        range: Sequence[float] | None = None,
        levels: int | None = None,
        dequantize: bool = False,
        flip: bool = False,
        condition: str | None = None,
    ) -> None:
        """Check the settings, then read and check the samples.

        Args:
            name: short name for messages.
            read: returns the train and the test part; called after the settings are checked.
            range: images: (lo, hi) with lo < hi.
            levels: images: L, 2 to 256; None says that the samples are points.
            dequantize: images: train on levels spread uniformly over their cells.
            flip: images: mirror each training sample left to right with probability 1/2.
            condition: "label" gives batches their labels as condition; None gives them none.

        Raises:
            ValueError: impossible range; empty, non-finite or wrongly typed samples; a condition
                that there is not.
        """
        self.name, self.condition = name, check_condition(condition)
        self.levels = levels
        self.range = None if levels is None else interval(range)
        self.cell, self._margin = None, 0.0
        if self.range is not None and levels is not None:
            self.cell, self._margin = cell_and_margin(self.range, levels)
        self._dequantize = dequantize
        self._flip = flip
        self._order: tuple[tuple[int, int], Tensor] | None = None
        train, test = read()
        for part, split in (("train", train), ("test", test)):
            check_split(name, part, *split, levels)
        self.train, self.train_labels = train
        self.test, self.test_labels = test
        self.shape = tuple(self.train.shape[1:])
        self.classes = number_of_classes(name, condition, self.train_labels, self.test_labels)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the samples and labels in their order, as 64 hexadecimal digits.

        Number, shape, type and bytes of the train and the test part enter; equal data have equal
        digests on every machine of the same byte order. A chunk of 4 MiB is hashed at a time.
        """
        whole = hashlib.sha256()
        parts = (self.train, self.train_labels, self.test, self.test_labels)
        for name, values in zip(("train", "labels", "test", "labels"), parts, strict=True):
            about = "none" if values is None else f"{values.dtype} {tuple(values.shape)}"
            whole.update(f"{name} {about}\n".encode())
            if values is None or values.numel() == 0:
                continue
            rows = max(1, _CHUNK * len(values) // values.nbytes)
            for chunk in values.split(rows):
                whole.update(chunk.contiguous().numpy().data)
        return whole.hexdigest()

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
        x = raw.double()
        if generator is not None:
            u = torch.rand(raw.shape, generator=generator, device=raw.device)
            # Without the margin, rounding to float32 would carry a few values into the next cell.
            x.add_(u, alpha=1 - 2 * self._margin).add_(self._margin)
        else:
            x.add_(0.5)
        return x.mul_(self.cell).add_(self.range[0]).float()

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
        order = self._order
        if order is None or order[0] != (seed, epoch):
            permutation = torch.randperm(total, generator=stream("order", seed, epoch))
            self._order = order = (seed, epoch), permutation
        return order[1][position * batch_size : (position + 1) * batch_size]

    def batch(self, step: int, batch_size: int, seed: int) -> Batch:
        """The scaled training batch of a step; equal arguments give equal batches, so it resumes.

        Flips and dequantisation noise come from a generator that depends on (seed, step) alone.

        Args:
            step: number of the batch since the start of training, ≥ 0.
            batch_size: samples per batch, 1 to N; the incomplete last batch of an epoch is dropped.
            seed: any integer.

        Returns:
            x, float32 (batch_size, *shape), with their labels where these are the condition.

        Raises:
            ValueError: batch_size outside 1..N or negative step.
        """
        chosen = self.indices(step, batch_size, seed)
        raw, labels = self.train[chosen], self.train_labels
        generator = stream("noise", seed, step)
        if self._flip:
            mirrored = torch.rand(batch_size, generator=generator) < 0.5
            raw[mirrored] = raw[mirrored].flip(-1)
        x = self.scale(raw, generator if self._dequantize else None)
        return Batch(x, labels[chosen] if self.condition and labels is not None else None)
