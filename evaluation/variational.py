"""Variational bounds of the likelihood: of the discrete-time chain, and of continuous time."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from scoresde.sde import SDE, Evaluations, Score, expand
from scoresde.sde.broadcast import widened
from scoresde.sde.cautions import caution_training, caution_width
from scoresde.sde.checks import check_choice, check_count
from scoresde.sde.data_range import Cells
from scoresde.sde.posterior import log_cell_probability, normal_kl, posterior
from scoresde.sde.precision import check_range
from scoresde.sde.score import like

from .result import VariationalBound, warn_failed
from .seeding import Draws, numbers_of

VARIANCES = ("posterior", "forward")

Variance = Callable[[Tensor, Tensor], Tensor]
"""share(x, t) → v in [0, 1] of x's shape: 0 for the posterior's variance, 1 for the step's."""

Term = Callable[[int], Tensor]
"""term(m) → the term m of the diffusion of each sample, shape (B,)."""


@torch.no_grad()
def variational_bound(
    sde: SDE,
    score: Score,
    k: Tensor,
    cells: Cells,
    *,
    steps: int = 1000,
    variance: str | Variance = "posterior",
    terms: int | None = None,
    eps: float | None = None,
    seed: int = 0,
    sample_ids: Sequence[int] | None = None,
    dtype: torch.dtype | None = None,
) -> VariationalBound:
    """The bound of a discrete-time chain, DDPM's L_vlb: one KL per step, and a decoder.

        L_T + Σ_t KL(q(x_s | x_t, x_0) ‖ N(m, Σ)) − log p(k | x_1),   m = c_0 x̂_0 + c_t x_t

    The decoder is the normal distribution N(x̂_0, σ²/α²) at the lowest level, integrated over the
    cell of k; the outermost cells extend to infinity.

    Args:
        sde: Process; if it is a chain, the steps are chosen among its levels.
        score: s(x, t).
        k: Quantized values, integers, shape (B, *).
        cells: Cells of the values.
        steps: Number of steps of the chain ≥ 2, equal in the chain's own clock.
        variance: Σ: `posterior` (DDPM's β̃), `forward` (its β), or a learned share between them.
        terms: Number of steps that are evaluated for each sample, one in each of as many equal
            parts of the chain; all steps by default.
        eps: Lowest time; the `sampling_eps` of the process by default.
        seed: Seed of terms and noise.
        sample_ids: Numbers of the samples, which determine both; 0 … B − 1 by default.
        dtype: Type of the network's input; torch's default type by default.

    Raises:
        ValueError: Values outside the cells, fewer than two steps, more terms than steps, an
            unknown variance, or eps outside (0, T).

    Reference: Ho et al. 2020, arXiv:2006.11239 (eq. 5, 13); Nichol & Dhariwal 2021,
    arXiv:2102.09672 (eq. 14, 15).
    """
    cells.check(k)
    if not callable(variance):
        check_choice("variance", variance, *VARIANCES)
    steps = check_count("steps", steps, 2)
    grid = sde.equal_times(steps, eps)
    levels = grid[sde.sigma(grid) > 0].to(k.device)
    count = len(levels) - 1
    if terms is not None and not 1 <= terms <= count:
        raise ValueError(f"terms must be in 1 … {count}, the steps between levels, got {terms}")
    data = _Data(sde, score, k, cells, Draws(seed, numbers_of(k, sample_ids)), dtype)
    if terms is None:
        chosen = torch.arange(count, device=k.device).expand(len(k), count)
    else:
        chosen = (data.strata(terms) * count).long()

    def term(number: int) -> Tensor:
        t, s = levels[chosen[:, number]], levels[chosen[:, number] + 1]
        true = posterior(sde, s, t)
        x = data.at(t, f"term {number}")
        error = data.x0 - data.denoised(x, t)
        gap = expand(true.c_0, x) * error
        own = expand(true.variance, gap)
        model = own
        if variance == "forward":
            model = expand(sde.transition(s, t)[1].square(), gap)
        elif callable(variance):
            wide = expand(sde.transition(s, t)[1].square(), gap)
            share = like(x, variance(x, t), "the share of the variance").double()
            model = torch.exp(share * wide.log() + (1 - share) * own.log())
        return normal_kl(gap, own, torch.zeros_like(gap), model).flatten(1).sum(1)

    bound = data.bound(levels[-1], term, levels[chosen], count, "vlb", terms is None)
    return replace(bound, steps=steps, variance="learned" if callable(variance) else variance)


