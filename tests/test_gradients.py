"""Derivatives of samples and likelihoods agree with differences, in every gradient mode."""

import warnings

import pytest
import torch

from scoresde.evaluation import (
    Cells,
    GaussianControl,
    HutchPlusPlus,
    elbo,
    log_likelihood,
    quantized_likelihood,
)
from scoresde.evaluation.divergence import score_and_divergence
from scoresde.models import MLP, GaussianMixtureScore, GaussianScore, ScoreModel
from scoresde.samplers import (
    DDIM,
    SRA1,
    AdaptiveSDE,
    AnnealedLangevin,
    EDMHeun,
    ExponentialMultistep,
    Langevin,
    NoiseAdaptive,
    ParallelPicard,
    PredictorCorrector,
    ProbabilityFlowODE,
    ReverseDiffusion,
    TorchSDE,
)
from scoresde.sde import VE, VP

DOUBLE = {"dtype": torch.float64}
SAMPLERS = {
    "ddim": PredictorCorrector(DDIM(), steps=6),
    "multistep": PredictorCorrector(ExponentialMultistep(3), steps=6),
    "corrected": PredictorCorrector(ExponentialMultistep(3, "v", corrector=True), steps=6),
    "stages": PredictorCorrector(SRA1(), steps=6, denoise=False),
    "churn": PredictorCorrector(EDMHeun(churn=5.0), steps=6),
    "pc": PredictorCorrector(ReverseDiffusion(), Langevin(0.1), steps=6),
    "ald": AnnealedLangevin(6, n_steps=1),
    "parallel": ParallelPicard(DDIM(), 6, tolerance=0, window=3),
    "noise_adaptive": NoiseAdaptive(DDIM(), None, 6),
    "ode": ProbabilityFlowODE(1e-8, 1e-8),
    # At such a tolerance steps do not depend on the state, so that differences use equal steps.
    "adaptive_sde": AdaptiveSDE(1e9, 1e9, h_init=0.2),
}


def mixture(sde):
    covariances = 0.1 * torch.eye(2).expand(2, 2, 2)
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.5]])
    return GaussianMixtureScore(sde, torch.tensor([0.4, 0.6]), means, covariances)


def along(values, h=1e-5):
    """The derivative of values(h) at 0, by a central difference of order 4."""
    near, far = (values(k * h) - values(-k * h) for k in (1, 2))
    return (8 * near - far) / (12 * h)


@pytest.mark.parametrize("sde", [VP(), VE(0.02, 5.0)], ids=["vp", "ve"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_are_differentiable_in_the_latent_and_in_the_score(name, sde):
    """Derivatives along a direction of x_T and of a factor of the score agree to 1e-5."""
    exact, generator = mixture(sde), torch.Generator()
    x = sde.prior((3, 2)).sample(generator.manual_seed(1), **DOUBLE)
    u, w = torch.randn(2, 3, 2, generator=generator, **DOUBLE)

    def end(x, factor, **options):
        score = lambda x, t: factor * exact(x, t)  # noqa: E731
        generator.manual_seed(3)
        return SAMPLERS[name](
            sde, score, (3, 2), x_init=x, generator=generator, trajectory=3, **options
        )

    x_grad = x.clone().requires_grad_()
    factor = torch.tensor(1.1, **DOUBLE, requires_grad=True)
    samples = end(x_grad, factor, differentiable=True)
    torch.testing.assert_close(samples.x.detach(), end(x, 1.1).x, rtol=1e-12, atol=1e-12)
    found = torch.autograd.grad((samples.x * w).sum(), (x_grad, factor), retain_graph=True)
    state = along(lambda h: (end(x + h * u, 1.1).x * w).sum())
    scale = along(lambda h: (end(x, 1.1 + h).x * w).sum())
    torch.testing.assert_close((found[0] * u).sum(), state, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1], scale, rtol=1e-5, atol=1e-5)
    (kept,) = torch.autograd.grad((samples.trajectory[1] * w).sum(), x_grad)
    frame = along(lambda h: (end(x + h * u, 1.1).trajectory[1] * w).sum())
    # Between steps of the flow a frame is an interpolant, which is as exact as its tolerance.
    torch.testing.assert_close((kept * u).sum(), frame, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["corrected", "ode"])
def test_codes_are_differentiable_in_the_data(name):
    sde, score = VP(), mixture(VP())
    x0, u = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0), **DOUBLE)
    sampler, x_grad = SAMPLERS[name], x0.clone().requires_grad_()
    latents = sampler.encode(sde, score, x_grad, differentiable=True).x
    (found,) = torch.autograd.grad(latents.sum(), x_grad)
    expected = along(lambda h: sampler.encode(sde, score, x0 + h * u).x.sum())
    torch.testing.assert_close((found * u).sum(), expected, rtol=1e-5, atol=1e-5)


