"""Classification by a class-conditional model: the posterior of classes by Bayes' rule."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from scoresde.sde import SDE, Score
from scoresde.sde.checks import check_count

from .result import Likelihood
from .seeding import numbers_of


class ConditionalModel(Protocol):
    """A model of p(x | y) with labels y = 0 … K − 1."""

    def given(self, condition: Tensor, /) -> Score:
        """The score s(x, t | y) with a label for each sample, int64, shape (B,)."""


@dataclass(frozen=True)
class ClassPosterior:
    """Posterior of the K classes of B samples.

    Attributes:
        log_prob: log p(y | x), float64, shape (B, K). A sample of which the likelihood of one class
            could not be computed has NaN in all its entries.
        log_prior: log p(y), float64, shape (K,).
        likelihood: The likelihoods log p(x | y) of B K samples with their errors and evaluations;
            that of sample b in class y has the number b K + y.
    """

    log_prob: Tensor
    log_prior: Tensor
    likelihood: Likelihood

    @property
    def prob(self) -> Tensor:
        """p(y | x), float64, shape (B, K)."""
        return self.log_prob.exp()

    @property
    def label(self) -> Tensor:
        """The most probable class, int64, shape (B,)."""
        return self.log_prob.argmax(1)

    @property
    def log_likelihood(self) -> Tensor:
        """log p(x | y) in nats, for quantized data log P(k | y) or its bound; shape (B, K)."""
        return self._table(self.likelihood.log_prob)

    @property
    def error(self) -> Tensor:
        """Standard error of log p(x | y) from probes and dequantization, shape (B, K).

        It is NaN where there is a single probe, or a single point in a cell. All classes of a
        sample share both, so that their differences have a smaller error.
        """
        squares = (self.likelihood.probe_error, self.likelihood.dequantization_error)
        return self._table(squares[0].square() + squares[1].square()).sqrt()

    @property
    def solver_error(self) -> Tensor:
        """Sum of the absolute error estimates of the solver in log p(x | y), shape (B, K)."""
        return self._table(self.likelihood.solver_error)

    @property
    def nfe(self) -> Tensor:
        """Evaluations of the score for each sample, all classes together, shape (B,)."""
        return self._table(self.likelihood.nfe).sum(1)

    def _table(self, values: Tensor) -> Tensor:
        return values.reshape(-1, len(self.log_prior))


def class_posterior(
    likelihood: Callable[..., Likelihood],
    sde: SDE,
    model: ConditionalModel,
    x: Tensor,
    *args: Any,
    classes: int,
    prior: Tensor | None = None,
    sample_ids: Sequence[int] | None = None,
    **settings: Any,
) -> ClassPosterior:
    """Posterior of the class of each sample from the likelihoods of all classes.

        p(y | x) = p(y) p(x | y) / Σ_k p(k) p(x | k)

    All classes are evaluated in one call, in which the rows of the condition follow those of the
    samples. The classes of a sample share its probes and its points in the cell, whose errors so
    cancel in part.

    Args:
        likelihood: `log_likelihood`, `quantized_likelihood`, or their settings as a
            `FlowLikelihood`.
        sde: Process.
        model: Conditional model, with a method `given(labels)`.
        x: Samples as the likelihood takes them, shape (B, *).
        *args: Further arguments of the likelihood, such as the cells of quantized values.
        classes: Number K ≥ 2 of classes.
        prior: p(y) > 0, shape (K,), scaled to sum to 1; equal for all classes by default.
        sample_ids: Numbers of the samples, which determine their probes; 0 … B − 1 by default.
        **settings: Further arguments of the likelihood, such as `batch_size`, which counts pairs of
            a sample and a class.

    Raises:
        ValueError: Fewer than two classes, a prior of another shape or not > 0, or as for the
            likelihood.

    Reference: Li et al. 2023, arXiv:2303.16203 (eq. 1), which takes the variational bound for
    log p(x | y); Song et al. 2021, arXiv:2011.13456 (eq. 39), for the likelihood.
    """
    count = check_count("classes", classes, 2)
    log_prior = _log_prior(prior, count)
    numbers = [number for number in numbers_of(x, sample_ids) for _ in range(count)]
    labels = torch.arange(count, device=x.device).repeat(len(x))
    each = x.repeat_interleave(count, 0)
    found = likelihood(sde, model.given(labels), each, *args, sample_ids=numbers, **settings)
    log_joint = found.log_prob.reshape(-1, count) + log_prior.to(found.log_prob.device)
    return ClassPosterior(log_joint.log_softmax(1), log_prior, found)


def _log_prior(prior: Tensor | None, count: int) -> Tensor:
    """log p(y), float64, (K,)."""
    if prior is None:
        return torch.full((count,), -math.log(count), dtype=torch.float64)
    values = torch.as_tensor(prior, dtype=torch.float64)
    if values.shape != (count,):
        raise ValueError(
            f"the prior must have shape ({count},), one number for each class, "
            f"got {tuple(values.shape)}"
        )
    if not ((values > 0) & values.isfinite()).all():
        raise ValueError(
            f"the prior must be finite and > 0, got {values.tolist()}; leave out a class that "
            "cannot occur"
        )
    return values.log().log_softmax(0)