@torch.no_grad()
def elbo(
    sde: SDE,
    score: Score,
    k: Tensor,
    cells: Cells,
    *,
    terms: int = 32,
    eps: float | None = None,
    seed: int = 0,
    sample_ids: Sequence[int] | None = None,
    dtype: torch.dtype | None = None,
) -> VariationalBound:
    """The bound in continuous time, the limit of `variational_bound` for infinitely many steps.

        KL(q(x_T | x_0) ‖ prior) + ½ ∫_eps^T (g²/σ²) E‖σ s + z‖² dt − log p(k | x_eps)

    The times are uniform in λ, where g²/σ² dt = −2 dλ gives all of them the same weight; they are
    stratified, one in each of M equal parts. The decoder and the arguments that are not listed are
    those of `variational_bound`.

    Args:
        terms: Number M ≥ 1 of times for each sample.
        eps: Lowest time; the `eps` of the process by default.

    Raises:
        ValueError: Values outside the cells, fewer than one term, or eps outside (0, T).

    Reference: Song et al. 2021b, arXiv:2101.09258 (theorem 3, eq. 11); Kingma et al. 2021,
    arXiv:2107.00630 (eq. 11, appendix I.1 on the times).
    """
    cells.check(k)
    terms = check_count("terms", terms, 1)
    eps = sde.check_end(sde.eps if eps is None else eps)
    ends = torch.tensor([sde.T, eps], dtype=torch.float64, device=k.device)
    low, high = sde.half_log_snr(ends).unbind()
    data = _Data(sde, score, k, cells, Draws(seed, numbers_of(k, sample_ids)), dtype)
    times = sde.time_of_half_log_snr(torch.lerp(high, low, data.strata(terms)))

    def term(number: int) -> Tensor:
        t, purpose = times[:, number], f"term {number}"
        x = data.at(t, purpose)
        sigma = expand(sde.sigma(t), widened(x)).double()
        residual = sigma * data.score(x, t).double() + data.noise(purpose)
        return (high - low) * residual.square().flatten(1).sum(1)

    return data.bound(ends[1], term, times, 1, "elbo", False)


class _Data:
    """Quantized data that are carried through a process, and the model's estimates of them."""

    def __init__(
        self,
        sde: SDE,
        score: Score,
        k: Tensor,
        cells: Cells,
        draws: Draws,
        dtype: torch.dtype | None,
    ) -> None:
        sde.check_signal("a variational bound")
        self.sde, self.k, self.cells, self.draws = sde, k, cells, draws
        self.x0, self.dtype = cells.centre(k), dtype or torch.get_default_dtype()
        check_range(sde, self.dtype)
        caution_training(score)
        caution_width(sde, self.x0)
        self.score = Evaluations(score, len(k))

    def noise(self, purpose: str) -> Tensor:
        """z of a purpose, the same at every call; float64."""
        return self.draws.normal(purpose, tuple(self.k.shape[1:])).to(self.k.device)

    def at(self, t: Tensor, purpose: str) -> Tensor:
        """x_t in the network's type, for times (B,)."""
        return self.sde.perturb(self.x0, t, self.noise(purpose)).to(self.dtype)

    def denoised(self, x: Tensor, t: Tensor) -> Tensor:
        """x̂_0 = (x + σ² s)/α, float64."""
        variance = expand(self.sde.sigma(t).square(), self.x0)
        return (x.double() + variance * self.score(x, t).double()) / expand(
            self.sde.alpha(t), self.x0
        )

    def strata(self, count: int) -> Tensor:
        """A number in each of `count` equal parts of [0, 1), for each sample, (B, count)."""
        u = self.draws.uniform("strata", (count,)).to(self.k.device)
        return (torch.arange(count, device=u.device) + u) / count

    def bound(
        self, lowest: Tensor, term: Term, times: Tensor, count: int, name: str, complete: bool
    ) -> VariationalBound:
        """The whole bound from terms at M times, each of which stands for count/M terms."""
        terms = torch.stack([term(number) for number in range(times.shape[1])], 1)
        sde, n = self.sde, len(self.k)
        end = torch.full((n,), sde.T, dtype=torch.float64, device=self.k.device)
        mean, std = sde.marginal(self.x0, end)
        wide = torch.full_like(mean, sde.prior(tuple(self.k.shape)).std).square()
        prior = normal_kl(mean, std.square(), torch.zeros_like(mean), wide).flatten(1).sum(1)
        spread = terms.std(1) / math.sqrt(terms.shape[1]) if terms.shape[1] > 1 else math.nan
        error = torch.zeros_like(prior) if complete else count * (prior * 0 + spread)
        diffusion, decoder = terms.mean(1) * count, self._decoder(lowest.expand(n))
        named = (self.k[0].numel(), self.cells, name, lowest.item())
        bound = VariationalBound(prior, diffusion, decoder, terms, times, error, *named)
        warn_failed(bound.log_prob.isnan(), self.draws.sample_ids, f"bound ({name})")
        return bound

    def _decoder(self, t: Tensor) -> Tensor:
        """−log p(k | x_t), shape (B,)."""
        x0 = self.denoised(self.at(t, "decoder"), t)
        std = expand(self.sde.sigma(t) / self.sde.alpha(t), x0)
        centre, half = self.x0, 0.5 * self.cells.width
        low = torch.where(self.k == 0, -torch.inf, centre - half)
        high = torch.where(self.k == self.cells.levels - 1, torch.inf, centre + half)
        return -log_cell_probability(low, high, x0, std).flatten(1).sum(1)
