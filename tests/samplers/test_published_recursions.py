"""Every method with a paper's name agrees with the paper's recursion, on three kinds of grids.

Each recursion is written in the symbols of its paper in plain float64, with closed forms of the two
processes, and gives the states x_0 … x_N of a run. The toolkit's states are the same to 1e-10.
"""

import math
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch

from scoresde.samplers import (
    DDIM,
    SRA1,
    Ancestral,
    AnnealedLangevin,
    EDMHeun,
    EulerMaruyama,
    ExponentialMultistep,
    ExponentialSinglestep,
    FixedGrid,
    KarrasGrid,
    LogSNRGrid,
    PredictorCorrector,
    ProbabilityFlowEuler,
    Restart,
    ReverseDiffusion,
    RungeKutta,
    StochasticHeun,
    UniformGrid,
    fit,
    presets,
)
from scoresde.samplers.presets import PRESETS
from scoresde.sde import EDM, VP

DOUBLE = {"dtype": torch.float64}
GRIDS = {"equal in t": UniformGrid(), "equal in λ": LogSNRGrid(), "Karras": KarrasGrid()}


class Process:
    """α, σ, λ, f and g² of x_t = α_t x_0 + σ_t z, and the exact score of a mixture in the plane."""

    weights = torch.tensor([0.5, 0.3, 0.2], **DOUBLE)
    means = torch.tensor([[-1.0, 0.5], [1.0, 0.3], [0.2, -1.2]], **DOUBLE)
    variances = torch.tensor([0.15, 0.25, 0.1], **DOUBLE)

    def lam(self, t):
        return self.alpha(t).log() - self.sigma(t).log()

    def rho(self, t):
        return self.sigma(t) / self.alpha(t)

    def score(self, x, t):
        spread = self.alpha(t) ** 2 * self.variances + self.sigma(t) ** 2
        apart = self.alpha(t) * self.means - x[:, None]
        log = self.weights.log() - spread.log() - apart.square().sum(2) / (2 * spread)
        return (log.softmax(1)[..., None] * apart / spread[:, None]).sum(1)

    def noise(self, x, t):
        return -self.sigma(t) * self.score(x, t)

    def data(self, x, t):
        return (x + self.sigma(t) ** 2 * self.score(x, t)) / self.alpha(t)


class Preserving(Process):
    """Song et al. 2021, arXiv:2011.13456, eq. 32 and 33, β from 0.1 to 20."""

    sde, low, rise = VP(), 0.1, 19.9

    def _integral(self, t):
        return self.low * t + self.rise * t**2 / 2

    def alpha(self, t):
        return torch.exp(-self._integral(t) / 2)

    def sigma(self, t):
        return torch.sqrt(-torch.expm1(-self._integral(t)))

    def time(self, lam):
        whole = torch.nn.functional.softplus(-2 * lam)  # ∫β = log(1 + σ²/α²)
        return 2 * whole / (self.low + torch.sqrt(self.low**2 + 2 * self.rise * whole))

    def f(self, t):
        return -(self.low + self.rise * t) / 2

    def g2(self, t):
        return self.low + self.rise * t


class Exploding(Process):
    """Karras et al. 2022, arXiv:2206.00364, table 1: σ = t from 0.002 to 80."""

    sde = EDM()

    def alpha(self, t):
        return torch.ones_like(t)

    def sigma(self, t):
        return t

    def time(self, lam):
        return torch.exp(-lam)

    def f(self, t):
        return torch.zeros_like(t)

    def g2(self, t):
        return 2 * t


VPSDE, EDMSDE = Preserving(), Exploding()


@cache
def legendre(points):
    return tuple(torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(points))


def gauss(start, end, points):
    """Points and weights of Gauss–Legendre between two numbers."""
    u, w = legendre(points)
    return (start + end) / 2 + (end - start) / 2 * u, (end - start) / 2 * w


def basis(nodes, j, u):
    """The Lagrange polynomial of node j at the points u."""
    return math.prod((u - v) / (nodes[j] - v) for i, v in enumerate(nodes) if i != j)


def falls(order, i, steps, below):
    """Evaluations for step i: min(order, i + 1), and fewer at the end of a short run."""
    return min(order, i + 1, steps - i if steps < below else order)


