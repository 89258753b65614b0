"""Every process satisfies the same identities; a new one is tested by being listed in conftest."""

import math

import pytest
import torch

from scoresde.sde import (
    SDE,
    VE,
    VP,
    CosineSchedule,
    Discretized,
    LinearSchedule,
    Prior,
    SubVP,
    expand,
)

DOUBLE = {"dtype": torch.float64}


def times(sde: SDE, n: int = 4001) -> torch.Tensor:
    """Times over the whole range, dense near eps as well."""
    uniform = torch.linspace(sde.eps, sde.T, n, **DOUBLE)
    return torch.cat([torch.logspace(math.log10(sde.eps), -2, 500, **DOUBLE), uniform[1:-1]])


def test_alpha_sigma_f_g_belong_together(sde):
    """α′/α = f and (σ²)′ − 2 f σ² = g², by automatic differentiation, to 1e-12 of their size."""
    t = times(sde).requires_grad_()
    alpha, sigma = sde.alpha(t) + 0 * t, sde.sigma(t)
    (alpha_rate,) = torch.autograd.grad(alpha.sum(), t, retain_graph=True)
    (variance_rate,) = torch.autograd.grad(sigma.square().sum(), t)
    t = t.detach()
    f, g = sde.f(t), sde.g(t)
    torch.testing.assert_close(alpha_rate / alpha.detach(), f, rtol=1e-12, atol=1e-12)
    growth = variance_rate - 2 * f * sde.sigma(t).square()
    torch.testing.assert_close(growth, g.square(), rtol=1e-12, atol=1e-12)


def test_log_snr_falls_and_is_inverted(sde):
    """λ and its inverse agree to 1e-10 over the whole range, in both directions."""
    t = times(sde)
    half_log_snr = sde.half_log_snr(t)
    assert (sde.half_log_snr(t.sort().values).diff() < 0).all()
    back = sde.time_of_half_log_snr(half_log_snr)
    torch.testing.assert_close(back, t, rtol=0, atol=1e-10)
    torch.testing.assert_close(sde.half_log_snr(back), half_log_snr, rtol=0, atol=1e-10)


def test_log_snr_outside_the_range_is_refused(process):
    low = process.half_log_snr(torch.tensor(process.T, **DOUBLE))
    with pytest.raises(ValueError, match=r"half_log_snr .* lies outside"):
        process.time_of_half_log_snr(low - 1)


def test_transitions_compose(sde):
    """s → t → u equals s → u, where a multiplies and b² adds as variances do."""
    grid = times(sde, 41)[::20].sort().values
    s, t, u = grid[:-2], grid[1:-1], grid[2:]
    (a_st, b_st), (a_tu, b_tu), (a_su, b_su) = (
        sde.transition(*pair) for pair in ((s, t), (t, u), (s, u))
    )
    torch.testing.assert_close(a_st * a_tu, a_su, rtol=1e-12, atol=0)
    composed = (a_tu * b_st).square() + b_tu.square()
    # b² is a difference of variances: it keeps fewer digits where s is close to u.
    torch.testing.assert_close(composed, b_su.square(), rtol=1e-9, atol=1e-15)


def test_transition_carries_the_marginal(sde):
    """α_t = a α_s and σ_t² = a² σ_s² + b²."""
    s = times(sde, 101)
    t = s + 0.5 * (sde.T - s)
    a, b = sde.transition(s, t)
    torch.testing.assert_close(a * sde.alpha(s), sde.alpha(t), rtol=1e-12, atol=0)
    variance = (a * sde.sigma(s)).square() + b.square()
    torch.testing.assert_close(variance, sde.sigma(t).square(), rtol=1e-11, atol=0)


def test_short_transition_does_not_cancel():
    """b² over a step of 1e-9 is g² dt to eight digits, where σ_t² − a² σ_s² keeps none."""
    for sde in (VP(), SubVP(), VE()):
        s = torch.tensor(0.7, **DOUBLE)
        t = s + 1e-9
        _, b = sde.transition(s, t)
        torch.testing.assert_close(b.square(), sde.g(s).square() * (t - s), rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(200_000, 2), (50_000, 1, 2, 2)])
