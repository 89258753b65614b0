"""The common loop of posterior samplers with updates of their own."""

import math

import pytest
import torch

from scoresde.conditioning import (
    DDNM,
    DDRM,
    DiffPIR,
    DPSSampler,
    Mask,
    Matrix,
    Measurement,
    PiGDMSampler,
)
from scoresde.conditioning.measurements import LinearOperator, Operator
from scoresde.models import MLP, ScoreModel
from scoresde.samplers import FixedGrid, LogSNRGrid, draw
from scoresde.sde import EDM, VE, VP, SubVP
from tests.conditioning.problems import PROBLEMS

PROCESSES = {"vp": VP(), "ve": VE(), "subvp": SubVP(), "edm": EDM(), "ddpm": VP().discretize(100)}
each_process = pytest.mark.parametrize("process", PROCESSES)
SAMPLERS = {
    "DDRM": lambda y, **kwargs: DDRM(y, **kwargs),
    "DDNM": lambda y, **kwargs: DDNM(y, **kwargs),
    "DDNM, time travel": lambda y, **kwargs: DDNM(y, travel_length=2, repeats=2, **kwargs),
    "DPS": lambda y, **kwargs: DPSSampler(y, **kwargs),
    "PiGDM": lambda y, **kwargs: PiGDMSampler(y, **kwargs),
    "DiffPIR": lambda y, **kwargs: DiffPIR(y, **kwargs),
}
each_sampler = pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)
SEEDS = [5, 3, 8]

# ---------------------------------------------------------------------------- the loop


@each_process
@each_sampler
def test_what_a_mask_knows_comes_out_exactly(make, process):
    """With σ_y = 0, in every bit, on every process, in float32 too."""
    sde, problem = PROCESSES[process], PROBLEMS["M0"]
    for dtype in (torch.float64, torch.float32):
        run = make(problem.measurement, steps=5)(
            sde, problem.score(sde), (2, 1, 4, 4), seeds=[0, 1], dtype=dtype
        )
        known = run.x[:, problem.operator.known]
        assert torch.equal(known, problem.y.to(dtype).expand(2, -1))
        assert run.x.isfinite().all() and run.x.dtype == dtype


@pytest.mark.parametrize("kind", [DDNM, DiffPIR])
def test_the_last_step_leads_to_the_data(kind):
    """It ends with D itself where nothing is measured, not with α D, wherever the grid ends."""
    problem, sde = PROBLEMS["M0"], VP()
    score, x = problem.score(sde), torch.ones(1, 1, 4, 4, dtype=torch.float64)
    sampler = kind(problem.measurement, steps=1, grid=FixedGrid([1.0, 0.5]))
    unknown = ~problem.operator.known
    expected = score.denoise(x, torch.tensor(1.0, dtype=torch.float64))[:, unknown]
    found = sampler(sde, score, x.shape, x_init=x).x[:, unknown]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_ddrm_keeps_known_coordinates_by_itself():
    """Its last step falls in the branch of y: the state at the data is y without the final step."""
    problem, sde = PROBLEMS["M0"], VP().discretize(100)
    sampler = DDRM(problem.measurement, steps=5, denoise=False)
    x = sampler(sde, problem.score(sde), (1, 1, 4, 4), dtype=torch.float64).x
    assert torch.equal(x[:, problem.operator.known], problem.y[None])


def plane():
    """Measurements of x₁ + 0.5 x₂ that differ between three samples."""
    operator = Matrix(torch.tensor([[1.0, 0.5]], dtype=torch.float64))
    return Measurement(operator, torch.tensor([[0.4], [-0.8], [1.1]], dtype=torch.float64), 0.3)