# One-step methods


def one_step(step):
    """The states of x ← step(p, x, s, t, z) from s to t, where z gives the noise of each step."""

    def states(p, x, times, z):
        for s, t in pairwise(times):
            x = step(p, x, s, t, z)
            yield x

    return states


def ddim(eta):
    """Song, Meng & Ermon 2021, arXiv:2010.02502, eq. 12 and 16; of VE in x/√ᾱ, eq. 13."""

    def step(p, x, s, t, z):
        a, rest = p.alpha(t), p.sigma(t)
        std = eta * rest / p.sigma(s) * torch.sqrt(1 - (p.alpha(s) / a) ** 2)
        x = a * p.data(x, s) + torch.sqrt(rest**2 - std**2) * p.noise(x, s)
        return x + std * next(z) if eta else x

    return one_step(step)


def ddpm(variance):
    """Ho, Jain & Abbeel 2020, arXiv:2006.11239, algorithm 2, with σ² = β or β̃ (section 3.2)."""

    def step(p, x, s, t, z):
        beta = 1 - (p.alpha(s) / p.alpha(t)) ** 2
        mean = (x - beta / p.sigma(s) * p.noise(x, s)) / torch.sqrt(1 - beta)
        std2 = beta * (p.sigma(t) / p.sigma(s)) ** 2 if variance == "posterior" else beta
        return mean + std2.sqrt() * next(z)

    return one_step(step)


@one_step
def ancestral_ve(p, x, s, t, z):
    """Song et al. 2021, arXiv:2011.13456, eq. 47."""
    gap = p.sigma(s) ** 2 - p.sigma(t) ** 2
    std = torch.sqrt(p.sigma(t) ** 2 * gap / p.sigma(s) ** 2)
    return x + gap * p.score(x, s) + std * next(z)


@one_step
def reverse_diffusion_vp(p, x, s, t, z):
    """Song et al. 2021, arXiv:2011.13456, algorithm 3."""
    beta = 1 - (p.alpha(s) / p.alpha(t)) ** 2
    return (2 - torch.sqrt(1 - beta)) * x + beta * p.score(x, s) + beta.sqrt() * next(z)


@one_step
def reverse_diffusion_ve(p, x, s, t, z):
    """Song et al. 2021, arXiv:2011.13456, algorithm 2."""
    gap = p.sigma(s) ** 2 - p.sigma(t) ** 2
    return x + gap * p.score(x, s) + gap.sqrt() * next(z)


@one_step
def euler_maruyama(p, x, s, t, z):
    """Song et al. 2021, arXiv:2011.13456, eq. 6 and appendix E."""
    h = s - t
    drift = p.f(s) * x - p.g2(s) * p.score(x, s)
    return x - drift * h + torch.sqrt(p.g2(s) * h) * next(z)


def flow(p, x, t):
    """Song et al. 2021, arXiv:2011.13456, eq. 13."""
    return p.f(t) * x - p.g2(t) * p.score(x, t) / 2


@one_step
def flow_euler(p, x, s, t, z):
    """Euler's method on the flow."""
    return x + (t - s) * flow(p, x, s)


@one_step
def flow_heun(p, x, s, t, z):
    """Heun's method on the flow."""
    first = flow(p, x, s)
    return x + (t - s) * (first + flow(p, x + (t - s) * first, t)) / 2


@one_step
def stochastic_heun(p, x, s, t, z):
    """Kloeden & Platen 1992, section 15.1, for dx = (f x − g² s) dt + g dw̄."""

    def drift(x, t):
        return p.f(t) * x - p.g2(t) * p.score(x, t)

    noise, first = torch.sqrt((s - t) * (p.g2(s) + p.g2(t)) / 2) * next(z), drift(x, s)
    return x + (t - s) * (first + drift(x + (t - s) * first + noise, t)) / 2 + noise


@one_step
def sra1(p, x, s, t, z):
    """Rößler 2010, SIAM Journal on Numerical Analysis 48(3), table 6.2."""

    def drift(x, t):
        return p.f(t) * x - p.g2(t) * p.score(x, t)

    h, g, g_next, z1 = t - s, p.g2(s).sqrt(), p.g2(t).sqrt(), next(z)
    mean = torch.sqrt(-h) / 2 * (z1 + next(z) / math.sqrt(3))
    first = drift(x, s)
    second = drift(x + 3 / 4 * h * first + 3 / 2 * g_next * mean, s + 3 / 4 * h)
    noise = g_next * torch.sqrt(-h) * z1 + (g - g_next) * mean
    return x + h * (first / 3 + 2 / 3 * second) + noise