def test_perturb_has_the_moments_of_the_kernel(sde, shape, generator):
    """The mean is α x_0 and the variance σ², within five standard errors."""
    t = torch.tensor(0.37 * sde.T, **DOUBLE)
    x0 = torch.full(shape, 1.5, **DOUBLE)
    z = torch.randn(shape, generator=generator, **DOUBLE)
    x = sde.perturb(x0, t, z)
    n, sigma = x.numel(), sde.sigma(t).item()
    assert abs(x.mean().item() - 1.5 * sde.alpha(t).item()) < 5 * sigma / math.sqrt(n)
    assert abs(x.var().item() / sigma**2 - 1) < 5 * math.sqrt(2 / n)


def test_perturb_takes_a_time_for_each_sample(sde):
    """A batch of times gives the same states as one call for each."""
    t = torch.tensor([0.1, 0.5, 0.9], **DOUBLE) * sde.T
    x0, z = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    together = sde.perturb(x0, t, z)
    assert together.dtype == torch.float32  # float64 coefficients must not promote the state
    for i in range(3):
        torch.testing.assert_close(together[i], sde.perturb(x0[i : i + 1], t[i], z[i : i + 1])[0])


def test_prior_is_a_normal_distribution(sde, generator):
    """log_prob is a normal density of the prior's scale, and samples have its moments."""
    prior = sde.prior((20_000, 3))
    x = prior.sample(generator, dtype=torch.float64)
    std = sde.sigma(torch.tensor(sde.T, **DOUBLE)).item()
    distribution = torch.distributions.Normal(
        torch.zeros((), **DOUBLE), torch.tensor(prior.std, **DOUBLE)
    )
    torch.testing.assert_close(
        prior.log_prob(x), distribution.log_prob(x).sum(1), rtol=1e-12, atol=1e-12
    )
    assert abs(x.std().item() / prior.std - 1) < 5 / math.sqrt(2 * x.numel())
    assert abs(std / prior.std - 1) < 1e-4  # the process does end at its prior


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_reverse_drift_and_diffusion(process, eta):
    """They are f x − ½ (1 + η²) g² s and η g, written out independently."""
    x, t = torch.randn(5, 3, **DOUBLE), torch.rand(5, **DOUBLE) * 0.8 + 0.1
    reverse = process.reverse(lambda x, t: torch.sin(x), eta)
    g = process.g(t)
    by_hand = process.f(t)[:, None] * x - 0.5 * (1 + eta**2) * g[:, None] ** 2 * torch.sin(x)
    torch.testing.assert_close(reverse.drift(x, t), by_hand, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(reverse.diffusion(t), eta * g, rtol=0, atol=0)


def test_ddpm_table_is_the_published_one():
    """ᾱ of β = linspace(1e-4, 0.02, 1000) follows DDPM's own recursion, with ᾱ_1000 = 4.04e-5."""
    chain = VP().discretize(1000)
    alpha_bar, product = [], 1.0
    for i in range(1000):
        product *= 1 - (1e-4 + (0.02 - 1e-4) * i / 999)
        alpha_bar.append(product)
    expected = torch.tensor(alpha_bar, **DOUBLE)
    torch.testing.assert_close(chain.alphas.square(), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(chain.sigmas.square(), 1 - expected, rtol=1e-11, atol=0)
    assert abs(expected[-1].item() - 4.0358e-5) < 1e-9


def test_iddpm_table_is_the_published_one():
    """β of the cosine schedule is min(1 − ᾱ(i+1)/ᾱ(i), 0.999)."""
    chain = VP(schedule=CosineSchedule()).discretize(50)

    def alpha_bar(u):
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - alpha_bar((i + 1) / 50) / alpha_bar(i / 50), 0.999) for i in range(50)]
    expected = torch.cumprod(1 - torch.tensor(betas, **DOUBLE), 0)
    torch.testing.assert_close(chain.alphas.square(), expected, rtol=1e-10, atol=0)


