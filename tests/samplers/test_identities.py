"""Results that are equal to rounding: one step under two names, and samples apart or together."""

import pytest
import torch

from benchmarks.convergence import PROCESSES, gaussian, problem, run
from scoresde.samplers import (
    DDIM,
    SRA1,
    Ancestral,
    EDMHeun,
    EulerMaruyama,
    ExponentialMultistep,
    ExponentialSinglestep,
    Langevin,
    LogSNRGrid,
    PredictorCorrector,
    ProbabilityFlowODE,
    Restart,
    ReverseDiffusion,
    RungeKutta,
    StochasticHeun,
    UniformGrid,
    interpolate,
)
from scoresde.samplers.presets import PRESETS
from scoresde.samplers.solvers.folding import merge
from scoresde.sde import VP
from tests.conftest import CHAINS

SDES = PROCESSES | CHAINS
SOLVERS = {
    **{name: make() for name, make in PRESETS.items()},
    "euler_maruyama": EulerMaruyama(),
    "reverse_diffusion": ReverseDiffusion(),
    "ancestral": Ancestral(),
    "stochastic_heun": StochasticHeun(),
    "sra1": SRA1(),
    "heun": RungeKutta("heun"),
    "rk4": RungeKutta("rk4", "sigma"),
    "edm": EDMHeun(),
    "edm_churn": EDMHeun(churn=5.0),
    "restart": Restart(DDIM(), 2),
    "adams_v": ExponentialMultistep(4, "v", corrector=True, tau=0.5),
}


def scripted(seed: int, size: int = 6):
    """Noise for named samples: row i always belongs to sample i."""
    generator = torch.Generator().manual_seed(seed)

    def noise_of(rows):
        generator.manual_seed(seed)
        return lambda x: torch.randn(size, 2, generator=generator, dtype=torch.float64)[rows].to(x)

    return noise_of