@one_step
def dpm_solver_1(p, x, s, t, z):
    """Lu et al. 2022, arXiv:2206.00927, eq. 3.7."""
    h = p.lam(t) - p.lam(s)
    return p.alpha(t) / p.alpha(s) * x - p.sigma(t) * torch.expm1(h) * p.noise(x, s)


@one_step
def dpm_solver_2(p, x, s, t, z):
    """Lu et al. 2022, arXiv:2206.00927, algorithm 1."""
    h = p.lam(t) - p.lam(s)
    middle = p.time((p.lam(t) + p.lam(s)) / 2)
    u = p.alpha(middle) / p.alpha(s) * x
    u = u - p.sigma(middle) * torch.expm1(h / 2) * p.noise(x, s)
    return p.alpha(t) / p.alpha(s) * x - p.sigma(t) * torch.expm1(h) * p.noise(u, middle)


@one_step
def dpm_solver_3(p, x, s, t, z):
    """Lu et al. 2022, arXiv:2206.00927, algorithm 2 with r_1 = 1/3 and r_2 = 2/3."""
    h, r1, r2 = p.lam(t) - p.lam(s), 1 / 3, 2 / 3
    s1, s2 = (p.time(p.lam(s) + r * h) for r in (r1, r2))
    e = p.noise(x, s)
    u1 = p.alpha(s1) / p.alpha(s) * x - p.sigma(s1) * torch.expm1(r1 * h) * e
    d1 = p.noise(u1, s1) - e
    u2 = p.alpha(s2) / p.alpha(s) * x - p.sigma(s2) * torch.expm1(r2 * h) * e
    u2 = u2 - p.sigma(s2) * r2 / r1 * (torch.expm1(r2 * h) / (r2 * h) - 1) * d1
    d2 = p.noise(u2, s2) - e
    x = p.alpha(t) / p.alpha(s) * x - p.sigma(t) * torch.expm1(h) * e
    return x - p.sigma(t) / r2 * (torch.expm1(h) / h - 1) * d2


@one_step
def dpm_solver_pp_2s(p, x, s, t, z):
    """Lu et al. 2022, arXiv:2211.01095, algorithm 1 with r = 1/2."""
    h, r = p.lam(t) - p.lam(s), 1 / 2
    middle = p.time(p.lam(s) + r * h)
    first = p.data(x, s)
    u = p.sigma(middle) / p.sigma(s) * x - p.alpha(middle) * torch.expm1(-r * h) * first
    d = (1 - 1 / (2 * r)) * first + 1 / (2 * r) * p.data(u, middle)
    return p.sigma(t) / p.sigma(s) * x - p.alpha(t) * torch.expm1(-h) * d


@one_step
def exponential_midpoint(p, x, s, t, z):
    """The midpoint between two halves of SDE-DPM-Solver++(1), Lu et al. 2022, arXiv:2211.01095."""
    h = p.lam(t) - p.lam(s)
    middle = p.time((p.lam(t) + p.lam(s)) / 2)
    first, half = torch.sqrt(-torch.expm1(-h)) * next(z), torch.exp(-h / 2)
    u = p.sigma(middle) / p.sigma(s) * half * x - p.alpha(middle) * torch.expm1(-h) * p.data(x, s)
    d = p.data(u + p.sigma(middle) * first, middle)
    x = p.sigma(t) / p.sigma(s) * half**2 * x - p.alpha(t) * torch.expm1(-2 * h) * d
    return x + p.sigma(t) * (half * first + torch.sqrt(-torch.expm1(-h)) * next(z))


