"""Guidance on Gaussian data, whose guided distributions are known in closed form."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from scoresde.conditioning import (
    Autoguidance,
    ClassifierFree,
    ClassifierGuidance,
    Combination,
    DynamicThreshold,
    Interval,
    LossGuidance,
    StaticThreshold,
)
from scoresde.conditioning.rescale import rescaled
from scoresde.models import MLP, GaussianMixtureScore, GaussianScore, ScoreModel, UNet
from scoresde.models.given import Given
from scoresde.samplers import DDIM, Ancestral, LogSNRGrid, PredictorCorrector
from scoresde.sde import VP
from scoresde.sde.score import Evaluations
from tests.conditioning.problems import PROBLEMS, push
from tests.places import SHARED

T = torch.tensor(0.3, dtype=torch.float64)


class Variances:
    """Data N(0, v) in one dimension with v by the label: 0 is the condition, 1 none."""

    def __init__(self, sde, conditional=0.5, unconditional=1.0):
        self.sde, self.variances = sde, torch.tensor([conditional, unconditional]).double()

    def __call__(self, x, t, condition):
        v = self.variances[condition][:, None]
        return -x / (self.sde.alpha(t) ** 2 * v + self.sde.sigma(t) ** 2)

    def denoise(self, x, t, condition):
        v, a = self.variances[condition][:, None], self.sde.alpha(t)
        return a * v / (a**2 * v + self.sde.sigma(t) ** 2) * x

    def given(self, condition):
        return Given(self, condition)

    def null_condition(self, condition):
        return torch.ones_like(condition)


def labels(*values):
    return torch.tensor(values)


def states(n=6, d=2, seed=0):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def mixture(sde):
    return PROBLEMS["P0"].score(sde)


def variance(predictor, score, steps):
    """The variance of x/α at the end of steps equal in λ, without Monte Carlo."""
    sde = score.sde
    times = LogSNRGrid()(sde, steps)
    mean, spread = torch.zeros(1).double(), torch.full((1, 1), sde.prior((1, 1)).std ** 2).double()
    for t, t_next in pairwise(times.unbind()):
        mean, spread = push(
            lambda x, t=t, u=t_next: predictor.transition(sde, score, x, t, u)[0], mean, spread
        )
        spread = spread + predictor.coefficients(sde, t, t_next)[2] ** 2
    return spread.item() / sde.alpha(times[-1]).item() ** 2


def expected_variance(w, first, last, prior, eta, v_c=0.5, v=1.0):
    """Variance of x̄ of guided samples at ς² = last from N(0, prior) at ς² = first, η = 0 or 1."""

    def shrink(level):
        ratio = ((v_c + last) / (v_c + level)) ** w * ((v + last) / (v + level)) ** (1 - w)
        return ratio ** (1 + eta)

    fresh = quad(lambda u: math.exp(u) * shrink(math.exp(u)), math.log(last), math.log(first))[0]
    return prior * shrink(first) + eta * fresh


@pytest.mark.parametrize(("w", "ode", "sde"), [(2.0, 0.2500, 0.2917), (4.0, 0.0625, 0.1417)])
def test_guided_variances(process, w, ode, sde):
    """N(0, ½) against N(0, 1): the flow's v_c^w v^{1−w} and the SDE's integral, to 0.5 %."""
    guided = ClassifierFree(Variances(process), labels(0), w)
    ends = torch.tensor([process.T, process.sampling_eps], dtype=torch.float64)
    first, last = (-2 * process.half_log_snr(ends)).exp().tolist()
    prior = process.prior((1, 1)).std ** 2 / process.alpha(ends[0]).item() ** 2
    for predictor, eta, limit in ((DDIM(), 0, ode), (Ancestral(), 1, sde)):
        assert expected_variance(w, 1e8, 1e-8, 1e8, eta) == pytest.approx(limit, abs=6e-5)
        coarse, fine = (variance(predictor, guided, steps) for steps in (200, 400))
        expected = expected_variance(w, first, last, prior, eta)
        assert 2 * fine - coarse == pytest.approx(expected, rel=0.005)  # of first order


def test_neutral_scales_are_the_models(process):
    """Scale 1 is the conditional and 0 the unconditional model, to the bit; strength is w − 1."""
    model, c, x = mixture(process), labels(0, 1, 2, 0, 1, 2), states()
    t = T * process.T
    for scale, same in ((1.0, model.given(c)), (0.0, model)):
        guided = ClassifierFree(model, c, scale)
        assert torch.equal(guided(x, t), same(x, t))
        assert torch.equal(guided.denoise(x, t), same.denoise(x, t))
        assert guided.evaluations(t) == 1
    for strength in (0.0, 1.5):
        guided = ClassifierFree(model, c, strength=strength)
        w = 1 + strength
        expected = (1 - w) * model(x, t) + w * model.given(c)(x, t)
        torch.testing.assert_close(guided(x, t), expected, rtol=1e-12, atol=1e-12)
        assert torch.equal(guided(x, t), ClassifierFree(model, c, w)(x, t))


def test_score_and_data_prediction_agree(process):
    """s = (αD − x)/σ² of each wrapper."""
    model, c, x, t = mixture(process), labels(0, 1, 2, 0, 1, 2), states(), T * process.T
    alpha, sigma = process.alpha(t), process.sigma(t)
    wrappers = [
        ClassifierFree(model, c, 2.5),
        ClassifierFree(model, [c, labels(2)], [1.5, 0.5], negative=labels(1)),
        Autoguidance(model.given(c), model, 2.0),
        Combination([model.given(c), model.given(labels(1)), model], [1.0, 0.5, -0.5]),
        ClassifierGuidance(model, lambda x, t: model._components(x, t)[0], c, 1.7),
        Interval(ClassifierFree(model, c, 2.5), 0.0, 1e9),
        LossGuidance(model, lambda d: d.square().sum(1), 0.3),
    ]
    for score in wrappers:
        data = score.denoise(x, t)
        torch.testing.assert_close(score(x, t), (alpha * data - x) / sigma**2, rtol=1e-9, atol=1e-9)


def test_the_exact_classifier_gives_the_class(process):
    """With p(k|x_t) exact, s + ∇log p(k|x_t) is the component's own score."""
    model, x, t = mixture(process), states(), T * process.T
    c = labels(0, 1, 2, 0, 1, 2)

    def classifier(x, t):
        return model._components(x, t)[0]

    guided = ClassifierGuidance(model, classifier, c)
    torch.testing.assert_close(guided(x, t), model.given(c)(x, t), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(
        guided.denoise(x, t), model.given(c).denoise(x, t), rtol=1e-10, atol=1e-10
    )
    # With power w it is classifier-free guidance of the mixture by w = γ.
    torch.testing.assert_close(
        ClassifierGuidance(model, classifier, c, 2.5)(x, t),
        ClassifierFree(model, c, 2.5)(x, t),
        rtol=1e-10,
        atol=1e-10,
    )


def test_several_conditions_and_a_negative_one():
    """D_n + Σ w_i (D_i − D_n), each sample by its own labels and scales."""
    sde = VP()
    model, x = mixture(sde), states()
    first, second, away = labels(0, 1, 2, 0, 1, 2), labels(1), labels(2)
    w = torch.linspace(0, 3, 6, dtype=torch.float64)
    score = ClassifierFree(model, [first, second], [w, 0.7], negative=away)
    base = model.given(away)(x, T)
    expected = (
        base
        + w[:, None] * (model.given(first)(x, T) - base)
        + 0.7 * (model.given(second)(x, T) - base)
    )
    torch.testing.assert_close(score(x, T), expected, rtol=1e-12, atol=1e-12)
    assert score.evaluations(T) == 3
    index = torch.tensor([4, 1])
    torch.testing.assert_close(score.rows(index)(x[index], T), expected[index])


def test_the_interval_switches_each_sample(process):
    """Guided within (low, high] of σ/α, plain outside, counted and evaluated by samples."""
    model, c, x = mixture(process), labels(0, 1, 2, 0, 1, 2), states()
    levels = torch.tensor([0.1, 0.19, 0.2, 1.0, 1.61, 1.7], dtype=torch.float64)
    lowest = (process.sigma(torch.zeros(()).double()) / process.alpha(torch.zeros(()))).item()
    t = process.time_of_half_log_snr(-levels.clamp(min=2 * lowest + 1e-3).log())
    guided = ClassifierFree(model, c, 3.0)
    score = Interval(guided, 0.195, 1.65)
    inside = torch.tensor([False, False, True, True, True, False])
    expected = torch.where(inside[:, None], guided(x, t), model.given(c)(x, t))
    torch.testing.assert_close(score(x, t), expected, rtol=1e-12, atol=1e-12)
    counted = Evaluations(score, 6)
    counted(x, t)
    assert counted.count == 9
    for i in range(6):
        one = score.rows(torch.tensor([i]))
        torch.testing.assert_close(one(x[i : i + 1], t[i]), expected[i : i + 1])


def test_guidance_counts_its_evaluations_in_a_run():
    """Two a step for classifier-free guidance; one more and a product for a classifier."""
    sde = VP()
    model, c = mixture(sde), labels(0, 1)
    sampler = PredictorCorrector(DDIM(), steps=5)
    assert sampler(sde, ClassifierFree(model, c, 2.0), (2, 2)).nfe == 10
    run = sampler(
        sde, ClassifierGuidance(model, lambda x, t: model._components(x, t)[0], c), (2, 2)
    )
    assert (run.nfe, run.products) == (10, 5)


def test_a_linear_loss_on_gaussian_data_shifts_its_mean(process):
    """exp(−gᵀx) tilts N(μ, v) to N(μ − v g, v): D_ℓ is the data prediction of that."""
    mean, v, g = torch.tensor([0.4, -0.2]).double(), 0.625, torch.tensor([0.5, -1.0]).double()
    data = GaussianScore(process, mean, torch.full((2,), v).double())
    tilted = GaussianScore(process, mean - v * g, torch.full((2,), v).double())
    x, t = states(), T * process.T
    score = LossGuidance(data, lambda d: d @ g)
    torch.testing.assert_close(score(x, t), tilted(x, t), rtol=1e-10, atol=1e-10)
    assert (score.evaluations(t), score.products(t)) == (1, 1)


@pytest.mark.parametrize("span", [(-1.0, 1.0), (0.0, 1.0)])
def test_thresholds(span):
    """Static: clipped; dynamic: NumPy's quantile, at least 1, and scaled back."""
    sde = VP()
    score = GaussianScore(sde, torch.zeros(50), torch.full((50,), 9.0))
    x = 4 * states(3, 50)
    data = score.denoise(x, T)
    low, high = span
    assert torch.equal(StaticThreshold(score, span).denoise(x, T), data.clamp(low, high))
    middle, half = (low + high) / 2, (high - low) / 2
    centred = ((data - middle) / half).numpy()
    q = np.maximum(np.quantile(np.abs(centred), 0.9, axis=1, keepdims=True), 1)
    expected = middle + half * np.clip(centred, -q, q) / q
    found = DynamicThreshold(score, 0.9, span).denoise(x, T)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-12)
    within = DynamicThreshold(score, 0.9, (-100, 100))
    torch.testing.assert_close(within.denoise(x, T), data)  # nothing to clip