def test_ncsn_table_is_geometric():
    """σ_i from 0.01 to 50 have equal ratios; a = 1 and b² = σ_i² − σ_{i−1}², with σ_{−1} = 0."""
    chain = VE().discretize(232)
    expected = torch.tensor([0.01 * 5000 ** (i / 231) for i in range(232)], **DOUBLE)
    torch.testing.assert_close(chain.sigmas, expected, rtol=1e-12, atol=0)
    below = torch.cat([torch.zeros(1, **DOUBLE), chain.times[:-1]])
    a, b = chain.transition(below, chain.times)
    smaller = torch.cat([torch.zeros(1, **DOUBLE), expected[:-1]])
    torch.testing.assert_close(a, torch.ones_like(a), rtol=0, atol=0)
    torch.testing.assert_close(b.square(), expected**2 - smaller**2, rtol=1e-10, atol=0)


def test_ddpm_transitions_are_its_betas():
    """a² = 1 − β_i and b² = β_i between neighbouring levels, and from the data to level 0."""
    chain = VP().discretize(1000)
    below = torch.cat([torch.zeros(1, **DOUBLE), chain.times[:-1]])
    a, b = chain.transition(below, chain.times)
    betas = LinearSchedule().betas(1000)
    torch.testing.assert_close(a.square(), 1 - betas, rtol=1e-12, atol=0)
    torch.testing.assert_close(b.square(), betas, rtol=1e-9, atol=0)


def test_chain_has_its_table_at_its_times(process):
    """The interpolants pass through the tables, labels are integers, and 0 is the data."""
    chain = process.discretize(60)
    torch.testing.assert_close(chain.alpha(chain.times), chain.alphas, rtol=1e-13, atol=0)
    torch.testing.assert_close(chain.sigma(chain.times), chain.sigmas, rtol=1e-13, atol=0)
    labels = torch.arange(60, **DOUBLE)
    torch.testing.assert_close(chain.label(chain.times), labels, rtol=0, atol=1e-10)
    zero = torch.tensor(0.0, **DOUBLE)
    assert chain.alpha(zero) == 1 and chain.sigma(zero) == 0


def test_to_levels_cuts_time_into_equal_cells():
    """A uniform grid of N steps is all N levels and the data; a uniform time is a uniform level."""
    chain = VE().discretize(50)
    grid = chain.to_grid(torch.linspace(chain.T, chain.eps, 51, **DOUBLE))
    torch.testing.assert_close(grid[:-1], chain.times.flip(0), rtol=0, atol=0)
    assert grid[-1] == 0
    u = (torch.arange(5000, **DOUBLE) + 0.5) / 5000
    levels = chain.label(chain.to_levels(chain.eps + (chain.T - chain.eps) * u)).round().long()
    assert (torch.bincount(levels, minlength=50) == 100).all()


def test_to_grid_takes_every_level_at_most_once():
    """Where a grid is denser than the levels, neighbours move apart; the ends stay."""
    chain = VP().discretize(100)
    dense = chain.T * torch.logspace(0, -3, 91, **DOUBLE)
    grid = chain.to_grid(dense)
    assert (grid.diff() < 0).all() and grid[0] == chain.T and grid[-1] == 0
    levels = torch.cat([torch.zeros(1, **DOUBLE), chain.times])
    assert torch.isin(grid, levels).all()
    with pytest.raises(ValueError, match=r"a grid of 101 steps .* use steps ≤ 100"):
        chain.to_grid(torch.linspace(1, 1e-3, 102, **DOUBLE))


def test_a_transition_from_a_time_to_itself_is_the_identity(sde):
    """a = 1 and b = 0 exactly, never the root of a rounding below 0."""
    t = times(sde, 2001)
    a, b = sde.transition(t, t)
    assert (a == 1).all() and (b == 0).all()