def edm(churn=0.0, low=0.0, high=math.inf, s_noise=1.0, heun=True):
    """Karras et al. 2022, arXiv:2206.00364, algorithm 2, in x/α and σ/α; without churn, 1."""

    def slope(p, y, sigma):
        t = p.time(-sigma.log())
        return p.noise(p.alpha(t) * y, t)

    def states(p, x, times, z):
        gamma = min(churn / (len(times) - 1), math.sqrt(2) - 1)
        for s, t in pairwise(times):
            y, sigma, end = x / p.alpha(s), p.rho(s), p.rho(t)
            if gamma and low <= sigma <= high:
                raised = (1 + gamma) * sigma
                y = y + torch.sqrt(raised**2 - sigma**2) * s_noise * next(z)
                sigma = raised
            d = slope(p, y, sigma)
            if heun:
                d = (d + slope(p, y + (end - sigma) * d, end)) / 2
            x = p.alpha(t) * (y + (end - sigma) * d)
            yield x

    return states


# Multistep methods


def dpm_solver_pp(order, below=15):
    """Lu et al. 2022, arXiv:2211.01095, algorithm 2; 3M, and the order at the end, of its code."""

    def states(p, x, times, z):
        memory, n = [], len(times) - 1
        for i, (s, t) in enumerate(pairwise(times)):
            memory = [p.data(x, s), *memory]
            taken, h = falls(order, i, n, below), p.lam(t) - p.lam(s)
            a, phi = p.alpha(t), torch.expm1(-h)
            x = p.sigma(t) / p.sigma(s) * x - a * phi * memory[0]
            if taken > 1:
                r0 = (p.lam(s) - p.lam(times[i - 1])) / h
                d0 = (memory[0] - memory[1]) / r0
            if taken == 2:
                x = x - a * phi / 2 * d0
            if taken == 3:
                r1 = (p.lam(times[i - 1]) - p.lam(times[i - 2])) / h
                d1 = (memory[1] - memory[2]) / r1
                x = x + a * (phi / h + 1) * (d0 + r0 / (r0 + r1) * (d0 - d1))
                x = x - a * ((phi + h) / h**2 - 0.5) * (d0 - d1) / (r0 + r1)
            yield x

    return states


def sde_dpm_solver_pp(order, below=15, kind="midpoint"):
    """Lu et al. 2022, arXiv:2211.01095, section 5 (midpoint); k-diffusion's `dpmpp_2m_sde`."""

    def states(p, x, times, z):
        memory, n = [], len(times) - 1
        for i, (s, t) in enumerate(pairwise(times)):
            memory = [p.data(x, s), *memory]
            h = p.lam(t) - p.lam(s)
            a, phi = p.alpha(t), -torch.expm1(-2 * h)
            x = p.sigma(t) / p.sigma(s) * torch.exp(-h) * x + a * phi * memory[0]
            if falls(order, i, n, below) == 2:
                slope = (memory[0] - memory[1]) * h / (p.lam(s) - p.lam(times[i - 1]))
                x = x + a * (phi / 2 if kind == "midpoint" else 1 - phi / (2 * h)) * slope
            x = x + p.sigma(t) * phi.sqrt() * next(z)
            yield x

    return states


def unipc(order, variant, below=math.inf):
    """Zhao et al. 2023, arXiv:2302.04867, algorithms 1 and 2; the order at the end of its code."""

    def solve(r, h, scale):
        """ρ of R ρ = b, where b_k = k! φ_{k+1}/B; a single equation has ρ = 1/2 (section 3.2)."""
        if len(r) == 1:
            return torch.tensor([0.5], **DOUBLE)
        phi, b = torch.expm1(-h) / -h - 1, []
        for k in range(1, len(r) + 1):
            b.append(phi * math.factorial(k) / scale)
            phi = phi / -h - 1 / math.factorial(k + 1)
        return torch.linalg.solve(r[None] ** torch.arange(len(r))[:, None], torch.stack(b))

    def states(p, x, times, z):
        memory, n = [p.data(x, times[0])], len(times) - 1
        for i, (s, t) in enumerate(pairwise(times)):
            taken, h = falls(order, i, n, below), p.lam(t) - p.lam(s)
            scale = -h if variant == "bh1" else torch.expm1(-h)
            r = [(p.lam(times[i - j]) - p.lam(s)) / h for j in range(1, taken)]
            d = [(memory[j] - memory[0]) / r[j - 1] for j in range(1, taken)]
            plain = p.sigma(t) / p.sigma(s) * x - p.alpha(t) * torch.expm1(-h) * memory[0]
            rho = solve(torch.stack(r), h, scale) if d else []
            x = plain - p.alpha(t) * scale * sum(w * v for w, v in zip(rho, d, strict=True))
            if i + 1 < n:
                new = p.data(x, t)
                rho = solve(torch.stack([*r, torch.ones_like(h)]), h, scale)
                d = [*d, new - memory[0]]
                x = plain - p.alpha(t) * scale * sum(w * v for w, v in zip(rho, d, strict=True))
                memory = [new, *memory]
            yield x

    return states