def test_rescaled_contrast():
    """φ = 1 gives each sample the conditional's standard deviation, of whichever prediction."""
    sde = VP()
    x, plain, guided = states(3, 20), states(3, 20, 1), 3 * states(3, 20, 2)
    alpha, sigma = sde.alpha(T), sde.sigma(T)
    noise = [(x - alpha * d) / sigma for d in (plain, guided)]
    kinds = {
        "data": (plain, lambda d: d),
        "noise": (noise[0], lambda d: (x - alpha * d) / sigma),
        "v": (
            alpha * noise[0] - sigma * plain,
            lambda d: alpha * (x - alpha * d) / sigma - sigma * d,
        ),
    }
    for kind, (own, of) in kinds.items():
        found = of(rescaled(sde, guided, plain, x, T, 1.0, kind))
        torch.testing.assert_close(found.std(1), own.std(1), rtol=1e-10, atol=1e-10)
        half = of(rescaled(sde, guided, plain, x, T, 0.5, kind))
        torch.testing.assert_close(half, (found + of(guided)) / 2, rtol=1e-9, atol=1e-9)
    flat = torch.ones(3, 20).double()
    assert rescaled(sde, flat, plain, x, T, 1.0, "data").isfinite().all()
    model = mixture(sde)
    score = ClassifierFree(model, labels(0), 3.0, rescale=0.7, rescale_of="data")
    y = states()
    d_y, d = model.given(labels(0)).denoise(y, T), model.denoise(y, T)
    expected = rescaled(sde, d + 3 * (d_y - d), d_y, y, T, 0.7, "data")
    torch.testing.assert_close(score.denoise(y, T), expected, rtol=1e-12, atol=1e-12)
    assert score.evaluations(T) == 2


