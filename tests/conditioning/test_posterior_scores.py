"""Posterior scores: exact where they should be, closed forms elsewhere, in every sampler."""

import pytest
import torch

from scoresde.conditioning import (
    DPS,
    MMPS,
    ClassifierFree,
    DDNMProjection,
    Mask,
    Matrix,
    Measurement,
    PiGDM,
    PosteriorScore,
    Prediction,
    Proximal,
)
from scoresde.conditioning.measurements import Operator
from scoresde.evaluation import log_likelihood
from scoresde.models import GaussianMixtureScore, GaussianScore, ScoreModel, UNet
from scoresde.samplers import (
    DDIM,
    AdaptiveSDE,
    Ancestral,
    Langevin,
    LogSNRGrid,
    NoiseAdaptive,
    ParallelPicard,
    PredictorCorrector,
    ProbabilityFlowODE,
    Restart,
    draw,
)
from scoresde.samplers.presets import dpm_solver_pp
from scoresde.sde import EDM, VE, VP, SubVP
from tests.conditioning.problems import PROBLEMS, pooling

PROCESSES = {"vp": VP(), "ve": VE(), "subvp": SubVP(), "edm": EDM(), "ddpm": VP().discretize(100)}
each_process = pytest.mark.parametrize("process", PROCESSES)
LEVELS = [3.0, 0.3, 0.05]


def states(sde, level, shape=(1, 4, 4), count=4):
    """States of some samples at ς = level, and their time."""
    t = sde.time_of_half_log_snr(-torch.tensor(level, dtype=torch.float64).log())
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, *shape, generator=generator, dtype=torch.float64)
    return sde.alpha(t) * x * (1 + level**2) ** 0.5, t


def white(operator, v0, y, std):
    """A score of data N(μ, v_0 I), a measurement of them, and the score of their posterior."""
    size = operator.shape[0] * operator.shape[1] * operator.shape[2]
    mean = torch.linspace(-1, 1, size, dtype=torch.float64)
    covariance = v0 * torch.eye(size, dtype=torch.float64)
    h = operator(torch.eye(size, dtype=torch.float64).reshape(-1, *operator.shape)).flatten(1).T
    s = h @ covariance @ h.T + std**2 * torch.eye(len(h), dtype=torch.float64)
    gain = covariance @ h.T @ torch.linalg.inv(s)
    control = mean + gain @ (y - h @ mean), covariance - gain @ h @ covariance
    return mean, covariance, control


# ------------------------------------------------------------------------------- exactness


@each_process
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["G0", "G1"])
@pytest.mark.parametrize("solver", ["cg", "gmres"])
def test_mmps_is_exact_for_gaussian_data(name, level, process, solver):
    """D_y equals that of the posterior to 1e-10, with a mask (exact y) and a matrix (σ_y > 0)."""
    problem, sde = PROBLEMS[name], PROCESSES[process]
    x, t = states(sde, level)
    score = PosteriorScore(problem.score(sde), problem.measurement, MMPS(24, solver))
    control = problem.control(sde)
    torch.testing.assert_close(score.denoise(x, t), control.denoise(x, t), rtol=0, atol=1e-10)
    scale = (sde.alpha(t) / sde.sigma(t).square()).item()
    torch.testing.assert_close(score(x, t), control(x, t), rtol=0, atol=1e-10 * max(scale, 1))


@pytest.mark.parametrize("name", ["G0", "G1"])
def test_mmps_samples_are_those_of_the_exact_score(name):
    """30 ancestral steps with the same noise end in the same samples to 1e-10."""
    problem, sde = PROBLEMS[name], VP()
    sampler = PredictorCorrector(Ancestral(), steps=30, grid=LogSNRGrid())
    ends = [
        sampler(sde, score, (2, 1, 4, 4), seeds=[1, 2], dtype=torch.float64).x
        for score in (
            PosteriorScore(problem.score(sde), problem.measurement, MMPS(24)),
            problem.control(sde),
        )
    ]
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-10)