def deis_tab(order):
    """Zhang & Chen 2022, arXiv:2204.13902, eq. 14 and 15: ∫ ½ Ψ(t, u) g²(u)/σ(u) ℓ_j(u) du."""

    def states(p, x, times, z):
        memory = []
        for i, (s, t) in enumerate(pairwise(times)):
            memory = [p.noise(x, s), *memory][:order]
            nodes = times[max(0, i + 1 - order) : i + 1].flip(0)
            root, weight = gauss(s.sqrt(), t.sqrt(), 64)  # in √u, where the integrand is smooth
            u = root.square()
            inner = p.alpha(t) / p.alpha(u) * p.g2(u) / (2 * p.sigma(u)) * 2 * root * weight
            c = [(inner * basis(nodes, j, u)).sum() for j in range(len(nodes))]
            x = p.alpha(t) / p.alpha(s) * x + sum(w * e for w, e in zip(c, memory, strict=True))
            yield x

    return states


def deis_rab(order):
    """Zhang & Chen 2022, arXiv:2204.13902, eq. 17: y = x/α, dy = ε dρ, ε a polynomial in ρ = σ/α.

    The same is the linear multistep method of k-diffusion on Karras et al. 2022's flow.
    """

    def states(p, x, times, z):
        memory = []
        for i, (s, t) in enumerate(pairwise(times)):
            memory = [p.noise(x, s), *memory][:order]
            nodes = p.rho(times[max(0, i + 1 - order) : i + 1]).flip(0)
            rho, weight = gauss(p.rho(s), p.rho(t), 4)
            c = [(weight * basis(nodes, j, rho)).sum() for j in range(len(nodes))]
            y = x / p.alpha(s) + sum(w * e for w, e in zip(c, memory, strict=True))
            x = p.alpha(t) * y
            yield x

    return states


def deis_log_rho(order):
    """ρAB with ε a polynomial in log ρ, and orders that fall in short runs: diffusers' DEIS."""

    def states(p, x, times, z):
        memory, n = [], len(times) - 1
        for i, (s, t) in enumerate(pairwise(times)):
            memory = [p.noise(x, s), *memory]
            nodes = [p.rho(times[i - j]).log() for j in range(falls(order, i, n, 15))]
            u, weight = gauss(p.rho(s).log(), p.rho(t).log(), 40)
            c = [(weight * u.exp() * basis(nodes, j, u)).sum() for j in range(len(nodes))]
            y = x / p.alpha(s) + sum(w * e for w, e in zip(c, memory, strict=False))
            x = p.alpha(t) * y
            yield x

    return states


def transfer(p, x, e, s, t):
    """Liu et al. 2022, arXiv:2202.09778, eq. 11, with ᾱ = α² and 1 − ᾱ = σ²."""
    a, b, c, d = p.alpha(s), p.alpha(t), p.sigma(s), p.sigma(t)
    # ᾱ_t − ᾱ_s over the paper's sum of roots is the difference of these roots.
    gap = (c * b) ** 2 - (d * a) ** 2
    return b / a * x - gap / (a * (d * a + c * b)) * e


ADAMS = {
    1: [1],
    2: [3 / 2, -1 / 2],
    3: [23 / 12, -16 / 12, 5 / 12],
    4: [55 / 24, -59 / 24, 37 / 24, -9 / 24],
}


def ipndm(order):
    """Zhang & Chen 2022, arXiv:2204.13902, appendix: PNDM's weights with lower orders to begin."""

    def states(p, x, times, z):
        memory = []
        for s, t in pairwise(times):
            memory = [p.noise(x, s), *memory][:order]
            e = sum(w * v for w, v in zip(ADAMS[len(memory)], memory, strict=True))
            x = transfer(p, x, e, s, t)
            yield x

    return states


