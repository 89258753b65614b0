"""Data sets whose samples are tensors in memory."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .base import Dataset, Split
from .checks import check_finite, check_labelled
from .digest import digest_of, named
from .levels import GreyLevels


class InMemory(Dataset):
    """A data set held in memory; a subclass is a constructor that says how to read its samples.

    Attributes:
        train, test: raw samples, uint8 (N, C, H, W) for images and float32 (N, 2) for points.
    """

    train: Tensor
    test: Tensor

    @abstractmethod
    def __init__(
        self,
        name: str,
        read: Callable[[], tuple[Split, Split]],
        grey: GreyLevels | None = None,
        *,
        unlabelled: str = "use another data set, or condition=none",
        **settings: Any,
    ) -> None:
        """Check the settings, then read and check the samples.

        Args:
            name, grey: as for `Dataset`.
            read: returns the train and the test part; called after the settings are checked.
            unlabelled: what to do where the condition is "label" and there are no labels.
            **settings: further arguments of `Dataset`.

        Raises:
            ValueError: impossible setting; empty, non-finite or wrongly typed samples; no labels
                where they are the condition.
        """
        super().__init__(name, grey, **settings)
        train, test = read()
        for part, split in (("train", train), ("test", test)):
            self._check(part, split)
            check_labelled(name, self.condition, split.labels is not None, unlabelled)
        self.train, self.test = train.samples, test.samples
        self._set_labels(train.labels, test.labels)
        self.shape = tuple(self.train.shape[1:])

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the samples and labels in their order, as 64 hexadecimal digits.

        Number, shape, type and bytes of the train and the test part enter; equal data have equal
        digests on every machine of the same byte order.
        """
        train = *named("train", self.train), *named("labels", self.train_labels)
        return digest_of((*train, *named("test", self.test), *named("labels", self.test_labels)))

    def _raw(self, step: int, batch_size: int, seed: int) -> Tensor:
        return self.train[self.indices(step, batch_size, seed)]

    def _tell(self, what: str) -> None:
        """Report how many samples were read, from where."""
        train, test = len(self.train), len(self.test)
        self.report = f"read {train + test} {what}: {train} for training, {test} for test"

    def _check(self, part: str, split: Split) -> None:
        samples, labels = split
        if len(samples) == 0:
            raise ValueError(f"dataset '{self.name}' is empty (0 {part} samples); add samples")
        expected = torch.int64, samples.shape[:1]
        if labels is not None and (labels.dtype, labels.shape) != expected:
            raise ValueError(
                f"labels of the {part} part must be int64 ({len(samples)},), "
                f"got {labels.dtype} {tuple(labels.shape)}"
            )
        if self.grey is not None:
            self.grey.check(samples)
        elif samples.dtype != torch.float32:
            raise ValueError(f"points must be float32, got {samples.dtype}; use .float()")
        else:
            check_finite(samples)
