"""Replacement, ILVR and RePaint: known entries, exact biases, and the authors' own numbers."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from scoresde.conditioning import ILVR, Inpaint, RePaint, Replacement, StaticThreshold
from scoresde.conditioning.measurements import Downsampling
from scoresde.conditioning.repaint import schedule
from scoresde.models import GaussianScore
from scoresde.samplers import (
    DDIM,
    Ancestral,
    AnnealedLangevin,
    AnnealedLangevinStep,
    EDMHeun,
    ExponentialMultistep,
    Langevin,
    LogSNRGrid,
    NoiseAdaptive,
    PredictorCorrector,
    ProbabilityFlowODE,
    StochasticHeun,
    draw,
)
from scoresde.sde import VP
from tests.conditioning.problems import PROBLEMS, pooling
from tests.places import SHARED

KNOWN = (torch.arange(4) < 2).expand(1, 4, 4)


def reference(problem):
    """Samples with the known entries of G0, (1, 1, 4, 4)."""
    return problem.operator.pinv(problem.y[None])


SAMPLERS = {
    "ancestral": PredictorCorrector(Ancestral(), steps=6),
    "pc": PredictorCorrector(Ancestral(), Langevin(0.16), steps=5),
    "ddim": PredictorCorrector(DDIM(), steps=6),
    "heun": PredictorCorrector(EDMHeun(), steps=5),
    "stochastic heun": PredictorCorrector(StochasticHeun(), steps=5),
    "ald": AnnealedLangevin(steps=5, n_steps=2),
    "noise adaptive": NoiseAdaptive(Ancestral(), steps=5),
    "repaint": PredictorCorrector(RePaint(Ancestral(), 2, 3), steps=7),
}


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_known_pixels_are_returned_bit_for_bit(name, dtype, process):
    problem = PROBLEMS["G0"]
    y = reference(problem).to(dtype)
    masks = torch.stack([KNOWN, ~KNOWN, KNOWN])
    values = torch.cat([y, y + 1, 2 * y])
    run = SAMPLERS[name](
        process,
        problem.score(process),
        (3, 1, 4, 4),
        constraint=Inpaint(masks, values),
        seeds=[1, 2, 3],
        dtype=dtype,
    )
    assert torch.equal(run.x[masks], values[masks])
    assert not torch.equal(run.x[~masks], values[~masks])


@pytest.mark.parametrize("name", ["pc", "repaint"])
def test_samples_do_not_depend_on_the_batch(name):
    """By draw() in batches of two, with a mask for each sample, as all at once."""
    problem, sde = PROBLEMS["G0"], VP()
    masks = torch.stack([KNOWN, ~KNOWN, KNOWN])
    constraint = Inpaint(masks, torch.randn(3, 1, 4, 4, dtype=torch.float32))
    score, seeds = problem.score(sde), [4, 5, 6]
    shape = (3, 1, 4, 4)
    whole = SAMPLERS[name](sde, score, shape, constraint=constraint, seeds=seeds)
    parts = draw(SAMPLERS[name], sde, score, shape, 2, constraint=constraint, seeds=seeds)
    torch.testing.assert_close(parts.x, whole.x, rtol=1e-5, atol=1e-5)


def free_mean(predictor, problem, sde, steps, corrector=None):
    """Mean of the free entries of x/α at ς = 0.01, or near, in posterior √trace, off the exact one.

    Everything is affine, so that the noiseless path from a zero state has the mean.
    """
    ends = torch.tensor([sde.sampling_eps, sde.T], dtype=torch.float64)
    least = max(0.01, (-sde.half_log_snr(ends)).exp().min().item())
    end = sde.time_of_half_log_snr(-torch.tensor(least, dtype=torch.float64).log()).item()
    sampler = PredictorCorrector(
        predictor, corrector, steps, grid=LogSNRGrid(eps=end), denoise=False
    )
    run = sampler(
        sde,
        GaussianScore(sde, problem.means[0], problem.covariances[0]),
        (1, 1, 4, 4),
        x_init=torch.zeros(1, 1, 4, 4, dtype=torch.float64),
        noise=torch.zeros_like,
        constraint=Inpaint(KNOWN, reference(problem)),
    )
    mean = run.x.flatten() / sde.alpha(torch.tensor(end, dtype=torch.float64))
    return ((mean - problem.moments[0])[~KNOWN.flatten()]).norm().item() / problem.size


def test_replacement_is_biased(process):
    """The mean on G0 is off by 0.30 to 0.40 posterior sd, and with more steps it stays so."""
    for steps in (250, 500):
        assert 0.30 <= free_mean(Ancestral(), PROBLEMS["G0"], process, steps) <= 0.40


def test_repaint_removes_the_bias():
    """By about 1/r: on G0 with N = 250 and j = 1 the known figures, and below 0.04 for r = 50."""
    problem, sde = PROBLEMS["G0"], VP()
    errors = [free_mean(RePaint(Ancestral(), 1, r), problem, sde, 250) for r in (1, 2, 5, 10)]
    assert errors == pytest.approx([0.347, 0.262, 0.163, 0.104], abs=2e-3)
    assert free_mean(RePaint(Ancestral(), 1, 50), problem, sde, 250) <= 0.04


def test_replacement_by_an_operator_is_inpainting_by_a_mask(process):
    """P = H⁺H of a mask; with pooling the means of patches are kept to rounding."""
    problem = PROBLEMS["G0"]
    sampler, score = SAMPLERS["pc"], problem.score(process)
    settings = {"seeds": [1, 2], "dtype": torch.float64}
    masked, replaced = (
        sampler(process, score, (2, 1, 4, 4), constraint=one, **settings).x
        for one in (
            Inpaint(KNOWN, reference(problem)),
            Replacement(problem.operator, problem.y[None]),
        )
    )
    torch.testing.assert_close(replaced, masked, rtol=1e-12, atol=1e-12)
    assert torch.equal(problem.operator(replaced), problem.y.expand(2, -1))
    operator, y = pooling(), torch.tensor([[0.3, -0.2, 0.5, 0.1]], dtype=torch.float64)
    run = sampler(process, score, (2, 1, 4, 4), constraint=Replacement(operator, y), **settings)
    torch.testing.assert_close(operator(run.x), y.expand(2, -1), rtol=1e-12, atol=1e-12)


def test_the_schedule_of_the_authors():
    """`get_schedule_jump`: the same levels; 250 steps, jumps of 10, 10 times: 2410 evaluations."""
    path = SHARED / "golden" / "repaint.npz"
    if not path.exists():
        pytest.skip("needs ../shared/golden")
    golden = np.load(path)
    for name, (steps, jump, times) in {
        "paper": (250, 10, 10),
        "short": (20, 5, 3),
        "no_jumps": (10, 10, 1),
    }.items():
        levels = [steps - 1]
        ends = schedule(steps, jump, times)[1:]
        for end in ends:
            target = steps - 1 - end
            sign = -1 if target < levels[-1] else 1
            levels += range(levels[-1] + sign, target + sign, sign)
        assert levels[1:] == golden[f"schedule/{name}"].tolist()[1:]


class Table(VP):
    """A chain with given β_i."""

    def __init__(self, betas):
        super().__init__()
        self.betas = betas

    def levels(self, steps):
        square = (1 - self.betas).cumprod(0)
        return square.sqrt(), (1 - square).sqrt()


def test_the_loop_of_the_authors():
    """Every unknown pixel after every step down, to 1e-5 of the largest entry.

    Their moves up go level by level, ours are one transition: their noises are added up. Their
    variance is a learned one, exp(v log β + (1 − v) log β̃) with v = (1.4 − 0.3 x)/2.
    """
    path = SHARED / "golden" / "repaint.npz"
    if not path.exists():
        pytest.skip("needs ../shared/golden")
    golden = {k: torch.from_numpy(v).double() for k, v in np.load(path).items()}
    steps, jump, times = 20, 5, 3
    chain = Table(golden["betas"]).discretize(steps)
    exact = GaussianScore(chain, torch.full((192,), 0.1), torch.full((192,), 0.25))
    noises, draws, betas = iter(golden["loop/noise"]), [], golden["betas"]
    for here, there in pairwise(schedule(steps, jump, times)):
        for step in range(here, there):
            z = next(noises)
            if step:
                draws.append(next(noises))  # for the known part at the level of this step
            draws.append((z, steps - 1 - step))
        if there < here:
            draws.append(torch.zeros_like(z))  # a known part that the move up overwrites
            total, level = torch.zeros_like(z), steps - 1 - here
            for up in range(level + 1, level + 1 + jump):
                total = (1 - betas[up]).sqrt() * total + betas[up].sqrt() * next(noises)
            shrink = (1 - betas[level + 1 : level + 1 + jump]).prod()
            draws.append(total / (1 - shrink).sqrt())
    states, draws = [], iter(draws)
    square = (1 - betas).cumprod(0)

    def noise(x):
        draw = next(draws)
        if isinstance(draw, torch.Tensor):
            return draw
        return learned(*draw, x, square)

    mask = golden["loop/keep_mask"].bool()
    sampler = PredictorCorrector(RePaint(Ancestral(), jump, times), steps=steps)
    sampler(
        chain,
        StaticThreshold(exact),
        tuple(mask.shape),
        x_init=golden["loop/x_T"],
        noise=noise,
        constraint=Inpaint(mask, golden["loop/gt"]),
        callback=lambda step, t, x: states.append(x.clone()),
    )
    down = [
        s
        for s, (here, there) in zip(states, moves(steps, jump, times), strict=True)
        if there > here
    ]
    assert len(down) == len(golden["loop/states"]) == 50
    for ours, theirs in zip(down, golden["loop/states"], strict=True):
        torch.testing.assert_close(
            ours[~mask], theirs[~mask], rtol=0, atol=1e-5 * theirs.abs().max().item()
        )


def learned(z, level, x, square):
    """Noise z, scaled from β̃ to the variance exp(v log β + (1 − v) log β̃), v = (1.4 − 0.3 x)/2."""
    wider = (1 - square[level]) / (1 - square[level - 1])  # β/β̃
    return z * wider ** ((1.4 - 0.3 * x) / 4)


def test_ilvr_of_the_authors():
    """Every state, to 1e-5 of the largest entry, with the reference noised one level late.

    The authors' code noises it to the level that a step leaves, and the paper to that which it
    reaches, as here.
    """
    path = SHARED / "golden" / "ilvr.npz"
    if not path.exists():
        pytest.skip("needs ../shared/golden")
    golden = {k: torch.from_numpy(v).double() for k, v in np.load(path).items() if "loop" in k}
    linear = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    square = (1 - linear).cumprod(0)[golden["loop/timesteps"].long()]
    betas = 1 - square / torch.cat([torch.ones(1).double(), square[:-1]])
    chain = Table(betas).discretize(10)
    resized = Downsampling((3, 16, 16), 4)

    class Late(ILVR):
        def __call__(self, x, t, noise):
            level = int((chain.times == t).nonzero()[0]) if t > 0 else -1
            if not self._acts(t):
                return x
            above = chain.times[level + 1]
            reference = chain.alpha(above) * self.reference
            return self.replace(x, reference + chain.sigma(above) * noise(x))

    step_noise, reference_noise = (
        iter(golden[f"loop/{name}_noise"]) for name in ("step", "reference")
    )
    level, of_step = 9, True

    def noise(x):  # a step, then the reference where it is used
        nonlocal level, of_step
        if not of_step and level >= 2:
            of_step = True
            return next(reference_noise)
        z = learned(next(step_noise), level, x, square)
        level, of_step = level - 1, False
        return z

    between = (-chain.half_log_snr(chain.times[1:3])).exp().mean().item()
    states = []
    exact = GaussianScore(chain, torch.full((768,), 0.1), torch.full((768,), 0.25))
    PredictorCorrector(Ancestral(), steps=10)(
        chain,
        StaticThreshold(exact),
        (2, 3, 16, 16),
        x_init=golden["loop/x_T"],
        noise=noise,
        constraint=Late(lambda x: resized.upsample(resized(x)), golden["loop/reference"], between),
        callback=lambda step, t, x: states.append(x.clone()),
    )
    for ours, theirs in zip(states, golden["loop/states"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * theirs.abs().max().item())


def moves(steps, jump, times):
    """Single steps down, and moves up."""
    for here, there in pairwise(schedule(steps, jump, times)):
        if there < here:
            yield here, there
        else:
            yield from ((i, i + 1) for i in range(here, there))


@pytest.mark.parametrize(("steps", "jump", "times"), [(250, 10, 10), (20, 5, 3), (7, 3, 2)])
def test_evaluations_of_repaint(steps, jump, times):
    """N + (r − 1) j (⌈N/j⌉ − 1)."""
    problem, sde = PROBLEMS["G0"], VP()
    sampler = PredictorCorrector(RePaint(Ancestral(), jump, times), steps=steps)
    run = sampler(sde, problem.score(sde), (1, 16))
    assert run.nfe == steps + (times - 1) * jump * (-(-steps // jump) - 1)
    assert run.nfe == {250: 2410, 20: 50, 7: 13}[steps]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda y: Inpaint(torch.ones(1, 4, 4), y), TypeError, "use known > 0.5"),
        (lambda y: Inpaint(torch.ones(1, 4, 4).bool(), y), ValueError, "hide some entries"),
        (lambda y: Inpaint(torch.zeros(1, 4, 4).bool(), y), ValueError, "got 0 of 16 known"),
        (lambda y: Inpaint(torch.ones(1, 3, 4).bool(), y), ValueError, "must broadcast"),
        (lambda y: Inpaint(KNOWN, y * torch.nan), ValueError, "NaN/Inf where it is known"),
        (lambda y: Inpaint(KNOWN, y.long()), TypeError, "floating point"),
        (lambda y: Replacement(pooling(), y), ValueError, r"must have shape \(B, 4\)"),
        (lambda y: ILVR(torch.relu, y, -1.0), ValueError, "stop must be a number > 0"),
        (
            lambda y: Inpaint(KNOWN, y)(y, torch.tensor(0.5), torch.randn_like),
            ValueError,
            "on\\(sde",
        ),
        (lambda y: RePaint(Ancestral(), 0), ValueError, "jump must be an integer ≥ 1"),
        (lambda y: RePaint("ddim"), TypeError, "must be a Solver"),
        (lambda y: run(y, RePaint(ExponentialMultistep())), ValueError, "remembers earlier ones"),
        (lambda y: run(y, ExponentialMultistep()), ValueError, "use a single-step predictor"),
        (lambda y: run(y.expand(2, 1, 4, 4), DDIM()), ValueError, "or one row for all, got"),
        (lambda y: run(y, ProbabilityFlowODE()), ValueError, "takes no constraint"),
    ],
)
def test_refusals(make, error, words):
    """One sentence each, before any work."""
    with pytest.raises(error, match=words):
        make(reference(PROBLEMS["G0"]))


def run(y, solver):
    """Three samples with a constraint."""
    if not isinstance(solver, ProbabilityFlowODE):
        solver = PredictorCorrector(solver, steps=5)
    score = PROBLEMS["G0"].score(VP())
    return solver(VP(), score, (3, 1, 4, 4), constraint=Inpaint(KNOWN, y), dtype=torch.float64)


def test_noise_of_a_replaced_part_is_that_of_its_level(process):
    """Known entries of the state at u have mean α_u y and standard deviation σ_u."""
    y = torch.full((20000, 1), 0.7, dtype=torch.float64)
    x = torch.zeros(20000, 2, dtype=torch.float64)
    constraint = Inpaint(torch.tensor([True, False]), torch.cat([y, y], 1)).on(process)
    t = torch.tensor(0.4 * process.T, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    noised = constraint(
        x, t, lambda x: torch.randn(x.shape, generator=generator, dtype=torch.float64)
    )
    alpha, sigma = process.alpha(t), process.sigma(t)
    known = (noised[:, 0] - alpha * 0.7) / sigma
    assert abs(known.mean()) < 4 / 20000**0.5 and abs(known.var() - 1) < 4 * (2 / 20000) ** 0.5
    assert torch.equal(noised[:, 1], x[:, 1])


def test_langevin_steps_remove_the_bias_that_replacement_has():
    """Of δ = 2 (r σ)², 16 between two steps: half of the bias at N = 100, less at N = 400."""
    problem, sde = PROBLEMS["G0"], VP()

    def bias(count, steps):
        corrector = AnnealedLangevinStep(0.16, count) if count else None
        return free_mean(Ancestral(), problem, sde, steps, corrector)

    none, some, more = bias(0, 100), bias(16, 100), bias(16, 400)
    assert none > 0.3 and some < 0.55 * none and more < 0.6 * some