@each_process
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("std", [0.0, 0.2])
@pytest.mark.parametrize("operator", [pooling(), Mask((torch.arange(4) < 2).expand(1, 4, 4))])
def test_pigdm_is_exact_for_white_data(operator, std, level, process):
    """With data N(μ, v_0 I) and their v_0, D_y is that of the posterior to 1e-10."""
    sde, v0 = PROCESSES[process], 0.7
    y = torch.linspace(0.5, -1, operator.shape_out[0], dtype=torch.float64)
    mean, covariance, (mean_y, covariance_y) = white(operator, v0, y, std)
    x, t = states(sde, level)
    score = PosteriorScore(
        GaussianScore(sde, mean, covariance), Measurement(operator, y[None], std), PiGDM(v0)
    )
    control = GaussianScore(sde, mean_y, (covariance_y + covariance_y.T) / 2)
    torch.testing.assert_close(score.denoise(x, t), control.denoise(x, t), rtol=0, atol=1e-10)


def test_pigdm_estimates_the_variance_of_data():
    """v_0 is the mean variance of a coordinate around its own mean: 0.52 on the Gaussian field."""
    x0 = PROBLEMS["G0"].score(VP()).sample(20_000, torch.Generator().manual_seed(0))
    assert PiGDM.from_data(x0).v0 == pytest.approx(0.52, rel=0.02)


# ----------------------------------------------------------------------------- closed forms


def gaussian_moments(problem, sde, x, t):
    """D and C of Gaussian data given a state, by linear algebra."""
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    mean, covariance = problem.means[0], problem.covariances[0]
    s = alpha**2 * covariance + sigma**2 * torch.eye(16, dtype=torch.float64)
    gain = alpha * covariance @ torch.linalg.inv(s)
    return mean + (x.flatten(1) - alpha * mean) @ gain.T, covariance - alpha * gain @ covariance


FORMS = {
    "DPS": (DPS(), lambda h, c, r2, v: c @ h.T / v),
    "PiGDM": (PiGDM(0.6), lambda h, c, r2, v: c @ h.T @ torch.linalg.inv(r2 * h @ h.T + v * EYE)),
    "MMPS": (MMPS(12), lambda h, c, r2, v: c @ h.T @ torch.linalg.inv(h @ c @ h.T + v * EYE)),
    "Proximal": (
        Proximal(0.6),
        lambda h, c, r2, v: r2 * h.T @ torch.linalg.inv(r2 * h @ h.T + v * EYE),
    ),
}
EYE = torch.eye(4, dtype=torch.float64)


@each_process
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("method", FORMS)
def test_the_equation_of_each_method(method, level, process):
    """D_y = D + K (y − H D), with K written out by matrices, to 1e-10 of the correction."""
    problem, sde = PROBLEMS["G1"], PROCESSES[process]
    made, gain = FORMS[method]
    x, t = states(sde, level)
    data, covariance = gaussian_moments(problem, sde, x, t)
    r2 = 0.6 * level**2 / (0.6 + level**2)
    k = gain(problem.matrix, covariance, r2, problem.std**2)
    pull = (problem.y - data @ problem.matrix.T) @ k.T
    found = PosteriorScore(problem.score(sde), problem.measurement, made).denoise(x, t).flatten(1)
    assert (found - data - pull).abs().max() < 1e-10 * pull.abs().max().clamp(min=1)


@pytest.mark.parametrize("method", [DDNMProjection(), Proximal()], ids=["DDNM", "Proximal"])
def test_exact_measurements_are_met_by_the_projection(method):
    """Known coordinates of D_y are y in every bit, the others are D's."""
    problem, sde = PROBLEMS["M0"], VP()
    x, t = states(sde, 0.7)
    found = PosteriorScore(problem.score(sde), problem.measurement, method).denoise(x, t)
    known = problem.operator.known
    assert torch.equal(found[:, known], problem.y.expand(4, -1))
    assert torch.equal(found[:, ~known], problem.score(sde).denoise(x, t)[:, ~known])


# Relative errors of the correction with a few iterations on G0, as they are known.
ITERATIONS = {3.0: {1: 0.63, 2: 0.45, 3: 0.20, 5: 0.07}, 0.3: {1: 0.21, 2: 0.06, 3: 0.02, 5: 0.003}}


@pytest.mark.parametrize("level", ITERATIONS)
def test_iterations_of_mmps(level):
    """The error falls as it is known to, within a factor of 1.6 for other states."""
    problem, sde = PROBLEMS["G0"], VP()
    t = states(sde, level)[1]
    x0 = problem.score(sde).sample(64, torch.Generator().manual_seed(0)).reshape(-1, 1, 4, 4)
    z = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = sde.alpha(t) * (x0 + level * z)
    data, best = problem.score(sde).denoise(x, t), problem.control(sde).denoise(x, t)
    for iterations, error in ITERATIONS[level].items():
        score = PosteriorScore(problem.score(sde), problem.measurement, MMPS(iterations, "cg"))
        found = ((score.denoise(x, t) - best).norm() / (best - data).norm()).item()
        assert error / 1.6 < found < 1.6 * error


