"""Tensors as a data set, such as latents of an autoencoder or features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

import torch
from torch import Tensor

from .base import Dataset, stream
from .batch import Condition, rows_of
from .checks import check_finite
from .digest import digest_of, named
from .split import check_fraction, held_out


class Tensors(Dataset):
    """Tensors of any floating-point type and shape, with the condition of each.

    They have no levels and no range: `scale` and `quantize` return them unchanged, in their own
    type. Without a test part a random permutation by the seed splits them into train and test.

    Args:
        samples: floating point (N, *), N ≥ 2, or N ≥ 1 where there is a test part.
        condition: condition of each sample: a tensor, or a dict of tensors, with the N samples
            first. A tensor int64 (N,) holds labels.
        test: samples of the test part, of the same type and shape (M, *).
        test_condition: condition of the test part, like `condition`.
        test_fraction: fraction that is held out, in (0, 1), where no test part is given.
        seed: seed of the split, any integer.
        name: short name for messages.

    Raises:
        TypeError: samples or conditions that are not tensors.
        ValueError: shapes or types that disagree, NaN or Inf, too few samples, labels below 0.
    """

    train: Tensor
    test: Tensor

    def __init__(
        self,
        samples: Tensor,
        condition: Condition | None = None,
        test: Tensor | None = None,
        test_condition: Condition | None = None,
        test_fraction: float = 0.1,
        seed: int = 0,
        name: str = "tensors",
    ) -> None:
        super().__init__(name)
        _check_samples("samples", samples, 2 if test is None else 1)
        _check_condition("condition", condition, len(samples))
        if test is not None:
            _check_samples("test", test, 1)
            _check_condition("test_condition", test_condition, len(test))
            _check_alike(samples, condition, test, test_condition)
            self.train, self.test = samples.detach(), test.detach()
            self.train_condition, self.test_condition = condition, test_condition
        else:
            if test_condition is not None:
                raise ValueError("test_condition belongs to a test part; give test, too")
            check_fraction(test_fraction)
            order = torch.randperm(len(samples), generator=stream("split", seed))
            held = held_out(len(samples), test_fraction)
            parts = (order[held:], order[:held])
            self.train, self.test = (samples.detach()[part] for part in parts)
            self.train_condition, self.test_condition = (rows_of(condition, p) for p in parts)
        self.train_labels, self.test_labels = map(
            _labels, (self.train_condition, self.test_condition)
        )
        self.shape = tuple(self.train.shape[1:])
        self.report = (
            f"{len(self.train)} tensors {self.shape} for training, {len(self.test)} for test"
        )

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the tensors and their conditions in their order, as 64 hexadecimal digits."""
        train = [("train", self.train), *_named(self.train_condition)]
        both = [*train, ("test", self.test), *_named(self.test_condition)]
        return digest_of(part for name, values in both for part in named(name, values))

    def _raw(self, step: int, batch_size: int, seed: int) -> Tensor:
        return self.train[self.indices(step, batch_size, seed)]


def _named(condition: Condition | None) -> Iterator[tuple[str, Tensor | None]]:
    """The tensors of a condition with their names, in the order of the names."""
    if isinstance(condition, Mapping):
        yield from ((f"condition {name}", condition[name]) for name in sorted(condition))
    else:
        yield "condition", condition


def _labels(condition: Condition | None) -> Tensor | None:
    """The condition if it holds labels."""
    if not isinstance(condition, Tensor) or condition.dtype != torch.int64 or condition.ndim != 1:
        return None
    return condition


def _check_samples(name: str, samples: Tensor, least: int) -> None:
    if not isinstance(samples, Tensor):
        raise TypeError(
            f"{name} must be a tensor, got {type(samples).__name__}; use torch.as_tensor"
        )
    if not samples.is_floating_point():
        raise ValueError(
            f"{name} must be floating point, got {samples.dtype}; use .float(), or data=folder for "
            "images of grey levels"
        )
    if samples.ndim < 2 or samples[:1].numel() == 0 or len(samples) < least:
        raise ValueError(
            f"{name} must be (N, *) with N ≥ {least} and at least one number in each, got "
            f"{tuple(samples.shape)}"
        )
    check_finite(samples)


def _check_condition(name: str, condition: Condition | None, count: int) -> None:
    if condition is None:
        return
    if not isinstance(condition, Tensor | Mapping):
        raise TypeError(
            f"{name} must be a tensor or a dict of tensors, got {type(condition).__name__}; use "
            "torch.as_tensor"
        )
    for key, values in _named(condition):
        if not isinstance(values, Tensor):
            raise TypeError(f"{name} must hold tensors, got {type(values).__name__} as '{key}'")
        if values.ndim < 1 or len(values) != count:
            raise ValueError(
                f"{name} must have the {count} samples first, got {tuple(values.shape)} as '{key}'"
            )
        if values.is_floating_point():
            check_finite(values.reshape(count, -1))
    labels = _labels(condition)
    if labels is not None and int(labels.min()) < 0:
        raise ValueError(f"labels must be ≥ 0, got {int(labels.min())}; number classes from 0")


def _check_alike(
    samples: Tensor, condition: Condition | None, test: Tensor, test_condition: Condition | None
) -> None:
    """Refuse a test part whose types or shapes differ from those of the training part."""
    kinds = [
        [(name, v.dtype, tuple(v.shape[1:])) for name, v in parts if v is not None]
        for parts in (
            [("samples", samples), *_named(condition)],
            [("samples", test), *_named(test_condition)],
        )
    ]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"the test part must be of the type and shape of the training part, got {kinds[1]} and "
            f"{kinds[0]}"
        )