def test_a_graph_that_is_dropped_is_named_once():
    sde, x = VP(), torch.ones(3, 2, requires_grad=True)
    sampler = PredictorCorrector(DDIM(), steps=2)
    with pytest.warns(UserWarning, match="x_init requires a gradient.*differentiable=True") as seen:
        assert not sampler(sde, mixture(sde), (3, 2), x_init=x).x.requires_grad
    assert len(seen) == 1 and seen[0].filename == __file__
    with pytest.warns(UserWarning, match="x0 requires a gradient") as seen:
        assert not sampler.encode(sde, mixture(sde), x).x.requires_grad
    assert len(seen) == 1
    with torch.no_grad():  # within no_grad no graph is expected, so that no warning is due
        sampler(sde, mixture(sde), (3, 2), x_init=x)
    sampler(sde, mixture(sde), (3, 2), x_init=x.detach())
    with pytest.warns(UserWarning, match="x requires a gradient.*differentiable=True") as seen:
        result = log_likelihood(sde, mixture(sde), x, rtol=0.1, atol=0.1)
    assert len(seen) == 1 and not result.log_prob.requires_grad


@pytest.mark.parametrize(
    "sampler, sentence",
    [
        (ProbabilityFlowODE(method="RK45"), "RK45 is SciPy's, which keeps no graph; use one of"),
        (TorchSDE(steps=2), "torchsde keeps no graph here; use PredictorCorrector"),
    ],
)
def test_who_keeps_no_graph_says_so(sampler, sentence):
    with pytest.raises(ValueError, match=sentence):
        sampler(VP(), mixture(VP()), (3, 2), differentiable=True)


def bottleneck(theta):
    """A score of six coordinates whose Jacobian has rank 2 at every point, with weights theta."""
    out, into = theta[:12].reshape(6, 2), theta[12:24].reshape(2, 6)
    return lambda x, t: torch.tanh(x @ into.T) @ out.T - 0.0 * x


def divergence_of(theta, rule, x, probes):
    t = torch.full((len(x),), 0.5, **DOUBLE)
    score = bottleneck(theta)
    return score_and_divergence(score, x, t, rule, probes, differentiable=True)[1].sum()


def test_hutch_plus_plus_of_low_rank_has_the_gradient_of_the_trace():
    """For rank 2 and a sketch of three directions, value and gradient are exact, to 1e-9."""
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(24, generator=generator, **DOUBLE).requires_grad_()
    x = torch.randn(4, 6, generator=generator, **DOUBLE)
    probes = torch.randn(4, 6, 6, generator=generator, **DOUBLE)
    found = divergence_of(theta, HutchPlusPlus(9), x, probes) / 3
    out, into = theta[:12].reshape(6, 2), theta[12:].reshape(2, 6)
    slope = 1 - torch.tanh(x @ into.T).square()
    exact = (slope * (out.T * into).sum(1)).sum()
    torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-10)
    ours, theirs = (torch.autograd.grad(value, theta)[0] for value in (found, exact))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rank", [6, 2])
@pytest.mark.parametrize("same", [False, True])
def test_hutch_plus_plus_has_the_gradient_of_its_value(rank, same):
    """At full and low rank, with independent or equal probes, differences agree to 1e-6.

    Two equal probes leave the second direction of the sketch to rounding, so there the whole space
    is sketched, and the value is the trace whatever that direction is.
    """
    generator = torch.Generator().manual_seed(0)
    dim = 2 if same else 6
    root = torch.randn(dim, min(rank, dim), generator=generator, **DOUBLE)
    other = torch.randn(dim, min(rank, dim), generator=generator, **DOUBLE)
    x = torch.randn(3, dim, generator=generator, **DOUBLE)
    u = torch.randn(root.shape, generator=generator, **DOUBLE)
    probes = torch.randn(3, 4, dim, generator=generator, **DOUBLE)
    if same:
        probes = probes[:, :1].expand(3, 4, dim)

    def value(root):
        a = root @ other.T
        score = lambda x, t: torch.sin(x) @ a.T  # noqa: E731
        t = torch.zeros(3, **DOUBLE)
        return score_and_divergence(score, x, t, HutchPlusPlus(6), probes, differentiable=True)[1]

    root.requires_grad_()
    (found,) = torch.autograd.grad(value(root).square().sum(), root)
    root = root.detach()
    expected = along(lambda h: value(root + h * u).square().sum())
    torch.testing.assert_close((found * u).sum(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("jacobian", ["zero", "identity"])
def test_hutch_plus_plus_has_finite_gradients_at_its_worst(jacobian):
    """At rank 0, or with one eigenvalue D times, and equal probes, there is no NaN."""
    factor = torch.zeros(5, **DOUBLE) if jacobian == "zero" else torch.ones(5, **DOUBLE)
    factor.requires_grad_()
    probes = torch.ones(2, 4, 5, **DOUBLE)
    t = torch.zeros(2, **DOUBLE)
    score = lambda x, t: factor * x  # noqa: E731
    x = torch.ones(2, 5, **DOUBLE)
    _, found = score_and_divergence(score, x, t, HutchPlusPlus(6), probes, differentiable=True)
    (gradient,) = torch.autograd.grad(found.mean(1).sum(), factor)
    assert gradient.isfinite().all()


@pytest.mark.slow
def test_likelihood_by_hutch_plus_plus_is_differentiable_where_two_probes_coincide():
    """In two coordinates half of the pairs coincide; each sketch spans the plane and is exact."""
    sde, score = VP(), mixture(VP())
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), **DOUBLE)
    gradients = []
    for rule in ("hutch++", "exact"):
        points = x.clone().requires_grad_()
        settings = {"rtol": 1e-6, "atol": 1e-6, "divergence": rule, "differentiable": True}
        result = log_likelihood(sde, score, points, eps=1e-2, **settings)
        gradients += torch.autograd.grad(result.log_prob.sum(), points)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("divergence", ["exact", "hutchinson", "hutch++"])