@each_process
@each_sampler
def test_a_batch_is_its_samples_alone(make, process):
    """Seeds and measurements follow the rows, for `draw` in any batches; all steps are counted."""
    sde, sampler = PROCESSES[process], make(plane(), steps=4)
    score, seen = PROBLEMS["P1"].score(sde), []
    run = sampler(
        sde,
        score,
        (3, 2),
        seeds=SEEDS,
        dtype=torch.float64,
        trajectory=3,
        progress=True,
        callback=lambda step, t, x: seen.append((step, t, x)),
    )
    path = sampler.path(sde)
    down = sum(not move.rises for move in path)
    assert (run.nfe, run.products) == (down, sampler.products * down)
    assert sampler.states(sde) == len(path) + 1
    assert [step for step, _, _ in seen] == list(range(1, len(path) + 1))
    assert torch.equal(seen[-1][2], run.x) and torch.equal(run.trajectory[-1], run.x)
    parts = draw(sampler, sde, score, (3, 2), 2, seeds=SEEDS)
    assert parts.nfe == down and parts.products == run.products
    torch.testing.assert_close(parts.x.double(), run.x, rtol=0, atol=2e-3)  # draw is in float32
    for i, seed in enumerate(SEEDS):
        alone = sampler.rows(torch.tensor([i]))
        one = alone(sde, score, (1, 2), seeds=[seed], dtype=torch.float64).x
        torch.testing.assert_close(one[0], run.x[i], rtol=0, atol=1e-9)


@each_sampler
def test_a_start_is_taken_from_the_caller(make):
    """x_init is the state at T, whose noise is that of the start: it is what the prior would be."""
    sde, problem = VP(), PROBLEMS["M1"]
    sampler = make(problem.measurement, steps=3)
    drawn = sampler(sde, problem.score(sde), (2, 1, 4, 4), seeds=[1, 2], dtype=torch.float64)
    sources = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    x_init = sde.prior((2, 1, 4, 4)).sample(sources, dtype=torch.float64)
    given = sampler(sde, problem.score(sde), (2, 1, 4, 4), x_init=x_init, generator=sources)
    assert torch.equal(drawn.x, given.x)


@each_sampler
def test_a_score_that_is_a_function_and_half_precision(make):
    """D follows from s where a score has no denoise; float16 states are carried in float32."""
    sde, problem = VP(), PROBLEMS["P1"]
    exact = problem.score(sde)
    sampler = make(problem.measurement, steps=3, grid=LogSNRGrid())
    runs = [
        sampler(sde, score, (2, 2), seeds=[0, 1], dtype=dtype).x
        for score, dtype in (
            (exact, torch.float64),
            (lambda x, t: exact(x, t), torch.float64),
            (exact, torch.float16),
        )
    ]
    torch.testing.assert_close(runs[1], runs[0], rtol=0, atol=1e-9)
    assert runs[2].dtype == torch.float16 and runs[2].isfinite().all()


@pytest.mark.parametrize("make", [DPSSampler, PiGDMSampler])
def test_recomputing_changes_nothing(make):
    """A network in float32 gives the same samples to the bit."""
    torch.manual_seed(0)
    model = ScoreModel(MLP((2,), width=16), VP(), "edm").requires_grad_(False)
    runs = [
        make(plane(), steps=2, recompute=recompute)(model.sde, model, (3, 2), seeds=SEEDS)
        for recompute in (False, True)
    ]
    assert torch.equal(runs[0].x, runs[1].x)
    assert runs[0].nfe == runs[1].nfe == 2


# --------------------------------------------------------------------------------- errors


class _Sum(LinearOperator):
    """The sum of two coordinates, of which no decomposition is stated."""

    def __init__(self):
        super().__init__((2,), (1,))

    def __call__(self, x):
        return x.sum(1, keepdim=True)

    def adjoint(self, y):
        return y.expand(-1, 2)


class _Square(Operator):
    """The square of the first of two coordinates."""

    def __init__(self):
        super().__init__((2,), (1,))

    def __call__(self, x):
        return x[:, :1].square()


def test_operators_without_a_decomposition_run_where_they_can():
    """By products alone; a measurement that is not linear by DPS."""
    sde = VP()
    score = PROBLEMS["P1"].score(sde)
    y = torch.full((1, 1), 0.2, dtype=torch.float64)
    for sampler in (
        DDNM(Measurement(_Sum(), y), steps=3),
        PiGDMSampler(Measurement(_Sum(), y, 0.1), steps=3),
        DiffPIR(Measurement(_Sum(), y, 0.1), steps=3),
        DPSSampler(Measurement(_Square(), y), steps=3),
    ):
        x = sampler(sde, score, (2, 2), seeds=[0, 1], dtype=torch.float64).x
        assert x.isfinite().all()
        if isinstance(sampler, DDNM):
            torch.testing.assert_close(x.sum(1), y.expand(2, 1)[:, 0])


