"""Whether data are typical of a model: scores, and how well they separate."""

import torch
from torch import Tensor


def typicality(values: Tensor, reference: Tensor) -> Tensor:
    """Distance of bits/dim (or nats) from the mean of data that the model was made for.

        score = |v − mean(reference)|

    Images that are simpler than the data often have a higher likelihood than the data: neither side
    is typical.

    Args:
        values: Of the data in question, shape (N,).
        reference: Of data that are typical, shape (M,), M ≥ 1.

    Raises:
        ValueError: Not one-dimensional, or no reference.

    Reference: Nalisnick, Matsukawa, Teh & Lakshminarayanan 2019, arXiv:1906.02994 (eq. 4).
    """
    if values.ndim != 1 or reference.ndim != 1 or len(reference) == 0:
        raise ValueError(
            "values and reference must have shapes (N,) and (M,), "
            f"got {tuple(values.shape)} and {tuple(reference.shape)}"
        )
    return (values - reference.mean()).abs()


def auroc(inside: Tensor, outside: Tensor) -> float:
    """Probability that data from outside score higher than data from inside; ties count half.

    Args:
        inside: Scores of typical data, shape (N,), N ≥ 1.
        outside: Scores of other data, shape (M,), M ≥ 1.
    """
    low, high = (torch.sort(v.double()).values for v in (inside, outside))
    below = torch.searchsorted(low, high).double()
    upto = torch.searchsorted(low, high, right=True).double()
    return ((below + upto) / 2).mean().item() / len(low)
