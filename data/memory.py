"""Data sets whose samples are tensors in memory."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from .base import Dataset, Split
from .checks import check_labelled, check_split

_CHUNK = 2**22  # bytes that are hashed at a time


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
        *,
        range: Sequence[float] | None = None,
        levels: int | None = None,
        dequantize: bool = False,
        flip: bool = False,
        condition: str | None = None,
        unlabelled: str = "use another data set, or condition=none",
    ) -> None:
        """Check the settings, then read and check the samples.

        Args:
            name: short name for messages.
            read: returns the train and the test part; called after the settings are checked.
            range: images: (lo, hi) with lo < hi.
            levels: images: L, 2 to 256; None says that the samples are points.
            dequantize: images: train on levels spread uniformly over their cells.
            flip: images: mirror each training sample left to right with probability 1/2.
            condition: "label" puts labels into batches; None does not.
            unlabelled: what to do where the condition is "label" and there are no labels.

        Raises:
            ValueError: impossible setting; empty, non-finite or wrongly typed samples; no labels
                where they are the condition.
        """
        super().__init__(
            name,
            range=range,
            levels=levels,
            dequantize=dequantize,
            flip=flip,
            condition=condition,
        )
        train, test = read()
        for part, split in (("train", train), ("test", test)):
            check_split(name, part, *split, levels)
            check_labelled(name, condition, split.labels is not None, unlabelled)
        self.train, self.test = train.samples, test.samples
        self._set_labels(train.labels, test.labels)
        self.shape = tuple(self.train.shape[1:])

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the samples and labels in their order, as 64 hexadecimal digits.

        Number, shape, type and bytes of the train and the test part enter; equal data have equal
        digests on every machine of the same byte order. A chunk of 4 MiB is hashed at a time.
        """
        parts = (self.train, self.train_labels, self.test, self.test_labels)
        return digest_of(zip(("train", "labels", "test", "labels"), parts, strict=True))

    def _raw(self, step: int, batch_size: int, seed: int) -> Tensor:
        return self.train[self.indices(step, batch_size, seed)]


def digest_of(parts: Iterable[tuple[str, Tensor | None]]) -> str:
    """SHA-256 of named tensors: of their types, shapes and bytes, a chunk at a time."""
    whole = hashlib.sha256()
    for name, values in parts:
        about = "none" if values is None else f"{values.dtype} {tuple(values.shape)}"
        whole.update(f"{name} {about}\n".encode())
        if values is None or values.numel() == 0:
            continue
        rows = max(1, _CHUNK * len(values) // values.nbytes)
        for chunk in values.split(rows):  # as bytes, since numpy lacks some types
            whole.update(chunk.cpu().contiguous().view(torch.uint8).numpy().data)
    return whole.hexdigest()
