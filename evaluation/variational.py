"""Variational bounds of the likelihood: of the chain of a process, and of continuous time."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from scoresde.sde import SDE, Evaluations, Score, expand
from scoresde.sde.broadcast import widened
from scoresde.sde.cautions import caution_training, caution_width
from scoresde.sde.checks import check_choice, check_count
from scoresde.sde.data_range import Cells
from scoresde.sde.posterior import log_cell_probability, normal_kl, posterior
from scoresde.sde.precision import check_range
from scoresde.sde.score import like

from .result import tell_failed
from .seeding import Draws, numbers_of

VARIANCES = ("posterior", "forward")

Variance = Callable[[Tensor, Tensor], Tensor]
"""share(x, t) → v in [0, 1] of x's shape: 0 for the posterior's variance, 1 for the step's."""


@dataclass(frozen=True)
class VariationalBound:
    """Bounds −log P(k) ≤ prior + diffusion + decoder of B samples, in nats, float64.

    Attributes:
        prior: KL(q(x_T | x_0) ‖ prior), shape (B,).
        diffusion: What all steps between T and the lowest level cost, shape (B,).
        decoder: −log p(k | x) at the lowest level, shape (B,).
        terms: Single terms of the diffusion, before they are summed or averaged, shape (B, M).
        times: Their times, shape (B, M).
        error: Standard error of `diffusion` by the choice of terms, shape (B,); 0 where all were
            taken. Each term is still one draw of its noise.
        dim: Number of coordinates D.
        cells: Cells of the data.
        name: `vlb` or `elbo`.
        eps: Lowest time, that of the decoder.
        steps: Steps of the chain; None in continuous time.
        variance: Which the steps have; None in continuous time.
    """

    prior: Tensor
    diffusion: Tensor
    decoder: Tensor
    terms: Tensor
    times: Tensor
    error: Tensor
    dim: int
    cells: Cells
    name: str
    eps: float
    steps: int | None = None
    variance: str | None = None

    @property
    def log_prob(self) -> Tensor:
        """The lower bound of log P(k) in nats, shape (B,)."""
        return -(self.prior + self.diffusion + self.decoder)

    @property
    def bits_per_dim(self) -> Tensor:
        """The upper bound of −log₂ P(k)/D, shape (B,)."""
        return -self.log_prob / (self.dim * math.log(2))

    def summary(self) -> dict[str, Any]:
        """Mean, its standard error, and its three parts, as entries of result.json.

        Samples without a bound are counted, and left out of all the rest.
        """
        known, unit = ~self.log_prob.isnan(), 1 / (self.dim * math.log(2))
        bits = self.bits_per_dim[known]
        n = len(bits)
        return {
            self.name: {
                "bits_per_dim": bits.mean().item(),
                "bits_per_dim_error": (bits.std() / math.sqrt(n)).item() if n > 1 else math.nan,
                "bound": True,
                "prior": unit * self.prior[known].mean().item(),
                "diffusion": unit * self.diffusion[known].mean().item(),
                "decoder": unit * self.decoder[known].mean().item(),
                "terms_error": unit * self.error[known].norm().item() / max(n, 1),
                "samples": n,
                "failed": len(known) - n,
                "terms": self.terms.shape[1],
                "eps": self.eps,
                **({} if self.steps is None else {"steps": self.steps, "variance": self.variance}),
                "levels": self.cells.levels,
                "range": [self.cells.low, self.cells.high],
            }
        }