def test_expand_lays_coefficients_over_states():
    x = torch.zeros(3, 2, 4, 4)
    assert expand(torch.ones(3, **DOUBLE), x).shape == (3, 1, 1, 1)
    assert expand(torch.ones((), **DOUBLE), x).shape == ()
    assert expand(torch.ones(3, **DOUBLE), x).dtype == torch.float32


@pytest.mark.parametrize(
    "build, sentence",
    [
        (lambda: VP(20.0, 0.1), r"beta_max \(0.1\) must be ≥ beta_min \(20.0\); swapped\?"),
        (lambda: SubVP(20.0, 0.1), r"beta_max \(0.1\) must be ≥ beta_min \(20.0\); swapped\?"),
        (lambda: VP(-1.0, 20.0), "must be finite and > 0, got -1.0"),
        (lambda: VP(0.1, schedule=LinearSchedule()), "got both schedule and beta_min"),
        (lambda: VE(50.0, 0.01), r"sigma_min \(50.0\) must be < sigma_max \(0.01\)"),
        (lambda: VE(0.0, 1.0), "must be finite and > 0, got 0.0"),
        (lambda: CosineSchedule(0.0), r"s must be in \(0, 1\), got 0.0"),
        (lambda: VP().discretize(0), "steps must be an integer ≥ 1, got 0"),
        (lambda: VP().discretize(2.5), "steps must be an integer ≥ 1, got 2.5"),
        (lambda: VP().discretize(1), "steps must be an integer ≥ 2 for a chain"),
        (lambda: VP().discretize(20), "a chain of 20 levels needs beta_max < 20"),
        (lambda: VP().discretize(100).discretize(50), "this chain has 100 levels, not 50"),
        (lambda: VP().reverse(lambda x, t: x, -1.0), "eta must be finite and ≥ 0, got -1.0"),
    ],
)
def test_impossible_constants_are_refused(build, sentence):
    with pytest.raises(ValueError, match=sentence):
        build()


def test_wrong_times_and_types_are_refused(process):
    x = torch.zeros(6, 2)
    t = torch.full((6,), 0.5)
    t[5] = -0.02
    with pytest.raises(ValueError, match=r"t outside \[0, .*\]: -0.02 at batch index 5"):
        process.marginal(x, t)
    with pytest.raises(ValueError, match=r"noise must have x0's shape \(6, 2\), got \(6, 1\)"):
        process.perturb(x, torch.tensor(0.5), torch.zeros(6, 1))
    with pytest.raises(ValueError, match=r"t must have shape \(\) or \(6,\), got \(3,\)"):
        process.marginal(x, torch.full((3,), 0.5))
    with pytest.raises(TypeError, match=r"x0 must be floating point, got torch\.int64"):
        process.marginal(torch.zeros(6, 2, dtype=torch.int64), torch.tensor(0.5))
    with pytest.raises(TypeError, match=r"t must be floating point, got torch\.int64"):
        process.perturb(x, torch.tensor(1), x)


def test_a_new_process_costs_one_class():
    """Six short methods suffice for every derived function; here x_t = x_0 + t z (EDM's)."""

    class Plain(SDE):
        T = 10.0

        def alpha(self, t):
            return torch.ones_like(t)

        def sigma(self, t):
            return t

        def f(self, t):
            return torch.zeros_like(t)

        def g(self, t):
            return (2 * t).sqrt()

        def prior(self, shape):
            return Prior(shape, 10.0)

        def label(self, t):
            return 0.25 * t.log()

        def levels(self, steps):
            sigma = torch.linspace(0.1, 10, steps, **DOUBLE)
            return torch.ones_like(sigma), sigma

    sde = Plain()
    test_alpha_sigma_f_g_belong_together(sde)
    test_log_snr_falls_and_is_inverted(sde)
    test_transitions_compose(sde)
    assert isinstance(sde.discretize(10), Discretized)
