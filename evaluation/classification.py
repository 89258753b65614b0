"""How often a probabilistic classifier is right, and how well it knows that."""

from typing import NamedTuple

from torch import Tensor

from .calibration import expected_calibration_error


class Classification(NamedTuple):
    """Answers of a classifier on samples of known class.

    Attributes:
        accuracy: Share of samples whose most probable class is their own.
        cross_entropy: Mean of −log p(own class), in nats.
        calibration_error: See `expected_calibration_error`.
    """

    accuracy: float
    cross_entropy: float
    calibration_error: float


def classification(logits: Tensor, labels: Tensor, bins: int = 15) -> Classification:
    """Accuracy, cross-entropy and calibration of logits.

    Args:
        logits: log p(k | x) up to a constant, shape (N, K), N ≥ 1.
        labels: Own classes in 0 … K − 1, shape (N,).
        bins: Bins of the confidence ≥ 1.

    Raises:
        ValueError: The shapes disagree.

    Reference: Guo et al. 2017, arXiv:1706.04599 (eq. 3), for the calibration error.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not len(labels):
        raise ValueError(
            f"logits must be (N, K) with labels (N,), got {tuple(logits.shape)} and "
            f"{tuple(labels.shape)}"
        )
    log_p = logits.double().log_softmax(1)
    right = (log_p.argmax(1) == labels).double()
    own = log_p.gather(1, labels[:, None])
    error = expected_calibration_error(log_p.exp(), labels, bins)
    return Classification(right.mean().item(), -own.mean().item(), error)
