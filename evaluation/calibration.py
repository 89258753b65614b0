"""Whether stated probabilities are the shares with which events occur."""

import torch
from torch import Tensor

from scoresde.sde.checks import check_count


def expected_calibration_error(prob: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Mean distance between confidence and accuracy, over bins of the confidence.

        ECE = Σ_b (n_b/N) |accuracy_b − confidence_b|

    The confidence of a sample is its largest probability, and the bins divide (0, 1] into equal
    parts. It is biased upwards where bins hold few samples.

    Args:
        prob: p(y | x), shape (N, K), N ≥ 1, rows that sum to 1.
        labels: True classes, integers in 0 … K − 1, shape (N,).
        bins: Number of bins ≥ 1.

    Raises:
        ValueError: Shapes that do not match, rows that are no probabilities, labels out of range.
        TypeError: Labels that are not integers.

    Reference: Naeini, Cooper & Hauskrecht 2015; Guo et al. 2017, arXiv:1706.04599 (eq. 3).
    """
    count = check_count("bins", bins, 1)
    confidence, right = _confidence(prob, labels)
    # A confidence on the border of two bins belongs to the lower one.
    place = (confidence * count).ceil().long().clamp(1, count) - 1
    gap = torch.zeros(count, dtype=torch.float64)
    gap = gap.index_add(0, place, right - confidence)
    return gap.abs().sum().item() / len(confidence)


def _confidence(prob: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The largest probability of each sample, and 1 where its class is the true one; float64."""
    table = prob.detach().to("cpu", torch.float64)
    if table.ndim != 2 or table.numel() == 0 or labels.shape != table.shape[:1]:
        raise ValueError(
            "prob and labels must have shapes (N ≥ 1, K) and (N,), "
            f"got {tuple(prob.shape)} and {tuple(labels.shape)}"
        )
    if labels.is_floating_point():
        raise TypeError(f"labels must be integers, got {labels.dtype}; use labels.long()")
    if not ((table >= 0).all() and (table.sum(1) - 1).abs().max() < 1e-4):
        raise ValueError("each row of prob must be probabilities that sum to 1; use logits.softmax")
    truth = labels.detach().cpu()
    if int(truth.min()) < 0 or int(truth.max()) >= table.shape[1]:
        raise ValueError(
            f"labels must be in 0 … {table.shape[1] - 1}, got {int(truth.min())} … "
            f"{int(truth.max())}"
        )
    confidence, chosen = table.max(1)
    return confidence, (chosen == truth).double()