def test_likelihood_within_inference_mode_is_that_without(divergence):
    """Points made in that mode or outside, quantized data, bounds and a fitted control agree."""
    sde, model = VP(), ScoreModel(MLP((2,), width=8, depth=1), VP()).eval()
    torch.nn.init.normal_(model.net.leave.weight, generator=torch.Generator().manual_seed(0))
    settings = {"rtol": 1e-2, "atol": 1e-2, "divergence": divergence, "eps": 1e-2}
    k, cells = torch.tensor([[0, 3], [2, 1]]), Cells(4)

    def results(x):
        control = GaussianControl.fit(sde, x)
        point = log_likelihood(sde, model, x, control_variate=control, **settings)
        quantized = quantized_likelihood(sde, model, k, cells, **settings)
        bound = elbo(sde, model, k, cells, terms=2, eps=1e-2)
        return [point.log_prob, point.latent, quantized.log_prob, bound.log_prob]

    x = torch.tensor([[0.3, -1.0], [0.0, 0.5]])
    expected = results(x)
    with torch.inference_mode():
        within = [*results(x), *results(x.clone())]
    for ours, theirs in zip(within, expected * 2, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert not within[0].requires_grad
    latents = [within[1], within[5]]
    assert all(not latent.is_inference() for latent in latents)


def test_samplers_run_within_inference_mode_and_their_samples_are_scored_without():
    sde, model = VP(), ScoreModel(MLP((2,), width=8, depth=1), VP()).eval()
    sampler = PredictorCorrector(ReverseDiffusion(), Langevin(), steps=3)
    ends = []
    for mode in (True, False):
        with torch.inference_mode(mode):
            ends.append(sampler(sde, model, (3, 2), generator=torch.Generator().manual_seed(0)).x)
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)
    scored = [log_likelihood(sde, model, x, rtol=0.1, atol=0.1).log_prob for x in ends]
    torch.testing.assert_close(scored[0], scored[1], rtol=0, atol=0)
    t = torch.full((3,), 0.5, **DOUBLE)
    probes = ends[0][:, None].repeat(1, 2, 1)
    found = [score_and_divergence(model, x, t, HutchPlusPlus(3), probes)[1] for x in ends]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_what_inference_mode_cannot_do_is_said():
    sde = VP()
    with torch.inference_mode():
        model = ScoreModel(MLP((2,), width=8, depth=1), sde).eval()
        with pytest.raises(ValueError, match=r"differentiable=True needs a graph.*sample outside"):
            PredictorCorrector(DDIM(), steps=2)(sde, model, (3, 2), differentiable=True)
        with pytest.raises(ValueError, match=r"differentiable=True needs a graph.*call it outside"):
            log_likelihood(sde, mixture(sde), torch.zeros(3, 2), differentiable=True)
    with pytest.raises(ValueError, match=r"was built or loaded within torch\.inference_mode\(\)"):
        log_likelihood(sde, model, torch.zeros(3, 2))


def test_the_graph_of_a_likelihood_reaches_the_network():
    """The network's own gradient is not 0, so the tests above do differentiate."""
    sde, model = VP(), ScoreModel(MLP((2,), width=8, depth=1), VP()).eval()
    settings = {"rtol": 0.1, "atol": 0.1, "differentiable": True, "eps": 0.1}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log_likelihood(sde, model, torch.ones(2, 2), **settings).log_prob.sum().backward()
    assert model.net.leave.weight.grad.abs().max() > 0
    exact = GaussianScore(sde, torch.zeros(2), torch.ones(2))
    assert not log_likelihood(sde, exact, torch.ones(2, 2)).log_prob.requires_grad