class _Squares(Operator):
    """The squares of the entries, which are not linear."""

    def __init__(self, shape):
        super().__init__(shape, shape)

    def __call__(self, x):
        return x.square()


class _Signs(Operator):
    """The signs of the entries, which have no derivative but a pseudo-inverse."""

    def __init__(self, shape):
        super().__init__(shape, shape)

    def __call__(self, x):
        return x.sign()

    def pinv(self, y):
        return y.clamp(-1, 1)


@each_process
def test_a_measurement_that_is_not_linear(process):
    """DPS: the gradient of log p(y | D), here C times −(y − D²) · (−2 D)/σ_y²."""
    problem, sde = PROBLEMS["G1"], PROCESSES[process]
    x, t = states(sde, 0.5)
    y = torch.full((1, 1, 4, 4), 0.3, dtype=torch.float64)
    score = PosteriorScore(problem.score(sde), Measurement(_Squares((1, 4, 4)), y, 0.5), DPS())
    data, covariance = gaussian_moments(problem, sde, x, t)
    pull = (0.3 - data.square()) * 2 * data / 0.5**2 @ covariance
    torch.testing.assert_close(score.denoise(x, t).flatten(1), data + pull, rtol=1e-10, atol=1e-10)


def test_a_measurement_without_derivative():
    """ΠGDM: C (h⁺(y) − h⁺(h(D)))/r²."""
    problem, sde = PROBLEMS["G1"], VP()
    x, t = states(sde, 0.5)
    y = torch.ones(1, 1, 4, 4, dtype=torch.float64)
    score = PosteriorScore(problem.score(sde), Measurement(_Signs((1, 4, 4)), y), PiGDM(1.0))
    data, covariance = gaussian_moments(problem, sde, x, t)
    pull = (1 - data.sign()) @ covariance / (0.25 / 1.25)
    torch.testing.assert_close(score.denoise(x, t).flatten(1), data + pull, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["antisymmetric", "negative"])
