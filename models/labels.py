"""Embeddings and checks of class labels."""

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
