"""Embeddings and checks of class labels."""

from typing import Any

import torch
from torch import Tensor, nn

from scoresde.sde.score import Condition


class LabelEmbedding(nn.Module):
    """A vector for each class, added to that of the noise level; zero for the label K, no class.

        e(y) = W onehot(y),   e(K) = 0

    Reference: Dhariwal & Nichol 2021, arXiv:2105.05233 (section 4.1); Karras et al. 2022,
    arXiv:2206.00364 (appendix F.1); Ho & Salimans 2022, arXiv:2207.12598, for the label K.

    Args:
        classes: Number of classes K ≥ 1.
        features: Entries of the embedding ≥ 1.
    """

    def __init__(self, classes: int, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(features, classes))
        nn.init.normal_(self.weight)

    def forward(self, labels: Tensor) -> Tensor:
        """Vectors of labels y in 0 … K, shape (B,), as (B, features).

        Raises:
            ValueError: Labels of another shape or outside 0 … K.
            TypeError: Labels that are not integers.
        """
        classes = self.weight.shape[1]
        labels = check_labels(labels, classes)
        # The column of the label K is dropped.
        hot = nn.functional.one_hot(labels.long(), classes + 1)[:, :classes]
        return hot.to(self.weight) @ self.weight.t()


class Labelled:
    """A network that takes class labels 0 … K − 1, and the label K for no class.

    Attributes:
        classes: K; None for a network without labels.
    """

    classes: int | None

    def null_condition(self, labels: Tensor) -> Tensor:
        """The label K, of no class, in the place of labels; their shape.

        Raises:
            ValueError: The network takes no labels.
        """
        return no_label(self, labels)


def no_label(network: Any, labels: Tensor) -> Tensor:
    """The label K of a network with `classes` = K, in the place of labels; their shape.

    Raises:
        ValueError: The network takes no labels.
    """
    if network.classes is None:
        raise ValueError(
            f"this {type(network).__name__} takes no labels; build it with classes=K, or on a "
            "command line use condition=label"
        )
    return torch.full_like(labels, network.classes)


def check_labels(labels: Condition, classes: int) -> Tensor:
    """Return labels after checking them; their values only on the CPU, without waiting for a GPU.

    Args:
        labels: y, shape (B,).
        classes: Number of classes K; the label K stands for no class.

    Raises:
        ValueError: Labels of another shape or outside 0 … K.
        TypeError: Labels that are not integers.
    """
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels must be a tensor of integers, got {got}; use labels.long()")
    if labels.ndim != 1:
        raise ValueError(f"labels must have shape (B,), got {tuple(labels.shape)}")
    if labels.device.type == "cpu" and labels.numel():
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high > classes:
            raise ValueError(
                f"labels must be in 0 … {classes - 1}, or {classes} for no label, "
                f"got {low if low < 0 else high}"
            )
    return labels