def test_mmps_stops_where_the_jacobian_is_not_a_covariance(kind):
    """A network's Jacobian may be neither symmetric nor positive: what was found so far is kept."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    a = a - a.T if kind == "antisymmetric" else -a @ a.T

    class Model:
        sde = VP()

        def denoise(self, x, t):
            return x @ a.T

        def __call__(self, x, t):
            raise NotImplementedError

    measurement = Measurement(Mask(torch.arange(6) < 3), torch.ones(1, 3).double())
    x, t = states(Model.sde, 1.0, (6,))
    found = PosteriorScore(Model(), measurement, MMPS(20, "cg")).denoise(x, t)
    torch.testing.assert_close(found, Model().denoise(x, t))  # not one step could be taken


@each_process
def test_a_class_inside_a_measurement_is_the_posterior_of_both(process):
    """With scale 1 the components are classes: D_y is that of p(x_0 | y, k), to 1e-10."""
    problem, sde = PROBLEMS["M1"], PROCESSES[process]
    x, t = states(sde, 0.5, count=3)
    labels = torch.tensor([0, 1, 2])
    inside = ClassifierFree(problem.score(sde), labels, 1.0)
    score = PosteriorScore(inside, problem.measurement, MMPS(16))
    _, means, covariances = problem.posterior
    one = torch.ones(3, dtype=torch.float64)
    control = GaussianMixtureScore(sde, one, means, covariances).given(labels)
    torch.testing.assert_close(score.denoise(x, t), control.denoise(x, t), rtol=0, atol=1e-10)


# ------------------------------------------------------------------------------- samplers

SAMPLERS = {
    "pc": PredictorCorrector(Ancestral(), Langevin(0.1), steps=4),
    "ddim": PredictorCorrector(DDIM(), steps=4),
    "dpmpp": PredictorCorrector(dpm_solver_pp(2), steps=5),
    "restart": PredictorCorrector(Restart(DDIM()), steps=4),
    "noise adaptive": NoiseAdaptive(Ancestral(), steps=3),
    "ode": ProbabilityFlowODE(1e-2, 1e-2),
    "adaptive": AdaptiveSDE(0.5, 0.5),
    "parallel": ParallelPicard(DDIM(), steps=5, window=3, tolerance=0.1),
}
METHODS = {"MMPS": MMPS(3), "PiGDM": PiGDM(), "DPS": DPS(), "Proximal": Proximal()}
SEEDS = [5, 3, 8]


def rows_of_plane(std):
    """Measurements of x₁ + 0.5 x₂ that differ between three samples."""
    operator = Matrix(torch.tensor([[1.0, 0.5]], dtype=torch.float64))
    return Measurement(operator, torch.tensor([[0.4], [-0.8], [1.1]], dtype=torch.float64), std)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_measurements_follow_their_rows(sampler, method):
    """Three samples with a measurement each are the same alone, to rounding."""
    sde = VP()
    measurement = rows_of_plane(1.0)
    score = PosteriorScore(PROBLEMS["P1"].score(sde), measurement, METHODS[method])
    run = SAMPLERS[sampler](sde, score, (3, 2), seeds=SEEDS, dtype=torch.float64)
    assert run.x.isfinite().all()
    assert run.products == METHODS[method].products * run.nfe
    for i, seed in enumerate(SEEDS):
        alone = score.rows(torch.tensor([i]))
        one = SAMPLERS[sampler](sde, alone, (1, 2), seeds=[seed], dtype=torch.float64)
        torch.testing.assert_close(one.x[0], run.x[i], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("method", "count"), [(MMPS(3), 4), (PiGDM(), 1), (DPS(), 1)])
def test_products_are_counted(method, count, monkeypatch):
    """One for each iteration and one for the result, as the score states them."""
    calls, derive = [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: calls.append(0) or derive(*a, **k))
    problem, sde = PROBLEMS["M1"], VP()
    score = PosteriorScore(problem.score(sde), problem.measurement, method)
    score(*states(sde, 0.5))
    assert len(calls) == count == score.products(torch.tensor(0.5))


def test_batches_of_draw_take_their_measurements():
    """The result does not depend on the size of the batches."""
    sde = VP()
    score = PosteriorScore(PROBLEMS["P1"].score(sde), rows_of_plane(0.3), PiGDM())
    sampler = PredictorCorrector(Ancestral(), steps=3)
    ends = [draw(sampler, sde, score, (3, 2), size, seeds=SEEDS) for size in (3, 2)]
    torch.testing.assert_close(ends[0].x, ends[1].x, rtol=0, atol=1e-5)
    assert ends[0].products == ends[1].products == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", [MMPS(2), PiGDM(), Proximal()], ids=lambda m: type(m).__name__)
def test_a_network_in_its_own_type(method, dtype):
    """A U-Net in float32: finite samples of the state's type, and recomputing changes nothing."""
    torch.manual_seed(0)
    net = UNet((1, 8, 8), nf=8, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=(), dropout=0.0)
    model = ScoreModel(net, VP(), "edm").eval().requires_grad_(False)
    operator = Mask((torch.arange(8) < 4).expand(1, 8, 8))
    measurement = Measurement(operator, torch.full((1, 32), 0.5), 0.1)
    sampler = PredictorCorrector(Ancestral(), steps=2)
    runs = [
        sampler(
            model.sde,
            PosteriorScore(model, measurement, method, recompute=recompute),
            (2, 1, 8, 8),
            seeds=[0, 1],
            dtype=dtype,
        )
        for recompute in (False, True)
    ]
    assert runs[0].x.dtype == dtype and runs[0].x.isfinite().all()
    assert torch.equal(runs[0].x, runs[1].x)
    assert runs[0].nfe == runs[1].nfe == 2


