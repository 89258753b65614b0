"""Typicality: whether data are typical of a model, and how well a score separates two data sets."""

import torch
from torch import Tensor


def typicality(values: Tensor, reference: Tensor) -> Tensor:
    """Distance of bits/dim (or nats) from their mean over typical data.

        score = |v − mean(reference)|

    Images that are simpler than the data often have a higher likelihood than the data, so that both
    low and high likelihoods are untypical.

    Args:
        values: Values of the data in question, shape (N,).
        reference: Values of typical data, shape (M,), M ≥ 1.

    Raises:
        ValueError: An argument is not one-dimensional, or there is no reference.

    Reference: Nalisnick, Matsukawa, Teh & Lakshminarayanan 2019, arXiv:1906.02994 (eq. 4).
    """
    if values.ndim != 1 or reference.ndim != 1 or len(reference) == 0:
        raise ValueError(
            "values and reference must have shapes (N,) and (M,), "
            f"got {tuple(values.shape)} and {tuple(reference.shape)}"
        )
    return (values - reference.mean()).abs()


def auroc(inside: Tensor, outside: Tensor) -> float:
    """Area under the ROC curve: the probability that other data score higher than typical data.

    Ties count half.

    Args:
        inside: Scores of typical data, shape (N,), N ≥ 1.
        outside: Scores of other data, shape (M,), M ≥ 1.
    """
    low, high = (torch.sort(v.double()).values for v in (inside, outside))
    below = torch.searchsorted(low, high).double()
    upto = torch.searchsorted(low, high, right=True).double()
    return ((below + upto) / 2).mean().item() / len(low)
