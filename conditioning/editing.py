"""Editing by a short run: samples are noised to an intermediate level and carried back.

    x_{t_0} = α x_g + σ z,   σ/α = ς_0 at t_0,   then any sampler from t_0 to the data

On data N(m, v) a sample keeps the share 1 − k of the way from the guide x_g to m with
k = v/(v + ς_0²) for the reverse SDE, and √k for the probability flow. ς_0 is stated rather than
t_0, which is another noise level on every process.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scoresde.samplers import Sampler, Samples
from scoresde.samplers.base import sources
from scoresde.samplers.context import Constraint
from scoresde.sde import SDE, Score, Until
from scoresde.sde.checks import check_positive, check_steps
from scoresde.sde.prior import Randomness, standard_normal


def sdedit(
    sampler: Sampler,
    sde: SDE,
    score: Score,
    guide: Tensor,
    noise_level: float,
    *,
    repeats: int = 1,
    generator: Randomness = None,
    seeds: Sequence[int] | None = None,
    constraint: Constraint | None = None,
    **options: Any,
) -> Samples:
    """Edit samples by noising them to a level ς_0 and sampling from there.

    With the output of another generator as the guide this is early-stopped diffusion, whose error
    is KL(q_{t_0} ‖ p_{t_0}) and falls with ς_0.

    Args:
        sampler: Any sampler; all of its steps lie below ς_0.
        sde: Process.
        score: s(x, t).
        guide: x_g, shape (B, *), floating point.
        noise_level: ς_0 = σ/α at t_0, > 0; published t_0 are 0.3 to 0.6 of the VE process.
        repeats: How often the whole is done, each time from the result of the last; ≥ 1.
        generator, seeds, constraint: As for the sampler, such as `Inpaint(known, guide)` to edit
            the other entries alone.
        options: Further arguments of the sampler, such as `progress` and `trajectory`.

    Raises:
        ValueError: ς_0 is not a level of the process between its data and its noise, or as for the
            sampler.

    Reference: Meng et al. 2022, arXiv:2108.01073 (algorithm 1 and appendix B); Lyu et al. 2022,
    arXiv:2205.12524, for early stops.
    """
    check_steps(repeats, "repeats")
    time = level_time(sde, noise_level)
    start = Until(sde, time.item())
    generator = sources(len(guide), generator, seeds)
    nfe = products = 0.0
    for _ in range(repeats):
        z = standard_normal(tuple(guide.shape), generator, guide.dtype, guide.device)
        x = start.perturb(guide, torch.tensor(start.T, dtype=torch.float64), z)
        run = sampler(
            start,
            score,
            tuple(x.shape),
            x_init=x,
            generator=generator,
            constraint=constraint,
            **options,
        )
        guide, nfe, products = run.x, nfe + run.nfe, products + run.products
    return Samples(run.x, nfe, run.trajectory, products)


def ccdf(
    sampler: Sampler,
    sde: SDE,
    score: Score,
    estimate: Tensor,
    noise_level: float,
    constraint: Constraint,
    **options: Any,
) -> Samples:
    """Come closer, diffuse faster: a short run from a good estimate, consistent with a measurement.

    Args:
        sampler: Sampler with fixed steps, which take the constraint.
        sde: Process.
        score: s(x, t).
        estimate: Result of another method, such as a trained network, shape (B, *).
        noise_level: ς_0 > 0, small where the estimate is good; see `contraction`.
        constraint: Consistency with the measurement after each step, such as `Inpaint` or
            `Replacement`.
        options: Further arguments of the sampler.

    Raises:
        ValueError: As for `sdedit`.

    Reference: Chung, Sim & Ye 2022, arXiv:2112.05146 (algorithm 1).
    """
    return sdedit(sampler, sde, score, estimate, noise_level, constraint=constraint, **options)


def contraction(noise_level: float, variance: float, *, stochastic: bool = True) -> float:
    """By how much a short run shrinks the error of its start, for data N(m, v I).

        v/(v + ς_0²)   (reverse SDE),   √(v/(v + ς_0²))   (probability flow)

    Two runs with the same noise end at this share of the distance between their starts.

    Args:
        noise_level: ς_0 > 0.
        variance: v > 0 of the data.
        stochastic: Whether the sampler follows the reverse SDE.

    Reference: Chung, Sim & Ye 2022, arXiv:2112.05146 (section 3), in closed form.
    """
    check_positive("noise_level", noise_level)
    share = check_positive("variance", variance) / (variance + noise_level**2)
    return share if stochastic else share**0.5


def level_time(sde: SDE, noise_level: float) -> Tensor:
    """The time t with σ/α = ς_0, float64.

    Raises:
        ValueError: The process has no such time between `sampling_eps` and T.
    """
    check_positive("noise_level", noise_level)
    ends = torch.tensor([sde.sampling_eps, sde.T], dtype=torch.float64)
    low, high = (-sde.half_log_snr(ends)).exp().tolist()
    if not low < noise_level <= high * (1 + 1e-9):
        raise ValueError(
            f"noise_level must be in ({low:.3g}, {high:.3g}], the levels sigma/alpha of this "
            f"process, got {noise_level:g}"
        )
    half_log_snr = -torch.tensor(min(noise_level, high), dtype=torch.float64).log()
    return sde.time_of_half_log_snr(half_log_snr)
