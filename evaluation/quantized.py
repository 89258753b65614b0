"""Likelihood of quantized data: bounds of log P(k) from the density within the cells."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from scoresde.sde import SDE, Score
from scoresde.sde.cautions import silent
from scoresde.sde.checks import check_count
from scoresde.sde.data_range import Cells

from .dequantization import Dequantization, choose_dequantization
from .divergence import choose_divergence
from .likelihood import log_likelihood
from .result import Likelihood
from .seeding import Draws, numbers_of


def quantized_likelihood(
    sde: SDE,
    score: Score,
    k: Tensor,
    cells: Cells,
    *,
    dequantization: str | Dequantization = "uniform",
    samples: int = 1,
    importance: bool = True,
    eps: float | None = None,
    seed: int = 0,
    sample_ids: Sequence[int] | None = None,
    dtype: torch.dtype | None = None,
    **settings: Any,
) -> Likelihood:
    """Lower bounds of log P(k), the integral of the model's density over the cell of k.

        log P(k) ≥ E [log 1/K Σ_j p_eps(x_j)/q(x_j | k)],   x_j ~ q(· | k)

    The bound increases with K to log P(k). It does not hold where log p has an error ε from the
    probes of a stochastic divergence, since E exp(log p + ε) > p: the result then has
    `bound = False`. `importance=False` averages log p − log q instead, which is a bound for every
    divergence.

    Args:
        sde: Process.
        score: s(x, t), differentiable in x.
        k: Quantized values, integers in 0 … levels − 1, shape (B, *).
        cells: Cells of the values, in the coordinates of the data.
        dequantization: `uniform`, `truncated-normal`, or a `Dequantization`.
        samples: Number K ≥ 1 of points in the cell of each sample.
        importance: Weigh the points by importance, rather than average their bounds.
        eps: Time of the density; the `eps` of the process by default.
        seed: Seed of points and probes.
        sample_ids: Numbers of the samples, which determine both; 0 … B − 1 by default.
        dtype: Type of the network's input; torch's default type by default.
        **settings: Further arguments of `log_likelihood`.

    Raises:
        ValueError: Values outside the cells, K is not an integer ≥ 1, or as `log_likelihood`.
        TypeError: k does not hold integers.

    Reference: Theis et al. 2016, arXiv:1511.01844; Burda et al. 2016, arXiv:1509.00519 (eq. 8); Ho
    et al. 2019, arXiv:1902.00275.
    """
    cells.check(k)
    samples = check_count("samples", samples, 1)
    rule = choose_dequantization(dequantization)
    divergence = choose_divergence(settings.get("divergence", "exact")).within(k[0].numel())
    eps = sde.check_end(sde.eps if eps is None else eps)
    alpha, sigma = sde.at(eps)
    dtype = dtype or torch.get_default_dtype()
    numbers = numbers_of(k, sample_ids)
    parts, bounds = list[Likelihood](), list[Tensor]()
    for repeat in range(samples):
        own = seed + (repeat << 32)  # seeds are below 2³², so that no two runs share points
        x, log_q = rule.draw(k, cells, alpha, sigma, Draws(own, numbers))
        with silent() if parts else nullcontext():  # the first point has been checked for its width
            part = log_likelihood(
                sde, score, x, eps=eps, seed=own, sample_ids=numbers, dtype=dtype, **settings
            )
        parts.append(part)
        bounds.append(part.log_prob - log_q)
    weighed = importance and samples > 1
    log_prob, shares, spread = _combine(torch.stack(bounds), weighed)
    probe = torch.stack([part.probe_error for part in parts])
    solver = torch.stack([part.solver_error for part in parts])
    return replace(
        parts[0],
        log_prob=log_prob,
        nfe=torch.stack([part.nfe for part in parts]).sum(0),
        solver_error=(shares * solver).sum(0),
        probe_error=(shares * probe).square().sum(0).sqrt(),
        dequantization_error=spread,
        cells=cells,
        dequantization=rule.name,
        samples=samples,
        bound=not (weighed and divergence.stochastic),
    )


def _combine(bounds: Tensor, weighed: bool) -> tuple[Tensor, Tensor, Tensor]:
    """One bound from K bounds (K, B), the weight of each, and the standard error."""
    count = len(bounds)
    if not weighed:
        spread = (
            bounds.std(0) / math.sqrt(count) if count > 1 else torch.full_like(bounds[0], math.nan)
        )
        return bounds.mean(0), torch.full_like(bounds, 1 / count), spread
    shares = bounds.softmax(0)
    # By the delta method, the error of the logarithm of a mean is the mean's relative error.
    spread = (count * shares).std(0) / math.sqrt(count)
    return bounds.logsumexp(0) - math.log(count), shares, spread