def pndm(p, x, times, z):
    """Liu et al. 2022, arXiv:2202.09778, algorithm 2: three steps of PRK, then PLMS."""
    memory = []
    for i, (s, t) in enumerate(pairwise(times)):
        memory = [p.noise(x, s), *memory][:4]
        e = memory[0]
        if i < 3:
            middle = (s + t) / 2
            e2 = p.noise(transfer(p, x, e, s, middle), middle)
            e3 = p.noise(transfer(p, x, e2, s, middle), middle)
            e = (e + 2 * e2 + 2 * e3 + p.noise(transfer(p, x, e3, s, t), t)) / 6
        else:
            e = sum(w * v for w, v in zip(ADAMS[4], memory, strict=True))
        x = transfer(p, x, e, s, t)
        yield x


def sa_solver(tau, low, high):
    """Xue et al. 2023, arXiv:2309.05019, algorithm 1, eq. 14, 15, 17 and 18, three evaluations.

    τ acts on steps whose middle in λ has σ/α in [low, high]. As in the authors' code, the order
    falls at the end and the last step is not corrected.
    """

    def states(p, x, times, z):
        memory, n = [(p.lam(times[0]), p.data(x, times[0]))], len(times) - 1
        for i, (s, t) in enumerate(pairwise(times)):
            h, noise = p.lam(t) - p.lam(s), None
            acts = low <= torch.exp(-(p.lam(s) + p.lam(t)) / 2) <= high
            c = tau**2 if acts else 0.0
            base = p.sigma(t) / p.sigma(s) * math.exp(-c * h) * x
            if acts:
                noise = p.sigma(t) * torch.sqrt(-torch.expm1(-2 * c * h)) * next(z)
                base = base + noise
            lam, weight = gauss(p.lam(s), p.lam(t), 40)
            inner = weight * p.sigma(t) * (1 + c) * torch.exp((1 + c) * lam - c * p.lam(t))

            def adams(known, base=base, inner=inner, lam=lam):
                nodes = [node for node, _ in known]
                c = [(inner * basis(nodes, j, lam)).sum() for j in range(len(nodes))]
                return base + sum(w * d for w, (_, d) in zip(c, known, strict=True))

            taken = falls(3, i, n, math.inf)
            x = adams(memory[:taken])
            if i + 1 < n:
                known = (p.lam(t), p.data(x, t))
                x = adams([known, *memory[:taken]])
                memory = [known, *memory]
            yield x

    return states


