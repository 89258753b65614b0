"""Guidance, inversion and editing, measured against closed forms."""

import torch
from torch import Tensor

from benchmarks.posterior_methods import GRID, SDE
from benchmarks.posteriors import PROBLEMS
from scoresde.conditioning import (
    ExactInversion,
    FeynmanKac,
    TwoScores,
    contraction,
    sdedit,
)
from scoresde.models import GaussianScore
from scoresde.samplers import DDIM, Ancestral, LogSNRGrid, PredictorCorrector, Sampler, Solver

V, V_C = 1.0, 0.5  # variances of the data, and given the condition


def _score(variance: float) -> GaussianScore:
    return GaussianScore(SDE, torch.zeros(1), torch.full((1,), variance))


def _variance(solver: Solver, scale: float, n: int) -> float:
    """Variance of the samples of a guided score, whose steps are affine; the mean is 0."""
    guided = TwoScores(_score(V_C), _score(V), scale)
    draws = 0

    def one(x: Tensor) -> Tensor:
        nonlocal draws
        draws += 1
        return (torch.arange(len(x)) == draws).to(x)[:, None]

    x = (torch.arange(2 + n) == 0).double()[:, None]
    sampler = PredictorCorrector(solver, steps=n, grid=GRID, denoise=False)
    end = sampler(SDE, guided, tuple(x.shape), x_init=x, noise=one).x
    return end.square().sum().item()


def _of_sde(scale: float) -> float:
    """∫₀^∞ (v_c/(v_c + τ))^{2w} (v/(v + τ))^{2(1 − w)} dτ, by τ = u/(1 − u) and midpoints."""
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    tau = u / (1 - u)
    power = (V_C / (V_C + tau)) ** (2 * scale) * (V / (V + tau)) ** (2 * (1 - scale))
    return (power / (1 - u) ** 2).mean().item()


def _weighted(scale: float, n: int) -> float:
    """Variance of particles of the guided SDE with their weights, in 32 runs of 512 particles."""
    sampler = FeynmanKac(512, n, grid=GRID)
    guided = TwoScores(_score(V_C), _score(V), scale)
    generator = torch.Generator().manual_seed(0)
    sampler(SDE, guided, (32, 1), generator=generator, dtype=torch.float64)
    assert sampler.population is not None
    x, weights = sampler.population.x[..., 0], sampler.population.log_weights.exp()
    return (weights * x.square()).sum(1).mean().item()


def guidance() -> str:
    """Variances of guided samples, measured and in closed form."""
    lines = [
        "| w | probability flow: closed form, N = 100, 1000 | SDE: closed form, N = 100, 1000 "
        "| tilt: closed form, weighted particles |",
        "|---:|---|---|---|",
    ]
    for w in (1.0, 2.0, 4.0):
        flow = [V_C**w * V ** (1 - w), *(_variance(DDIM(), w, n) for n in (100, 1000))]
        sde = [_of_sde(w), *(_variance(Ancestral(), w, n) for n in (100, 1000))]
        tilt = [1 / (w / V_C + (1 - w) / V), _weighted(w, 1000)]
        cells = [", ".join(f"{v:.4f}" for v in values) for values in (flow, sde, tilt)]
        lines.append(f"| {w:g} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _round_trip(sampler: Sampler, x: Tensor) -> Tensor:
    """Errors of samples carried to T and back, (B,)."""
    score = PROBLEMS["P0"].score(SDE)
    latent = sampler.encode(SDE, score, x).x
    back = sampler(SDE, score, tuple(x.shape), x_init=latent).x
    return (back - x).square().mean(1).sqrt()


def _shrinkage(solver: Solver, level: float, variance: float, n: int) -> float:
    """How far apart two short runs with the same noise end, relative to their guides."""
    sampler = PredictorCorrector(solver, steps=n, grid=GRID, denoise=False)
    score = GaussianScore(SDE, torch.tensor([0.3, -0.2]), torch.full((2,), variance))
    guides = torch.tensor([[0.0, 0.0], [1.0, 2.0]], dtype=torch.float64)
    generators = [torch.Generator().manual_seed(0) for _ in guides]
    ends = sdedit(sampler, SDE, score, guides, level, generator=generators).x
    return ((ends[1] - ends[0]).norm() / (guides[1] - guides[0]).norm()).item()


def editing() -> str:
    """Errors of inversion and contraction of short runs."""
    x = PROBLEMS["P0"].score(SDE).sample(1000, torch.Generator().manual_seed(0))
    sd = x.std(0).square().mean().sqrt()
    lines = [
        "| there and back on the mixture P, RMS and largest error in sd | "
        + " | ".join(f"N = {n}" for n in (10, 50, 100, 1000))
        + " |",
        "|---|---:|---:|---:|---:|",
    ]
    grid = LogSNRGrid()
    for name, make in {
        "DDIM inversion": lambda n: PredictorCorrector(DDIM(), steps=n, grid=grid),
        "`ExactInversion`, 10 iterations": lambda n: ExactInversion(steps=n, grid=grid),
    }.items():
        errors = [_round_trip(make(n), x) / sd for n in (10, 50, 100, 1000)]
        cells = [f"{e.square().mean().sqrt():.1e}, {e.max():.1e}" for e in errors]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        "| contraction, v = 1 | closed form | N = 100 | N = 400 |",
        "|---|---:|---:|---:|",
    ]
    for level in (0.5, 3.0):
        for name, solver in (("SDE", Ancestral()), ("probability flow", DDIM())):
            exact = contraction(level, 1.0, stochastic=name == "SDE")
            found = [_shrinkage(solver, level, 1.0, n) for n in (100, 400)]
            cells = [f"{v:.4f}" for v in (exact, *found)]
            lines.append(f"| {name}, ς₀ = {level:g} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