def join_bounds(parts: Sequence[VariationalBound]) -> VariationalBound:
    """Bounds of several batches as one, in their order.

    Args:
        parts: One or more, by the same settings.
    """
    names = ("prior", "diffusion", "decoder", "terms", "times", "error")
    joined: dict[str, Any] = {n: torch.cat([getattr(part, n) for part in parts]) for n in names}
    return replace(parts[0], **joined)


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
    index: Sequence[int] | None = None,
    dtype: torch.dtype | None = None,
    progress: bool = False,
) -> VariationalBound:
    """The bound of a chain of steps, DDPM's L_vlb on its chain: one KL for each, and a decoder.

        L_T + Σ_t KL(q(x_s | x_t, x_0) ‖ N(m, Σ)) − log p(k | x_1),   m = c_0 x̂_0 + c_t x_t

    The decoder is the normal law N(x̂_0, σ²/α²) at the lowest level, integrated over the cell of k;
    the outermost cells reach to infinity.

    Args:
        sde: Process; on a chain the steps are among its levels.
        score: s(x, t).
        k: Values, integers, shape (B, *).
        cells: Their cells.
        steps: Steps of the chain ≥ 2, equal in its own clock.
        variance: Σ: `posterior` (DDPM's β̃), `forward` (its β), or a learned share between them.
        terms: How many of the steps each sample is asked about, one in each of as many equal parts;
            all where not given.
        eps: Lowest time; the process's `sampling_eps` where not given.
        seed: Seed of the noise.
        index: Numbers of the samples, to which their noise belongs; 0 … B − 1 where not given.
        dtype: What the network sees; torch's default where not given.
        progress: Show a bar on a terminal.

    Raises:
        ValueError: Values that no cell has, fewer than two steps, more terms than steps, an
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
    data = _Data(sde, k, cells, Draws(seed, numbers_of(k, index)), dtype)
    data.caution(score)
    score = Evaluations(score, len(k))
    if terms is None:
        chosen = torch.arange(count, device=k.device).expand(len(k), count)
    else:
        chosen = (data.strata(terms) * count).long()

    def cost(number: int) -> Tensor:
        t, s = levels[chosen[:, number]], levels[chosen[:, number] + 1]
        law = posterior(sde, s, t)
        x = data.at(t, f"term {number}")
        error = data.x0 - data.denoised(score, x, t)
        gap = expand(law.c_0, x) * error
        own = expand(law.variance, gap)
        model = own
        if variance == "forward":
            model = expand(sde.transition(s, t)[1].square(), gap)
        elif callable(variance):
            wide = expand(sde.transition(s, t)[1].square(), gap)
            share = like(x, variance(x, t), "the share of the variance").double()
            model = torch.exp(share * wide.log() + (1 - share) * own.log())
        return normal_kl(gap, own, torch.zeros_like(gap), model).flatten(1).sum(1)

    bar = tqdm(range(chosen.shape[1]), disable=None if progress else True, leave=False, unit="term")
    costs = torch.stack([cost(number) for number in bar], 1)
    bound = data.bound(score, levels[-1], costs, levels[chosen], count, "vlb", terms is None)
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
    index: Sequence[int] | None = None,
    dtype: torch.dtype | None = None,
    progress: bool = False,
) -> VariationalBound:
    """The bound of continuous time: what `variational_bound` tends to as its steps shrink.

        KL(q(x_T | x_0) ‖ prior) + ½ ∫_eps^T (g²/σ²) E‖σ s + z‖² dt − log p(k | x_eps)

    The times are equally spread over λ, where g²/σ² dt = −2 dλ weighs all alike, one in each of as
    many equal parts as there are terms. The decoder is that of `variational_bound`.

    Args:
        sde: Process.
        score: s(x, t).
        k: Values, integers, shape (B, *).
        cells: Their cells.
        terms: Times M ≥ 1 of each sample.
        eps: Lowest time; the process's `eps` where not given.
        seed: Seed of times and noise.
        index: Numbers of the samples, to which both belong; 0 … B − 1 where not given.
        dtype: What the network sees; torch's default where not given.
        progress: Show a bar on a terminal.

    Raises:
        ValueError: Values that no cell has, fewer than one term, or eps outside (0, T).

    Reference: Song et al. 2021b, arXiv:2101.09258 (theorem 3, eq. 11); Kingma et al. 2021,
    arXiv:2107.00630 (eq. 11, appendix I.1 on the times).
    """
    cells.check(k)
    terms = check_count("terms", terms, 1)
    eps = sde.check_end(sde.eps if eps is None else eps)
    ends = torch.tensor([sde.T, eps], dtype=torch.float64, device=k.device)
    low, high = sde.log_snr(ends).unbind()
    data = _Data(sde, k, cells, Draws(seed, numbers_of(k, index)), dtype)
    data.caution(score)
    score = Evaluations(score, len(k))
    times = sde.time_of_log_snr(torch.lerp(high, low, data.strata(terms)))

    def cost(number: int) -> Tensor:
        t, purpose = times[:, number], f"term {number}"
        x = data.at(t, purpose)
        sigma = expand(sde.sigma(t), widened(x)).double()
        residual = sigma * score(x, t).double() + data.noise(purpose)
        return (high - low) * residual.square().flatten(1).sum(1)

    bar = tqdm(range(terms), disable=None if progress else True, leave=False, unit="term")
    costs = torch.stack([cost(number) for number in bar], 1)
    return data.bound(score, ends[1], costs, times, 1, "elbo", False)


class _Data:
    """Quantized data on their way through a process."""

    def __init__(
        self, sde: SDE, k: Tensor, cells: Cells, draws: Draws, dtype: torch.dtype | None
    ) -> None:
        sde.check_signal("a variational bound")
        self.sde, self.k, self.cells, self.draws = sde, k, cells, draws
        self.x0, self.dtype = cells.centre(k), dtype or torch.get_default_dtype()
        check_range(sde, self.dtype)

    def caution(self, score: Score) -> None:
        """Say what would spoil the bound without a word."""
        caution_training(score)
        caution_width(self.sde, self.x0)

    def noise(self, purpose: str) -> Tensor:
        """z of a purpose, the same whenever it is asked for; float64."""
        return self.draws.normal(purpose, tuple(self.k.shape[1:])).to(self.k.device)

    def at(self, t: Tensor, purpose: str) -> Tensor:
        """x_t in the network's type, for times (B,)."""
        return self.sde.perturb(self.x0, t, self.noise(purpose)).to(self.dtype)

    def denoised(self, score: Score, x: Tensor, t: Tensor) -> Tensor:
        """x̂_0 = (x + σ² s)/α, float64."""
        x0 = x.double() + expand(self.sde.sigma(t).square(), self.x0) * score(x, t).double()
        return x0 / expand(self.sde.alpha(t), self.x0)

    def strata(self, count: int) -> Tensor:
        """A number in each of `count` equal parts of [0, 1), for each sample, (B, count)."""
        u = self.draws.uniform("strata", (count,)).to(self.k.device)
        return (torch.arange(count, device=u.device) + u) / count

    def bound(
        self,
        score: Score,
        lowest: Tensor,
        costs: Tensor,
        times: Tensor,
        count: int,
        name: str,
        complete: bool,
    ) -> VariationalBound:
        """The whole bound from the costs of M terms, each standing for count/M."""
        sde, n = self.sde, len(self.k)
        end = torch.full((n,), sde.T, dtype=torch.float64, device=self.k.device)
        mean, std = sde.marginal(self.x0, end)
        wide = torch.full_like(mean, sde.prior(tuple(self.k.shape)).std).square()
        prior = normal_kl(mean, std.square(), torch.zeros_like(mean), wide).flatten(1).sum(1)
        spread = costs.std(1) / math.sqrt(costs.shape[1]) if costs.shape[1] > 1 else math.nan
        error = torch.zeros_like(prior) if complete else count * (prior * 0 + spread)
        t = lowest.expand(n)
        bound = VariationalBound(
            prior,
            costs.mean(1) * count,
            self._decoder(score, t),
            costs,
            times,
            error,
            self.k[0].numel(),
            self.cells,
            name,
            lowest.item(),
        )
        tell_failed(bound.log_prob.isnan(), self.draws.index, f"bound ({name})")
        return bound

    def _decoder(self, score: Score, t: Tensor) -> Tensor:
        """−log p(k | x_t), shape (B,)."""
        x0 = self.denoised(score, self.at(t, "decoder"), t)
        std = expand(self.sde.sigma(t) / self.sde.alpha(t), x0)
        centre, half = self.x0, 0.5 * self.cells.width
        low = torch.where(self.k == 0, -torch.inf, centre - half)
        high = torch.where(self.k == self.cells.levels - 1, torch.inf, centre + half)
        return -log_cell_probability(low, high, x0, std).flatten(1).sum(1)
