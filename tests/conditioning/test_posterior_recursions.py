"""Posterior samplers as their papers write them, on the chain of DDPM."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from scoresde.conditioning import (
    DDNM,
    DDRM,
    DiffPIR,
    DPSSampler,
    Matrix,
    Measurement,
    PiGDMSampler,
)
from scoresde.samplers import FixedGrid, LogSNRGrid
from scoresde.sde import VP
from tests.conditioning.problems import PROBLEMS
from tests.places import SHARED

CHAIN = VP().discretize(1000)
LEVELS = torch.tensor([900, 700, 400, 150, 20])


def matrices(problem):
    """H, H⁺ and the score of a problem, with states as vectors."""
    h = problem.matrix
    return h, torch.linalg.pinv(h)


def followed(make, problem, z):
    """States of a sampler on five levels of the chain, with given noise, as vectors."""
    draws = iter(z[1:])
    times = CHAIN.times[LEVELS]
    sampler = make(grid=FixedGrid(times), steps=len(times) - 1, denoise=False)
    run = sampler(
        CHAIN,
        problem.score(CHAIN),
        z[0].shape,
        x_init=z[0].clone(),
        noise=lambda x: next(draws),
        trajectory=len(times),
    )
    return run.trajectory.flatten(2)


def recursion(update, problem, z):
    """The same states by a step of a paper, in its ᾱ: update(x, D, ε̂, z, ᾱ_t, ᾱ_u)."""
    score, x = problem.score(CHAIN), z[0].flatten(1)
    states = [x]
    for number, (i, j) in enumerate(pairwise(LEVELS.tolist()), 1):
        a_t, a_u = CHAIN.alphas[i] ** 2, CHAIN.alphas[j] ** 2
        x = x.detach().requires_grad_()
        eps = -(1 - a_t).sqrt() * score(x, CHAIN.times[i])
        data = (x - (1 - a_t).sqrt() * eps) / a_t.sqrt()
        x = update(x, data, eps, z[number].flatten(1), a_t, a_u).detach()
        states.append(x)
    return torch.stack(states)


def ddnm(problem, eta=0.85):
    """Eq. 13 of DDNM, with DDIM's noise of appendix I."""
    h, inverse = matrices(problem)

    def update(x, data, eps, z, a_t, a_u):
        data = (inverse @ problem.y.flatten()) + data - data @ h.T @ inverse.T
        direction = math.sqrt(1 - eta**2) * eps + eta * z
        return a_u.sqrt() * data + (1 - a_u).sqrt() * direction

    return update


def ddnm_plus(problem, eta=0.85):
    """Eq. 17 and 19 of DDNM⁺ with the Λ_t and Γ_t of its appendix I, in singular vectors."""
    h, _ = matrices(problem)
    u, s, vt = torch.linalg.svd(h)
    d = torch.cat([s, torch.zeros(len(vt) - len(s), dtype=s.dtype)])
    y = torch.cat([u.T @ problem.y.flatten(), torch.zeros(len(vt) - len(s), dtype=s.dtype)])

    def update(x, data, eps, z, a_t, a_u):
        a, sigma = a_u.sqrt(), (1 - a_u).sqrt()
        limit = a * problem.std / d  # ∞ where d = 0
        lam = torch.where(sigma < limit, d * sigma * math.sqrt(1 - eta**2) / (a * problem.std), 1.0)
        lam = torch.where(d == 0, 1.0, lam)
        data_v, eps_v, z_v = data @ vt.T, eps @ vt.T, z @ vt.T
        residual = torch.where(d > 0, data_v - y / d.where(d > 0, torch.ones_like(d)), 0.0)
        fresh = torch.where(sigma > limit, (sigma**2 - limit**2).clamp(min=0).sqrt(), sigma * eta)
        kept = torch.where(d == 0, sigma * math.sqrt(1 - eta**2), 0.0)
        return (a * (data_v - lam * residual) + fresh * z_v + kept * eps_v) @ vt

    return update


def pigdm(problem, eta=1.0):
    """Algorithm 1 of ΠGDM, with r² = 1 − ᾱ_t."""
    h, _ = matrices(problem)

    def update(x, data, eps, z, a_t, a_u):
        c1 = eta * ((1 - a_t / a_u) * (1 - a_u) / (1 - a_t)).sqrt()
        c2 = (1 - a_u - c1**2).sqrt()
        system = h @ h.T + problem.std**2 / (1 - a_t) * torch.eye(len(h), dtype=h.dtype)
        pull = torch.linalg.solve(system, (problem.y.flatten() - data @ h.T).T).T @ h
        (gradient,) = torch.autograd.grad((pull.detach() * data).sum(), x)
        return a_u.sqrt() * data + c1 * z + c2 * eps + a_u.sqrt() * a_t.sqrt() * gradient

    return update