BOTH, ENGINE = (VPSDE, EDMSDE), {"max_extrapolation": math.inf}
METHODS = {
    "ddim": (DDIM(), ddim(0.0), BOTH),
    "ddim, η = ½": (DDIM(0.5), ddim(0.5), (VPSDE,)),
    "ddim, η = 1": (DDIM(1.0), ddim(1.0), (VPSDE,)),
    "ddpm, β": (Ancestral("forward"), ddpm("forward"), (VPSDE,)),
    "ddpm, β̃": (Ancestral("posterior"), ddpm("posterior"), (VPSDE,)),
    "ancestral of VE": (Ancestral("posterior"), ancestral_ve, (EDMSDE,)),
    "reverse diffusion": (ReverseDiffusion(), reverse_diffusion_vp, (VPSDE,)),
    "reverse diffusion of VE": (ReverseDiffusion(), reverse_diffusion_ve, (EDMSDE,)),
    "Euler–Maruyama": (EulerMaruyama(), euler_maruyama, (VPSDE,)),
    "flow Euler": (ProbabilityFlowEuler(), flow_euler, (VPSDE,)),
    "flow Heun": (RungeKutta("heun"), flow_heun, (VPSDE,)),
    "stochastic Heun": (StochasticHeun(), stochastic_heun, (VPSDE,)),
    "SRA1": (SRA1(), sra1, (VPSDE,)),
    "dpm_solver_1": (PRESETS["dpm_solver_1"](), dpm_solver_1, BOTH),
    "dpm_solver_2": (PRESETS["dpm_solver_2"](), dpm_solver_2, BOTH),
    "dpm_solver_3": (PRESETS["dpm_solver_3"](), dpm_solver_3, BOTH),
    "dpmpp_2s": (PRESETS["dpmpp_2s"](), dpm_solver_pp_2s, BOTH),
    "exponential midpoint": (
        ExponentialSinglestep(2, "data", tau=1.0),
        exponential_midpoint,
        (VPSDE,),
    ),
    "EDM Euler": (RungeKutta("euler", "sigma"), edm(heun=False), BOTH),
    "EDM Heun": (EDMHeun(), edm(), BOTH),
    "EDM Heun with churn": (EDMHeun(9.0, 0.05, 5.0, 1.007), edm(9.0, 0.05, 5.0, 1.007), BOTH),
    "dpmpp_2m": (PRESETS["dpmpp_2m"](), dpm_solver_pp(2), BOTH),
    "dpmpp_3m": (PRESETS["dpmpp_3m"](), dpm_solver_pp(3), BOTH),
    "2M of one order": (presets.dpm_solver_pp(2, 0), dpm_solver_pp(2, 0), (VPSDE,)),
    "sde_dpmpp_1": (PRESETS["sde_dpmpp_1"](), sde_dpm_solver_pp(1), (VPSDE,)),
    "sde_dpmpp_2m": (PRESETS["sde_dpmpp_2m"](), sde_dpm_solver_pp(2), BOTH),
    "sde_dpmpp_2m of k-diffusion, midpoint": (
        presets.sde_dpm_solver_pp(2, 0),
        sde_dpm_solver_pp(2, 0),
        (EDMSDE,),
    ),
    "sde_dpmpp_2m of k-diffusion, heun": (
        ExponentialMultistep(2, "data", tau=1.0, **ENGINE),
        sde_dpm_solver_pp(2, 0, "heun"),
        (EDMSDE,),
    ),
    **{f"unipc_{n}": (PRESETS[f"unipc_{n}"](), unipc(n, "bh2"), BOTH) for n in (1, 2, 3)},
    **{f"unipc_{n}, bh1": (presets.unipc(n, "bh1"), unipc(n, "bh1"), (VPSDE,)) for n in (1, 2, 3)},
    "unipc_3 of one order": (
        presets.unipc(3, lower_order_final_below=0),
        unipc(3, "bh2", 0),
        (VPSDE,),
    ),
    **{f"deis_{n}": (PRESETS[f"deis_{n}"](), deis_tab(n), (VPSDE,)) for n in (2, 3, 4)},
    **{f"ρAB {n}": (presets.deis(n, "rho"), deis_rab(n), (VPSDE,)) for n in (2, 3)},
    **{
        f"deis_log_rho_{n}": (PRESETS[f"deis_log_rho_{n}"](), deis_log_rho(n), (VPSDE,))
        for n in (2, 3)
    },
    "lms_4": (PRESETS["lms_4"](), deis_rab(4), BOTH),
    **{f"ipndm_{n}": (PRESETS[f"ipndm_{n}"](), ipndm(n), BOTH) for n in (2, 3, 4)},
    "pndm": (PRESETS["pndm"](), pndm, (VPSDE,)),
    "sa_solver": (PRESETS["sa_solver"](), sa_solver(1.0, 0.05, 1.0), BOTH),
    "sa_solver, τ = ½": (presets.sa_solver(0.5, 0.1, 9.0), sa_solver(0.5, 0.1, 9.0), (VPSDE,)),
}