SUM, SQUARE = (Measurement(kind(), torch.ones(1, 1).double(), 0.1) for kind in (_Sum, _Square))
EXACT = Measurement(Mask(torch.tensor([True, False])), torch.ones(1, 1).double())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DDRM(SUM), "DDRM works on the singular vectors .* and _Sum states none; use PiG"),
        (lambda: DDRM(SQUARE), "DDRM needs a linear measurement, got _Square; use DPS"),
        (lambda: DDNM(SQUARE), "DDNM needs a linear measurement, got _Square; use DPS"),
        (lambda: DDNM(SUM), "DDNM of a noisy measurement works on the singular vectors"),
        (lambda: DiffPIR(SQUARE), "DiffPIR needs a linear measurement, got _Square"),
        (lambda: PiGDMSampler(SQUARE), "a method pinv, and _Square is neither; use DPS"),
        (lambda: DDRM(EXACT, eta=1.2), r"eta must be a finite number in \[0, 1\], got 1.2"),
        (lambda: DDRM(EXACT, eta_b=-0.1), r"eta_b must be a finite number in \[0, 1\]"),
        (
            lambda: DDRM(EXACT, eta_a=math.nan),
            r"eta_a must be a finite number in \[0, 1\], got nan",
        ),
        (lambda: DDRM(EXACT, steps=0), "steps must be an integer ≥ 1, got 0"),
        (lambda: DDRM(EXACT, denoise="no"), "denoise must be true or false, got 'no'"),
        (lambda: DDNM(EXACT, travel_length=0), "travel_length must be an integer ≥ 1"),
        (lambda: DDNM(EXACT, repeats=0), "repeats must be an integer ≥ 1"),
        (lambda: DPSSampler(EXACT, -1.0), "zeta must be a finite number ≥ 0, got -1.0"),
        (lambda: DPSSampler(EXACT, math.inf), "zeta must be a finite number ≥ 0, got inf"),
        (lambda: DPSSampler(EXACT, recompute=1), "recompute must be true or false, got 1"),
        (lambda: PiGDMSampler(EXACT, eta=2), r"eta must be a finite number in \[0, 1\], got 2"),
        (lambda: DiffPIR(EXACT, weight=0), "weight must be a number > 0, got 0"),
        (lambda: DiffPIR(EXACT, zeta=1.5), r"zeta must be a finite number in \[0, 1\]"),
    ],
)
def test_constants_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@each_sampler
def test_what_the_loop_cannot_do_is_refused(make):
    """With a sentence, before the score is evaluated."""

    def never(x, t):
        raise AssertionError

    sde, sampler, x = VP(), make(plane(), steps=3), torch.zeros(3, 2)
    name = type(sampler).__name__
    for call, message in (
        (lambda: sampler(sde, never, (2, 2)), "of 2 samples must have 2 rows, or 1 for all, got 3"),
        (lambda: sampler(sde, never, (3, 5)), r"must have shape \(B, 2\), got \(3, 5\)"),
        (lambda: sampler(sde, never, (3, 2), constraint=lambda x, t, n: x), f"{name} takes no con"),
        (lambda: sampler.encode(sde, never, x), f"{name} follows a measurement and cannot encode"),
        (
            lambda: sampler(sde, never, (3, 2), x_init=x, differentiable=True),
            f"{name} gives no gradients of its samples; use differentiable=False",
        ),
        (lambda: sampler(sde, never, (3, 2), trajectory=99), "asks for more states than the"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    blind = VP().discretize(40, zero_terminal_snr=True)
    with pytest.raises(ValueError, match=f"{name} follows the score alone"):
        sampler.check(blind, torch.float64)
    late = make(plane(), steps=2, grid=FixedGrid([0.5, 0.2, 0.1]))
    with pytest.raises(ValueError, match=r"the grid begins at t=0\.5, below T=1"):
        late(EDM(sigma_max=1.0), never, (3, 2))
