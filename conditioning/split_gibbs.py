"""Split Gibbs sampling: data that fit the measurement, and denoising, in turn."""

import copy
import itertools
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from scoresde.samplers import KarrasGrid, PredictorCorrector, Sampler
from scoresde.samplers.context import SamplingContext
from scoresde.samplers.presets import sde_dpm_solver_pp
from scoresde.sde import SDE, Score, Until, expand, rows
from scoresde.sde.checks import check_between, check_choice, check_count, check_steps

from .local_posterior import Exact, LangevinDraw, LocalPosterior, SplitNoise
from .measurements import LinearOperator, Measurement
from .particles import refuse_options


class SplitGibbs(Sampler):
    """Gibbs sampling of p(x_0, z | y), whose samples of x_0 have the exact posterior for any prior.

        z ~ N(y; H z, Σ_z) N(z; x, ρ² I),   x ~ p(x_0 | x̄_t = z) at ς(t) = ρ

    The stationary distribution of x is the exact posterior for the noise covariance Σ_z + ρ² H Hᵀ.
    `exact` takes Σ_z = σ_y² I − ρ² H Hᵀ, which needs ρ ≤ σ_y/s_max and has no error at any such ρ;
    `plain` takes Σ_z = σ_y² I, whose error falls with ρ. What is left is the error of the sampler
    in the second step, which must draw noise, and the rounds that the chain needs to mix.

    A chain begins with a sample of the data, at T, and ρ falls from `rho_start` to `rho` by a
    factor in each round. Larger ρ takes the chain from mode to mode; while ρ > σ_y/s_max its rounds
    are plain. One chain can give several samples, some rounds apart: they are neighbours in the
    batch, share the measurement of the first of them, and depend on the seed of the first alone.

    Args:
        measurement: y = H x_0 + σ_y n; with `plain` also one that is not linear.
        sampler: Sampler of the second step, which follows the reverse SDE from ρ, all of its steps
            below; where not given 20 steps of SDE-DPM-Solver++ of order 2 on a `KarrasGrid`. The
            error of a method of order 1, such as `DDIM(eta=1)`, is many times that.
        rounds: Rounds before a chain gives its first sample, those with falling ρ included.
        rho: ρ > 0; 0.95 σ_y/s_max where not given.
        rho_start: ρ of the first round.
        decay: Factor of ρ in (0, 1].
        per_chain: Samples of one chain ≥ 1.
        thinning: Rounds from one sample of a chain to the next ≥ 1.
        form: `exact` or `plain`.
        langevin: How z is drawn where h is not linear.

    Raises:
        ValueError: A number out of its range, ρ > σ_y/s_max or σ_y = 0 with `exact`, fewer rounds
            than ρ needs to fall, or plain without a ρ.
        TypeError: An operator that is not linear with `exact`.

    Reference: Vono, Dobigeon & Chainais 2019, arXiv:1804.05809 (algorithm 1); Wu et al. 2024,
    arXiv:2405.18782 (algorithm 1), for denoising as the second step.
    """

    def __init__(
        self,
        measurement: Measurement,
        sampler: Sampler | None = None,
        rounds: int = 100,
        *,
        rho: float | None = None,
        rho_start: float = 3.0,
        decay: float = 0.9,
        per_chain: int = 1,
        thinning: int = 1,
        form: str = "exact",
        langevin: LangevinDraw | None = None,
    ) -> None:
        self.form = check_choice("form", form, "exact", "plain")
        self.measurement = measurement
        self.sampler = _denoiser() if sampler is None else sampler
        linear = isinstance(measurement.operator, LinearOperator)
        self._plain: LocalPosterior = Exact() if linear else langevin or LangevinDraw()
        self._split = SplitNoise(measurement) if self.form == "exact" else None
        self._plain.check(measurement)
        self.rho = self._level(rho)
        self.rounds = check_steps(rounds, "rounds")
        self.per_chain = check_count("per_chain", per_chain, 1)
        self.thinning = check_count("thinning", thinning, 1)
        self.levels = self._levels(check_between("rho_start", rho_start, 0), decay)

    def check(self, sde: SDE, dtype: torch.dtype) -> None:
        """Raise ValueError if the process has no time of ρ, or the solver does not fit."""
        self.sampler.check(sde, dtype)
        for process in self._processes(sde).values():
            self.sampler.check(process, dtype)

    def states(self, sde: SDE) -> int:
        """Number of states of a run: of its rounds, and of the sample that they begin with."""
        return len(self.levels) + 1

    def rows(self, index: Tensor) -> Self:
        """The sampler with the measurements of some samples of the batch, whole chains."""
        part = copy.copy(self)
        part.measurement = self.measurement.rows(index)
        return part

    def run(self, sde: SDE, score: Score, x: Tensor, run: SamplingContext) -> Tensor:
        """Run the chains, and return their samples."""
        refuse_options(self, run)
        self.measurement.check_samples(x)
        if len(x) % self.per_chain:
            raise ValueError(
                f"chains of {self.per_chain} samples give multiples of that, got {len(x)} samples; "
                "use another per_chain"
            )
        first = torch.arange(0, len(x), self.per_chain, device=x.device)
        score, measurement = rows(score, first), self.measurement.rows(first)
        inner = _inner(run, first)
        processes = self._processes(sde)
        run.begin(len(self.levels), x)
        x, found = self.sampler.run(sde, score, x[first], inner), list[Tensor]()
        for number, rho in enumerate(self.levels):
            process = processes[rho]
            t = torch.tensor(process.T, dtype=torch.float64)
            level, share = _relative(process), number / len(self.levels)
            z = self._draw(level).draw(x, level, measurement, inner.noise, share)
            x = self.sampler.run(process, score, sde.alpha(t).to(z) * z, inner)
            if (past := number + 1 - self.rounds) >= 0 and past % self.thinning == 0:
                found.append(x)
            run.visit(number + 1, t, x.repeat_interleave(self.per_chain, 0))
        return torch.stack(found, 1).flatten(0, 1)

    def _draw(self, rho: float) -> LocalPosterior:
        """How z is drawn at a level; without a split where it does not exist."""
        if self._split is None or rho > self._split.limit:
            return self._plain
        return self._split

    def _processes(self, sde: SDE) -> dict[float, SDE]:
        """The process up to the time at which ς = ρ, for each ρ.

        Raises:
            ValueError: There is no such time above the end of sampling, the sampler draws no noise,
                or the nearest level of a chain has ρ > σ_y/s_max where it must not.
        """
        sde.check_signal("split Gibbs sampling")
        rhos = list(dict.fromkeys(self.levels))
        lam = -torch.tensor(rhos, dtype=torch.float64).log()
        ends = torch.tensor([sde.T, sde.sampling_eps], dtype=torch.float64)
        high, low = (-sde.half_log_snr(ends)).exp().tolist()
        if not (rhos[0] <= high and low < rhos[-1]):
            raise ValueError(
                f"rho goes from {rhos[0]:g} to {rhos[-1]:g}, and must stay within sigma/alpha of "
                f"this process, from {high:g} to above {low:g} at the end of sampling; choose rho "
                "and rho_start there"
            )
        times = sde.time_of_half_log_snr(lam).tolist()
        found = {rho: Until(sde, time) for rho, time in zip(rhos, times, strict=True)}
        if not _draws_noise(self.sampler, found[rhos[-1]]):
            raise ValueError(
                "the probability flow does not sample p(x_0 | z), and this sampler draws no noise; "
                "use DDIM(eta=1) or another solver of the reverse SDE"
            )
        level = _relative(found[rhos[-1]])
        if self._split and level > self._split.limit * (1 + 1e-9):
            raise ValueError(
                f"the level of this chain next to rho={self.rho:g} has sigma/alpha={level:g}, "
                f"above std/s_max={self._split.limit:g}; give a smaller rho"
            )
        return dict(found)

    def _level(self, rho: float | None) -> float:
        """The last ρ.

        Raises:
            ValueError: It is not > 0, above σ_y/s_max with a split, or not given without one.
        """
        if self._split is None:
            if rho is None:
                raise ValueError("form='plain' has an error that grows with rho; give rho, say 0.1")
        else:
            limit = self._split.limit
            rho = 0.95 * limit if rho is None else rho
            if rho > limit:
                raise ValueError(
                    f"rho ({rho:g}) must be ≤ std/s_max = {limit:g}, where the noise of the "
                    "measurement can be split exactly; use a smaller rho, or form='plain'"
                )
        if not 0 < rho < float("inf"):
            raise ValueError(f"rho must be finite and > 0, got {rho}")
        return float(rho)

    def _levels(self, start: float, decay: float) -> list[float]:
        """ρ of each round.

        Raises:
            ValueError: A decay outside (0, 1], or too few rounds to reach the last ρ.
        """
        if not 0 < decay <= 1 or (decay == 1 and start > self.rho):
            raise ValueError(f"decay must be in (0, 1), or 1 with rho_start ≤ rho, got {decay}")
        falling = (start * decay**k for k in itertools.count())
        above = list(itertools.takewhile(lambda level: level > self.rho, falling))
        if len(above) >= self.rounds:
            raise ValueError(
                f"rho falls from {start:g} to {self.rho:g} in {len(above)} rounds, and the chain "
                f"must go on from there, got rounds={self.rounds}; use more rounds or a smaller "
                "decay"
            )
        total = self.rounds + (self.per_chain - 1) * self.thinning
        return above + [self.rho] * (total - len(above))


