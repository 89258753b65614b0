"""Exact likelihood by the probability-flow ODE, and bits/dim of quantized data."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from sde import SDE, Score, expand, integrate
from sde.base import check_floating
from sde.integrate import check_resolution, scaled
from sde.tableau import PAIRS, Tableau

Divergence = Callable[[Score, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(score, x, t, probe) → s(x, t) and ∇·s (B,), from one pass of the network."""

EXACT_LIMIT = 4096  # coordinates; beyond it one exact divergence takes minutes on any machine


@dataclass(frozen=True)
class Likelihood:
    """What `log_likelihood` returns.

    Attributes:
        log_prob: log p_eps(x) in nats, float64, shape (B,).
        latent: x_T, the end of the flow, shape (B, *).
        nfe: Score evaluations for each sample, averaged over the batch.
    """

    log_prob: Tensor
    latent: Tensor
    nfe: float


def log_likelihood(
    sde: SDE,
    score: Score,
    x: Tensor,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    divergence: str = "exact",
    method: str = "dopri5",
    eps: float | None = None,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Likelihood:
    """Log-density of the model at x, by the change of variables along the probability flow.

        v = f x − ½ g² s,   log p_eps(x) = log p_T(x_T) + ∫_eps^T ∇·v(x_t, t) dt

    Every sample has its own steps, in float64; drift and divergence come from one pass of the
    network, in x's type. The density is that of p_eps, and log p_T is that of the prior.

    Args:
        sde: Process.
        score: s(x, t), differentiable in x.
        x: Points, shape (B, *), floating point.
        rtol: Relative tolerance of the state, and absolute tolerance of log p, in nats, > 0.
        atol: Absolute tolerance of the state > 0.
        divergence: `exact`, with as many vector-Jacobian products as x has coordinates, or
            `hutchinson`, an unbiased estimate with one Rademacher probe, fixed for each sample.
        method: `bosh3`, `dopri5` or `dop853`, embedded pairs of orders 3, 5 and 8.
        eps: Time at which x lies; the process's `eps` where not given.
        generator: Source of the probes.
        batch_size: Most samples at once; all where not given.
        progress: Show a bar on a terminal.

    Raises:
        ValueError: x holds NaN or Inf, unknown divergence or method, tolerances not > 0 or
            finer than x's type resolves, eps outside (0, T), or more coordinates than `exact` can
            take.
        TypeError: x is not floating point.
        RuntimeError: The solver did not reach T.

    Reference: Song et al. 2021, arXiv:2011.13456 (eq. 39); Chen et al. 2018, arXiv:1806.07366;
    Grathwohl et al. 2019, arXiv:1810.01367 (section 3.1.1).
    """
    check_floating("x", x)
    if len(x) == 0:
        raise ValueError(f"x must hold at least one point, got shape {tuple(x.shape)}")
    if not x.isfinite().all():
        raise ValueError("x contains NaN/Inf; the likelihood of such a point does not exist")
    if divergence not in _DIVERGENCES:
        raise ValueError(f"unknown divergence '{divergence}'. Available: {', '.join(_DIVERGENCES)}")
    if method not in PAIRS:
        raise ValueError(f"unknown method '{method}'. Available: {', '.join(PAIRS)}")
    if divergence == "exact" and x[0].numel() > EXACT_LIMIT:
        raise ValueError(
            f"divergence=exact takes at most {EXACT_LIMIT} coordinates, got {x[0].numel()}; "
            "use divergence=hutchinson"
        )
    check_resolution(rtol, x.dtype)
    eps = sde.check_end(sde.eps if eps is None else eps)
    # All probes are drawn before the batches are cut, so that the cut changes nothing.
    probe = _rademacher(x, generator) if divergence == "hutchinson" else torch.zeros_like(x)
    size = batch_size or len(x)
    bar = tqdm(total=len(x), disable=None if progress else True, leave=False, unit="sample")
    parts = []
    for rows in torch.arange(len(x)).split(size):
        rows = rows.to(x.device)
        terms = (eps, rtol, atol, _DIVERGENCES[divergence], PAIRS[method])
        parts.append(_solve(sde, score, x[rows], probe[rows], *terms))
        bar.update(len(rows))
    bar.close()
    return Likelihood(
        torch.cat([part.log_prob for part in parts]),
        torch.cat([part.latent for part in parts]),
        sum(part.nfe * len(part.latent) for part in parts) / len(x),
    )


def bits_per_dim(log_prob: Tensor, dim: int, cell: float) -> Tensor:
    """Bits/dim of quantized data whose dequantized density is known.

    A value k is spread uniformly over its cell of width h = (high − low)/levels in each of the D
    coordinates, x = low + h (k + u). Then P(k) ≥ exp E_u log [p(x) h^D] by Jensen, so

        bits/dim = −(log p(x) + D log h)/(D log 2)

    is, on average over u, an upper bound on the code length of the data.

    Args:
        log_prob: log p(x) in nats, shape (B,).
        dim: Number of coordinates D of one sample.
        cell: Width h > 0 of one quantization cell in the coordinates of x.

    Raises:
        ValueError: cell is not > 0.

    Reference: Theis et al. 2016, arXiv:1511.01844 (section 3.1); Uria et al. 2013,
    arXiv:1306.0186.
    """
    if not 0 < cell < math.inf:
        raise ValueError(f"cell must be a width > 0, got {cell}")
    return -(log_prob.double() + dim * math.log(cell)) / (dim * math.log(2))


def _solve(
    sde: SDE,
    score: Score,
    x: Tensor,
    probe: Tensor,
    eps: float,
    rtol: float,
    atol: float,
    divergence: Divergence,
    tableau: Tableau,
) -> Likelihood:
    dim = x[0].numel()

    def field(t: Tensor, y: Tensor, index: Tensor) -> Tensor:
        state = y[:, :-1].reshape(-1, *x.shape[1:]).to(x.dtype)
        s, trace = divergence(score, state, t, probe[index])
        weight = 0.5 * sde.g(t).square()
        velocity = sde.drift(state, t) - expand(weight, s) * s
        change = sde.f(t) * dim - weight * trace.double()
        return torch.cat([velocity.flatten(1).double(), change[:, None]], 1)

    def norm(error: Tensor, y: Tensor, y_next: Tensor) -> Tensor:
        # log p is a sum over coordinates, so their errors are summed, not averaged; and its own
        # tolerance is absolute, since its size says nothing about the accuracy needed.
        state = scaled(error, y, y_next, rtol, atol)[:, :-1].norm(dim=1)
        return torch.maximum(state, error[:, -1].abs() / rtol)

    start = torch.cat([x.flatten(1).double(), torch.zeros(len(x), 1).to(x.device).double()], 1)
    with torch.no_grad():
        end = integrate(field, start, eps, sde.T, rtol=rtol, atol=atol, norm=norm, tableau=tableau)
    latent = end.y[:, :-1].reshape(x.shape)
    log_prob = sde.prior(tuple(x.shape)).log_prob(latent) + end.y[:, -1]
    return Likelihood(log_prob, latent.to(x.dtype), float(end.nfe.double().mean()))


def _rademacher(x: Tensor, generator: torch.Generator | None) -> Tensor:
    source = x.device if generator is None else generator.device
    coins = torch.randint(0, 2, x.shape, generator=generator, device=source)
    return (2 * coins - 1).to(x)


def _hutchinson(score: Score, x: Tensor, t: Tensor, probe: Tensor) -> tuple[Tensor, Tensor]:
    """∇·s ≈ vᵀ (∂s/∂x) v (Hutchinson 1990)."""
    with torch.enable_grad():
        x = x.requires_grad_()
        s = score(x, t)
        (product,) = torch.autograd.grad(s, x, probe)
    return s.detach(), (product * probe).flatten(1).sum(1)


def _exact(score: Score, x: Tensor, t: Tensor, probe: Tensor) -> tuple[Tensor, Tensor]:
    """∇·s = Σ_i ∂s_i/∂x_i, one vector-Jacobian product for each coordinate."""
    with torch.enable_grad():
        x = x.requires_grad_()
        s = score(x, t)
        coordinates = s.flatten(1)
        trace = torch.zeros_like(coordinates[:, 0])
        for i in range(coordinates.shape[1]):
            (row,) = torch.autograd.grad(coordinates[:, i].sum(), x, retain_graph=True)
            trace = trace + row.flatten(1)[:, i]
    return s.detach(), trace.detach()


_DIVERGENCES: dict[str, Divergence] = {"exact": _exact, "hutchinson": _hutchinson}