def normals(seed=1):
    """Standard normal noise, the same each time."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randn(3, 2, generator=generator, **DOUBLE)


def same(states, expected):
    """Each number agrees to 1e-10 of its size, since they grow where a method is unstable."""
    for x, y in zip(states, expected, strict=True):
        size = y.abs().max().clamp(min=1).item()
        torch.testing.assert_close(x, y, rtol=0, atol=1e-10 * size)


def test_every_preset_of_a_paper_is_written_out():
    assert set(PRESETS) - set(METHODS) == {"dpmpp_3m_corrected"}  # these are ours


def compare(solver, recursion, p, grid):
    """All states of 10, 20 and 50 steps with the same noise agree."""
    for steps in (10, 20, 50):
        times, z = grid(p.sde, steps), normals()
        x = p.sigma(times[0]) * next(normals(0))
        run = PredictorCorrector(solver, steps=steps, grid=FixedGrid(times), denoise=False)(
            p.sde,
            p.score,
            (3, 2),
            x_init=x,
            trajectory=steps + 1,
            noise=lambda x, z=z: next(z),
        )
        same(run.trajectory, [x, *recursion(p, x, times, normals())])


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", METHODS)
def test_recursion(name, grid):
    solver, recursion, processes = METHODS[name]
    for p in processes:
        compare(solver, recursion, p, GRIDS[grid])


@pytest.mark.parametrize("grid", GRIDS)
def test_analytic_dpm(grid):
    """Bao et al. 2022, arXiv:2201.06503, eq. 7, 8 with λ² = β̃, and Γ as the sampler measured it.

    1 − β̄ Γ is the loss at 100 times that are equal in λ, and its logarithm is linear in between.
    """
    p, predictor = VPSDE, Ancestral("analytic")
    x0 = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), **DOUBLE)
    fit(predictor, p.sde, p.score, x0, torch.Generator().manual_seed(1))
    first, last = p.lam(torch.tensor([1.0, 1e-3], **DOUBLE)).tolist()
    knots, generator = torch.linspace(first, last, 100, **DOUBLE), torch.Generator().manual_seed(1)
    losses = []
    for t in p.time(knots):
        z = torch.randn(50, 2, generator=generator, **DOUBLE)
        losses.append((z - p.noise(p.alpha(t) * x0 + p.sigma(t) * z, t)).square().mean().log())

    @one_step
    def analytic_dpm(p, x, s, t, z):
        alpha, low, high = (p.alpha(s) / p.alpha(t)) ** 2, p.sigma(t) ** 2, p.sigma(s) ** 2
        posterior = low / high * (1 - alpha)
        rest = math.exp(np.interp(p.lam(s), knots, torch.stack(losses)))
        root = torch.sqrt(high / alpha) - torch.sqrt(low - posterior)
        mean = (x - (1 - alpha) / high.sqrt() * p.noise(x, s)) / alpha.sqrt()
        return mean + torch.sqrt(posterior + root**2 * rest) * next(z)

    compare(predictor, analytic_dpm, p, GRIDS[grid])


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("steps", [10, 20, 50])
def test_restart(grid, steps):
    """Xu et al. 2023, arXiv:2306.14878, algorithm 1, with Heun's method of algorithm 2 of EDM."""
    p, heun, z = EDMSDE, edm(), normals()
    times = GRIDS[grid](p.sde, steps)
    solver = Restart(EDMHeun(), restarts=3, sigma_min=0.1, sigma_max=4.0)
    x = 80 * next(normals(0))
    sampler = PredictorCorrector(solver, steps=steps, grid=FixedGrid(times), denoise=False)
    end = sampler(p.sde, p.score, (3, 2), x_init=x, noise=lambda x: next(z)).x
    top, bottom = ((times.log() - math.log(s)).abs().argmin().item() for s in (4.0, 0.1))
    if top == bottom:
        top -= 1
    z = normals()
    *_, x = heun(p, x, times[: bottom + 1], None)
    for _ in range(3):
        x = x + torch.sqrt(times[top] ** 2 - times[bottom] ** 2) * next(z)
        *_, x = heun(p, x, times[top : bottom + 1], None)
    *_, x = x, *heun(p, x, times[bottom:], None)
    same([end], [x])


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("steps", [10, 20, 50])
def test_annealed_langevin(grid, steps):
    """Song & Ermon 2019, arXiv:1907.05600, algorithm 1, ε = 4 r² σ_L²; 2009.05475 to end it."""
    p, z = EDMSDE, normals()
    times = GRIDS[grid](p.sde, steps)
    x = 80 * next(normals(0))
    sampler = AnnealedLangevin(steps, snr=0.3, n_steps=2, grid=FixedGrid(times))
    end = sampler(p.sde, p.score, (3, 2), x_init=x, noise=lambda x: next(z)).x
    z, epsilon = normals(), 4 * 0.3**2 * p.sigma(times[-1]) ** 2
    for t in times:
        step = epsilon * p.sigma(t) ** 2 / p.sigma(times[-1]) ** 2
        for _ in range(2):
            x = x + step / 2 * p.score(x, t) + step.sqrt() * next(z)
    same([end], [x + p.sigma(t) ** 2 * p.score(x, t)])