def pnp_dm(
    measurement: Measurement,
    sampler: Sampler | None = None,
    *,
    rho: float = 0.3,
    per_chain: int = 60,
) -> SplitGibbs:
    """Plug-and-play diffusion models: split Gibbs sampling without the split of the noise.

    100 rounds of which the first 40 are discarded, with ρ falling from 10 by 0.9 in each. Its
    samples are those of the posterior for the noise covariance σ_y² I + ρ² H Hᵀ.

    Args:
        measurement: y = h(x_0) + σ_y n.
        sampler, per_chain: As for `SplitGibbs`. The authors' code follows the probability flow
            in its place, which is no sample of p(x_0 | z).
        rho: Last ρ > 0.

    Reference: Wu et al. 2024, arXiv:2405.18782 (algorithm 1, section 4).
    """
    return SplitGibbs(
        measurement,
        sampler,
        rounds=41,
        rho=rho,
        rho_start=10.0,
        per_chain=per_chain,
        form="plain",
    )


def _denoiser() -> Sampler:
    solver = sde_dpm_solver_pp(lower_order_final_below=0)
    return PredictorCorrector(solver, steps=20, grid=KarrasGrid())


def _draws_noise(sampler: Sampler, sde: SDE) -> bool:
    """Whether a sampler is random, by a run on one number with the score of data N(0, 1)."""
    generator = torch.Generator()

    def score(x: Tensor, t: Tensor) -> Tensor:
        return -x / expand(sde.alpha(t).square() + sde.sigma(t).square(), x)

    before = generator.get_state()
    sampler.run(sde, score, torch.ones(1, 1, dtype=torch.float64), SamplingContext(generator))
    return not torch.equal(before, generator.get_state())


def _relative(sde: SDE) -> float:
    """ς = σ/α at the last time of a process."""
    t = torch.tensor(sde.T, dtype=torch.float64)
    return (sde.sigma(t) / sde.alpha(t)).item()


def _inner(run: SamplingContext, index: Tensor) -> SamplingContext:
    """A context of runs within a run: the noise of some samples, and nothing to report."""
    generator = run.generator
    if isinstance(generator, Sequence):
        generator = [generator[i] for i in index.tolist()]
    return SamplingContext(generator, source=run.source, drawn=run.drawn, dtype=run.dtype)