def dps(problem, zeta=0.3):
    """Algorithm 1 of DPS, with the posterior variance of the step."""
    h, _ = matrices(problem)

    def update(x, data, eps, z, a_t, a_u):
        alpha, beta = a_t / a_u, 1 - a_t / a_u
        mean = alpha.sqrt() * (1 - a_u) * x + a_u.sqrt() * beta * data
        std = (beta * (1 - a_u) / (1 - a_t)).sqrt()
        distance = (problem.y.flatten() - data @ h.T).norm(dim=1).sum()
        (gradient,) = torch.autograd.grad(distance, x)
        return mean / (1 - a_t) + std * z - zeta * gradient

    return update


def diffpir(problem, weight=8.0, zeta=0.3):
    """Algorithm 1 of DiffPIR, whose proximal problem is solved by its normal equations."""
    h, inverse = matrices(problem)
    eye = torch.eye(h.shape[1], dtype=h.dtype)

    def update(x, data, eps, z, a_t, a_u):
        rho = weight * problem.std**2 / ((1 - a_t) / a_t)
        if rho > 0:
            right = (problem.y.flatten() @ h) + rho * data
            best = torch.linalg.solve(h.T @ h + rho * eye, right.T).T
        else:
            best = data + (problem.y.flatten() - data @ h.T) @ inverse.T
        eps = (x - a_t.sqrt() * best) / (1 - a_t).sqrt()
        direction = math.sqrt(1 - zeta) * eps + math.sqrt(zeta) * z
        return a_u.sqrt() * best + (1 - a_u).sqrt() * direction

    return update


PAPERS = [
    ("M0", DDNM, ddnm),
    ("M1", DDNM, ddnm_plus),
    ("M0", PiGDMSampler, pigdm),
    ("M1", PiGDMSampler, pigdm),
    ("M0", DPSSampler, dps),
    ("M1", DPSSampler, dps),
    ("M0", DiffPIR, diffpir),
    ("M1", DiffPIR, diffpir),
]


@pytest.mark.parametrize(("name", "kind", "paper"), PAPERS)
def test_published_recursion(name, kind, paper):
    """Four steps of DDPM's chain as the paper writes them, to 1e-9 for states of about 1."""
    problem = PROBLEMS[name]
    z = torch.randn(5, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def make(**kwargs):
        return kind(problem.measurement, **kwargs)

    found, expected = followed(make, problem, z), recursion(paper(problem), problem, z)
    if paper is ddnm_plus:  # DDRM's start is that of y; the recursion is followed from there
        expected = recursion(
            paper(problem), problem, torch.cat([found[:1].reshape(z[:1].shape), z[1:]])
        )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_the_start_of_ddrm():
    """x̄_i ~ N(ȳ_i, ς_T² − ν_i²), and N(0, ς_T²) where ν_i > ς_T or s_i = 0."""
    s, std, level = torch.tensor([1.0, 0.01]).double(), 0.2, 2.0
    operator = Matrix(torch.cat([torch.diag(s), torch.zeros(2, 1).double()], 1))
    sampler = DDRM(Measurement(operator, torch.tensor([[0.6, 0.03]]).double(), std))
    z = torch.tensor([[1.0, -0.5, 0.7]]).double()
    found = sampler.begin(level * z, level)
    expected = torch.tensor([[0.6 + math.sqrt(4 - 0.04), -1.0, 1.4]]).double()
    torch.testing.assert_close(found, expected)


SCHEDULES = SHARED / "golden" / "repaint.npz"


@pytest.mark.skipif(not SCHEDULES.exists(), reason="golden schedules of RePaint are absent")
@pytest.mark.parametrize(
    ("name", "steps", "length", "repeats"),
    [("paper", 250, 10, 10), ("short", 20, 5, 3), ("no_jumps", 10, 10, 1)],
)
def test_time_travel_is_repaints(name, steps, length, repeats):
    """The times of RePaint's own schedule, which counts them from −1 at the data."""
    with np.load(SCHEDULES) as file:
        expected = file[f"schedule/{name}"].tolist()
    sampler = DDNM(PROBLEMS["M0"].measurement, 0.85, steps, length, repeats)
    assert [steps - 1 - i for i in sampler.travel(steps)] == expected


def test_time_travel_goes_up_by_the_transition():
    """x_t = a x_u + b z, also where it goes over several times of the grid."""
    sde, problem, draws = VP(), PROBLEMS["M0"], []

    def noise(x):
        draws.append(torch.randn(x.shape, generator=generator, dtype=x.dtype))
        return draws[-1]

    generator = torch.Generator().manual_seed(0)
    sampler = DDNM(problem.measurement, steps=3, travel_length=2, repeats=2, grid=LogSNRGrid())
    assert sampler.travel(3) == [0, 1, 2, 1, 0, 1, 2, 3]
    run = sampler(
        sde, problem.score(sde), (1, 1, 4, 4), dtype=torch.float64, noise=noise, trajectory=8
    )
    times = LogSNRGrid()(sde, 3)
    a, b = sde.transition(times[2], times[1])
    up = a * run.trajectory[2] + b * draws[2]
    torch.testing.assert_close(run.trajectory[3], up, rtol=1e-9, atol=1e-9)
    assert (run.nfe, len(draws)) == (5, 7)
