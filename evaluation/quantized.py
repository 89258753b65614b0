"""Likelihood of quantized data: bounds of log P(k) from densities within cells."""

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
    index: Sequence[int] | None = None,
    dtype: torch.dtype | None = None,
    **settings: Any,
) -> Likelihood:
    """Lower bounds of log P(k), where P(k) is what the model's density holds in the cell of k.

        log P(k) ≥ E [log 1/K Σ_j p_eps(x_j)/q(x_j | k)],   x_j ~ q(· | k)

    rises with K to log P(k). A density known up to the chance of its probes must not be weighed so:
    E exp(log p + ε) > p. With a stochastic divergence and several importance-weighted draws the
    result says `bound = False`; `importance=False` averages log p − log q instead, a bound
    whatever the divergence.

    Args:
        sde: Process.
        score: s(x, t), differentiable in x.
        k: Values, integers in 0 … levels − 1, shape (B, *).
        cells: Their cells in the coordinates of the data.
        dequantization: `uniform`, `truncated-normal`, or a `Dequantization`.
        samples: Draws K ≥ 1 of each sample.
        importance: Weigh the draws, rather than average their bounds.
        eps: Time of the density; the process's `eps` where not given.
        seed: Seed of draws and probes.
        index: Numbers of the samples, to which they belong; 0 … B − 1 where not given.
        dtype: What the network sees; torch's default where not given.
        **settings: Further arguments of `log_likelihood`.

    Raises:
        ValueError: Values that no cell has, K not an integer ≥ 1, or as `log_likelihood`.
        TypeError: k holds no integers.

    Reference: Theis et al. 2016, arXiv:1511.01844; Burda et al. 2016, arXiv:1509.00519 (eq. 8); Ho
    et al. 2019, arXiv:1902.00275.
    """
    cells.check(k)
    samples = check_count("samples", samples, 1)
    rule = choose_dequantization(dequantization)
    divergence = choose_divergence(settings.get("divergence", "exact")).within(k[0].numel())
    eps = sde.check_end(sde.eps if eps is None else eps)
    alpha, sigma = (
        c(torch.tensor(eps, dtype=torch.float64)).item() for c in (sde.alpha, sde.sigma)
    )
    dtype = dtype or torch.get_default_dtype()
    numbers = numbers_of(k, index)
    parts, bounds = list[Likelihood](), list[Tensor]()
    for repeat in range(samples):
        own = seed + (repeat << 32)  # seeds are below 2³²: no two runs share their draws
        x, log_q = rule.draw(k, cells, alpha, sigma, Draws(own, numbers))
        with silent() if parts else nullcontext():  # one draw is as wide as another
            part = log_likelihood(
                sde, score, x, eps=eps, seed=own, index=numbers, dtype=dtype, **settings
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
    """K bounds (K, B) as one, the share of each in it, and the standard error of it."""
    count = len(bounds)
    if not weighed:
        spread = (
            bounds.std(0) / math.sqrt(count) if count > 1 else torch.full_like(bounds[0], math.nan)
        )
        return bounds.mean(0), torch.full_like(bounds, 1 / count), spread
    shares = bounds.softmax(0)
    # The delta method: the relative error of a mean is the error of its logarithm.
    spread = (count * shares).std(0) / math.sqrt(count)
    return bounds.logsumexp(0) - math.log(count), shares, spread