def same(a, b, tolerance=1e-12):
    scale = b.abs().max().clamp(min=1).item()
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("steps", [1, 2, 20])
@pytest.mark.parametrize("name", SDES)
def test_ddim_with_eta_one_is_sde_dpm_solver_of_order_one(name, steps):
    sde, noise = SDES[name], scripted(1)
    x = sde.prior((6, 2)).sample(torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = torch.arange(6)
    one = run(DDIM(1.0), sde, gaussian(sde), x, steps, noise=noise(rows))
    other = run(PRESETS["sde_dpmpp_1"](), sde, gaussian(sde), x, steps, noise=noise(rows))
    same(one, other)


@pytest.mark.parametrize("steps", [1, 2, 20])
@pytest.mark.parametrize("kind", ["noise", "data"])
@pytest.mark.parametrize("name", SDES)
def test_ddim_is_every_exponential_method_of_order_one(name, kind, steps):
    sde = SDES[name]
    x = sde.prior((6, 2)).sample(torch.Generator().manual_seed(0), dtype=torch.float64)
    ends = [
        run(solver, sde, gaussian(sde), x, steps)
        for solver in (DDIM(), ExponentialMultistep(1, kind), ExponentialSinglestep(1, kind))
    ]
    # From T to eps in one or two strides the numbers are multiplied by up to 1/α_T = 150.
    tolerance = 1e-12 if steps == 20 else 1e-10
    same(ends[1], ends[0], tolerance)
    same(ends[2], ends[0], tolerance)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("name", PROCESSES)
def test_steps_before_the_corrector_acts_are_the_predictors(name, order):
    """The corrector does not act on the last step, so that it has no effect on a single step."""
    sde, case = PROCESSES[name], problem(name)
    plain, corrected = (
        run(ExponentialMultistep(order, corrector=c), sde, case.score, case.latents, 1)
        for c in (False, True)
    )
    same(corrected, plain)


@pytest.mark.parametrize("steps", [2, 3, 10])
@pytest.mark.parametrize("kind", ["noise", "data", "v"])
@pytest.mark.parametrize("name", SDES)
def test_merged_corrections_are_those_made_one_by_one(name, kind, steps):
    """Without a reader of the states between, a step is one combination and has the same end.

    In three steps and fewer, numbers grow by up to 1/α_T = 150.
    """
    sde, solver = SDES[name], ExponentialMultistep(3, kind, corrector=True)
    x = sde.prior((6, 2)).sample(torch.Generator().manual_seed(0), dtype=torch.float64)
    watched, alone = (
        PredictorCorrector(solver, steps=steps, grid=LogSNRGrid())(
            sde, gaussian(sde), (6, 2), x_init=x, trajectory=kept
        )
        for kept in (2, 0)
    )
    assert watched.nfe == alone.nfe
    same(alone.x, watched.x, 1e-12 if steps == 10 else 1e-10)


@pytest.mark.parametrize("sde", [VP(), VP().discretize(50)], ids=["continuous", "chain"])
@pytest.mark.parametrize("name", SOLVERS)
def test_a_merged_plan_has_one_combination_a_step_or_is_the_same(name, sde):
    steps = SOLVERS[name].plan(sde, UniformGrid()(sde, 8))
    merged = merge(steps)
    if name.startswith("unipc"):
        assert [len(step.rows) for step in merged] == [1] * 8
        assert merged.depth <= 4
    else:
        assert merged == steps


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("kind", ["noise", "data", "v"])
@pytest.mark.parametrize("name", PROCESSES)
def test_without_noise_the_sde_solver_is_the_ode_solver(name, kind, order):
    """τ = 0, or an interval for τ that no step touches, gives the same numbers."""
    case = problem(name)
    for make in (ExponentialMultistep, ExponentialSinglestep):
        ends = [
            run(make(order, kind, **tau), case.sde, case.score, case.latents, 12)
            for tau in ({}, {"tau": 0.0}, {"tau": 1.0, "tau_range": (1e8, 1e9)})
        ]
        same(ends[1], ends[0], 0)
        same(ends[2], ends[0], 0)


@pytest.mark.parametrize("steps", [1, 3, 18])
@pytest.mark.parametrize("name", SDES)
def test_edm_without_churn_is_heun_in_sigma(name, steps):
    sde = SDES[name]
    x = sde.prior((6, 2)).sample(torch.Generator().manual_seed(0), dtype=torch.float64)
    score = gaussian(sde)
    one = run(EDMHeun(), sde, score, x, steps)
    same(one, run(RungeKutta("heun", "sigma"), sde, score, x, steps), 0)
    same(one, run(EDMHeun(churn=9.0, s_min=1e8), sde, score, x, steps))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", ["vp", "subvp", "ve", "edm", "ddpm"])
def test_batches_do_not_matter(name, solver):
    """Permuting the batch, or splitting it, changes each sample by at most 1e-12 of the largest."""
    sde, noise = SDES[name], scripted(2)
    x = sde.prior((6, 2)).sample(torch.Generator().manual_seed(0), dtype=torch.float64)
    score, grid = gaussian(sde), LogSNRGrid()

    def end(rows):
        solved = SOLVERS[solver]
        return run(solved, sde, score, x[rows], 12, grid=grid, noise=noise(rows))

    whole, order = end(torch.arange(6)), torch.tensor([4, 2, 0, 5, 1, 3])
    same(end(order), whole[order])
    same(torch.cat([end(torch.tensor([i])) for i in range(6)]), whole)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", ["vp", "subvp", "ve", "edm", "ddpm"])
def test_single_precision_is_near_double_precision(name, solver):
    """Twenty steps in float32 stay within 2e-4 of those in float64, relative to the largest value.

    The rounding of a float32 state at σ_T, 6e-8 of it, is carried down with the state; data
    predictions divide it by α_T, which is 0.0066 for VP.
    """
    sde, noise = SDES[name], scripted(3)
    rows = torch.arange(6)
    x = sde.prior((6, 2)).sample(torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = run(SOLVERS[solver], sde, gaussian(sde), x, 20, noise=noise(rows))
    single = run(SOLVERS[solver], sde, gaussian(sde), x.float(), 20, noise=noise(rows))
    assert single.dtype == torch.float32
    scale = exact.abs().max().clamp(min=1).item()
    torch.testing.assert_close(single.double(), exact, rtol=0, atol=2e-4 * scale)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", ["vp", "ve", "edm", "ncsn"])
def test_a_generator_repeats_every_solver(name, solver):
    sde = SDES[name]
    sampler = PredictorCorrector(SOLVERS[solver], steps=6, grid=LogSNRGrid())
    ends = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        generator = torch.Generator().manual_seed(7)
        ends.append(sampler(sde, gaussian(sde), (4, 2), generator=generator).x)
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)


@pytest.mark.parametrize(
    "solver",
    ["ddim", "dpmpp_2m", "dpmpp_3m", "unipc_3", "dpm_solver_3", "deis_3", "heun", "rk4", "edm"],
)
@pytest.mark.parametrize("name", [*PROCESSES, "ddpm"])
def test_latents_come_back_as_data(name, solver):
    """Data return after encoding and decoding in 200 steps each, to the solver's accuracy."""
    sde = SDES[name]
    score = gaussian(sde)
    data = score.sample(16, torch.Generator().manual_seed(4))
    sampler = PredictorCorrector(SOLVERS[solver], steps=200, grid=LogSNRGrid())
    latents = sampler.encode(sde, score, data).x
    back = sampler(sde, score, tuple(data.shape), x_init=latents).x
    bound = 0.08 if solver == "ddim" else 0.02  # first order, and the end of a chain is a level off
    assert (back - data).abs().max() < bound
    exact = ProbabilityFlowODE(1e-8, 1e-8).encode(sde, score, data).x
    assert (latents - exact).abs().max() < 0.05 * exact.abs().max()


def test_the_ode_encodes_and_decodes_to_its_tolerance():
    for sde in PROCESSES.values():
        score = gaussian(sde)
        data = score.sample(16, torch.Generator().manual_seed(4))
        sampler = ProbabilityFlowODE(1e-7, 1e-7)
        latents = sampler.encode(sde, score, data)
        back = sampler(sde, score, (16, 2), x_init=latents.x)
        assert (back.x - data).abs().max() < 1e-4
        assert latents.nfe > 10


@pytest.mark.parametrize(
    "sampler",
    [
        PredictorCorrector(EulerMaruyama(), steps=5),
        PredictorCorrector(DDIM(0.5), steps=5),
        PredictorCorrector(DDIM(), Langevin(), steps=5),
        PredictorCorrector(Restart(DDIM()), steps=5),
    ],
)
def test_what_draws_noise_does_not_encode(sampler):
    sde = PROCESSES["vp"]
    with pytest.raises(ValueError, match="this sampler draws noise; use ProbabilityFlowODE"):
        sampler.encode(sde, gaussian(sde), torch.zeros(3, 2, dtype=torch.float64))


def test_latents_between_two_lie_on_the_circle():
    """Ends are exact, norms lie between theirs, angles are equal, and equal latents stay."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 3, 1, 8, 8, generator=generator, dtype=torch.float64)
    b = b * (a.flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)).reshape(3, 1, 1, 1)
    path = interpolate(a, b, 4)
    assert path.shape == (5, 3, 1, 8, 8)
    same(path[0], a)
    same(path[-1], b)
    norms = path.flatten(2).norm(dim=2)
    torch.testing.assert_close(norms, norms[:1].expand(5, 3), rtol=1e-12, atol=0)
    chords = path.diff(dim=0).flatten(2).norm(dim=2)
    torch.testing.assert_close(chords, chords[:1].expand(4, 3), rtol=1e-10, atol=0)
    same(interpolate(a, a, 3), a.expand(4, *a.shape))
    with pytest.raises(ValueError, match="b must have a's shape"):
        interpolate(a, b[:1], 3)


def test_temperature_scales_all_noise():
    """On N(0, v) samples are linear in the noise: half the temperature halves the sample."""
    sde = PROCESSES["vp"]
    score = lambda x, t: -x  # noqa: E731
    for solver in (DDIM(), ReverseDiffusion(), SRA1()):
        sampler = PredictorCorrector(solver, steps=10, grid=UniformGrid())
        full, half = (
            sampler(
                sde,
                score,
                (5, 2),
                generator=torch.Generator().manual_seed(0),
                temperature=temperature,
                dtype=torch.float64,
            ).x
            for temperature in (1.0, 0.5)
        )
        same(half, 0.5 * full)
    with pytest.raises(ValueError, match="temperature must be finite and ≥ 0, got -1"):
        sampler(sde, score, (5, 2), temperature=-1)


def test_a_temperature_does_not_change_shared_noise():
    """A solver does not change noise that its caller keeps: two runs with it are the same."""
    sde, x = PROCESSES["vp"], torch.ones(3, 2, dtype=torch.float64)
    shared = torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sampler, ends = PredictorCorrector(DDIM(1.0), steps=5), []
    for _ in range(2):
        queue = iter(shared)
        noise = lambda x, queue=queue: next(queue)  # noqa: E731
        score = gaussian(sde)
        ends.append(sampler(sde, score, (3, 2), x_init=x, noise=noise, temperature=0.5).x)
    same(ends[1], ends[0], 0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_score_may_give_back_the_same_tensor_every_time(solver):
    """A compiled network may do so; what a solver remembers is its own copy."""
    sde, buffer = PROCESSES["vp"], torch.empty(6, 2, dtype=torch.float64)
    x = sde.prior((6, 2)).sample(torch.Generator().manual_seed(0), dtype=torch.float64)
    exact, noise = gaussian(sde), scripted(4)
    rows = torch.arange(6)
    reused = run(
        SOLVERS[solver], sde, lambda x, t: buffer.copy_(exact(x, t)), x, 9, noise=noise(rows)
    )
    same(reused, run(SOLVERS[solver], sde, exact, x, 9, noise=noise(rows)), 0)


@pytest.mark.parametrize("solver", [StochasticHeun(), SRA1(), EDMHeun(churn=9.0)])
def test_the_mean_keeps_noise_that_was_evaluated(solver):
    """For data of one point, a state without its last noise is never farther from the data."""
    sde, x = PROCESSES["vp"], torch.zeros(2000, 2, dtype=torch.float64)
    ends = []
    for denoise in (True, False):
        sampler = PredictorCorrector(solver, steps=40, denoise=denoise)
        generator = torch.Generator().manual_seed(0)
        score = lambda x, t: -x / sde.sigma(t).square()  # noqa: E731
        ends.append(sampler(sde, score, (2000, 2), x_init=x, generator=generator).x.std().item())
    assert ends[0] <= 1.001 * ends[1]


def test_a_corrector_next_to_a_multistep_solver_is_refused():
    sampler = PredictorCorrector(PRESETS["dpmpp_2m"](), Langevin(), steps=5)
    with pytest.raises(ValueError, match="use a single-step predictor next to it"):
        sampler(PROCESSES["vp"], gaussian(PROCESSES["vp"]), (3, 2))