def test_rescale_of_diffusers():
    """The guided prediction and its rescaled form, to 1e-5 of the largest entry."""
    path = SHARED / "golden" / "diffusers_schedulers.npz"
    if not path.exists():
        pytest.skip("needs ../shared/golden")
    golden = {k[8:]: v for k, v in np.load(path).items() if k.startswith("rescale/")}
    golden = {name: torch.from_numpy(value).double() for name, value in golden.items()}
    sde, x = VP(), torch.zeros(golden["conditional"].shape).double()
    alpha, sigma = sde.alpha(T), sde.sigma(T)
    u, c = golden["unconditional"], golden["conditional"]
    for scale, share in ((7.5, 0.7), (3.0, 0.0), (4.0, 1.0)):
        guided = u + scale * (c - u)
        data = [(x - sigma * q) / alpha for q in (guided, c)]
        found = (x - alpha * rescaled(sde, *data, x, T, share, "noise")) / sigma
        for q, name in ((guided, "guided"), (found, f"phi{share}")):
            expected = golden[f"scale{scale}/{name}"]
            torch.testing.assert_close(q, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_a_network_is_called_once_for_both(generator):
    """A UNet's two answers are those of single calls; labels follow their samples."""
    torch.manual_seed(0)
    net = UNet((1, 8, 8), nf=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(), classes=3)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.1)
    model = ScoreModel(net, VP()).eval()
    calls = []
    net.register_forward_hook(lambda *_: calls.append(1))
    x, c = torch.randn(4, 1, 8, 8), labels(0, 1, 2, 0)
    with torch.no_grad():
        found = ClassifierFree(model, c, 2.0)(x, T.float())
        assert len(calls) == 1
        s, s_c = model(x, T.float(), torch.full_like(c, 3)), model(x, T.float(), c)
    torch.testing.assert_close(found, s + 2 * (s_c - s), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda m: ClassifierFree(m, labels(0), -1.0), ValueError, "scale must be a finite number"),
        (lambda m: ClassifierFree(m, labels(0), math.nan), ValueError, "got nan"),
        (lambda m: ClassifierFree(m, labels(0), math.inf), ValueError, "got inf"),
        (lambda m: ClassifierFree(m, labels(0)), ValueError, "and not both, got scale=None"),
        (lambda m: ClassifierFree(m, labels(0), 1.0, strength=1.0), ValueError, "not both"),
        (lambda m: ClassifierFree(m, [labels(0)], [1.0, 2.0]), ValueError, "1 conditions need"),
        (lambda m: ClassifierFree(m, labels(0), 1.0, rescale=2), ValueError, r"in \[0, 1\]"),
        (lambda m: ClassifierFree(lambda x, t: x, labels(0), 1.0, sde=VP()), ValueError, "null_"),
        (lambda m: ClassifierFree(lambda x, t: x, labels(0), 1.0), ValueError, "give sde=VP"),
        (lambda m: Interval(m, 0, 1), TypeError, "has no unguided version"),
        (lambda m: Interval(ClassifierFree(m, labels(0), 1.0), 2, 1), ValueError, "0 ≤ low < high"),
        (lambda m: Combination([m, m], [1.0, 1.0]), ValueError, "must sum to 1"),
        (lambda m: Combination([m], [0.5, 0.5]), ValueError, "a weight for each score"),
        (lambda m: Autoguidance(m, m, -0.1), ValueError, "≥ 0"),
        (lambda m: DynamicThreshold(m, 0.0), ValueError, r"quantile must be in \(0, 1\]"),
        (lambda m: StaticThreshold(m, (1.0, 1.0)), ValueError, "low < high"),
        (lambda m: ClassifierGuidance(m, m, labels(-1)), ValueError, "labels must be ≥ 0, got -1"),
        (lambda m: ClassifierGuidance(m, m, torch.zeros(2)), TypeError, "must be integers"),
        (
            lambda m: ClassifierGuidance(m, lambda x, t: x, labels(2))(states(), T),
            ValueError,
            "labels must be in 0 … 1",
        ),
        (
            lambda m: LossGuidance(m, lambda d: d.sum())(states(), T),
            ValueError,
            r"must have shape \(6,\)",
        ),
    ],
)
def test_refusals(make, error, words):
    """One sentence each."""
    with pytest.raises(error, match=words):
        make(mixture(VP()))


def test_a_model_trained_with_every_label_is_not_guided():
    """Its answer without a label is that of no training; scale 1 and a negative label need none."""
    model = ScoreModel(MLP((2,), 8, 1, classes=3), VP())
    for dropout in (None, 0.1):
        model.condition_dropout = dropout
        ClassifierFree(model, labels(0), 2.0)
    model.condition_dropout = 0.0
    ClassifierFree(model, labels(0), 1.0)
    ClassifierFree(model, labels(0), 2.0, negative=labels(1))
    for scale in (0.0, 2.0, torch.ones(1)):
        with pytest.raises(ValueError, match=r"trained with condition.dropout=0; train it with"):
            ClassifierFree(model, labels(0), scale)


def test_mixture_score_is_used():
    """The exact score takes the label K for none."""
    model = mixture(VP())
    assert isinstance(model, GaussianMixtureScore)
    assert model.null_condition(labels(0, 1)).tolist() == [3, 3]