def test_recomputing_keeps_the_inputs_of_blocks_alone():
    """Less than half of what a graph keeps, for the same product; the blocks are restored."""
    torch.manual_seed(0)
    net = UNet((1, 8, 8), nf=8, ch_mult=(1, 2), num_res_blocks=2, attn_resolutions=(4,))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model = ScoreModel(net, VP()).eval().requires_grad_(False)
    own = {parameter.data_ptr() for parameter in net.parameters()}
    x, t = torch.randn(4, 1, 8, 8), torch.tensor(0.4)
    sizes, products = [], []
    for recompute in (False, True):
        kept = {}

        def keep(value, kept=kept):
            if value.data_ptr() not in own:
                kept[value.data_ptr()] = value.numel()
            return value

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            prediction = Prediction(model.sde, model, x, t, recompute)
        products.append([prediction.pull_back(torch.ones_like(x)) for _ in range(2)])
        sizes.append(sum(kept.values()))
    assert sizes[1] < 0.5 * sizes[0]
    for product in (*products[0], *products[1]):
        assert torch.equal(product, products[0][0])
    assert all("forward" not in vars(module) for module in net.modules())


def test_methods_without_jacobian_keep_gradients_and_record_none():
    """They can be differentiated by their user, and samplers run them without a graph."""
    problem, sde = PROBLEMS["M1"], VP()
    x, t = states(sde, 0.5)
    score = PosteriorScore(problem.score(sde), problem.measurement, Proximal())
    assert score.denoise(x.requires_grad_(), t).requires_grad
    with torch.no_grad():
        assert not score.denoise(x, t).requires_grad


# --------------------------------------------------------------------------------- errors


def test_what_cannot_work_is_refused():
    """With a sentence, before the score is evaluated."""

    def never(x, t):
        raise AssertionError

    sde, linear = VP(), pooling()
    y = torch.zeros(1, 4, dtype=torch.float64)
    squares = Measurement(_Squares((1, 4, 4)), torch.zeros(1, 1, 4, 4), 0.1)
    signs = Measurement(_Signs((1, 4, 4)), torch.zeros(1, 1, 4, 4), 0.1)
    for measurement, method, message in (
        (Measurement(linear, y), DPS(), "DPS divides by the noise .* std > 0, or use .*PiGDM"),
        (
            Measurement(linear, y, 0.1),
            DDNMProjection(),
            "takes y as exact, got a measurement with noise; use Prox",
        ),
        (squares, PiGDM(), "a method pinv, and _Squares is neither; use DPS"),
        (signs, PiGDM(), "as exact, got one with noise, of _Signs; use DPS"),
        (squares, MMPS(), "MMPS needs a linear measurement, got _Squares; use DPS"),
        (squares, Proximal(), "Proximal needs a linear measurement"),
        (squares, DDNMProjection(), "DDNMProjection needs a linear measurement"),
    ):
        with pytest.raises(ValueError, match=message):
            PosteriorScore(never, measurement, method, sde)
    three = PosteriorScore(never, Measurement(linear, y.expand(3, 4), 0.1), DPS(), sde)
    x, t = torch.zeros(2, 1, 4, 4), torch.tensor(0.5)
    with pytest.raises(ValueError, match="of 2 samples must have 2 rows, or 1 for all, got 3"):
        three(x, t)
    with pytest.raises(ValueError, match=r"must have shape \(B, 1, 4, 4\), got \(3, 1, 2, 8\)"):
        three(torch.zeros(3, 1, 2, 8), t)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PiGDM(0.0), "v0 must be a number > 0, got 0.0"),
        (lambda: PiGDM.from_data(torch.zeros(1, 2)), "at least 2 samples of the data, got 1"),
        (lambda: PiGDM.from_data(torch.zeros(3, 2)), "v0 must be a number > 0"),
        (lambda: Proximal(-1.0), "v0 must be a number > 0"),
        (lambda: MMPS(0), "iterations must be an integer ≥ 1, got 0"),
        (lambda: MMPS(solver="lu"), "unknown solver 'lu'"),
    ],
)
def test_constants_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_jacobian_within_a_graph_is_refused():
    """What is returned is detached, so that gradients through it would be wrong in silence."""
    problem, sde = PROBLEMS["P1"], VP()
    score = PosteriorScore(problem.score(sde), problem.measurement, PiGDM())
    x = torch.zeros(1, 2, dtype=torch.float64)
    sampler = PredictorCorrector(DDIM(), steps=2)
    with pytest.raises(ValueError, match="cannot itself be differentiated"):
        sampler(sde, score, (1, 2), x_init=x.requires_grad_(), differentiable=True)
    with pytest.raises(ValueError, match="likelihood of the score without the measurement"):
        log_likelihood(sde, score, x.detach())
    with pytest.raises(ValueError, match="put guidance inside"):
        Prediction(sde, score, x.detach(), torch.tensor(0.5))
